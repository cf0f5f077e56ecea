"""Runs of stamps read without zarr are what zarr reads, or are left to zarr."""

import shutil

import numpy as np
import pytest
import zarr
from _small_store import few_columns
from test_store import make

from rbsim import schema
from rbsim.errors import InputError
from rbsim.shards import can_read
from rbsim.store import open_store

CHUNK = schema.CHUNK_STAMPS


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Four shards of four chunks; the last has one chunk and a part of another."""
    with pytest.MonkeyPatch.context() as patch:
        few_columns(patch)
        patch.setattr(schema, "SHARD_STAMPS", 4 * CHUNK)
        return make(tmp_path_factory.mktemp("whole") / "s.zarr", sizes=(3000, 0, 400)).path


@pytest.fixture
def store(whole, tmp_path, monkeypatch):
    """A copy of it, to be spoilt."""
    monkeypatch.setattr(schema, "SHARD_STAMPS", 4 * CHUNK)
    return open_store(shutil.copytree(whole, tmp_path / "s.zarr"))


def read(store, first, last):
    out = np.full((last - first, 3, 29, 29), 7, np.float32)
    store.read_run(first, out)
    return out


def test_any_run_is_what_zarr_reads(store):
    assert can_read(store.root["stamps"], store.path / "stamps")
    pixels = zarr.open_group(store.path)["stamps"][:]
    for first, last in [
        (0, 1024),
        (256, 512),
        (3072, 3400),
        (3328, 3400),
        (768, 1280),
        (5, 700),
        (3399, 3400),
    ]:
        np.testing.assert_array_equal(read(store, first, last), pixels[first:last], err_msg=f"{first}:{last}")


def test_a_store_that_others_wrote_is_left_to_zarr(tmp_path):
    pixels = np.arange(300 * 3 * 29 * 29, dtype=np.float32).reshape(300, 3, 29, 29)
    for number, compressor in enumerate([zarr.codecs.ZstdCodec(), zarr.codecs.GzipCodec()]):
        array = zarr.create_array(
            tmp_path / str(number),
            data=pixels,
            chunks=(100, 3, 29, 29),
            shards=(300, 3, 29, 29),
            compressors=compressor,
        )
        assert not can_read(array, tmp_path / str(number))


def test_chunks_that_are_not_there_are_fill_values(store):
    array = zarr.open_group(store.path, mode="r+")["stamps"]
    array[CHUNK : 2 * CHUNK] = np.nan  # zarr leaves out chunks of fill values
    assert np.all(np.isnan(read(store, CHUNK, 2 * CHUNK)))
    assert np.all(np.isfinite(read(store, 2 * CHUNK, 4 * CHUNK)))


@pytest.mark.parametrize("where", [0.1, 0.5, 0.9, -3])
def test_a_flipped_byte_is_an_error_not_a_wrong_pixel(store, where):
    shard = store.path / "stamps" / "c" / "0" / "0" / "0" / "0"
    content = bytearray(shard.read_bytes())
    content[int(where * len(content)) if where > 0 else where] ^= 16
    shard.write_bytes(content)
    with pytest.raises(InputError, match="stamps is damaged"):
        read(store, 0, 4 * CHUNK)


def test_a_short_shard_and_a_lost_one_are_errors(store):
    shard = store.path / "stamps" / "c" / "0" / "0" / "0" / "0"
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(InputError, match="stamps is damaged"):
        read(store, 0, CHUNK)
    shard.unlink()
    with pytest.raises(InputError, match="stamps is damaged"):
        read(store, 0, CHUNK)
