"""Runs of stamps read without zarr are what zarr reads, or are left to zarr."""

import shutil

import numpy as np
import pytest
import zarr
from _small_store import few_columns
from test_store import make

from rbsim import schema
from rbsim.errors import InputError
from rbsim.manifest import sha256_of
from rbsim.shards import can_read, write_shard
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


def test_a_shard_has_the_bytes_that_zarr_writes(store):
    rng = np.random.default_rng(1)
    for n_rows in (CHUNK, 4 * CHUNK, 5 * CHUNK + 1):
        pixels = rng.normal(size=(n_rows, 3, 29, 29)).astype(np.float32)
        pixels[0, 1, 3] = np.nan
        folders = []
        for name in ("ours", "theirs"):
            root = zarr.open_group(store.path.parent / f"{name}{n_rows}", mode="w", zarr_format=3)
            array = root.create_array(
                "stamps",
                shape=pixels.shape,
                dtype="f4",
                chunks=store.root["stamps"].chunks,
                shards=store.root["stamps"].shards,
                compressors=store.root["stamps"].compressors,
                fill_value=np.nan,
            )
            folders.append(root.store.root / "stamps" / "c")
            if name == "theirs":
                array[:] = pixels
                continue
            for shard in range(-(-n_rows // (4 * CHUNK))):
                rows = pixels[shard * 4 * CHUNK : (shard + 1) * 4 * CHUNK]
                chunks = (rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK))
                digest = write_shard(array, root.store.root / "stamps", shard, chunks)
                assert digest == sha256_of(root.store.root / "stamps" / "c" / str(shard) / "0" / "0" / "0")
        ours, theirs = (
            {path.relative_to(folder): path.read_bytes() for path in folder.rglob("0") if path.is_file()}
            for folder in folders
        )
        assert ours == theirs


def test_a_shard_is_whole_or_not_there(store):
    array, folder = store.root["stamps"], store.path / "stamps"
    before = (folder / "c" / "1" / "0" / "0" / "0").read_bytes()

    def chunks():
        yield np.zeros((CHUNK, 3, 29, 29), np.float32)
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        write_shard(array, folder, 1, chunks())
    with pytest.raises(ValueError, match="more than 4 chunks"):
        write_shard(array, folder, 1, [np.zeros((CHUNK, 3, 29, 29), np.float32)] * 5)
    assert (folder / "c" / "1" / "0" / "0" / "0").read_bytes() == before
    assert len(list((folder / "c" / "1" / "0" / "0").iterdir())) == 1
