"""Stores at fsspec URLs: built, resumed, repaired and read like those on a disk, with the same bytes."""

import numpy as np
import pytest
import xarray as xr
import zarr
from _build_store import make, partition, plan_of
from _s3_server import s3_server
from _small_store import few_columns
from upath import UPath

from rbsim import build
from rbsim.errors import InputError
from rbsim.locations import is_local, list_files, location, remove_folder
from rbsim.pack import finalise
from rbsim.repair import is_finished
from rbsim.store import open_store, partial_path
from rbsim.verify import verify

SIZES = (12, 0, 30)


@pytest.fixture(scope="module", autouse=True)
def quick():
    """On S3 an array costs dozens of requests."""
    with pytest.MonkeyPatch.context() as patch:
        few_columns(patch)
        yield


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    return make(tmp_path_factory.mktemp("local") / "s.zarr", SIZES).path


@pytest.fixture(scope="module")
def server():
    """An S3 server of our own."""
    with s3_server("nights"):
        yield


@pytest.fixture
def path():
    path = location("memory://nights/runs/s.zarr")
    assert not is_local(path)
    yield path
    for left in (path, partial_path(path)):
        if left.exists():
            remove_folder(left)


def same_bytes(path, local):
    names = set(list_files(local))
    assert set(list_files(path)) == names
    return all((path / name).read_bytes() == (local / name).read_bytes() for name in names)


def test_a_store_at_a_url_has_the_bytes_of_a_local_one(path, local):
    store = make(path, SIZES)
    assert same_bytes(path, local)
    assert not partial_path(path).exists()
    np.testing.assert_array_equal(store.read_stamps(), open_store(local).read_stamps())
    assert verify(path).problems == ()
    with pytest.raises(InputError, match="exists already"):
        make(path, SIZES)


def test_an_unfinished_build_is_resumed_and_a_damaged_store_repaired(path, local):
    assert build.begin(path, plan_of(SIZES)) == [0, 1, 2]
    build.write_partition(path, 1, partition(1, SIZES[1]))
    with pytest.raises(InputError, match="is unfinished"):
        open_store(path)
    with pytest.raises(InputError, match="an unfinished build"):
        make(path, SIZES)
    assert build.begin(path, plan_of(SIZES), resume=True) == [0, 2]
    make(path, SIZES, resume=True)
    assert same_bytes(path, local)
    (path / "snr" / "c" / "0").unlink()
    with pytest.raises(InputError, match="its file snr/c/0 is missing"):
        open_store(path)
    assert not is_finished(path, plan_of(SIZES))
    for index in build.begin(path, plan_of(SIZES), resume=True):
        build.write_partition(path, index, partition(index, SIZES[index]))
    finalise(path, overwrite=True)
    assert same_bytes(path, local)


@pytest.mark.slow
@pytest.mark.usefixtures("server")
def test_s3(local):
    path = location("s3://nights/runs/s.zarr")
    build.begin(path, plan_of(SIZES))
    build.write_partition(path, 1, partition(1, SIZES[1]))
    store = make(path, SIZES, resume=True)
    assert same_bytes(path, local)
    assert not partial_path(path).exists()
    np.testing.assert_array_equal(store.read_stamps(), open_store(local).read_stamps())


def test_zarr_and_xarray_open_it(path, local):
    make(path, SIZES)
    root = zarr.open_group(str(path), mode="r")
    np.testing.assert_array_equal(root["snr"][:], open_store(local).column("snr"))
    assert dict(xr.open_zarr(str(path)).sizes)["stamp"] == sum(SIZES)


def test_locations(tmp_path):
    assert location(str(tmp_path)) == tmp_path
    assert isinstance(location("memory://a/b"), UPath)
    for text, says in (("nosuch://bucket/x", "nosuch"), ("gs://bucket/x", "gcsfs|gs")):
        with pytest.raises(InputError, match=says):
            location(text)
