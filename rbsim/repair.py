"""A damaged store turned back into a build: what can be read becomes partitions again."""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from rbsim import schema
from rbsim.build import check_same_plan, plan_bytes, write_partition, write_plan
from rbsim.errors import InputError
from rbsim.locations import zarr_store
from rbsim.manifest import damaged, read_manifest
from rbsim.partition import TABLES, Partition, prefix_of
from rbsim.store import BESIDE, PLAN, partial_path
from rbsim.zarr_arrays import array_of

log = logging.getLogger(__name__)

METADATA = "zarr.json"


def is_finished(path: Path, plan: Mapping[str, Any]) -> bool:
    """Whether a store is whole, byte for byte; if it is not, a build is made of what is whole of it.

    The damaged store stays until the build is finished.

    Parameters
    ----------
    path : Path
        A store.
    plan : mapping
        What it must have been made with, see `rbsim.build.make_plan`.

    Raises
    ------
    InputError
        If it was made with another.
    """
    try:
        manifest = read_manifest(path)
        wrong = damaged(path, manifest["files"], beside=BESIDE)
    except InputError as error:
        _refuse_another(path, plan, {})
        log.warning("%s; all frames are done again", error)
        _begin(path, plan)
        return False
    _refuse_another(path, plan, wrong)
    strange = sorted(set(wrong) - set(manifest["files"]))
    if strange:
        log.warning("%s: %s does not belong to it", path, ", ".join(strange[:3]))
    wrong = {name: what for name, what in wrong.items() if name not in strange}
    if not wrong:
        return True
    name, what = next(iter(wrong.items()))
    log.warning("%s: %s %s%s", path, name, what, f", and {len(wrong) - 1} more" if len(wrong) > 1 else "")
    _begin(path, plan)
    # The manifest still knows the checksum of a plan that is damaged.
    is_same_plan = PLAN not in wrong or manifest["files"].get(PLAN, ["", ""])[1] == _checksum_of(plan)
    n_references = len(plan["summary"].get("references", [""]))
    n_saved = _save(path, manifest, set(wrong), n_references) if is_same_plan else 0
    log.warning(
        "%s: %d of %d frames are whole, the others are done again", path, n_saved, len(plan["inputs"])
    )
    return False


def _refuse_another(path: Path, plan: Mapping[str, Any], wrong: Mapping[str, str]) -> None:
    """Refuse to repair a store into another one, as far as what is left of it tells which it was.

    Raises
    ------
    InputError
        If it was made with another plan, or nothing tells.
    """
    if PLAN not in wrong:
        try:
            old = dict(json.loads((path / PLAN).read_bytes()))
        except (OSError, ValueError, TypeError):
            pass
        else:
            check_same_plan(old, plan, str(path))
            return
    try:
        config = json.loads((path / "zarr.json").read_bytes())["attributes"]["config"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{path}: nothing tells any more how it was made; give --overwrite to make it again"
        ) from error
    check_same_plan({**plan, "config": config}, plan, str(path))


def _checksum_of(plan: Mapping[str, Any]) -> str:
    return hashlib.sha256(plan_bytes(plan)).hexdigest()


def _begin(path: Path, plan: Mapping[str, Any]) -> None:
    work = partial_path(path)
    work.mkdir(parents=True, exist_ok=True)
    write_plan(work, plan)


def _save(path: Path, manifest: Mapping[str, Any], wrong: set[str], n_references: int) -> int:
    """Write the partitions whose rows are all whole; returns their number. Each has a frame per reference.

    All metadata are there twice: the root's file has a copy of what stands in each group and array.
    """
    if METADATA in wrong and any(name.endswith(f"/{METADATA}") for name in wrong):
        return 0
    n_stamps = np.asarray(manifest["n_stamps_of_partitions"])
    n_truth = np.asarray(manifest["n_truth_of_partitions"])
    first = {
        "stamps": np.concatenate([[0], np.cumsum(n_stamps)]),
        "truth": np.concatenate([[0], np.cumsum(n_truth)]),
    }
    first["candidates"] = first["stamps"]
    first["frames"] = np.arange(len(n_stamps) + 1) * n_references
    lost = np.zeros(len(n_stamps), bool)
    for name in wrong & set(manifest["files"]):  # a file too many has damaged nothing
        lost |= _partitions_of(name, first)
    if lost.all():
        return 0
    array, attributes = _readers(path, root_is_whole=METADATA not in wrong)
    names, reasons = attributes["names"], attributes["reasons"]
    columns = {
        table: {spec.name: array(prefix_of(table) + spec.name) for spec in specs}
        for table, specs in TABLES.items()
    }
    stamps = array("stamps")
    for index in np.flatnonzero(~lost):
        at = {table: slice(int(start[index]), int(start[index + 1])) for table, start in first.items()}
        rows = {
            table: {name: np.asarray(values[at[table]]) for name, values in arrays.items()}
            for table, arrays in columns.items()
        }
        pixels = np.asarray(stamps[at["stamps"]])
        parts = []
        for frame in range(at["frames"].start, at["frames"].stop):
            here = {table: rows[table]["frame"] == frame for table in ("candidates", "truth")}
            # Rows of a frame follow each other.
            first_stamp = at["stamps"].start + int(np.argmax(here["candidates"])) if len(pixels) else 0
            stamp = rows["truth"]["stamp"]
            rows["truth"]["stamp"] = np.where(here["truth"] & (stamp >= 0), stamp - first_stamp, stamp)
            parts.append(
                Partition(
                    str(names[frame]),
                    str(reasons[frame]),
                    {name: values[frame - at["frames"].start] for name, values in rows["frames"].items()},
                    pixels[here["candidates"]],
                    *(
                        {name: values[chosen] for name, values in rows[table].items() if name != "frame"}
                        for table, chosen in here.items()
                    ),
                )
            )
        write_partition(path, int(index), *parts)
    return int(np.count_nonzero(~lost))


def _readers(path: Path, *, root_is_whole: bool) -> tuple[Callable[[str], zarr.Array], dict[str, Any]]:
    """What opens an array by its name, and the attributes of the frames group; of the root, or one by one."""
    store = zarr_store(path)
    if root_is_whole:
        root = zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=True)
        return (lambda name: array_of(root, name)), dict(root["frames"].attrs)
    frames = zarr.open_group(store, path="frames", mode="r", zarr_format=3, use_consolidated=False)

    def array(name: str) -> zarr.Array:
        return zarr.open_array(store, path=name, mode="r", zarr_format=3)

    return array, dict(frames.attrs)


def _partitions_of(name: str, first: Mapping[str, np.ndarray]) -> np.ndarray:
    """Which partitions have rows in a damaged file; all of them if it is of no known kind."""
    n = len(first["frames"]) - 1
    parts = name.split("/")
    if parts[0] in ("README.md", "croissant.json", PLAN) or parts[-1] == METADATA:
        return np.zeros(n, bool)  # written from the data, or known otherwise
    if "c" not in parts[:-1]:
        return np.ones(n, bool)
    at = parts.index("c")
    table = parts[0] if parts[0] in ("stamps", "truth", "frames") else "candidates"
    size = schema.SHARD_STAMPS if table == "stamps" else schema.COLUMN_CHUNK
    start, stop = int(parts[at + 1]) * size, (int(parts[at + 1]) + 1) * size
    low, high = first[table][:-1], first[table][1:]
    return np.asarray((low < stop) & (high > start) & (high > low))
