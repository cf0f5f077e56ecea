"""Fixtures that several test files share."""

import os
from pathlib import Path

import dask
import pytest
from _small_store import files, make_whole, shrink
from _synthetic_store import make_store

from rbsim.emulate.night import emulate_night, load_night
from rbsim.parallel import Parallel


@pytest.fixture(scope="session")
def synthetic_store(tmp_path_factory):
    """A store of 1,800 synthetic stamps in 8 blocks x 9 tiles; treat it as read-only."""
    return make_store(tmp_path_factory.mktemp("synthetic") / "stamps.zarr", n_stamps=1800)


@pytest.fixture(scope="session")
def tiny_night(tmp_path_factory):
    """Folder of the emulated night «tiny»; treat it as read-only."""
    out = tmp_path_factory.mktemp("night") / "tiny"
    emulate_night(out, load_night("tiny"), seed=1)
    return out


@pytest.fixture(scope="session")
def two_workers():
    """`Parallel` of two worker processes that stay: importing all they need takes them seconds."""
    from dask.distributed import LocalCluster  # noqa: PLC0415

    # The profiler of idle workers takes processor time from the tests.
    with (
        dask.config.set({"distributed.worker.profile.enabled": False}),
        LocalCluster(
            n_workers=2, threads_per_worker=1, memory_limit=0, dashboard_address="127.0.0.1:0"
        ) as cluster,
    ):
        yield Parallel(scheduler=cluster.scheduler_address)


@pytest.fixture(scope="session")
def real_frames():
    """Folder of real telescope frames, from $RBSIM_REAL_FRAMES."""
    folder = os.environ.get("RBSIM_REAL_FRAMES")
    if not folder:
        pytest.skip("RBSIM_REAL_FRAMES is not set: no real frames on this machine")
    return Path(folder)


@pytest.fixture
def small_shards(monkeypatch):
    """Few columns, and several shards and chunks in a small store."""
    shrink(monkeypatch)


@pytest.fixture(scope="session")
def whole_path(tmp_path_factory):
    """The undisturbed small store; treat it as read-only."""
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        return make_whole(tmp_path_factory.mktemp("whole") / "s.zarr")


@pytest.fixture(scope="session")
def whole(whole_path):
    """All files of the undisturbed small store, by name."""
    return files(whole_path)
