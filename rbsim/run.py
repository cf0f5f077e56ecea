"""An injection run over many frames: plan, process every frame, finalise the store."""

import json
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rbsim import __version__, build
from rbsim.catalogue import InjectionCatalogue, read_catalogue
from rbsim.checksums import fingerprint, write_seen
from rbsim.cluster import MORE, workers_of
from rbsim.config import InjectConfig
from rbsim.errors import InputError
from rbsim.injected_files import ImageFolder, check_images, image_folder
from rbsim.inputs import FrameTask, Gain, find_frames, find_gain, gather_inputs, refuse_mix_ups
from rbsim.known import KnownObjects
from rbsim.locations import target_of
from rbsim.lock import build_lock
from rbsim.observe import name_of
from rbsim.pack import finalise
from rbsim.parallel import IN_PROCESS, Parallel, Run
from rbsim.pipeline import process_frame
from rbsim.population_settings import Population, label_of, load_population
from rbsim.references import ReferenceCache, by_name
from rbsim.repair import is_finished
from rbsim.store import PLAN, Store, open_store, partial_path
from rbsim.tables import Tiling

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything that workers need, the same for all frames."""

    out: Path
    tasks: tuple[FrameTask, ...]
    references: Mapping[str, ReferenceCache]
    config: InjectConfig
    gain: Gain | None
    tiling: Tiling
    population: Population
    catalogue: InjectionCatalogue | None
    known: KnownObjects | None
    images: ImageFolder | None


def run_injection(
    frames: Sequence[str],
    reference_path: Path | Mapping[str, Path],
    out: Path,
    config: InjectConfig,
    *,
    parallel: Parallel = IN_PROCESS,
    share: build.Share | None = None,
    resume: bool = False,
    overwrite: bool = False,
    catalogue_path: Path | None = None,
    catalogue_format: str | None = None,
    images: Path | None = None,
    truth_path: Path | None = None,
    known_path: Path | None = None,
    progress: Callable[..., None] | None = None,
) -> Store | None:
    """Inject into frames and write the finished store.

    Parameters
    ----------
    frames : sequence of str
        FITS files, see `find_frames`.
    reference_path : Path, or mapping of str to Path
        A reference image, or a folder of them: one per field and sensor, see `rbsim.references`. Several
        by name make a paired store: the same frames, stars and noise with each.
    out : Path
    config : InjectConfig
    parallel : Parallel
        Who does the work; the result is the same, bit for bit.
    share : Share, optional
        Do only this part and leave it to `finalise_injection` to make the store; None is returned then.
    resume, overwrite : bool
        See `rbsim.build.init`. A finished store that is damaged is repaired by `resume`: only the frames
        are done again that have rows in damaged files.
    catalogue_path : Path, optional
        Stars to inject instead of a population, see `rbsim.catalogue.read_catalogue`.
    catalogue_format : str, optional
        astropy's name of its format, if the extension does not tell.
    images : Path, optional
        Folder for the frames with their stars, see `rbsim.injected_files`. It gets its name when the store
        has its own.
    truth_path : Path, optional
        Transients of emulated frames (columns frame, x_pix, y_pix). If ``artefacts.ecsv`` of `rbsim
        emulate` lies beside it, every false detection gets its cause.
    known_path : Path, optional
        Known variables, asteroids, transients, see `rbsim.known.read_known`: kept out of the bogus.
    progress : callable, optional
        Called with (description, done, total), and while frames are done with a ``note`` on the rate.

    Raises
    ------
    InputError
        For unusable arguments, or if no frame gave a stamp (the message has the reasons).
    """
    tell = progress or (lambda *_, **__: None)
    out = target_of(out)
    population = load_population(config.population, near_galaxy=config.near_galaxy)
    if catalogue_path is not None and config.population != InjectConfig.population:
        raise InputError(
            "--catalog and --population exclude each other: a catalogue says itself what to inject"
        )
    if catalogue_path is not None and config.near_galaxy is not None:
        raise InputError(
            f"near-galaxy is {config.near_galaxy}, but a catalogue says itself where its stars are; drop it"
        )
    if catalogue_path is not None and config.blind_share:
        raise InputError(
            f"blind-share is {config.blind_share}, but a catalogue says itself where its stars are; drop it"
        )
    if catalogue_path is None and catalogue_format is not None:
        raise InputError(f"--catalog-format is {catalogue_format!r} without a table; give --catalog FILE")
    references = by_name(reference_path)
    if any(references):
        if config.reference_name != InjectConfig.reference_name:
            raise InputError(
                f"reference-name is {config.reference_name!r}, but --reference gives names itself; drop it"
            )
        config = replace(config, reference_name="+".join(references))
    given = gather_inputs(
        frames, references, out, config, truth_path=truth_path, known_path=known_path, share=share
    )
    tasks = given.tasks
    catalogue = None
    if catalogue_path is not None:
        catalogue = read_catalogue(catalogue_path, table_format=catalogue_format)
    if images is not None and share is not None:
        raise InputError(
            "--images and --partition exclude each other; write the images in a run without --partition"
        )
    if images is not None:
        # The catalogue may be one that an earlier run wrote there.
        others = [
            *find_frames(list(references.values())),
            *([] if catalogue_path is None else [str(catalogue_path)]),
        ]
        refuse_mix_ups(tasks, others, images, truth_path, known_path, None, option="--images")
        check_images(images, out, tasks, overwrite=overwrite)
    inputs = [f"{name_of(task.path)} {task.key:08x}" for task in tasks]
    extra = given.fingerprints | {
        "catalogue": fingerprint(catalogue_path),
        "population": label_of(config.population),
        "kinds": population.as_dict() if catalogue is None else None,
    }
    settings = config.as_dict() | extra
    tiling = given.tiling(config.tile_pix)
    with build_lock(out, shared=share is not None):
        gain = _gain_of_plan(out, settings, inputs) or find_gain(tasks, config, tell)
        fixed = build.make_plan(settings, inputs, _summary(tiling, gain, given.references))
        if resume and out.exists() and not partial_path(out).exists() and is_finished(out, fixed):
            log.warning("%s: is finished and whole; nothing to do", out)
            return open_store(out)
        todo = build.begin(out, fixed, resume=resume, overwrite=overwrite, share=share)
        n_finished = len(tasks) - len(todo)
        with (
            image_folder(images, out, resume=resume, overwrite=overwrite, n_finished=n_finished) as folder,
            workers_of(parallel) as run,
        ):
            plan = Plan(
                out, tasks, given.references, config, gain, tiling, population, catalogue, given.known, folder
            )
            if share is not None:
                whole_files = ((Path(task.path), task.key) for task in tasks if Path(task.path).exists())
                write_seen(partial_path(out), whole_files)
                _process_share(plan, share, todo, run=run, tell=tell)
                return None
            _process_all(plan, todo, n_before=n_finished, run=run, tell=tell)
            return _pack(out, overwrite=overwrite or resume, run=run, tell=tell)


def finalise_injection(
    out: Path, *, parallel: Parallel = IN_PROCESS, progress: Callable[..., None] | None = None
) -> Store:
    """Make the finished store of what jobs with ``--partition`` wrote.

    Raises
    ------
    InputError
        If partitions are missing (the message names them), another process is at it, or nothing was found.
    """
    out = target_of(out)
    if out.exists() and not partial_path(out).exists():
        open_store(out)  # says what else it is
        raise InputError(f"{out}: is finished already; rbsim info shows it")
    build.read_plan(out)
    with build_lock(out), workers_of(parallel) as run:
        return _pack(out, overwrite=False, run=run, tell=progress or (lambda *_, **__: None))


def _gain_of_plan(out: Path, settings: dict[str, Any], inputs: list[str]) -> Gain | None:
    """The gain that an unfinished build or a store of the same run has, so that it is not measured again."""
    for folder in (partial_path(out), out):
        try:
            plan = json.loads((folder / PLAN).read_bytes())
            estimate = plan["summary"]["gain_estimate"]
            if plan["inputs"] == inputs and plan["config"] == json.loads(json.dumps(settings)) and estimate:
                return Gain(*estimate)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def _process_share(
    plan: Plan, share: build.Share, todo: Sequence[int], *, run: Run, tell: Callable[..., None]
) -> None:
    """Process what one of several jobs has to do."""
    mine = share.of(range(len(plan.tasks)))
    left = share.of(todo)
    _process_all(plan, left, n_before=len(mine) - len(left), run=run, tell=tell)


def _process_all(
    plan: Plan, todo: Sequence[int], *, n_before: int, run: Run, tell: Callable[..., None]
) -> None:
    """Process the frames still to do; those that kill their workers are named at the end."""
    n_done, n_frames = n_before, n_before + len(todo)
    n_stamps, began_s = 0, time.monotonic()
    tell("injecting", n_done, n_frames)

    def on_done(n_here: int) -> None:
        nonlocal n_done, n_stamps
        n_done += 1
        n_stamps += n_here
        rate = n_stamps / max(time.monotonic() - began_s, 1e-3)
        tell("injecting", n_done, n_frames, note=f"{rate:,.0f} stamps/s")

    lost: list[str] = []
    run(
        _process,
        plan,
        todo,
        on_done=on_done,
        on_lost=lambda index, reason: lost.append(f"{name_of(plan.tasks[index].path)} {reason}"),
    )
    if lost:
        raise InputError(
            f"{len(lost)} of {n_frames} frames were given up: {', '.join(lost[:5])}; give the workers"
            f" {MORE}, and run with --resume, or leave these frames out"
        )


def _pack(out: Path, *, overwrite: bool, run: Run, tell: Callable[..., None]) -> Store:
    """Pack the store, unless there is nothing in it."""
    n_frames = len(build.read_plan(out)["inputs"])
    if not build.still_missing(out, n_frames):
        results = build.finished(out, range(n_frames))
        if not sum(n_stamps for _, n_stamps in results):
            build.discard(out)
            reasons = [reason for reason, _ in results if reason]
            if reasons:
                raise InputError(f"none of {n_frames} frames could be used; the first: {reasons[0]}")
            raise InputError("nothing was detected on any frame; lower --threshold-snr or inject more stars")
    return finalise(
        out,
        overwrite=overwrite,
        run=run,
        progress=lambda done, total: tell("packing", done, total),
    )


def _process(plan: Plan, index: int) -> int:
    parts = process_frame(
        plan.tasks[index],
        plan.references,
        plan.config,
        gain=plan.gain,
        tiling=plan.tiling,
        population=plan.population,
        catalogue=plan.catalogue,
        known=plan.known,
        images=plan.images,
    )
    build.write_partition(plan.out, index, *parts)
    return sum(len(part.stamps) for part in parts)


def _summary(tiling: Tiling, gain: Gain | None, references: Collection[str]) -> dict[str, Any]:
    return {
        **({"references": list(references)} if len(references) > 1 else {}),
        "tiling": {"x_edges_pix": tiling.x_edges_pix.tolist(), "y_edges_pix": tiling.y_edges_pix.tolist()},
        "gain_estimate": None if gain is None else [gain.gain_e_per_adu, gain.gain_err_e_per_adu],
        "versions": {
            "rbsim": __version__,
            **{name: version(name) for name in ("numpy", "scipy", "astropy", "galsim", "sep", "zarr")},
        },
    }
