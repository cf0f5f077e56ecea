"""Shards of stamps written, and runs of them read, without a detour: one copy, one array, no threads.

Layout: the specification of Zarr v3, sharding codec. Zarr itself reads the same at about half the rate, and
writes at a third of it: it makes several arrays of every chunk. The bytes are those that zarr writes
(tests/test_shards.py); on reading, whatever is not as `rbsim.pack` writes it is left to zarr.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numcodecs import blosc
from numcodecs.blosc import Blosc

from rbsim.locations import is_local, under_another_name

_INNER = ["bytes", "blosc", "crc32c"]
_SHUFFLES = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}
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
    return is_local(path) and _is_ours(array)


def _is_ours(array: zarr.Array) -> bool:
    codecs: list[Any] = array.metadata.to_dict()["codecs"]  # type: ignore[assignment]
    if [codec["name"] for codec in codecs] != ["sharding_indexed"]:
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


def write_shard(array: zarr.Array, path: Path, number: int, chunks: Iterable[np.ndarray]) -> str:
    """Write a whole shard, complete or not there at all; it is not forced to the disk.

    Parameters
    ----------
    array : zarr.Array
        With the layout that `can_read` knows.
    path : Path
        Its folder.
    number : int
        Of the shard along the first axis.
    chunks : iterable of ndarray, shape (n, *array.shape[1:]), float32
        In order, whole but for the last one of the array; looked at one after the other.

    Returns
    -------
    str
        SHA-256 of the file, in hexadecimal.

    Raises
    ------
    ValueError
        If the array has another layout, or there are more chunks than a shard holds.
    OSError
        If nothing can be written.
    """
    if not _is_ours(array):
        raise ValueError(f"{path}: is no array of stamps as rbsim writes it")
    name = path.joinpath("c", str(number), *("0" * (array.ndim - 1)))
    if not is_local(path):
        content = b"".join(_encoded(array, chunks))
        name.write_bytes(content)
        return hashlib.sha256(content).hexdigest()
    digest = hashlib.sha256()
    name.parent.mkdir(parents=True, exist_ok=True)
    with under_another_name(name) as temporary, temporary.open("wb", buffering=0) as file:
        for piece in _encoded(array, chunks):
            digest.update(piece)
            view = memoryview(piece)
            while view:  # a disk that fills up may take a part
                view = view[file.write(view) :]
    return digest.hexdigest()


def _encoded(array: zarr.Array, chunks: Iterable[np.ndarray]) -> Iterable[bytes]:
    """The content of a shard: chunks with their checksums, then the index with its own."""
    per_shard, per_chunk = (array.shards or array.chunks)[0], array.chunks[0]
    shard: Any = array.metadata.to_dict()["codecs"][0]  # type: ignore[index]
    packing = shard["configuration"]["codecs"][_INNER.index("blosc")]["configuration"]
    codec = Blosc(packing["cname"], packing["clevel"], _SHUFFLES[packing["shuffle"]], packing["blocksize"])
    index = np.full((per_shard // per_chunk, 2), _ABSENT, "<u8")
    offset = 0
    for number, chunk in enumerate(chunks):
        if number >= len(index):
            raise ValueError(f"more than {len(index)} chunks")
        packed = codec.encode(_filled_up(chunk, per_chunk, array.fill_value))
        index[number] = offset, len(packed) + _CRC_BYTES
        offset += len(packed) + _CRC_BYTES
        yield packed
        yield _checksum(packed)
    yield index.tobytes()
    yield _checksum(index.tobytes())


def _filled_up(chunk: np.ndarray, n_rows: int, fill_value: Any) -> np.ndarray:
    """A chunk with as many rows as every chunk has."""
    if len(chunk) == n_rows:
        return np.ascontiguousarray(chunk, "<f4")
    whole = np.full((n_rows, *chunk.shape[1:]), fill_value, "<f4")
    whole[: len(chunk)] = chunk
    return whole


def _checksum(content: bytes) -> bytes:
    return int(google_crc32c.value(content)).to_bytes(_CRC_BYTES, "little")


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
