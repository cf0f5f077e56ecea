r"""Which compression the stamps of a store should have: rates of one core and size, by codec and chunk.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/codecs.py STORE [--json]

One shard of the stamps of STORE (made by rbsim inject) is written to and read from a memory disk as
`rbsim.pack` writes it, with other codecs and chunks. Read means as `rbmodel.stream` reads: 2,048 stamps at a
time into an array that is there already. Seconds of the process (`process_time`), the fastest of seven, so
that a busy machine counts little; every codec gives back the same bits, or the script ends.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from threadpoolctl import threadpool_limits
from zarr.buffer.cpu import NDBuffer
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from rbsim import schema
from rbsim.locations import list_files
from rbsim.store import open_store

READ_STAMPS = 2048
REPEATS = 7
BIT, BYTE = "bitshuffle", "shuffle"


def blosc(name: str, level: int, shuffle: str) -> list[Any]:
    return [BloscCodec(cname=name, clevel=level, shuffle=shuffle, typesize=4), Crc32cCodec()]


CODECS: dict[str, list[Any]] = {
    "none": [Crc32cCodec()],
    "zstd 1": [ZstdCodec(level=1), Crc32cCodec()],
    "zstd 3": [ZstdCodec(level=3), Crc32cCodec()],
    "zstd -3": [ZstdCodec(level=-3), Crc32cCodec()],
    "blosc lz4 1 bits": blosc("lz4", 1, BIT),
    "blosc lz4 5 bits": blosc("lz4", 5, BIT),
    "blosc lz4 5 bytes": blosc("lz4", 5, BYTE),
    "blosc zstd 1 bits": blosc("zstd", 1, BIT),
    "blosc zstd 1 bytes": blosc("zstd", 1, BYTE),
    "blosc zstd 3 bytes": blosc("zstd", 3, BYTE),
}
CHUNKS = {"zstd 1": (64, 256, 1024), "blosc lz4 5 bits": (64, 128, 256, 512, 1024)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path, help="store with at least one whole shard")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    stamps = open_store(options.store).read_stamps(slice(0, schema.SHARD_STAMPS))
    if len(stamps) < schema.SHARD_STAMPS:
        parser.error(f"{options.store} has {len(stamps)} stamps; at least {schema.SHARD_STAMPS} are needed")
    disk = Path("/dev/shm") if Path("/dev/shm").is_dir() else None  # noqa: S108 (a disk in memory)
    with threadpool_limits(1), tempfile.TemporaryDirectory(dir=disk) as folder:
        rows = [
            measure(name, chunk, stamps, Path(folder) / "trial")
            for name in CODECS
            for chunk in CHUNKS.get(name, (schema.CHUNK_STAMPS,))
        ]
    print(json.dumps(rows, indent=1) if options.json else as_text(rows))


def measure(name: str, chunk: int, stamps: np.ndarray, folder: Path) -> dict[str, Any]:
    """Rates and size of one shard."""
    array = zarr.create_group(folder, zarr_format=3).create_array(
        "stamps",
        shape=stamps.shape,
        dtype=stamps.dtype,
        chunks=(chunk, *stamps.shape[1:]),
        shards=stamps.shape,
        compressors=CODECS[name],
        fill_value=np.nan,
    )

    def write() -> None:
        array[:] = stamps

    write_s = fastest(write)
    piece = np.empty((READ_STAMPS, *stamps.shape[1:]), stamps.dtype)
    out = NDBuffer.from_numpy_array(piece)

    def read() -> None:
        for start in range(0, len(stamps), READ_STAMPS):
            array.get_basic_selection(slice(start, start + READ_STAMPS), out=out)

    read_s = fastest(read)
    if not np.array_equal(np.asarray(array[:]).view(np.uint32), stamps.view(np.uint32)):
        raise SystemExit(f"{name}: other bits came back")
    size = sum(list_files(folder / "stamps" / "c").values())
    shutil.rmtree(folder)
    return {
        "codec": name,
        "chunk_stamps": chunk,
        "ratio": round(stamps.nbytes / size, 3),
        "write_per_s": round(len(stamps) / write_s),
        "read_per_s": round(len(stamps) / read_s),
    }


def fastest(action: Callable[[], None]) -> float:
    """Seconds of the process for the fastest of several calls."""
    seconds = []
    for _ in range(REPEATS):
        started = time.process_time()
        action()
        seconds.append(time.process_time() - started)
    return min(seconds)


def as_text(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'codec, level, shuffle':22s} {'chunk':>5} {'ratio':>6} {'write/s':>8} {'read/s':>8}"]
    lines += [
        f"{row['codec']:22s} {row['chunk_stamps']:5d} {row['ratio']:6.3f}"
        f" {row['write_per_s']:8d} {row['read_per_s']:8d}"
        for row in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
