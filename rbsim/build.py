"""Building a store: init, write partition, finalise. Knows no astronomy.

A build lives in ``<store>.partial/`` next to the store-to-be: ``init.json`` and one compact file per
partition. `finalise` packs them into shards and gives the store its name by one rename, so a store
that exists is whole.
"""

import json
import logging
import shutil
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from rbsim import schema
from rbsim.errors import InputError
from rbsim.store import Store, is_store, open_store, partial_path

log = logging.getLogger(__name__)

Columns = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Partition:
    """Everything that one frame contributes.

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
        One array per `schema.CANDIDATE_COLUMNS`. ``frame`` may be left out: finalise sets it.
    truth : dict of str to ndarray, shape (m,)
        One array per `schema.TRUTH_COLUMNS`; ``stamp`` counts within the partition.
    """

    name: str
    reason: str
    frame: Mapping[str, Any]
    stamps: np.ndarray
    candidates: Columns
    truth: Columns


def init(
    path: Path,
    *,
    config: Mapping[str, Any],
    inputs: Sequence[str],
    resume: bool = False,
    overwrite: bool = False,
) -> list[int]:
    """Prepare a build and return the numbers of the partitions still to be written.

    Parameters
    ----------
    path : Path
        Name of the finished store.
    config : mapping
        The resolved configuration, stored in the result; must be JSON.
    inputs : sequence of str
        What identifies each partition's input (name and checksum), one per partition.
    resume : bool
        Continue an unfinished build if configuration and inputs are the same.
    overwrite : bool
        Start anew; the old store stays until the new one is finished.

    Raises
    ------
    InputError
        If the store or an unfinished build exists and neither `resume` nor `overwrite` allows it,
        if a build to resume differs in configuration or inputs, or if the place is not writable.
    """
    if resume and overwrite:
        raise InputError("--resume and --overwrite exclude each other")
    work = partial_path(path)
    if path.exists() and not overwrite and not (resume and work.exists()):
        raise InputError(f"{path}: exists already; give --overwrite to replace it, or another --out")
    if path.exists() and not is_store(path):
        raise InputError(f"{path}: is not an rbsim store and is not replaced; give another --out")
    plan = {
        "format": schema.FORMAT_NAME,
        "version": schema.FORMAT_VERSION,
        "config": dict(config),
        "inputs": list(inputs),
    }
    if work.exists() and not overwrite:
        if not resume:
            raise InputError(
                f"{work}: an unfinished build; give --resume to continue it or --overwrite to start anew"
            )
        _check_same_plan(work, plan)
        done = [i for i in range(len(inputs)) if _partition_path(work, i).exists()]
        log.info("resuming %s: %d of %d partitions are finished", path, len(done), len(inputs))
        return [i for i in range(len(inputs)) if i not in set(done)]
    try:
        if work.exists():
            shutil.rmtree(work)
        work.mkdir(parents=True)
        _write_json(work / "init.json", plan)
    except OSError as error:
        raise InputError(f"{path}: cannot write there ({error.strerror}); choose another --out") from error
    return list(range(len(inputs)))


def _check_same_plan(work: Path, plan: dict[str, Any]) -> None:
    try:
        old = dict(json.loads((work / "init.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{work}: its init.json cannot be read; give --overwrite to start anew") from error
    new = json.loads(json.dumps(plan))
    if old.get("inputs") != new["inputs"]:
        raise InputError(f"{work}: was begun with other frames or frames that have changed; give --overwrite")
    if old != new:
        keys = sorted(
            k for k in {*old["config"], *new["config"]} if old["config"].get(k) != new["config"].get(k)
        )
        raise InputError(f"{work}: was begun with another {', '.join(keys) or 'version'}; give --overwrite")


def _partition_path(work: Path, index: int) -> Path:
    return work / f"partition_{index:06d}.npz"


def _write_json(path: Path, content: Any) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1))
    temporary.replace(path)


def write_partition(path: Path, index: int, partition: Partition) -> None:
    """Write partition `index` of the build of store `path`; complete or not there at all.

    Raises
    ------
    InputError
        If a column is missing, unknown or of the wrong length, or if nothing can be written.
    """
    _check_partition(partition)
    arrays: Columns = {
        "name": np.array(partition.name),
        "reason": np.array(partition.reason),
        "stamps": np.asarray(partition.stamps, np.float32),
    }
    arrays |= {f"frame/{s.name}": np.array(partition.frame[s.name], s.dtype) for s in schema.FRAME_COLUMNS}
    arrays |= {
        f"candidates/{s.name}": np.asarray(partition.candidates[s.name], s.dtype)
        for s in schema.CANDIDATE_COLUMNS
        if s.name != "frame"
    }
    arrays |= {
        f"truth/{s.name}": np.asarray(partition.truth[s.name], s.dtype)
        for s in schema.TRUTH_COLUMNS
        if s.name != "frame"
    }
    final = _partition_path(partial_path(path), index)
    temporary = final.with_suffix(".tmp.npz")
    try:
        np.savez(temporary, **arrays)  # type: ignore[arg-type]
        temporary.replace(final)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(
            f"{final}: cannot be written ({error.strerror}); free space and run with --resume"
        ) from error


def _check_partition(partition: Partition) -> None:
    n = len(partition.stamps)
    if partition.stamps.shape[1:] != (len(schema.CHANNELS), schema.STAMP_SIZE_PIX, schema.STAMP_SIZE_PIX):
        raise InputError(f"{partition.name}: stamps have shape {partition.stamps.shape}")
    truth_length = len(partition.truth["injection_id"])
    for group, specs, length in (
        (partition.candidates, schema.CANDIDATE_COLUMNS, n),
        (partition.truth, schema.TRUTH_COLUMNS, truth_length),
    ):
        known = {spec.name for spec in specs}
        if (set(group) | {"frame"}) != known:
            raise InputError(
                f"{partition.name}: columns differ from the schema: {sorted(set(group) ^ known)}"
            )
        wrong = sorted(name for name, values in group.items() if len(values) != length)
        if wrong:
            raise InputError(f"{partition.name}: columns of wrong length: {wrong}")


def _load_partition(work: Path, index: int, *, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    path = _partition_path(work, index)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
            return {name: data[name] for name in names or data.files}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: unreadable partition ({error}); delete it and run with --resume"
        ) from error


def finalise(path: Path, *, summary: Mapping[str, Any], overwrite: bool = False) -> Store:
    """Pack all partitions of a build into the finished store and open it.

    Stamps are ordered by (partition, realisation, candidate). Can be repeated after a kill.

    Parameters
    ----------
    path : Path
        The store.
    summary : mapping
        More root attributes (versions, photon-transfer figures, ...); must be JSON and must not
        contain times, host names or worker counts.
    overwrite : bool
        Replace a finished store of this name.

    Raises
    ------
    InputError
        If partitions are missing (the message names them) or unreadable.
    """
    work = partial_path(path)
    try:
        plan = json.loads((work / "init.json").read_text())
    except OSError as error:
        raise InputError(f"{work}: no build to finalise; run rbsim inject first") from error
    n_partitions = len(plan["inputs"])
    missing = [i for i in range(n_partitions) if not _partition_path(work, i).exists()]
    if missing:
        raise InputError(
            f"{work}: partitions {_ranges(missing)} of {n_partitions} are missing; run with --resume"
        )
    building = work / "store"
    if building.exists():
        shutil.rmtree(building)
    try:
        _pack(building, work, plan, summary)
        if path.exists():
            if not overwrite:
                raise InputError(f"{path}: exists already; give --overwrite to replace it")
            if not is_store(path):
                raise InputError(f"{path}: is not an rbsim store and is not replaced; give another --out")
            old = path.with_name(path.name + ".old")
            if old.exists():
                shutil.rmtree(old)
            path.rename(old)
            shutil.rmtree(old)
        building.rename(path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); free space and run with --resume"
        ) from error
    shutil.rmtree(work)
    return open_store(path)


def finished(path: Path, n_partitions: int) -> list[tuple[str, int]]:
    """Reason (empty if it worked) and number of stamps of every partition written so far."""
    out = []
    for index in range(n_partitions):
        file_path = _partition_path(partial_path(path), index)
        if file_path.exists():
            data = _load_partition(partial_path(path), index, names=("reason", "candidates/snr"))
            out.append((str(data["reason"]), len(data["candidates/snr"])))
    return out


def discard(path: Path) -> None:
    """Remove the unfinished build of a store."""
    shutil.rmtree(partial_path(path))


def _pack(building: Path, work: Path, plan: dict[str, Any], summary: Mapping[str, Any]) -> None:
    pieces: list[dict[str, np.ndarray]] = []
    n_stamps = 0
    for index in range(len(plan["inputs"])):
        data = _load_partition(work, index)
        n_here = len(data.pop("stamps"))
        data["candidates/frame"] = np.full(n_here, index, np.int32)
        truth_stamp = data["truth/stamp"]
        data["truth/frame"] = np.full(len(truth_stamp), index, np.int32)
        data["truth/stamp"] = np.where(truth_stamp >= 0, truth_stamp + n_stamps, -1)
        n_stamps += n_here
        pieces.append(data)
    root = zarr.create_group(building, zarr_format=3)
    _write_stamps(root, work, n_stamps, len(pieces))
    tables = (
        (root, "candidates/", schema.CANDIDATE_COLUMNS, "stamp"),
        (root.create_group("truth"), "truth/", schema.TRUTH_COLUMNS, "truth"),
        (root.create_group("frames"), "frame/", schema.FRAME_COLUMNS, "frame"),
    )
    for group, prefix, specs, dimension in tables:
        for spec in specs:
            values = np.concatenate([np.atleast_1d(piece[prefix + spec.name]) for piece in pieces])
            _create_array(group, spec, values.shape, (max(len(values), 1),), (dimension,))[:] = values.astype(
                spec.dtype
            )
    root["frames"].attrs["names"] = [str(piece["name"]) for piece in pieces]
    root["frames"].attrs["reasons"] = [str(piece["reason"]) for piece in pieces]
    root.attrs.update(
        {
            "format": schema.FORMAT_NAME,
            "version": schema.FORMAT_VERSION,
            "channels": list(schema.CHANNELS),
            "kinds": {kind.name: kind.code for kind in schema.KINDS},
            "label_sources": schema.LABEL_SOURCES,
            "candidate_flags": schema.flag_table(schema.CANDIDATE_FLAGS),
            "injection_flags": schema.flag_table(schema.INJECTION_FLAGS),
            "injected_in": schema.INJECTED_IN,
            "config": plan["config"],
            **summary,
        }
    )
    # xarray warns without consolidated metadata, zarr while making it; the store works either way.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        for group_path in ("truth", "frames", ""):
            zarr.consolidate_metadata(building, path=group_path)


def _create_array(
    group: zarr.Group,
    spec: schema.ArraySpec,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    dims: tuple[str, ...],
) -> zarr.Array:
    is_stamps = spec is schema.STAMPS
    return group.create_array(
        spec.name,
        shape=shape,
        dtype=spec.dtype,
        chunks=chunks,
        shards=(schema.SHARD_STAMPS, *chunks[1:]) if is_stamps else None,
        # crc32c per chunk: a flipped byte is an error on reading, not a wrong pixel.
        compressors=[ZstdCodec(level=1), Crc32cCodec()],
        fill_value=np.nan if np.dtype(spec.dtype).kind == "f" else 0,
        dimension_names=dims,
        attributes={"unit": spec.unit, "description": spec.description},
        config={"write_empty_chunks": True},
    )


def _write_stamps(root: zarr.Group, work: Path, n_stamps: int, n_partitions: int) -> None:
    stamp_shape = (len(schema.CHANNELS), schema.STAMP_SIZE_PIX, schema.STAMP_SIZE_PIX)
    array = _create_array(
        root,
        schema.STAMPS,
        (n_stamps, *stamp_shape),
        (schema.CHUNK_STAMPS, *stamp_shape),
        ("stamp", "channel", "y", "x"),
    )
    stamps = (_load_partition(work, index)["stamps"] for index in range(n_partitions))
    start = 0
    # One write per whole shard: unaligned writes to a shard lose data.
    for block in _rechunk(stamps, schema.SHARD_STAMPS):
        array[start : start + len(block)] = block
        start += len(block)
    assert start == n_stamps


def _rechunk(pieces: Iterator[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Yield the concatenation of `pieces` in blocks of exactly `size` rows (the last may be shorter)."""
    held: list[np.ndarray] = []
    n_held = 0
    for piece in pieces:
        held.append(piece)
        n_held += len(piece)
        while n_held >= size:
            joined = np.concatenate(held)
            yield joined[:size]
            held = [joined[size:]]
            n_held -= size
    if n_held:
        yield np.concatenate(held)


def _ranges(numbers: Sequence[int]) -> str:
    """Compact text for sorted numbers: 0-3, 7."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], number]
        else:
            parts.append([number])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[1]}" for p in parts)
