"""An injection run over many frames: plan, process every frame, finalise the store."""

import hashlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.io.registry import IORegistryError
from astropy.table import Table

from rbsim import __version__, build
from rbsim.catalogue import InjectionCatalogue, read_catalogue
from rbsim.cause import TrueArtefacts, read_artefacts
from rbsim.cluster import run_partitions
from rbsim.config import InjectConfig
from rbsim.errors import InputError
from rbsim.frame import DetectorOptions, Frame, read_frame, read_gain, split_extension, start_time
from rbsim.gain import estimate_gain
from rbsim.known import KnownObjects, read_known
from rbsim.pipeline import FrameTask, Gain, process_frame
from rbsim.reference import Progress
from rbsim.references import ReferenceCache, read_cards
from rbsim.seeding import key_of_name, stream
from rbsim.store import Store
from rbsim.tables import Tiling, make_tiling

log = logging.getLogger(__name__)

MAX_GAIN_FRAMES = 64
FITS_SUFFIXES = (".fits", ".fit", ".fts", ".fits.gz", ".fits.fz")


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


def find_frames(sources: Sequence[str | Path]) -> list[str]:
    """Files from files, globs and folders, each once, in the order given (globs and folders sorted).

    Raises
    ------
    InputError
        If a glob or folder holds no FITS file, or nothing was given.
    """
    found: list[str] = []
    for source in sources:
        text = str(source)
        path = Path(text)
        if path.is_dir():
            inside = sorted(str(p) for p in path.iterdir() if p.name.lower().endswith(FITS_SUFFIXES))
            if not inside:
                raise InputError(f"{text}: folder holds no FITS file ({', '.join(FITS_SUFFIXES)})")
            found += inside
        elif path.exists() or not any(mark in text for mark in "*?"):
            found.append(text)
        else:
            base = Path(path.anchor) if path.is_absolute() else Path()
            pattern = str(path.relative_to(path.anchor)) if path.is_absolute() else text
            matching = sorted(str(p) for p in base.glob(pattern))
            if not matching:
                raise InputError(f"{text}: matches no file")
            found += matching
    if not found:
        raise InputError("no frames given; give FITS files, globs or folders")
    return list(dict.fromkeys(found))


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
    reference_paths = find_frames([reference_path])
    references = ReferenceCache(read_cards(reference_paths))
    if len(reference_paths) == 1:
        references.get(0)  # an unusable one ends the run here; of several, only its frames fail
    catalogue = None if catalogue_path is None else read_catalogue(catalogue_path)
    truth = None if truth_path is None else read_truth(truth_path)
    known = None if known_path is None else read_known(known_path)
    artefact_path = None if truth_path is None else truth_path.with_name("artefacts.ecsv")
    if artefact_path is not None and not artefact_path.exists():
        artefact_path = None
    artefacts = None if artefact_path is None else read_artefacts(artefact_path)
    tasks = _tasks(frames, config, truth, artefacts, split_extension(reference_paths[0])[0].name)
    _refuse_mix_ups(tasks, reference_paths, out, truth_path, truth)
    gain = _gain(tasks, config, tell)
    inputs = [f"{task.path.rsplit('/', 1)[-1]} {task.key:08x}" for task in tasks]
    extra = {
        "reference": ", ".join(str(_fingerprint(path)) for path in reference_paths),
        "catalogue": _fingerprint(catalogue_path),
        "truth": _fingerprint(truth_path),
        "artefacts": _fingerprint(artefact_path),
        "known": _fingerprint(known_path),
    }
    todo = build.init(out, config=config.as_dict() | extra, inputs=inputs, resume=resume, overwrite=overwrite)
    # One tiling for all references: splits then give tiles of one number the same role on each.
    shapes = [card.shape for card in references.cards]
    tiling = make_tiling((max(ny for ny, _ in shapes), max(nx for _, nx in shapes)), config.tile_pix)
    plan = Plan(out, tasks, references, config, gain, tiling, catalogue, known)
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


def _refuse_mix_ups(
    tasks: Sequence[FrameTask],
    reference_paths: Sequence[str],
    out: Path,
    truth_path: Path | None,
    truth: dict[str, np.ndarray] | None,
) -> None:
    """Frames that are given twice or are the reference, an output on top of the input, a foreign truth."""
    first: dict[int, str] = {}
    reference_files = {split_extension(path)[0].resolve() for path in reference_paths}
    for task in tasks:
        if task.key in first:
            raise InputError(f"{task.path}: has the same content as {first[task.key]}; give each frame once")
        first[task.key] = task.path
        frame_path = split_extension(task.path)[0].resolve()
        if frame_path in reference_files:
            raise InputError(f"{task.path}: is the reference itself; leave it out of the frames")
        if out.resolve() in (frame_path, *frame_path.parents):
            raise InputError(f"{out}: holds the frames themselves; choose another --out")
    if truth is not None and not any(split_extension(task.path)[0].name in truth for task in tasks):
        raise InputError(
            f"{truth_path}: has no row for any of these frames; give the truth table of their night"
        )


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


def _tasks(
    frames: Sequence[str],
    config: InjectConfig,
    truth: dict[str, np.ndarray] | None,
    artefacts: dict[str, TrueArtefacts] | None,
    reference_name: str,
) -> tuple[FrameTask, ...]:
    """Frames in order of time, with their exposure blocks and what is known about them."""
    times = {frame: _start_time(frame) for frame in frames}
    ordered = sorted(frames, key=lambda frame: (np.nan_to_num(times[frame], nan=np.inf), frame))
    # Frames that start together (extensions, sensors of one exposure) share a block.
    starts = {frame: times[frame] if np.isfinite(times[frame]) else frame for frame in ordered}
    exposures = {start: number for number, start in enumerate(dict.fromkeys(starts.values()))}
    n_blocks = min(config.n_blocks, len(exposures))
    none = np.empty((0, 2))
    return tuple(
        FrameTask(
            path=frame,
            key=_frame_key(frame),
            index=i,
            exposure=exposures[starts[frame]],
            block=exposures[starts[frame]] * n_blocks // len(exposures),
            transients_xy=None if truth is None else truth.get(split_extension(frame)[0].name, none),
            artefacts=None if artefacts is None else artefacts.get(split_extension(frame)[0].name),
            reference_artefacts=None if artefacts is None else artefacts.get(reference_name),
        )
        for i, frame in enumerate(ordered)
    )


def _start_time(frame: str) -> float:
    path, extension = split_extension(frame)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with path.open("rb") as file, fits.open(file, memmap=False) as hdus:
                return start_time(hdus[extension or 0].header)
    except (OSError, KeyError, IndexError, ValueError):
        return float("nan")  # the frame itself will fail with its reason


def _frame_key(frame: str) -> int:
    """What a frame's random streams hang on: its content and, within a file, its extension.

    A file that cannot be read has only its name; it will fail when its turn comes.
    """
    path, extension = split_extension(frame)
    content = _checksum(path) or key_of_name(frame)
    return content if extension is None else key_of_name(f"{content} {extension}")


def _fingerprint(source: str | Path | None) -> str | None:
    """Name and checksum of a file (perhaps with ``[EXT]``); None without one."""
    if source is None:
        return None
    path = split_extension(source)[0]
    return f"{path.name} {_checksum(path):08x}"


def _checksum(path: Path) -> int:
    """First 32 bits of the SHA-256 of a file; 0 if it cannot be read."""
    try:
        with path.open("rb") as file:
            return int(hashlib.file_digest(file, "sha256").hexdigest()[:8], 16)
    except OSError:
        return 0


def _gain(tasks: Sequence[FrameTask], config: InjectConfig, tell: Progress) -> Gain | None:
    """Photon-transfer gain from the readable frames that lack one; None if all have theirs."""
    if config.gain_e_per_adu is not None:
        return None  # no frame can lack it: spare reading them all
    options = DetectorOptions(
        config.gain_e_per_adu, config.read_noise_e, config.saturation_adu, config.zero_point_mag
    )
    lacking = [task for task in tasks[:MAX_GAIN_FRAMES] if _lacks_gain(task, options)]
    n_read = 0

    def frames() -> Iterator[Frame]:
        nonlocal n_read
        for number, task in enumerate(lacking, 1):
            try:
                frame = read_frame(task.path, options=options)
            except InputError:
                continue  # reported when its turn comes
            n_read += 1
            tell("estimating the gain", number, len(lacking))
            yield frame

    try:
        estimate = estimate_gain(frames(), rng=stream(config.seed, "gain"))
    except InputError:
        if not n_read:
            return None
        raise
    return Gain(estimate.gain_e_per_adu, estimate.gain_err_e_per_adu)


def _lacks_gain(task: FrameTask, options: DetectorOptions) -> bool:
    try:
        return bool(np.isnan(read_gain(task.path, options=options)))
    except InputError:
        return False  # reported when its turn comes


def read_truth(path: Path) -> dict[str, np.ndarray]:
    """Positions of the emulator's transients per frame name, shape (n, 2), 0-based.

    Raises
    ------
    InputError
        If the table cannot be read or lacks columns.
    """
    try:
        table = Table.read(path)
        names, x, y = (np.asarray(table[name]) for name in ("frame", "x_pix", "y_pix"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (KeyError, ValueError, OSError, IORegistryError) as error:
        raise InputError(
            f"{path}: is not a truth table of rbsim emulate (columns frame, x_pix, y_pix)"
        ) from error
    names = names.astype(str)
    return {str(name): np.column_stack([x, y])[names == name].astype(float) for name in np.unique(names)}


def _summary(tiling: Tiling, gain: Gain | None) -> dict[str, Any]:
    return {
        "tiling": {"x_edges_pix": tiling.x_edges_pix.tolist(), "y_edges_pix": tiling.y_edges_pix.tolist()},
        "gain_estimate": None if gain is None else [gain.gain_e_per_adu, gain.gain_err_e_per_adu],
        "versions": {
            "rbsim": __version__,
            **{name: version(name) for name in ("numpy", "scipy", "astropy", "galsim", "sep", "zarr")},
        },
    }
