"""An injection run over many frames: plan, process every frame, finalise the store."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rbsim import __version__, build
from rbsim.catalogue import InjectionCatalogue, read_catalogue
from rbsim.cluster import IN_PROCESS, Parallel, run_partitions
from rbsim.config import InjectConfig
from rbsim.errors import InputError
from rbsim.injected_files import ImageFolder, check_images, image_folder
from rbsim.inputs import FrameTask, Gain, find_frames, find_gain, fingerprint, gather_inputs, refuse_mix_ups
from rbsim.known import KnownObjects
from rbsim.observe import name_of
from rbsim.pipeline import process_frame
from rbsim.population_settings import Population, label_of, load_population
from rbsim.reference import Progress
from rbsim.references import ReferenceCache
from rbsim.store import Store
from rbsim.tables import Tiling

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything that workers need, the same for all frames."""

    out: Path
    tasks: tuple[FrameTask, ...]
    references: ReferenceCache
    config: InjectConfig
    gain: Gain | None
    tiling: Tiling
    population: Population
    catalogue: InjectionCatalogue | None
    known: KnownObjects | None
    images: ImageFolder | None


def run_injection(
    frames: Sequence[str],
    reference_path: Path,
    out: Path,
    config: InjectConfig,
    *,
    parallel: Parallel = IN_PROCESS,
    resume: bool = False,
    overwrite: bool = False,
    catalogue_path: Path | None = None,
    catalogue_format: str | None = None,
    images: Path | None = None,
    truth_path: Path | None = None,
    known_path: Path | None = None,
    progress: Progress | None = None,
) -> Store:
    """Inject into frames and write the finished store.

    Parameters
    ----------
    frames : sequence of str
        FITS files, see `find_frames`.
    reference_path : Path
        A reference image, or a folder of them: one per field and sensor, see `rbsim.references`.
    out : Path
    config : InjectConfig
    parallel : Parallel
        Who does the work; the result is the same, bit for bit.
    resume, overwrite : bool
        See `rbsim.build.init`.
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
        Called with (description, done, total).

    Raises
    ------
    InputError
        For unusable arguments, or if no frame gave a stamp (the message has the reasons).
    """
    tell = progress or (lambda *_: None)
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
    given = gather_inputs(frames, reference_path, out, config, truth_path=truth_path, known_path=known_path)
    tasks = given.tasks
    catalogue = None
    if catalogue_path is not None:
        catalogue = read_catalogue(catalogue_path, table_format=catalogue_format)
    if images is not None:
        # The catalogue may be one that an earlier run wrote there.
        others = [*find_frames([reference_path]), *([] if catalogue_path is None else [str(catalogue_path)])]
        refuse_mix_ups(tasks, others, images, truth_path, known_path, None, option="--images")
        check_images(images, out, tasks, overwrite=overwrite)
    gain = find_gain(tasks, config, tell)
    inputs = [f"{name_of(task.path)} {task.key:08x}" for task in tasks]
    extra = given.fingerprints | {
        "catalogue": fingerprint(catalogue_path),
        "population": label_of(config.population),
        "kinds": population.as_dict() if catalogue is None else None,
    }
    todo = build.init(out, config=config.as_dict() | extra, inputs=inputs, resume=resume, overwrite=overwrite)
    tiling = given.tiling(config.tile_pix)
    n_finished = len(tasks) - len(todo)
    with image_folder(images, out, resume=resume, overwrite=overwrite, n_finished=n_finished) as folder:
        plan = Plan(
            out, tasks, given.references, config, gain, tiling, population, catalogue, given.known, folder
        )
        return _run(plan, todo, parallel=parallel, replace=overwrite or resume, tell=tell)


def _run(plan: Plan, todo: Sequence[int], *, parallel: Parallel, replace: bool, tell: Progress) -> Store:
    """Process the frames still to do and pack the store."""
    n_frames = len(plan.tasks)
    n_done = n_frames - len(todo)
    tell("injecting", n_done, n_frames)

    def on_done(_: None) -> None:
        nonlocal n_done
        n_done += 1
        tell("injecting", n_done, n_frames)

    run_partitions(_process, plan, todo, parallel=parallel, on_done=on_done)
    results = build.finished(plan.out, n_frames)
    if not sum(n_stamps for _, n_stamps in results):
        build.discard(plan.out)
        reasons = [reason for reason, _ in results if reason]
        if reasons:
            raise InputError(f"none of {n_frames} frames could be used; the first: {reasons[0]}")
        raise InputError("nothing was detected on any frame; lower --threshold-snr or inject more stars")
    tell("packing", 0, 1)
    store = build.finalise(plan.out, summary=_summary(plan.tiling, plan.gain), overwrite=replace)
    tell("packing", 1, 1)
    return store


def _process(plan: Plan, index: int) -> None:
    partition = process_frame(
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
    build.write_partition(plan.out, index, partition)


def _summary(tiling: Tiling, gain: Gain | None) -> dict[str, Any]:
    return {
        "tiling": {"x_edges_pix": tiling.x_edges_pix.tolist(), "y_edges_pix": tiling.y_edges_pix.tolist()},
        "gain_estimate": None if gain is None else [gain.gain_e_per_adu, gain.gain_err_e_per_adu],
        "versions": {
            "rbsim": __version__,
            **{name: version(name) for name in ("numpy", "scipy", "astropy", "galsim", "sep", "zarr")},
        },
    }
