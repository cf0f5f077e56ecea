"""How stamps are compressed: no bit lost, nothing depends on threads, any reader of Zarr v3 can undo it."""

import json

import numcodecs.blosc
import numpy as np
import pytest
import zarr
from _small_store import few_columns, files
from test_store import make

CORE_CODECS = {"sharding_indexed", "bytes", "blosc", "zstd", "crc32c"}
"""Codecs of the specification of Zarr v3, which every reader has."""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    few_columns(monkeypatch)


@pytest.mark.parametrize("n_threads", [1, 4])
def test_files_do_not_depend_on_threads(tmp_path, n_threads):
    # Blosc with threads of its own puts its blocks in the order in which they are done.
    plain = files(make(tmp_path / "a.zarr", sizes=(600, 700)).path)
    before = numcodecs.blosc.set_nthreads(n_threads)
    try:
        with zarr.config.set({"threading.max_workers": n_threads, "async.concurrency": 2 * n_threads}):
            other = files(make(tmp_path / "b.zarr", sizes=(600, 700)).path)
    finally:
        numcodecs.blosc.set_nthreads(before)
    assert plain == other


def test_only_core_codecs_are_used(tmp_path):
    path = make(tmp_path / "s.zarr").path

    def codecs(entry):
        found = {entry["name"]}
        for inner in (entry.get("configuration") or {}).get("codecs", []):
            found |= codecs(inner)
        return found

    used = [
        codecs(codec)
        for file in path.rglob("zarr.json")
        for codec in json.loads(file.read_text()).get("codecs", [])
    ]
    assert used
    assert set().union(*used) <= CORE_CODECS


def test_every_bit_comes_back(tmp_path):
    # Every value that a float32 can have is as good as another: infinities, NaNs with their payload, -0.
    path = make(tmp_path / "s.zarr", sizes=(300,)).path
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, (300, 3, 29, 29), dtype=np.uint32)
    bits[0, 0, 0, :4] = np.array([np.inf, -np.inf, np.nan, -0.0], np.float32).view(np.uint32)
    array = zarr.open_group(path, mode="r+")["stamps"]
    array[:] = bits.view(np.float32)
    np.testing.assert_array_equal(zarr.open_group(path)["stamps"][:].view(np.uint32), bits)


def test_noise_takes_no_more_room_than_zstd(tmp_path):
    array = zarr.open_group(make(tmp_path / "s.zarr", sizes=(2048,)).path)["stamps"]
    sky = np.random.default_rng(1).normal(0, 12, array.shape).astype(np.float32)
    old = zarr.create_array(
        tmp_path / "old",
        data=sky,
        chunks=array.chunks,
        compressors=[zarr.codecs.ZstdCodec(level=1), zarr.codecs.Crc32cCodec()],
    )
    zarr.open_group(tmp_path / "s.zarr", mode="r+")["stamps"][:] = sky
    assert array.nbytes_stored() < old.nbytes_stored()
    assert array.nbytes_stored() < 0.95 * sky.nbytes
