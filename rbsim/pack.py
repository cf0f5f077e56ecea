"""The last step of a build: partitions become the shards of a finished store. Knows no astronomy."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec

from rbsim import schema
from rbsim.build import ranges, read_plan, still_missing, write_plan
from rbsim.card import card_files
from rbsim.errors import InputError
from rbsim.label_sets import carry_over
from rbsim.locations import give_name, is_local, list_files, remove_folder, write_whole, zarr_store
from rbsim.manifest import MANIFEST, sha256_of, write_manifest
from rbsim.parallel import Run, run_here
from rbsim.partition import TABLES, count_rows, load_partition, prefix_of, reading_stamps
from rbsim.shards import write_shard
from rbsim.store import BESIDE, PLAN, REPLACED, Store, is_store, open_store, partial_path
from rbsim.zarr_arrays import WRITE_ALL, array_of, consolidate, create_array

WRITTEN_LAST = (MANIFEST, PLAN, "README.md", "croissant.json")

Piece = tuple[str, int]
"""A table (``stamps``, ``candidates``, ``truth``, ``frames``) and the number of its piece."""


@dataclass(frozen=True, eq=False)
class Packing:
    """Where rows come from and go to.

    Attributes
    ----------
    work : Path
        Folder of the build.
    starts : dict of str to ndarray, shape (n_partitions + 1,)
        First row of each partition in ``stamps`` (and ``candidates``), ``truth`` and ``frames``, of which a
        partition has one per reference.
    """

    work: Path
    starts: dict[str, np.ndarray]

    @property
    def building(self) -> Path:
        """The store before it gets its name."""
        return self.work / "store"

    def n_rows(self, table: str) -> int:
        """Rows of a table."""
        return int(self.starts[table][-1])


def finalise(
    path: Path,
    *,
    overwrite: bool = False,
    run: Run | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Store:
    """Pack all partitions of a build into the finished store and open it.

    Stamps are ordered by (partition, realisation, candidate). Can be repeated after a kill: pieces that
    are written already stay. Memory does not grow with the number of stamps.

    Parameters
    ----------
    path : Path
        The store.
    overwrite : bool
        Replace a finished store of this name. Its label settings are kept if they fit the new one.
    run : callable, optional
        Where the pieces are packed; default: here, one after the other.
    progress : callable, optional
        Called with the number of pieces done and their number.

    Raises
    ------
    InputError
        If partitions are missing (the message names them) or unreadable, or the store exists.
    """
    plan = read_plan(path)
    work = partial_path(path)
    _refuse_missing(path, plan)
    if path.exists():
        if not overwrite:
            raise InputError(f"{path}: exists already; give --overwrite to replace it")
        if not is_store(path):
            raise InputError(f"{path}: is not an rbsim store and is not replaced; give another --out")
    try:
        _pack(work, plan, run or run_here, progress or (lambda *_: None))
        if path.exists():
            carry_over(path, Store(work / "store", zarr.open_group(zarr_store(work / "store"), mode="r")))
            if is_local(path):  # it waits where all else of the build is removed, or put back
                if (work / REPLACED).exists():
                    remove_folder(work / REPLACED)
                path.rename(work / REPLACED)
            else:
                remove_folder(path)
        give_name(work / "store", path, last="zarr.json")
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); free space and run with --resume"
        ) from error
    remove_folder(work)
    return open_store(path)


def _refuse_missing(path: Path, plan: Mapping[str, Any]) -> None:
    inputs = plan["inputs"]
    missing = still_missing(path, len(inputs))
    if missing:
        names = ", ".join(inputs[index].rsplit(" ", 1)[0] for index in missing[:3])
        raise InputError(
            f"{path}: partitions {ranges([index + 1 for index in missing])} of {len(inputs)} are missing"
            f" ({names}{', ...' if len(missing) > 3 else ''}); run the jobs that were to write them again,"
            " or rbsim inject with --resume"
        )


def _pack(work: Path, plan: Mapping[str, Any], run: Run, progress: Callable[[int, int], None]) -> None:
    packing, names, reasons = _survey(work, len(plan["inputs"]))
    building = packing.building
    _clear_leftovers(building)
    root = zarr.open_group(zarr_store(building), mode="a", zarr_format=3, use_consolidated=False)
    _create_arrays(root, packing)
    pieces = [
        (table, number)
        for table in ("stamps", *TABLES)
        for number in range(-(-packing.n_rows(table) // _piece_rows(table, packing)))
    ]
    there = list_files(building)
    todo = [piece for piece in pieces if any(name not in there for name in _files_of(piece))]
    checksums: dict[str, str] = {}
    n_done = len(pieces) - len(todo)
    progress(n_done, len(pieces))

    def on_done(written: dict[str, str]) -> None:
        nonlocal n_done
        checksums.update(written)
        n_done += 1
        progress(n_done, len(pieces))

    run(pack_piece, packing, todo, on_done=on_done)
    root["frames"].attrs.update({"names": names, "reasons": reasons})
    root.attrs.update(_attributes(plan))
    consolidate(building, ("truth", "frames", ""))
    write_plan(building, plan)
    # Named by what it is: the same store under another name has the same bytes.
    name = (
        f"{plan['config'].get('condition', 'rbsim')}, {plan['config'].get('reference_name', 'training set')}"
    )
    packed = Store(building, zarr.open_group(zarr_store(building), mode="r", zarr_format=3))
    for file, text in card_files(packed, {"name": name}).items():
        write_whole(building / file, text.encode())
    write_manifest(
        building,
        known=checksums,
        beside=BESIDE,
        format=schema.FORMAT_NAME,
        n_stamps_of_partitions=np.diff(packing.starts["stamps"]).tolist(),
        n_truth_of_partitions=np.diff(packing.starts["truth"]).tolist(),
    )


def _survey(work: Path, n_partitions: int) -> tuple[Packing, list[str], list[str]]:
    """Rows, name and reason of every partition."""
    n_stamps, n_truth, n_frames = np.zeros((3, n_partitions), int)
    names: list[str] = []
    reasons: list[str] = []
    for index in range(n_partitions):
        data = load_partition(work, index, ("name", "reason"))
        n_stamps[index], n_truth[index] = (count_rows(work, index, t) for t in ("candidates", "truth"))
        n_frames[index] = len(data["name"])
        names += data["name"].tolist()
        reasons += data["reason"].tolist()
    stamps, truth, frames = (
        np.concatenate([[0], np.cumsum(counts)]) for counts in (n_stamps, n_truth, n_frames)
    )
    starts = {"stamps": stamps, "candidates": stamps, "truth": truth, "frames": frames}
    return Packing(work, starts), names, reasons


def _clear_leftovers(building: Path) -> None:
    """Remove what a killed process left: temporary files, and what is written at the end."""
    if building.exists():
        for name in list_files(building):
            if name.endswith((".partial", ".tmp")) or name in WRITTEN_LAST:
                (building / name).unlink()


def _piece_rows(table: str, packing: Packing) -> int:
    """Rows per piece: a shard of stamps, a chunk of every column of a table."""
    if table == "stamps":
        return schema.SHARD_STAMPS
    return min(max(packing.n_rows(table), 1), schema.COLUMN_CHUNK)


def _files_of(piece: Piece) -> list[str]:
    table, number = piece
    if table == "stamps":
        return [f"stamps/c/{number}/0/0/0"]
    return [f"{prefix_of(table)}{spec.name}/c/{number}" for spec in TABLES[table]]


def _create_arrays(root: zarr.Group, packing: Packing) -> None:
    there = list_files(packing.building)
    if "stamps/zarr.json" not in there:
        create_array(
            root,
            schema.STAMPS,
            (packing.n_rows("stamps"), *schema.STAMP_SHAPE),
            chunks=(schema.CHUNK_STAMPS, *schema.STAMP_SHAPE),
            dims=("stamp", "channel", "y", "x"),
            shards=(schema.SHARD_STAMPS, *schema.STAMP_SHAPE),
            # Noise hardly shrinks: the bits that do are brought together. What is smaller, by up to 7 %, is
            # zstd, two to four times slower to write (benchmarks/codecs.py).
            compressor=BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", typesize=4),
        )
    for table, dimension in (("candidates", "stamp"), ("truth", "truth"), ("frames", "frame")):
        group = root if table == "candidates" else root.require_group(table)
        for spec in TABLES[table]:
            if f"{prefix_of(table)}{spec.name}/zarr.json" not in there:
                shape, chunks = (packing.n_rows(table),), (_piece_rows(table, packing),)
                create_array(group, spec, shape, chunks=chunks, dims=(dimension,))


def pack_piece(packing: Packing, piece: Piece) -> dict[str, str]:
    """Write one piece of a table; returns the checksums of its files by name.

    A piece is a whole shard, or whole chunks: writes that share one lose data.
    """
    table, number = piece
    size = _piece_rows(table, packing)
    start, stop = number * size, min((number + 1) * size, packing.n_rows(table))
    root = zarr.open_group(zarr_store(packing.building), mode="r+", zarr_format=3, use_consolidated=False)
    if table == "stamps":
        array, folder = array_of(root, "stamps"), packing.building / "stamps"
        (name,) = _files_of(piece)
        return {name: write_shard(array, folder, number, _chunks_of_stamps(packing, start, stop))}
    rows = _rows(packing, table, start, stop)
    with zarr.config.set(WRITE_ALL):
        for spec in TABLES[table]:
            values = np.ascontiguousarray(rows[spec.name])
            array_of(root, prefix_of(table) + spec.name)[start:stop] = values
    return {name: sha256_of(packing.building / name) for name in _files_of(piece)}


def _parts(packing: Packing, table: str, start: int, stop: int) -> Iterator[tuple[int, slice]]:
    """The partitions that hold these rows of a table, each with the rows that it has of them."""
    starts = packing.starts[table]
    first = int(np.searchsorted(starts, start, side="right")) - 1
    for index in range(first, int(np.searchsorted(starts, stop, side="left"))):
        low, high = max(start, int(starts[index])), min(stop, int(starts[index + 1]))
        if low < high:
            yield index, slice(low - int(starts[index]), high - int(starts[index]))


def _chunks_of_stamps(packing: Packing, start: int, stop: int) -> Iterator[np.ndarray]:
    """Stamps chunk by chunk, always in the same memory."""
    buffer = np.empty((schema.CHUNK_STAMPS, *schema.STAMP_SHAPE), np.float32)
    filled = 0
    for index, rows in _parts(packing, "stamps", start, stop):
        with reading_stamps(packing.work, index, rows) as read_into:
            left = rows.stop - rows.start
            while left:
                n_here = min(left, len(buffer) - filled)
                read_into(buffer[filled : filled + n_here])
                filled, left = filled + n_here, left - n_here
                if filled == len(buffer):
                    yield buffer
                    filled = 0
    if filled:
        yield buffer[:filled]


def _rows(packing: Packing, table: str, start: int, stop: int) -> np.ndarray:
    """Rows of a table from the partitions that hold them, with what depends on their place in the store."""
    parts = []
    for index, rows in _parts(packing, table, start, stop):
        part = load_partition(packing.work, index, (table,))[table][rows]
        if table in ("candidates", "truth"):
            part = _placed(part, table, *(int(packing.starts[name][index]) for name in ("frames", "stamps")))
        parts.append(part)
    return np.concatenate(parts)


def _placed(rows: np.ndarray, table: str, first_frame: int, first_stamp: int) -> np.ndarray:
    """Records with numbers of frames and stamps that count within the store."""
    placed = rows.copy()
    placed["frame"] += first_frame
    if table == "truth":
        placed["stamp"] = np.where(rows["stamp"] >= 0, rows["stamp"] + first_stamp, -1)
    return placed


def _attributes(plan: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "format": schema.FORMAT_NAME,
        "version": schema.FORMAT_VERSION,
        "channels": list(schema.CHANNELS),
        "kinds": {kind.name: kind.code for kind in schema.KINDS},
        "label_sources": schema.LABEL_SOURCES,
        "candidate_flags": schema.flag_table(schema.CANDIDATE_FLAGS),
        "injection_flags": schema.flag_table(schema.INJECTION_FLAGS),
        "injected_in": schema.INJECTED_IN,
        "config": plan["config"],
        **plan["summary"],
    }
