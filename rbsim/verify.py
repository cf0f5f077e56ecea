"""Whether a store is what it was when it was finished: every byte, and what its columns must agree on."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rbsim import schema
from rbsim.build import ranges, read_plan, still_missing
from rbsim.errors import InputError
from rbsim.label_sets import REPLACED, UNFINISHED
from rbsim.manifest import damaged, read_manifest
from rbsim.partition import is_whole
from rbsim.store import BESIDE, Store, converted_from, is_store, open_store, partial_path, remedy_of


@dataclass(frozen=True)
class Verdict:
    """What `verify` found.

    Attributes
    ----------
    state : str
        ``finished`` or ``unfinished``.
    n_checked : int
        Files read.
    problems : tuple of str
        One line each; empty: all is well.
    remedy : str
        What to do about them, one for each kind of problem; empty for a whole store.
    """

    state: str
    n_checked: int
    problems: tuple[str, ...]
    remedy: str


def verify(path: Path, *, progress: Callable[[str, int, int], None] | None = None) -> Verdict:
    """Read all of a store, or of an unfinished build, and say what is wrong with it.

    Parameters
    ----------
    path : Path
    progress : callable, optional
        Called with (description, done, total).

    Raises
    ------
    InputError
        If there is neither a store nor a build of it, or the store is of another format version.
    """
    tell = progress or (lambda *_: None)
    if not path.exists() and partial_path(path).exists():
        return _verify_build(path)
    if not is_store(path):
        open_store(path)  # says what it is
    tell("checksums", 0, 1)
    damage, strange, n_checked = _check_files(path)
    tell("checksums", 1, 1)
    content: list[str] = []
    if not damage:
        store = open_store(path)
        content += _check_columns(store)
        content += _check_stamps(store, lambda done, total: tell("stamps", done, total))
    labels, left, n_labels = _check_labels(path)
    command = "inject" if converted_from(path) is None else "convert"
    remedies = (
        (damage, remedy_of(path)),
        (content, f"its bytes are as they were written: rbsim {command} with --overwrite makes it again"),
        (strange + left, "remove what does not belong to it"),
        (labels, "rbsim relabel with --name and --overwrite makes label settings again"),
    )
    problems = [problem for some, _ in remedies for problem in some]
    remedy = "; ".join(remedy for some, remedy in remedies if some)
    return Verdict("finished", n_checked + n_labels, tuple(problems), remedy)


def _verify_build(path: Path) -> Verdict:
    inputs = read_plan(path)["inputs"]
    missing = still_missing(path, len(inputs))
    there = sorted(set(range(len(inputs))) - set(missing))
    problems = [
        f"partition {i + 1} ({inputs[i]}) is damaged" for i in there if not is_whole(partial_path(path), i)
    ]
    if missing:
        problems.append(f"partitions {ranges([i + 1 for i in missing])} of {len(inputs)} are missing")
    return Verdict("unfinished", len(there), tuple(problems), remedy_of(path))


def _check_files(path: Path) -> tuple[list[str], list[str], int]:
    """What is damaged, what does not belong to the store, and the number of files read."""
    try:
        files = read_manifest(path)["files"]
    except InputError as error:
        return [str(error)], [], 0
    wrong = damaged(path, files, beside=BESIDE)
    damage = [f"{name} {what}" for name, what in wrong.items() if name in files]
    strange = [f"{name} {what}" for name, what in wrong.items() if name not in files]
    return damage, strange, len(files)


def _check_labels(path: Path) -> tuple[list[str], list[str], int]:
    """The label settings beside the pixels, each with its own manifest: damage, leftovers, files read."""
    folder = path / "labels"
    problems: list[str] = []
    left: list[str] = []
    n_checked = 0
    for inside in sorted(folder.iterdir(), key=lambda p: p.name) if folder.exists() else []:
        if inside.name.endswith((UNFINISHED, REPLACED)):
            left.append(f"labels/{inside.name} was left by an interrupted rbsim relabel; remove it")
            continue
        try:
            files = read_manifest(inside)["files"]
        except InputError as error:
            problems.append(str(error))
            continue
        problems += [f"labels/{inside.name}/{name} {what}" for name, what in damaged(inside, files).items()]
        n_checked += len(files)
    return problems, left, n_checked


def _check_columns(store: Store) -> list[str]:
    """What must hold in every store, whatever its bytes."""
    n_stamps, n_frames = store.n_stamps, len(store.frame_names)
    frame = store.column("frame")
    truth_stamp, truth_id = store.column("truth/stamp"), store.column("truth/injection_id")
    injection_id = store.column("injection_id")
    with_reference = store.column("truth/frame") % max(len(store.references), 1)
    known = list(schema.KIND_CODES.values())
    has_stamp = (truth_stamp >= 0) & (truth_stamp < n_stamps)
    labels = (schema.LABEL_BOGUS, schema.LABEL_REAL, schema.LABEL_EXCLUDED)
    stars = truth_id[truth_id >= 0]
    by_reference = np.lexsort((stars, with_reference[truth_id >= 0]))
    checks: tuple[tuple[str, np.ndarray], ...] = (
        ("frame: numbers outside the frames group", (frame < 0) | (frame >= n_frames)),
        ("frame: not in order", np.diff(frame) < 0),
        ("kind: codes that the schema does not know", ~np.isin(store.column("kind"), known)),
        ("label_true: values that are no labels", ~np.isin(store.column("label_true"), labels)),
        ("label_given: values that are no labels", ~np.isin(store.column("label_given"), labels)),
        ("truth/stamp: rows that are not there", truth_stamp >= n_stamps),
        (
            "truth/stamp: stamps of another star",
            injection_id[truth_stamp[has_stamp]] != truth_id[has_stamp],
        ),
        (
            "truth/injection_id: not unique",
            (np.diff(stars[by_reference]) == 0) & (np.diff(with_reference[truth_id >= 0][by_reference]) == 0),
        ),
        (
            "injection_id: stamps of stars that the truth lacks",
            ~np.isin(injection_id[injection_id >= 0], stars),
        ),
    )
    if store.references:
        checks += _pair_checks(store)
    return [f"{what} ({np.count_nonzero(wrong)})" for what, wrong in checks if np.any(wrong)]


def _pair_checks(store: Store) -> tuple[tuple[str, np.ndarray], ...]:
    """What must hold between the references of a paired store."""
    n_references = len(store.references)
    pair, reference, group = (store.column(name) for name in ("pair", "reference", "group"))
    order = np.lexsort((reference, pair))
    same = (np.diff(pair[order]) == 0) & (pair[order][1:] != -1)
    frames = store.column("frames/reference")
    return (
        ("reference: codes that the store lacks", (reference < 0) | (reference >= n_references)),
        ("frames/reference: not one row per reference", frames != np.arange(len(frames)) % n_references),
        ("pair: two stamps of one place with one reference", same & (np.diff(reference[order]) == 0)),
        ("group: not that of the partner", same & (np.diff(group[order]) != 0)),
    )


def _check_stamps(store: Store, tell: Callable[[int, int], None]) -> list[str]:
    """Decode every chunk: what the checksums of the files do not say is whether zarr can read them."""
    problems = []
    for start in range(0, store.n_stamps, schema.SHARD_STAMPS):
        stop = min(start + schema.SHARD_STAMPS, store.n_stamps)
        try:
            stamps = store.read_stamps(slice(start, stop))
        except InputError as error:
            problems.append(str(error))
            continue
        empty = ~np.isfinite(stamps[:, schema.CHANNELS.index("difference")]).any(axis=(1, 2))
        if empty.any():
            problems.append(f"stamps: {empty.sum()} of {start} to {stop - 1} have no pixel in the difference")
        tell(stop, store.n_stamps)
    return problems
