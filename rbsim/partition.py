"""What one frame contributes to a store, and the compact file that it waits in until the store is packed.

In a paired store that is one `Partition` per reference, in one file: both are there or neither.
"""

import io
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from rbsim import schema
from rbsim.errors import InputError
from rbsim.locations import is_local, under_another_name
from rbsim.truth_schema import ArraySpec

Columns = dict[str, np.ndarray]

READ_BYTES = 1 << 22
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}

TABLES = {
    "candidates": schema.CANDIDATE_COLUMNS,
    "truth": schema.TRUTH_COLUMNS,
    "frames": schema.FRAME_COLUMNS,
}
ROW_DTYPES = {name: np.dtype([(spec.name, spec.dtype) for spec in specs]) for name, specs in TABLES.items()}
"""One record per row; ``frame`` and ``stamp`` count within the partition until the store is packed."""


@dataclass(frozen=True, eq=False)
class Partition:
    """Everything that one frame contributes with one reference.

    Attributes
    ----------
    name : str
        Name of the frame.
    reason : str
        Why the frame failed; empty if it did not.
    frame : dict of str to scalar
        One value per `schema.FRAME_COLUMNS`.
    stamps : ndarray, shape (n, channel, y, x), float32
    candidates : dict of str to ndarray, shape (n,)
        One array per `schema.CANDIDATE_COLUMNS`. ``frame`` may be left out: it is set when written.
    truth : dict of str to ndarray, shape (m,)
        One array per `schema.TRUTH_COLUMNS`; ``stamp`` counts within `stamps`.
    """

    name: str
    reason: str
    frame: Mapping[str, Any]
    stamps: np.ndarray
    candidates: Columns
    truth: Columns


def prefix_of(table: str) -> str:
    """Of the names of a table's arrays in a store: candidates lie in its root."""
    return "" if table == "candidates" else f"{table}/"


def no_stamps() -> np.ndarray:
    """Stamps of a partition without any."""
    return np.empty((0, *schema.STAMP_SHAPE), np.float32)


def no_rows(table: str) -> Columns:
    """Columns of a partition without rows in this table."""
    dtype = ROW_DTYPES[table]
    return {name: np.empty(0, dtype[name]) for name in dtype.names or () if name != "frame"}


def partition_path(work: Path, index: int) -> Path:
    """File of partition `index` in the folder of an unfinished build."""
    return work / f"partition_{index:06d}.npz"


def save_partition(work: Path, index: int, *parts: Partition) -> None:
    """Write the file of a frame's partitions, one per reference; complete or not there at all.

    It is not forced to the disk: what a loss of power leaves of it fails its checksums and is done again.

    Raises
    ------
    InputError
        If a column is missing, unknown or of the wrong length, or if nothing can be written.
    """
    for part in parts:
        _check(part)
    frames = np.zeros(len(parts), ROW_DTYPES["frames"])
    for spec in schema.FRAME_COLUMNS:
        frames[spec.name] = [part.frame[spec.name] for part in parts]
    first = np.cumsum([0, *(len(part.stamps) for part in parts)])
    candidates = [_rows("candidates", part.candidates, len(part.stamps), i) for i, part in enumerate(parts)]
    truth = [_rows("truth", part.truth, len(part.truth["injection_id"]), i) for i, part in enumerate(parts)]
    for start, rows in zip(first, truth, strict=False):
        rows["stamp"] += np.where(rows["stamp"] >= 0, start, 0)
    arrays: Columns = {
        "name": np.array([part.name for part in parts]),
        "reason": np.array([part.reason for part in parts]),
        "frames": frames,
        "candidates": np.concatenate(candidates),
        "truth": np.concatenate(truth),
        "stamps": np.concatenate([np.asarray(part.stamps, np.float32) for part in parts]),
    }
    final = partition_path(work, index)
    try:
        if is_local(final):
            with under_another_name(final) as temporary, temporary.open("wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]
        else:
            buffer = io.BytesIO()
            np.savez(buffer, **arrays)  # type: ignore[arg-type]
            final.write_bytes(buffer.getbuffer())
    except OSError as error:
        remedy = "check the rights there" if isinstance(error, PermissionError) else "free space"
        raise InputError(
            f"{final}: cannot be written ({error.strerror or error}); {remedy} and run with --resume"
        ) from error


def _rows(table: str, columns: Columns, n: int, frame: int) -> np.ndarray:
    rows = np.zeros(n, ROW_DTYPES[table])
    for name in rows.dtype.names or ():
        rows[name] = frame if name == "frame" else columns[name]
    return rows


def _check(partition: Partition) -> None:
    n = len(partition.stamps)
    if partition.stamps.shape[1:] != schema.STAMP_SHAPE:
        raise InputError(f"{partition.name}: stamps have shape {partition.stamps.shape}")
    truth_length = len(partition.truth["injection_id"])
    groups: tuple[tuple[Columns, tuple[ArraySpec, ...], int], ...] = (
        (partition.candidates, schema.CANDIDATE_COLUMNS, n),
        (partition.truth, schema.TRUTH_COLUMNS, truth_length),
    )
    for group, specs, length in groups:
        known = {spec.name for spec in specs}
        if (set(group) | {"frame"}) != known:
            raise InputError(
                f"{partition.name}: columns differ from the schema: {sorted(set(group) ^ known)}"
            )
        wrong = sorted(name for name, values in group.items() if len(values) != length)
        if wrong:
            raise InputError(f"{partition.name}: columns of wrong length: {wrong}")


def load_partition(work: Path, index: int, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Parts of a partition's file: of ``name, reason, frames, candidates, truth, stamps``.

    Raises
    ------
    InputError
        If the file is damaged; every part that is read is checked against its checksum.
    """
    with _readable(work, index) as file, np.load(file, allow_pickle=False) as data:
        loaded = {name: data[name] for name in names}
    for name in ("frames", "candidates", "truth"):
        if name in loaded and loaded[name].dtype != ROW_DTYPES[name]:
            path = partition_path(work, index)
            raise InputError(f"{path}: its {name} have other columns than the schema; start anew")
    return loaded


@contextmanager
def reading_stamps(work: Path, index: int, rows: slice) -> Iterator[Callable[[np.ndarray], None]]:
    """Open the stamps of a partition, to be read one block after the other without a copy between.

    Parameters
    ----------
    work : Path
    index : int
    rows : slice
        Which stamps: as many must be read.

    Yields
    ------
    callable
        Fills an array of shape (n, channel, y, x), contiguous float32, with the next stamps.

    Raises
    ------
    InputError
        If the file is damaged; at the end all its stamps have passed the checksum.
    """
    with _readable(work, index) as file, _member(file, "stamps") as (member, shape, dtype):
        if dtype != np.float32 or shape[1:] != schema.STAMP_SHAPE or shape[0] < rows.stop:
            raise ValueError(f"stamps of shape {shape} and type {dtype}")
        n_bytes = math.prod(schema.STAMP_SHAPE) * dtype.itemsize
        _skip(member, rows.start * n_bytes)

        def read_into(out: np.ndarray) -> None:
            view = memoryview(out).cast("B")  # type: ignore[arg-type]
            while view:
                n_read = member.readinto(view[:READ_BYTES])  # type: ignore[attr-defined]
                if not n_read:
                    raise EOFError("ends early")
                view = view[n_read:]

        yield read_into
        # The checksum is that of all stamps and is compared at their end.
        _skip(member, (shape[0] - rows.stop) * n_bytes)
        if member.read(1):
            raise ValueError("is too long")


def count_rows(work: Path, index: int, table: str) -> int:
    """Rows of a table of a partition, from its head alone.

    Raises
    ------
    InputError
        If the file is damaged.
    """
    with _readable(work, index) as file, _member(file, table) as (_, shape, _):
        return shape[0]


@contextmanager
def _readable(work: Path, index: int) -> Iterator[IO[bytes]]:
    """The open file of a partition; what goes wrong with it is an InputError."""
    path = partition_path(work, index)
    try:
        with path.open("rb") as file:
            yield file
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: unreadable partition ({error}); do it again: rbsim inject with --resume, or with"
            " --partition as the job that wrote it"
        ) from error


@contextmanager
def _member(file: IO[bytes], name: str) -> Iterator[tuple[IO[bytes], tuple[int, ...], np.dtype]]:
    """An array within the file, open at its first value, with its shape and type."""
    with zipfile.ZipFile(file) as archive, archive.open(f"{name}.npy") as member:
        version = np.lib.format.read_magic(member)
        if version not in _HEADERS:
            raise ValueError(f"npy version {version}")
        shape, in_columns, dtype = _HEADERS[version](member)
        if in_columns:
            raise ValueError("npy in Fortran order")
        yield member, shape, dtype


def _skip(member: IO[bytes], n_bytes: int) -> None:
    while n_bytes > 0:
        n_read = len(member.read(min(n_bytes, READ_BYTES)))
        if not n_read:
            raise EOFError("ends early")
        n_bytes -= n_read


def is_whole(work: Path, index: int) -> bool:
    """Whether the file of a partition can be read to its end with right checksums."""
    try:
        with partition_path(work, index).open("rb") as file, zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except (OSError, ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, RuntimeError):
        return False
