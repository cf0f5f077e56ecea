"""The inputs of a run over many frames: which frames, in which order, with which gain and truth."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from astropy.io import fits

from rbsim.build import Share
from rbsim.cause import TrueArtefacts
from rbsim.checksums import Seen, checksum, fingerprint, read_seen
from rbsim.config import InjectConfig
from rbsim.errors import InputError
from rbsim.frame import DetectorOptions, Frame, read_frame, read_gain, split_extension, start_time
from rbsim.gain import estimate_gain
from rbsim.known import KnownObjects, read_known
from rbsim.reference import Progress
from rbsim.references import ReferenceCache, by_name, open_references
from rbsim.remote import find_remote, is_url, open_header, same_bytes
from rbsim.seeding import key_of_name, stream
from rbsim.skycell_truth import find_all_artefacts
from rbsim.store import partial_path
from rbsim.subtract import check_backend
from rbsim.tables import Tiling, make_tiling
from rbsim.tomoe.header import exposure_of
from rbsim.true_transients import TrueTransients, by_frame, frame_of, read_truth

MAX_GAIN_FRAMES = 64
FITS_SUFFIXES = (".fits", ".fit", ".fts", ".fits.gz", ".fits.fz")


@dataclass(frozen=True)
class Gain:
    """Gain for frames whose headers have none, electrons per ADU, with its error."""

    gain_e_per_adu: float
    gain_err_e_per_adu: float


@dataclass(frozen=True, eq=False)
class FrameTask:
    """What one frame's work needs beside the frame itself.

    Attributes
    ----------
    path : str
        FITS file, perhaps with ``[EXT]``.
    key : int
        Identifies the content; all random streams of the frame hang on it.
    index, exposure, block : int
        Row in the frames group, order in time, exposure block.
    transients : TrueTransients or None
        Of the emulator, in this frame; None for a real frame.
    artefacts : TrueArtefacts or None
        What the emulator put into this frame; None if not known.
    reference_artefacts : dict of str to TrueArtefacts
        The same of references, in their pixels, by file name; empty if nothing is known.
    """

    path: str
    key: int
    index: int
    exposure: int
    block: int
    transients: TrueTransients | None
    artefacts: TrueArtefacts | None = None
    reference_artefacts: Mapping[str, TrueArtefacts] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class RunInputs:
    """What a run over many frames starts from, read and checked.

    Attributes
    ----------
    references : dict of str to ReferenceCache
        By name; of one without a name, the only one, it is empty.
    tasks : tuple of FrameTask
        In order of time.
    known : KnownObjects or None
    fingerprints : dict
        Name and checksum of every file beside the frames; None for those not given.
    """

    references: dict[str, ReferenceCache]
    tasks: tuple[FrameTask, ...]
    known: KnownObjects | None
    fingerprints: dict[str, str | None]

    def tiling(self, tile_pix: float) -> Tiling:
        """One tiling for all of a reference: splits then give tiles of one number the same role on each.

        In a paired run that is the first, on which the tiles of all lie.
        """
        shapes = [card.shape for card in next(iter(self.references.values())).cards]
        return make_tiling((max(ny for ny, _ in shapes), max(nx for _, nx in shapes)), tile_pix)


def gather_inputs(
    frames: Sequence[str],
    reference_path: Path | Mapping[str, Path],
    out: Path,
    config: InjectConfig,
    *,
    truth_path: Path | None,
    known_path: Path | None,
    share: Share | None = None,
) -> RunInputs:
    """Read references, truth and known objects, and order the frames in time.

    Parameters
    ----------
    frames : sequence of str
    reference_path : Path, or mapping of str to Path
        An image, or a folder with one per field and sensor; several by name.
    out : Path
        Must not lie on top of the inputs.
    config : InjectConfig
    truth_path, known_path : Path or None
    share : Share, optional
        The part of the run that this process does.

    Raises
    ------
    InputError
        If a file is unusable, or the inputs are mixed up.
    """
    check_backend(config.subtract)
    found = {name: find_frames([path]) for name, path in by_name(reference_path).items()}
    references = {name: open_references(paths) for name, paths in found.items()}
    reference_paths = [path for paths in found.values() for path in paths]
    truth = None if truth_path is None else read_truth(truth_path)
    known = None if known_path is None else read_known(known_path)
    artefact_path, artefacts = find_all_artefacts(truth_path, reference_paths)
    names = [split_extension(path)[0].name for path in reference_paths]
    seen = None if share is None else read_seen(partial_path(out))
    tasks = frame_tasks(frames, config, truth, artefacts, names, seen=seen, share=share)
    refuse_mix_ups(tasks, reference_paths, out, truth_path, known_path, truth)
    if known is not None:
        frame_names = {split_extension(task.path)[0].name for task in tasks} | {""}
        if frame_names.isdisjoint(known.frame):
            raise InputError(
                f"{known_path}: all its rows are for other frames, first {known.frame[0]};"
                " its column frame holds file names"
            )
    fingerprints = {
        "reference": "; ".join(
            (f"{name}: " if name else "") + ", ".join(str(fingerprint(path)) for path in paths)
            for name, paths in found.items()
        ),
        "truth": fingerprint(truth_path),
        "artefacts": fingerprint(artefact_path),
        "known": fingerprint(known_path),
    }
    return RunInputs(references, tasks, known, fingerprints)


def find_frames(sources: Sequence[str | Path]) -> list[str]:
    """Files from files, globs and folders, each once, in the order given (globs and folders sorted).

    All of them may be fsspec URLs, see `rbsim.remote`.

    Raises
    ------
    InputError
        If a glob or folder holds no FITS file, or nothing was given.
    """
    found: list[str] = []
    for source in sources:
        text = str(source)
        if is_url(text):
            found += find_remote(text, FITS_SUFFIXES)
            continue
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


def refuse_mix_ups(
    tasks: Sequence[FrameTask],
    reference_paths: Sequence[str],
    out: Path,
    truth_path: Path | None,
    known_path: Path | None,
    truth: dict[str, TrueTransients] | None,
    *,
    option: str = "--out",
) -> None:
    """Refuse frames given twice, the reference among them, an output on top of inputs, a foreign truth.

    Raises
    ------
    InputError
    """
    first: dict[int, str] = {}
    reference_files = {split_extension(path)[0].resolve() for path in reference_paths}
    for task in tasks:
        # A key has 32 bits: among the frames of a night two may agree by chance.
        if task.key in first and _same_content(task.path, first[task.key]):
            raise InputError(f"{task.path}: has the same content as {first[task.key]}; give each frame once")
        first.setdefault(task.key, task.path)
        frame_path = split_extension(task.path)[0].resolve()
        if frame_path in reference_files:
            raise InputError(f"{task.path}: is the reference itself; leave it out of the frames")
        if out.resolve() in (frame_path, *frame_path.parents):
            raise InputError(f"{out}: holds the frames themselves; choose another {option}")
    others = [split_extension(path)[0] for path in reference_paths]
    for path in (*others, *(path for path in (truth_path, known_path) if path is not None)):
        if out.resolve() in (path.resolve(), *path.resolve().parents):
            raise InputError(f"{out}: holds {path}, which is an input; choose another {option}")
    if truth is None:
        return
    files = {split_extension(task.path)[0] for task in tasks}
    frames = {frame_of(path.name) for path in files}
    if len(frames) < len(files):
        raise InputError(
            f"{truth_path}: knows frames by file name or FRAME_ID, and two frames share one; run them apart"
        )
    if frames.isdisjoint(by_frame(truth)):
        raise InputError(
            f"{truth_path}: has no row for any of these frames; give the truth table of their night"
        )


def refuse_equal_names(tasks: Sequence[FrameTask]) -> None:
    """Frames of one name would overwrite each other's files."""
    first: dict[str, str] = {}
    for task in tasks:
        stem = stem_of(task.path)
        if stem in first:
            raise InputError(f"{task.path}: has the file name of {first[stem]}; run them apart or rename one")
        first[stem] = task.path


def stem_of(frame: str) -> str:
    """Name of a frame's files: without the FITS suffix, brackets of an extension as a dot."""
    path, extension = split_extension(frame)
    stem = path.name
    for suffix in (".gz", ".fz", ".fits", ".fit", ".fts"):
        stem = stem[: -len(suffix)] if stem.lower().endswith(suffix) else stem
    return stem if extension is None else f"{stem}.{extension}"


def frame_tasks(
    frames: Sequence[str],
    config: InjectConfig,
    truth: dict[str, TrueTransients] | None,
    artefacts: dict[str, TrueArtefacts] | None,
    reference_files: Sequence[str],
    *,
    seen: Seen | None = None,
    share: Share | None = None,
) -> tuple[FrameTask, ...]:
    """Frames in order of time, with their exposure blocks and what is known about them.

    Parameters
    ----------
    frames : sequence of str
    config : InjectConfig
    truth : dict, or None
        From `read_truth`.
    artefacts : dict, or None
        From `find_all_artefacts`.
    reference_files : sequence of str
        File names of the references, whose artefacts are known too.
    seen, share : optional
        Of a run in parts: only its frames are read for their checksums, if a job has left the others'.
    """
    told = {frame: _start_of(frame) for frame in frames}
    ordered = sorted(frames, key=lambda frame: (np.nan_to_num(told[frame][0], nan=np.inf), frame))
    # Frames that start together (extensions, sensors of one exposure) share a block.
    starts = {frame: told[frame][1] for frame in ordered}
    exposures = {start: number for number, start in enumerate(dict.fromkeys(starts.values()))}
    n_blocks = min(config.n_blocks, len(exposures))
    truth_of = None if truth is None else by_frame(truth)
    artefacts_of = None if artefacts is None else by_frame(artefacts)
    of_references = {name: artefacts[name] for name in reference_files if artefacts and name in artefacts}
    return tuple(
        FrameTask(
            path=frame,
            key=_frame_key(frame, None if share is None or i in share else seen),
            index=i,
            exposure=exposures[starts[frame]],
            block=exposures[starts[frame]] * n_blocks // len(exposures),
            transients=None if truth_of is None else truth_of.get(_frame_in(frame), TrueTransients.none()),
            artefacts=None if artefacts_of is None else artefacts_of.get(_frame_in(frame)),
            reference_artefacts=of_references,
        )
        for i, frame in enumerate(ordered)
    )


def _frame_in(frame: str) -> str:
    return frame_of(split_extension(frame)[0].name)


def _start_of(frame: str) -> tuple[float, str | float]:
    """When a frame starts, Unix seconds or NaN, and what tells its exposure from others."""
    path, extension = split_extension(frame)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_header(path) as file, fits.open(file, memmap=False) as hdus:
                # Of a compressed file the first HDU is empty.
                wanted = hdus if extension is None else [hdus[extension]]
                header = next(hdu.header for hdu in wanted if hdu.header.get("NAXIS"))
                time = start_time(header)
                return time, exposure_of(header, path.name) or (frame if np.isnan(time) else time)
    except Exception:  # every protocol has exceptions of its own
        return float("nan"), frame  # the frame itself will fail with its reason


def _frame_key(frame: str, seen: Seen | None) -> int:
    """What a frame's random streams hang on: its content and, within a file, its extension.

    A file that cannot be read has only its name; it will fail when its turn comes.
    """
    path, extension = split_extension(frame)
    content = (checksum(path) if seen is None else seen.checksum(path)) or key_of_name(frame)
    return content if extension is None else key_of_name(f"{content} {extension}")


def _same_content(frame: str, other: str) -> bool:
    """Whether two frames are equal byte by byte; unreadable ones by their names."""
    (path, extension), (other_path, other_extension) = split_extension(frame), split_extension(other)
    try:
        return extension == other_extension and same_bytes(path, other_path)
    except OSError:
        return frame == other


def find_gain(tasks: Sequence[FrameTask], config: InjectConfig, tell: Progress) -> Gain | None:
    """Photon-transfer gain from the readable frames that lack one; None if all have theirs."""
    if config.gain_e_per_adu is not None:
        return None  # no frame can lack it: spare reading them all
    options = DetectorOptions(
        config.gain_e_per_adu,
        config.read_noise_e,
        config.saturation_adu,
        config.zero_point_mag,
        config.nonlinearity,
        config.bias_adu,
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
