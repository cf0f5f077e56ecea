"""What a build survives: kills, full and read-only disks, rivals; the end is the same bit for bit."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from _build_store import make, partition, plan_of
from _small_store import SIZES, files
from _tomoe_raw import raw_frames, write_dark, write_flat, write_raw
from zarr.storage import _local

from rbsim import build
from rbsim.errors import InputError, OutputError
from rbsim.lock import build_lock, lock_path
from rbsim.pack import finalise
from rbsim.store import partial_path
from rbsim.tomoe.run import SUMMARY, calibrate_files
from rbsim.verify import verify

pytestmark = pytest.mark.usefixtures("small_shards")
ROOT = Path(__file__).parents[1]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.zarr"


# --- kills ---------------------------------------------------------------------------------------


class Builders:
    """Builders of stores, one after the other."""

    def __init__(self, server):
        self.server = server

    def start(self, store, sizes):
        """Its process id."""
        return self._ask([str(store), sizes])

    def wait(self):
        """Its exit code."""
        return self._ask(None)

    def _ask(self, what):
        self.server.stdin.write(json.dumps(what) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())


@pytest.fixture
def builders():
    server = [sys.executable, Path(__file__).with_name("_build_store.py")]
    with subprocess.Popen(
        server, env=_ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Builders(process)
        process.stdin.close()


def test_kill_9_at_random_moments_changes_no_bit(tmp_path, builders):
    sizes = [30 + 7 * i for i in range(12)]
    expected, path = tmp_path / "a.zarr", tmp_path / "b.zarr"
    builders.start(expected, sizes)
    begin_s = time.monotonic()
    assert builders.wait() == 0
    # What is finished is kept, so that shorter times reach every stage too.
    longest_s = 0.6 * (time.monotonic() - begin_s)
    rng = random.Random(5)
    reached = []
    for _ in range(20):
        pid = builders.start(path, sizes)
        time.sleep(rng.uniform(0, longest_s))
        os.kill(pid, signal.SIGKILL)
        builders.wait()
        work = partial_path(path)
        stage = "finished" if path.exists() else "packing" if (work / "store").exists() else "writing"
        reached.append(stage if work.exists() or path.exists() else "nothing")
        if path.exists():
            assert files(path) == files(expected)
            shutil.rmtree(path)
            if work.exists():
                shutil.rmtree(work)
    assert sum(stage in ("writing", "packing") for stage in reached) >= 5, "few kills hit the work"
    builders.start(path, sizes)
    assert builders.wait() == 0
    assert files(path) == files(expected)
    assert not partial_path(path).exists()
    assert verify(path).problems == ()


_HOLDER = """
import sys, time
from pathlib import Path
from rbsim.label_sets import read_labels, write_labels
from rbsim.lock import build_lock
with build_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
_ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("n_calls", [1, 12, 26, 60])
def test_an_interruption_anywhere_in_packing_changes_no_bit(path, whole, monkeypatch, n_calls):
    """Stopped at the n-th file that packing writes: metadata of arrays, shards of stamps, columns."""
    with build_lock(path):
        for index in build.begin(path, plan_of(SIZES)):
            build.write_partition(path, index, partition(index, SIZES[index]))
    put, left = _local._put, [n_calls]

    def failing(*args, **kwargs):
        left[0] -= 1
        if not left[0]:
            raise RuntimeError
        return put(*args, **kwargs)

    monkeypatch.setattr(_local, "_put", failing)
    with pytest.raises(RuntimeError):
        finalise(path)
    monkeypatch.setattr(_local, "_put", put)
    assert not path.exists()
    (partial_path(path) / "store" / "stamps.0a.partial").write_text("left by a killed process")
    finalise(path)
    assert files(path) == whole


# --- disks ---------------------------------------------------------------------------------------


@contextmanager
def small_disk(where, size):
    where.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(where)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.decode().strip()}")
    try:
        yield where
    finally:
        subprocess.run(["umount", str(where)], check=True)


def remount(where, options):
    subprocess.run(["mount", "-o", f"remount,{options}", str(where)], check=True)


@pytest.mark.parametrize("size", ["900k", "4m"], ids=["in a partition", "in packing"])
def test_a_full_disk_is_said_and_survived(tmp_path, whole, size):
    with small_disk(tmp_path / "disk", size) as disk:
        path = disk / "s.zarr"
        with pytest.raises(InputError, match=r"No space left on device\); free space and run with --resume"):
            make(path, SIZES)
        assert not path.exists()
        assert not [p for p in partial_path(path).iterdir() if p.suffix == ".tmp"], "debris fills the disk"
        remount(disk, "size=64m")
        make(path, SIZES, resume=True)
        assert files(path) == whole


def test_a_read_only_target_is_refused_at_the_door(tmp_path):
    with small_disk(tmp_path / "disk", "1m") as disk:
        remount(disk, "ro")
        with pytest.raises(InputError, match=r"cannot write there \(Read-only file system\); choose another"):
            make(disk / "s.zarr", SIZES)


@pytest.mark.parametrize("cubes", [False, True], ids=["in a stack", "in a cube"])
def test_a_full_disk_ends_a_calibration_and_is_no_files_fault(tmp_path, cubes):
    raws = [
        write_raw(
            tmp_path / f"r{number}.fits", raw_frames(seed=number), frame_id=f"TMQ120220104006522{number}212"
        )
        for number in (1, 2)
    ]
    write_dark(tmp_path / "d.fits")
    write_flat(tmp_path / "f.fits")

    def calibrate(out):
        given = {"darks": [str(tmp_path / "d.fits")], "flats": [str(tmp_path / "f.fits")]}
        return calibrate_files([str(raw) for raw in raws], out, **given, cubes=cubes)

    # One of the two files fits.
    with small_disk(tmp_path / "disk", "3m" if cubes else "300k") as disk:
        with pytest.raises(OutputError, match=r"fits: cannot be written \(.*\); free space and run again"):
            calibrate(disk / "out")
        assert not list(disk.iterdir()), "debris fills the disk"
        remount(disk, "size=64m")
        assert not calibrate(disk / "out").failed
        assert len(list((disk / "out").glob("s*.fits"))) == 2
        assert (disk / "out" / SUMMARY).exists()


# --- rivals --------------------------------------------------------------------------------------


def test_two_processes_do_not_build_one_store(path):
    with build_lock(path), pytest.raises(InputError, match="another process is building this store"):
        make(path, (3,))
    make(path, (3,))
    assert not lock_path(path).exists()


def test_a_killed_process_holds_no_lock(path):
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            _HOLDER,
            str(path),
        ],
        env=_ENVIRONMENT,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(InputError, match="another process"):
        make(path, (3,))
    holder.kill()
    holder.wait(10)
    holder.stdout.close()
    make(path, (3,))


def test_jobs_of_one_build_work_together_but_not_beside_a_whole_run(path, whole):
    with build_lock(path, shared=True), build_lock(path, shared=True):
        for job in (2, 1, 3):
            share = build.Share(job, 3)
            for index in share.of(build.begin(path, plan_of(SIZES), share=share)):
                build.write_partition(path, index, partition(index, SIZES[index]))
            with pytest.raises(InputError, match="another process"):
                make(path, SIZES, resume=True)
    with build_lock(path):
        finalise(path)
    assert files(path) == whole


def test_finalise_names_what_is_missing(path):
    for index in build.Share(2, 3).of(build.begin(path, plan_of(SIZES), share=build.Share(2, 3))):
        build.write_partition(path, index, partition(index, SIZES[index]))
    with pytest.raises(InputError, match=r"partitions 1, 3-4, 6 of 6 are missing \(f0.fits, f2"):
        finalise(path)


@pytest.mark.parametrize("text", ["5/4", "0/4", "1", "a/b", "-1/4", "1/0", "1/4/2", ""])
def test_shares_that_make_no_sense_are_refused(text):
    with pytest.raises(InputError, match=r"give j/N with j from 1 to N"):
        build.parse_share(text)


def test_shares_are_all_partitions_once():
    shares = [build.parse_share(f"{job}/4").of(range(11)) for job in (1, 2, 3, 4)]
    assert sorted(index for share in shares for index in share) == list(range(11))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
