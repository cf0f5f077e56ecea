"""An injection run over many frames: plan, process every frame, finalise the store."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rbsim import __version__, build
from rbsim.catalogue import InjectionCatalogue, read_catalogue
from rbsim.cluster import run_partitions
from rbsim.config import InjectConfig
from rbsim.errors import InputError
from rbsim.inputs import FrameTask, Gain, find_gain, fingerprint, gather_inputs
from rbsim.known import KnownObjects
from rbsim.observe import name_of
from rbsim.pipeline import process_frame
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
    catalogue: InjectionCatalogue | None
    known: KnownObjects | None


def run_injection(
    frames: Sequence[str],
    reference_path: Path,
    out: Path,
    config: InjectConfig,
    *,
    workers: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    catalogue_path: Path | None = None,
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
    workers : int
        0: in this process; otherwise dask worker processes. The result is the same, bit for bit.
    resume, overwrite : bool
        See `rbsim.build.init`.
    catalogue_path : Path, optional
        Stars to inject instead of random ones.
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
    given = gather_inputs(frames, reference_path, out, config, truth_path=truth_path, known_path=known_path)
    tasks = given.tasks
    catalogue = None if catalogue_path is None else read_catalogue(catalogue_path)
    gain = find_gain(tasks, config, tell)
    inputs = [f"{name_of(task.path)} {task.key:08x}" for task in tasks]
    extra = given.fingerprints | {"catalogue": fingerprint(catalogue_path)}
    todo = build.init(out, config=config.as_dict() | extra, inputs=inputs, resume=resume, overwrite=overwrite)
    tiling = given.tiling(config.tile_pix)
    plan = Plan(out, tasks, given.references, config, gain, tiling, catalogue, given.known)
    n_done = len(tasks) - len(todo)
    tell("injecting", n_done, len(tasks))

    def on_done(_: None) -> None:
        nonlocal n_done
        n_done += 1
        tell("injecting", n_done, len(tasks))

    run_partitions(_process, plan, todo, workers=workers, on_done=on_done)
    results = build.finished(out, len(tasks))
    if not sum(n_stamps for _, n_stamps in results):
        build.discard(out)
        reasons = [reason for reason, _ in results if reason]
        if reasons:
            raise InputError(f"none of {len(tasks)} frames could be used; the first: {reasons[0]}")
        raise InputError("nothing was detected on any frame; lower --threshold-snr or inject more stars")
    tell("packing", 0, 1)
    store = build.finalise(out, summary=_summary(tiling, gain), overwrite=overwrite or resume)
    tell("packing", 1, 1)
    return store


def _process(plan: Plan, index: int) -> None:
    partition = process_frame(
        plan.tasks[index],
        plan.references,
        plan.config,
        gain=plan.gain,
        tiling=plan.tiling,
        catalogue=plan.catalogue,
        known=plan.known,
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
