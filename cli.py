"""Command line of rbsim: every command parses, calls one library function, and prints a short summary."""

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from rbsim import options
from rbsim.locations import place

app = typer.Typer(
    help="Build real/bogus training sets from survey frames, and benchmark classifiers on them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
reference_app = typer.Typer(help="Make reference images.", no_args_is_help=True)
app.add_typer(reference_app, name="reference")

DETECTOR_OPTIONS = {
    "gain": "gain_e_per_adu",
    "read_noise": "read_noise_e",
    "saturation": "saturation_adu",
    "bias": "bias_adu",
    "zero_point": "zero_point_mag",
    "pixel_scale": "pixel_scale_arcsec",
    "exposure": "exposure_s",
    "zero_point_aperture": "zero_point_aperture_pix",
}

console = Console(stderr=True)


@app.callback()
def main(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more about what happens.")] = False,
) -> None:
    """Build real/bogus training sets from survey frames, and benchmark classifiers on them."""
    logging.basicConfig(
        level=logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=console, show_path=False, show_time=False)],
        force=True,
    )
    for name in ("rbsim", "rbmodel"):
        logging.getLogger(name).setLevel(logging.DEBUG if verbose else logging.WARNING)
    # The address of the dashboard is for everybody.
    logging.getLogger("rbsim.cluster").setLevel(logging.INFO)


LOG_EVERY_S = 30
"""Between two lines of progress in the log of a batch job."""


class _LogLines:
    """Progress for a log: a line now and then, and one at the end of what took long."""

    def __init__(self, done: int) -> None:
        self.first, self.began_s = done, time.monotonic()
        self.told_s = self.began_s

    def line(self, done: int, total: int) -> str:
        """What to say now, mostly nothing."""
        now_s = time.monotonic()
        is_end = done >= total and now_s - self.began_s >= LOG_EVERY_S
        if not is_end and now_s - self.told_s < LOG_EVERY_S:
            return ""
        self.told_s = now_s
        text = f"{done:,} of {total:,}"
        if self.first < done < total:
            left_s = (now_s - self.began_s) / (done - self.first) * (total - done)
            text += f", {timedelta(seconds=round(left_s))} left"
        return text


@contextmanager
def _command() -> Iterator[Callable[..., None]]:
    """A progress bar for the command; a user's mistake becomes one line and exit code 1."""
    from rbsim.errors import InputError

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    is_terminal = sys.stderr.isatty()
    try:
        with Progress(*columns, console=console, disable=not is_terminal) as bars:
            tasks: dict[str, Any] = {}
            logs: dict[str, _LogLines] = {}

            def tell(description: str, done: int, total: int, note: str = "") -> None:
                if description not in tasks:
                    tasks[description] = bars.add_task(description, total=total, note=note)
                    logs[description] = _LogLines(done)
                bars.update(tasks[description], completed=done, total=total, note=note)
                line = logs[description].line(done, total)
                if line and not is_terminal:
                    console.print(f"{description}: {line} {note}".rstrip(), highlight=False, soft_wrap=True)

            yield tell
    except InputError as error:
        console.print(f"[red]error:[/red] {_plain(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        console.print(
            "interrupted; rbsim inject and benchmark continue with --resume, other commands start anew"
        )
        raise typer.Exit(130) from None


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(" ".join(text.split()))


def _settings(options: dict[str, Any]) -> dict[str, Any]:
    """Those options of a command that are settings of a run, by the names of rbsim.config.InjectConfig."""
    from dataclasses import fields

    from rbsim.config import InjectConfig

    named = {DETECTOR_OPTIONS.get(name, name): value for name, value in options.items()}
    return {field.name: named[field.name] for field in fields(InjectConfig) if field.name in named}


def _print_summary(facts: dict[str, Any], lines: list[tuple[str, str]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        print(f"{name:<{width}}  {value}")


def _print_failed(failed: dict[str, str]) -> None:
    for reason in failed.values():
        console.print(f"[yellow]left out:[/yellow] {_plain(reason)}", highlight=False, soft_wrap=True)


@reference_app.command("stack")
def reference_stack(
    frames: options.Frames,
    out: Annotated[Path, typer.Option(help="FITS file to write: image, VARIANCE, MASK, COVERAGE.")],
    gain: options.Gain = None,
    read_noise: options.ReadNoise = None,
    saturation: options.Saturation = None,
    zero_point: options.ZeroPoint = None,
    seed: options.Seed = 1,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
) -> None:
    """Stack frames into a reference: register by WCS or by the stars, scale, clipped mean."""
    from rbsim.frame import DetectorOptions
    from rbsim.inputs import find_frames
    from rbsim.reference import stack_reference
    from rbsim.seeding import stream

    with _command() as tell:
        summary = stack_reference(
            find_frames(frames),
            out,
            options=DetectorOptions(gain, read_noise, saturation, zero_point),
            overwrite=overwrite,
            rng=stream(seed, "gain"),
            progress=tell,
        )
    _print_failed(summary.failed)
    _print_summary(
        {"out": str(out), **vars(summary)},
        [
            ("reference", str(out)),
            ("frames", f"{summary.n_used} used, {len(summary.failed)} left out"),
            ("PSF FWHM", f"{summary.fwhm_pix:.2f} px"),
        ],
        as_json,
    )


@reference_app.command("ps1")
def reference_ps1(
    frames: options.Frames,
    skycells: Annotated[
        Path | None, typer.Option(help="Folder with PS1 stack images, masks (.mask), variances (.wt), .num.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="FITS file to write; for several fields or sensors a folder.")
    ] = None,
    band: Annotated[str, typer.Option(help="PS1 band: g, r, i, z or y.")] = "r",
    list_only: Annotated[
        bool,
        typer.Option("--list", help="Print the skycells that the frames need, with URLs; write nothing."),
    ] = False,
    rings: Annotated[
        Path | None, typer.Option(help="Another table of the tessellation, e.g. ps1grid.fits of STScI.")
    ] = None,
    margin: Annotated[int, typer.Option(min=0, help="Pixels by which a reference exceeds its frame.")] = 0,
    smoothing: Annotated[
        float,
        typer.Option(help="FWHM in px of a Gaussian laid over the PS1 PSF, so that shifts do not ring."),
    ] = 1.6,
    workers: options.Workers = 0,
    scheduler: options.Scheduler = None,
    cluster: options.Cluster = None,
    cluster_config: options.ClusterConfig = None,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
) -> None:
    """Make references from Pan-STARRS1 stacks, or list the skycells that frames need."""
    from rbsim.cluster import Parallel, workers_of
    from rbsim.errors import InputError
    from rbsim.inputs import find_frames
    from rbsim.ps1.reference import list_needed, make_references
    from rbsim.ps1.warp import WarpConfig

    if list_only:
        with _command():
            needed = list_needed(find_frames(frames), band=band, margin_pix=margin, rings=rings)
        lines = [(row["skycell"], f"{row['kind']:<5}  {row['url']}") for row in needed]
        _print_summary({"files": needed}, lines, as_json)
        return
    with _command() as tell:
        if skycells is None or out is None:
            raise InputError("give --skycells and --out, or --list")
        with workers_of(Parallel(workers, scheduler, cluster, cluster_config)) as run:
            made, failed = make_references(
                find_frames(frames),
                skycells,
                out,
                band=band,
                margin_pix=margin,
                rings=rings,
                config=WarpConfig(smoothing_fwhm_pix=smoothing),
                overwrite=overwrite,
                run=run,
                progress=tell,
            )
    _print_failed(failed)
    lines = []
    for one in made:
        found = (
            f"{len(one.skycells)} skycells, {len(one.missing)} missing, {100 * one.masked_share:.2f} % masked"
        )
        lines.append((f"reference {one.state}", f"{one.path}: {found}"))
    _print_summary({"references": [vars(one) for one in made], "failed": failed}, lines, as_json)


@app.command()
def calibrate(
    files: options.Frames,
    out: Annotated[
        Path, typer.Option(help="Folder to write: calibrated.ecsv; per file a stack with MASK, sTMQ....fits.")
    ],
    dark: options.Dark = None,
    flat: options.Flat = None,
    dark_id: options.DarkId = None,
    flat_id: options.FlatId = None,
    first_pixel: options.FirstPixel = None,
    cubes: options.Cubes = False,
    workers: options.Workers = 0,
    scheduler: options.Scheduler = None,
    cluster: options.Cluster = None,
    cluster_config: options.ClusterConfig = None,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
) -> None:
    """Make stacks of Tomo-e's RAW files and cubes: dark, flat, bad pixels, saturation, clipped mean."""
    from rbsim.cluster import Parallel
    from rbsim.tomoe.run import calibrate_files, parse_first_pixel

    with _command() as tell:
        summary = calibrate_files(
            files,
            out,
            darks=dark or (),
            flats=flat or (),
            dark_id=dark_id,
            flat_id=flat_id,
            first_pixel=None if first_pixel is None else parse_first_pixel(first_pixel),
            cubes=cubes,
            parallel=Parallel(workers, scheduler, cluster, cluster_config),
            overwrite=overwrite,
            progress=tell,
        )
    _print_failed(summary.failed)
    _print_summary(summary.facts(), summary.text(), as_json)


@app.command()
def subtract(
    frames: options.Frames,
    reference: options.ReferencePath,
    out: Annotated[
        Path,
        typer.Option(
            help="Folder to write: frames.ecsv; per frame NAME.candidates.ecsv and NAME.difference.fits."
        ),
    ],
    threshold_snr: options.ThresholdSnr = None,
    convolve: options.Convolve = None,
    basis: options.Basis = None,
    kernel_order: options.KernelOrder = None,
    background_order: options.BackgroundOrder = None,
    backend: options.Backend = None,
    known: options.Known = None,
    truth: options.Truth = None,
    condition: options.Condition = None,
    images: Annotated[bool, typer.Option(help="Write difference images, not only tables.")] = True,
    config: options.ConfigFile = None,
    gain: options.Gain = None,
    read_noise: options.ReadNoise = None,
    saturation: options.Saturation = None,
    zero_point: options.ZeroPoint = None,
    workers: options.Workers = 0,
    scheduler: options.Scheduler = None,
    cluster: options.Cluster = None,
    cluster_config: options.ClusterConfig = None,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
) -> None:
    """Subtract the reference from frames and detect: difference images, candidates, sanity figures."""
    settings = _settings(locals())
    from rbsim.cluster import Parallel
    from rbsim.config import load_config
    from rbsim.difference_run import run_subtraction
    from rbsim.inputs import find_frames

    with _command() as tell:
        summary = run_subtraction(
            find_frames(frames),
            reference,
            out,
            load_config(config, settings),
            parallel=Parallel(workers, scheduler, cluster, cluster_config),
            overwrite=overwrite,
            images=images,
            truth_path=truth,
            known_path=known,
            progress=tell,
        )
    _print_failed(summary.failed)
    _print_summary(summary.facts(), [("differences", str(out)), *summary.text()], as_json)


@app.command()
def inject(
    frames: options.Frames,
    reference: options.ReferencePaths,
    out: options.StoreOut,
    stars_per_frame: options.StarsPerFrame = None,
    realisations: options.Realisations = None,
    population: options.PopulationName = None,
    near_galaxy: options.NearGalaxy = None,
    snr_min: options.SnrMin = None,
    snr_max: options.SnrMax = None,
    blind_share: options.BlindShare = None,
    blind_snr_min: options.BlindSnrMin = None,
    threshold_snr: options.ThresholdSnr = None,
    convolve: options.Convolve = None,
    basis: options.Basis = None,
    kernel_order: options.KernelOrder = None,
    background_order: options.BackgroundOrder = None,
    backend: options.Backend = None,
    catalog: options.Catalog = None,
    catalog_format: options.CatalogFormat = None,
    truth: options.Truth = None,
    known: options.Known = None,
    negatives: options.Negatives = None,
    match_radius_sigma: options.MatchRadiusSigma = None,
    config: options.ConfigFile = None,
    gain: options.Gain = None,
    read_noise: options.ReadNoise = None,
    saturation: options.Saturation = None,
    zero_point: options.ZeroPoint = None,
    zero_point_aperture: options.ZeroPointAperture = None,
    pixel_scale: options.PixelScale = None,
    exposure: options.Exposure = None,
    images: options.InjectedImages = None,
    nonlinearity: options.Nonlinearity = None,
    bias: options.Bias = None,
    reference_name: options.ReferenceName = None,
    condition: options.Condition = None,
    seed: options.RunSeed = None,
    workers: options.Workers = 0,
    scheduler: options.Scheduler = None,
    cluster: options.Cluster = None,
    cluster_config: options.ClusterConfig = None,
    partition: options.Partition = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
) -> None:
    """Inject stars into frames, subtract the reference, detect, and store labelled 29x29 px triplets."""
    settings = _settings(locals())
    from rbsim.build import parse_share
    from rbsim.cluster import Parallel
    from rbsim.config import load_config
    from rbsim.inputs import find_frames
    from rbsim.references import parse_references
    from rbsim.run import run_injection

    with _command() as tell:
        store = run_injection(
            find_frames(frames),
            parse_references(reference),
            out,
            load_config(config, settings),
            parallel=Parallel(workers, scheduler, cluster, cluster_config),
            share=None if partition is None else parse_share(partition),
            resume=resume,
            overwrite=overwrite,
            catalogue_path=catalog,
            catalogue_format=catalog_format,
            images=images,
            truth_path=truth,
            known_path=known,
            progress=tell,
        )
    if store is None:
        lines = [("part", f"{partition} of {out} is done; rbsim finalise {out} makes the store")]
        _print_summary({"path": str(out), "partition": partition}, lines, as_json)
    else:
        _print_store(store, as_json)


def _print_store(store: Any, as_json: bool) -> None:
    from rbsim.describe import describe_store, describe_text

    with _command():
        facts = describe_store(store)
    _print_failed(facts["failed"])
    _print_summary(facts, [("store", str(store.path)), *describe_text(facts)], as_json)


@app.command()
def finalise(
    store: options.StorePath,
    workers: options.Workers = 0,
    scheduler: options.Scheduler = None,
    cluster: options.Cluster = None,
    cluster_config: options.ClusterConfig = None,
    as_json: options.AsJson = False,
) -> None:
    """Make the finished store of what jobs with --partition wrote; says what is missing."""
    from rbsim.cluster import Parallel
    from rbsim.run import finalise_injection

    with _command() as tell:
        finished = finalise_injection(
            store, parallel=Parallel(workers, scheduler, cluster, cluster_config), progress=tell
        )
    _print_store(finished, as_json)


@app.command()
def verify(store: options.StorePath, as_json: options.AsJson = False) -> None:
    """Read all of a store and check it: checksums, chunks, columns. Exit code 1 if something is wrong."""
    from rbsim.verify import verify as verify_store

    with _command() as tell:
        verdict = verify_store(store, progress=tell)
    for problem in verdict.problems:
        console.print(f"[red]damaged:[/red] {_plain(problem)}", highlight=False, soft_wrap=True)
    remedy = f" ({verdict.remedy})" if verdict.problems else ""
    found = f"{len(verdict.problems) or 'no'} problems in {verdict.n_checked} files{remedy}"
    _print_summary(
        {"path": str(store), **vars(verdict)},
        [("store", str(store)), ("state", verdict.state), ("found", found)],
        as_json,
    )
    if verdict.problems:
        raise typer.Exit(1)


@app.command()
def info(store: options.StorePath, as_json: options.AsJson = False) -> None:
    """Say what is in a store."""
    from rbsim.store import open_store

    with _command():
        opened = open_store(store)
    _print_store(opened, as_json)


@app.command()
def convert(
    sources: Annotated[
        list[Path],
        typer.Argument(
            parser=place,
            metavar="SOURCE...",
            help="A store, a folder of imagesN.npy and paramsN.csv, or *.avro.",
        ),
    ],
    to: Annotated[str, typer.Option(help="store, authors (imagesN.npy + paramsN.csv), fits, parquet.")],
    out: Annotated[
        Path,
        typer.Option(parser=place, metavar="PATH|URL", help="Store (or URL), folder or FITS file to write."),
    ],
    channels: Annotated[
        str | None, typer.Option(help="Channel order of the authors' files. (default ref,new,sub)")
    ] = None,
    fill: Annotated[
        float | None, typer.Option(help="--to authors: ADU for pixels without a value. (default 0)")
    ] = None,
    resample: Annotated[
        bool, typer.Option("--resample", help="Alerts: all 63 px as 29 larger ones, not the central 29.")
    ] = False,
    label: Annotated[
        str | None,
        typer.Option(help="Alerts: label to give, real or bogus (default none). --to fits: label to take."),
    ] = None,
    kind: Annotated[str | None, typer.Option(help="--to fits: kind of the stamps to take.")] = None,
    max_stamps: Annotated[
        int | None, typer.Option(min=1, help="--to fits: size of the random sample. (default 10000)")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="--to fits: seed of the sample. (default 1)")
    ] = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
) -> None:
    """Foreign training sets and alerts to stores; stores to foreign formats."""
    from rbsim.convert.run import ConvertOptions
    from rbsim.convert.run import convert as run_conversion

    with _command() as tell:
        given = ConvertOptions(channels, fill, resample, label, kind, max_stamps, seed, resume)
        done = run_conversion(sources, to, out, given, overwrite=overwrite, progress=tell)
    _print_failed(done.failed)
    _print_summary(done.facts | {"failed": done.failed}, done.text(), as_json)


@app.command()
def relabel(
    store: options.StorePath,
    name: options.LabelName = None,
    mechanism: options.Mechanism = None,
    mislabel_bogus: options.MislabelBogus = None,
    mislabel_real: options.MislabelReal = None,
    left: options.Left = None,
    lost: options.Lost = None,
    scores: options.Scores = None,
    rates: options.Rates = None,
    multiple: options.Multiple = None,
    mix: options.Mix = None,
    measure_rates: options.MeasureRates = None,
    bin_width: options.BinWidth = 1.0,
    list_settings: options.ListSettings = False,
    seed: options.Seed = 1,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
) -> None:
    """Make wrong labels beside the pixels of a store, in exact numbers; or measure rates of wrong ones."""
    from rbsim.errors import InputError
    from rbsim.label_sets import describe_settings, settings_text
    from rbsim.relabel import RelabelConfig, measure_store_rates, rates_text, relabel
    from rbsim.schema import LOST_REASONS
    from rbsim.store import open_store

    with _command():
        if sum((name is not None, measure_rates is not None, list_settings)) != 1:
            raise InputError("give one of --name (and --mechanism), --measure-rates, --list")
        if measure_rates is not None:
            if scores is None:
                raise InputError("--measure-rates needs --scores of the store's stamps")
            facts = measure_store_rates(
                store,
                scores,
                measure_rates,
                bin_width=bin_width,
                lost=LOST_REASONS if lost is None else _names(lost),
                overwrite=overwrite,
            )
            lines = [*rates_text(facts), ("rates", str(measure_rates))]
        else:
            if name is not None:
                if mechanism is None:
                    raise InputError("give --mechanism class-conditional, score-binned, mechanism or mixed")
                config = RelabelConfig(
                    mechanism,
                    mislabel_bogus,
                    mislabel_real,
                    scores,
                    rates,
                    multiple,
                    None if left is None else _names(left),
                    None if lost is None else _names(lost),
                    mix,
                    seed,
                )
                relabel(store, name, config, overwrite=overwrite)
            facts = describe_settings(open_store(store))
            facts = facts if name is None else {name: facts[name]}
            lines = settings_text(facts) or [("labels", "no setting; make one with --name and --mechanism")]
    _print_summary(facts, lines, as_json)


def _names(text: str) -> tuple[str, ...]:
    """Names of a comma list."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


@app.command()
def completeness(
    source: Annotated[
        Path,
        typer.Argument(
            parser=options.place, metavar="STORE|DIR", help="Store made by rbsim inject, or a folder of them."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="Folder to write: completeness.ecsv, points.ecsv, false_positives.ecsv, completeness.png."
        ),
    ],
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
) -> None:
    """Detected fraction of injected stars against S/N, magnitude and host; false positives per frame."""
    from rbsim.completeness_report import completeness_text, write_completeness

    with _command():
        facts = write_completeness(source, out, overwrite=overwrite)
    for warning in facts["warnings"]:
        console.print(f"[yellow]warning:[/yellow] {_plain(warning)}", highlight=False, soft_wrap=True)
    _print_summary(facts, [*completeness_text(facts), ("written to", str(out))], as_json)


@app.command()
def fidelity(
    frames: options.Frames,
    out: Annotated[Path, typer.Option(help="Folder to write: index.html, fidelity.json, figures as PNG.")],
    gain: options.Gain = None,
    read_noise: options.ReadNoise = None,
    saturation: options.Saturation = None,
    zero_point: options.ZeroPoint = None,
    max_frames: Annotated[
        int | None, typer.Option(min=1, help="Use at most so many frames, evenly spread over those given.")
    ] = None,
    seed: options.Seed = 1,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
) -> None:
    """Measure whether injected stars can be told from the frames' own: network, photometry, PSF residuals."""
    settings = _settings(locals())
    from rbmodel.two_sample import tell_apart
    from rbsim.config import load_config
    from rbsim.fidelity import run_fidelity
    from rbsim.fidelity_facts import fidelity_text
    from rbsim.inputs import find_frames

    with _command() as tell:
        facts = run_fidelity(
            find_frames(frames),
            out,
            load_config(None, settings),
            tell_apart=tell_apart,
            max_frames=max_frames,
            overwrite=overwrite,
            progress=tell,
        )
    _print_failed(facts["failed"])
    for reason in facts["not_valid_because"]:
        console.print(f"[yellow]not valid:[/yellow] {_plain(reason)}", highlight=False, soft_wrap=True)
    _print_summary(facts, [*fidelity_text(facts), ("report", str(out / "index.html"))], as_json)


@app.command()
def emulate(
    out: Annotated[
        Path,
        typer.Option(help="Folder to write: science/, references, truth.ecsv, artefacts.ecsv."),
    ],
    night: Annotated[
        str | None, typer.Option(help="Small night: name in catalogs/nights.toml. (default demo)")
    ] = None,
    mode: Annotated[
        str | None, typer.Option(help="Tomo-e night instead: all-sky or high-cadence (catalogs/tomoe.toml).")
    ] = None,
    condition: options.TomoeConditionName = None,
    sensors: options.TomoeSensors = None,
    exposures: options.TomoeExposures = None,
    epochs: options.TomoeEpochs = None,
    ps1: options.TomoePs1 = None,
    cubes: options.TomoeCubes = False,
    seed: options.Seed = 1,
    workers: options.Workers = 0,
    scheduler: options.Scheduler = None,
    cluster: options.Cluster = None,
    cluster_config: options.ClusterConfig = None,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
) -> None:
    """Emulate a night with known truth: star field, galaxies, transients, artefacts, references."""
    from rbsim.errors import InputError

    with _command() as tell:
        facts: dict[str, Any] = {"seed": seed}
        if mode is None:
            from rbsim.emulate.night import emulate_night, load_night

            asked = (condition, sensors, exposures, epochs, ps1)
            if any(value is not None for value in asked) or cubes:
                raise InputError(
                    "--condition, --sensors, --exposures, --epochs, --ps1 and --cubes are for a Tomo-e night;"
                    " give --mode all-sky or --mode high-cadence"
                )
            small = emulate_night(
                out,
                load_night(night or "demo"),
                seed=seed,
                overwrite=overwrite,
                progress=lambda done, total: tell("emulating", done, total),
            )
            facts = vars(small) | {"path": str(small.path), "night": night or "demo"} | facts
        else:
            from rbsim.cluster import Parallel, workers_of
            from rbsim.emulate.tomoe.night import NightPlan, choose_sensors, emulate_tomoe_night
            from rbsim.emulate.tomoe.settings import load_settings

            if night is not None:
                raise InputError("--night and --mode exclude each other; give one of them")
            settings = load_settings(mode, condition or "dark")
            plan = NightPlan(
                settings=settings,
                sensors=choose_sensors(sensors or "all", settings.condition),
                n_exposures=1 if exposures is None else exposures,
                n_epochs=8 if epochs is None else epochs,
                seed=seed,
                ps1=ps1 or "warped",
                with_cubes=cubes,
            )
            with workers_of(Parallel(workers, scheduler, cluster, cluster_config)) as run:
                made = emulate_tomoe_night(
                    out, plan, overwrite=overwrite, run=run, n_workers=max(workers, 1), progress=tell
                )
            facts = (
                vars(made)
                | {"path": str(made.path), "mode": mode, "condition": settings.condition.name}
                | facts
            )
    _print_summary(facts, [(name, str(value)) for name, value in facts.items()], as_json)


@app.command()
def benchmark(
    store: options.StorePath,
    out: Annotated[Path, typer.Option(help="Folder to write: index.html, results.jsonl, figures/.")],
    mislabel_bogus: options.MislabelBogus = None,
    mislabel_real: options.MislabelReal = None,
    labels: options.LabelSetting = None,
    methods: Annotated[
        str,
        typer.Option(
            help="Comma list of baseline, ce_auc, removed, unlabelled, confident, gce, coteaching, fixmatch, "
            "ensemble, oracle; METHOD:NETWORK trains another network than --network."
        ),
    ] = "baseline,oracle,removed,unlabelled",
    network: Annotated[str, typer.Option(help="simple, complex or compact.")] = "simple",
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions with other labels and weights.")] = 1,
    split_seed: Annotated[int, typer.Option(min=0, help="Seed of the split into training and test.")] = 0,
    train_reference: options.TrainReference = None,
    test_reference: options.TestReference = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of stage 1: clean, train, clean again.")] = 1,
    confidence: Annotated[
        float,
        typer.Option(help="Stage 1 suspects a label from this probability of the other class on, 0.5 to 1."),
    ] = 0.5,
    min_steps: Annotated[
        int, typer.Option(min=0, help="Training steps that a small set gets at least.")
    ] = 600,
    seed: options.Seed = 1,
    workers: options.Workers = 0,
    scheduler: options.Scheduler = None,
    cluster: options.Cluster = None,
    cluster_config: options.ClusterConfig = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
) -> None:
    """Train classifiers on noisy labels, score them on the truth, and write a report."""
    from rbmodel.benchmark_config import BenchmarkConfig
    from rbmodel.report import build_report
    from rbmodel.study import run_benchmark
    from rbmodel.train import TrainConfig
    from rbsim.cluster import Parallel, workers_of

    if labels is None:
        mislabel_bogus = BenchmarkConfig.mislabel_bogus if mislabel_bogus is None else mislabel_bogus
        mislabel_real = BenchmarkConfig.mislabel_real if mislabel_real is None else mislabel_real
    with _command() as tell:
        parallel = Parallel(workers, scheduler, cluster, cluster_config)
        config = BenchmarkConfig(
            methods=_names(methods),
            network=network,
            mislabel_bogus=mislabel_bogus or 0.0,
            mislabel_real=mislabel_real or 0.0,
            labels=labels,
            n_seeds=seeds,
            seed=seed,
            split_seed=split_seed,
            train_reference=train_reference,
            test_reference=test_reference,
            rounds=rounds,
            confidence=confidence,
            train=TrainConfig(min_steps=min_steps),
        )
        with workers_of(parallel) as run:
            rows = run_benchmark(
                store,
                out,
                config,
                run=None if parallel.in_process else run,
                progress=tell,
                resume=resume,
                overwrite=overwrite,
            )
        tell("writing the report", 0, 1)
        page = build_report(out, store)
        tell("writing the report", 1, 1)
    failed = {row["run_id"]: f"{row['run_id']}: {row['reason']}" for row in rows if row["status"] != "ok"}
    _print_failed(failed)
    _print_summary(
        {"report": str(page), "rows": rows}, [*_result_lines(rows), ("report", str(page))], as_json
    )
    if len(failed) == len(rows):
        raise typer.Exit(1)


def _result_lines(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    lines = [("method", "seed  AUC      FPR at TPR 0.9 (95 % interval)  accuracy")]
    several = len({row["network"] for row in rows}) > 1
    for row in rows:
        if row["status"] == "ok":
            interval = (
                f"{row['fpr_at_tpr90']:.4f} ({row['fpr_at_tpr90_low']:.4f} to {row['fpr_at_tpr90_high']:.4f})"
            )
            name = f"{row['method']}:{row['network']}" if several else row["method"]
            lines.append((name, f"{row['seed']:<5} {row['auc']:.5f}  {interval}  {row['accuracy']:.4f}"))
    return lines


if __name__ == "__main__":
    app()
