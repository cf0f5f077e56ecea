"""Reading runs of stamps from a shard on a disk without a detour: one copy, one array, no threads.

Layout: the specification of Zarr v3, sharding codec. Zarr itself reads the same at about half the rate: it
makes three arrays of every chunk. Whatever is not as `rbsim.pack` writes it is left to zarr.
"""

from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numcodecs import blosc

from rbsim.locations import is_local

_INNER = ["bytes", "blosc", "crc32c"]
_CRC_BYTES = 4
_ABSENT = 2**64 - 1


def can_read(array: zarr.Array, path: Path) -> bool:
    """Whether an array has the layout that `read_run` knows, and its files are on a disk.

    Parameters
    ----------
    array : zarr.Array
    path : Path
        Folder of the array.
    """
    codecs: list[Any] = array.metadata.to_dict()["codecs"]  # type: ignore[assignment]
    if not is_local(path) or [codec["name"] for codec in codecs] != ["sharding_indexed"]:
        return False
    shard = codecs[0]["configuration"]
    return (
        [codec["name"] for codec in shard["codecs"]] == _INNER
        and [codec["name"] for codec in shard["index_codecs"]] == ["bytes", "crc32c"]
        and all(
            chain[0]["configuration"]["endian"] == "little"
            for chain in (shard["codecs"], shard["index_codecs"])
        )
        and shard["index_location"] == "end"
        and array.dtype == np.dtype("<f4")
        and array.chunks[1:] == array.shape[1:]
    )


def read_run(array: zarr.Array, path: Path, first: int, out: np.ndarray) -> None:
    """Read whole chunks of one shard.

    Parameters
    ----------
    array : zarr.Array
        One for which `can_read` holds.
    path : Path
        Its folder.
    first : int
        Row at which a chunk begins.
    out : ndarray, shape (n, *array.shape[1:]), float32
        Contiguous; whole chunks, all within the shard of `first`, or fewer rows at the end of the array.

    Raises
    ------
    OSError, ValueError, RuntimeError
        If the shard is missing or damaged.
    """
    per_shard, per_chunk = (array.shards or array.chunks)[0], array.chunks[0]
    shard, within = divmod(first, per_shard)
    name = path.joinpath("c", str(shard), *("0" * (array.ndim - 1)))
    with name.open("rb", buffering=0) as file:
        index = _read_index(file, per_shard // per_chunk)
        for start in range(0, len(out), per_chunk):
            part = out[start : start + per_chunk]
            offset, n_bytes = index[(within + start) // per_chunk]
            if offset == _ABSENT:
                part[:] = array.fill_value
                continue
            file.seek(offset)
            packed = _checked(file.read(n_bytes), n_bytes)
            if len(part) == per_chunk:
                blosc.decompress(packed, part)
            else:  # the last chunk is filled up
                whole = np.frombuffer(blosc.decompress(packed), np.float32)
                part[:] = whole.reshape(per_chunk, *part.shape[1:])[: len(part)]


def _read_index(file: Any, n_chunks: int) -> list[list[int]]:
    """Offset and length of every chunk in bytes."""
    n_bytes = 16 * n_chunks + _CRC_BYTES
    file.seek(-n_bytes, 2)
    body = _checked(file.read(n_bytes), n_bytes)
    table: list[list[int]] = body.view("<u8").reshape(-1, 2).tolist()
    return table


def _checked(content: bytes, n_bytes: int) -> np.ndarray:
    """What stands before the checksum."""
    body = np.frombuffer(content, np.uint8)[:-_CRC_BYTES]
    stored = int.from_bytes(content[-_CRC_BYTES:], "little")
    if len(content) != n_bytes or google_crc32c.value(body) != stored:
        raise ValueError("stored and computed checksum do not match")
    return body
