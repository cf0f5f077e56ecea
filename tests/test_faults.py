"""What a store survives: kills, full and read-only disks, damage, rivals; the end is the same bit for bit."""

import ast
import os
import random
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from _build_store import make, partition, plan_of
from zarr.storage import _local

from rbsim import build, locations, schema
from rbsim.errors import InputError
from rbsim.label_sets import read_labels, write_labels
from rbsim.lock import build_lock, lock_path
from rbsim.manifest import read_manifest
from rbsim.pack import finalise
from rbsim.repair import is_finished
from rbsim.store import open_store, partial_path
from rbsim.verify import verify

ROOT = Path(__file__).parents[1]
SIZES = (40, 0, 90, 7, 120, 31)
SMALL = {"SHARD_STAMPS": 64, "CHUNK_STAMPS": 16, "COLUMN_CHUNK": 50}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    """Several shards and chunks in a small store."""
    for name, value in SMALL.items():
        monkeypatch.setattr(schema, name, value)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.zarr"


@pytest.fixture(scope="module")
def whole_path(tmp_path_factory):
    """The undisturbed store."""
    where = tmp_path_factory.mktemp("whole") / "s.zarr"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL.items():
            patch.setattr(schema, name, value)
        make(where, SIZES)
        assert verify(where).problems == ()
    return where


@pytest.fixture(scope="module")
def whole(whole_path):
    """All its files, by name."""
    return files(whole_path)


def files(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def repair(path):
    """What `rbsim inject --resume` does with a finished store; returns the frames that were done again."""
    again = []
    with build_lock(path):
        if is_finished(path, plan_of(SIZES)):
            return None
        for index in build.begin(path, plan_of(SIZES), resume=True):
            again.append(index)
            build.write_partition(path, index, partition(index, SIZES[index]))
        finalise(path, overwrite=True)
    return again


# --- kills ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_kill_9_at_random_moments_changes_no_bit(tmp_path):
    sizes = [30 + 7 * i for i in range(12)]
    expected = tmp_path / "a.zarr"
    undisturbed = subprocess.Popen([*_BUILDER, expected, ",".join(map(str, sizes))], env=_ENVIRONMENT)
    assert undisturbed.wait(60) == 0
    rng = random.Random(5)
    path = tmp_path / "b.zarr"
    reached = set()
    longest = 1.2
    for _ in range(20):
        builder = subprocess.Popen(
            [*_BUILDER, path, ",".join(map(str, sizes))], env=_ENVIRONMENT, stdout=subprocess.PIPE
        )
        assert builder.stdout.readline() == b"ready\n"
        time.sleep(rng.uniform(0, longest))
        builder.kill()
        builder.wait(10)
        builder.stdout.close()
        work = partial_path(path)
        stage = "finished" if path.exists() else "packing" if (work / "store").exists() else "writing"
        reached.add(stage if work.exists() or path.exists() else "nothing")
        if path.exists():
            assert files(path) == files(expected)
            shutil.rmtree(path)
            if work.exists():
                shutil.rmtree(work)
    assert reached & {"writing", "packing"}, "no kill hit the work"
    survivor = subprocess.Popen([*_BUILDER, path, ",".join(map(str, sizes))], env=_ENVIRONMENT)
    assert survivor.wait(60) == 0
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
_BUILDER = [sys.executable, str(Path(__file__).with_name("_build_store.py"))]
_ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("n_calls", [1, 3, 8, 20, 60, 150])
def test_an_interruption_anywhere_in_packing_changes_no_bit(path, whole, monkeypatch, n_calls):
    """Stopped at the n-th file that packing writes."""
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


# --- damage --------------------------------------------------------------------------------------


def _truncate(file):
    file.write_bytes(file.read_bytes()[:-100])


def _flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "spoil", "says", "again"),
    [
        ("stamps/c/1/0/0/0", _truncate, "of", [2]),  # rows 64 to 127 are of the third frame alone
        ("stamps/c/2/0/0/0", Path.unlink, "is missing", [2, 3, 4]),
        ("stamps/c/4/0/0/0", _flip, "has another checksum", [4, 5]),
        ("snr/c/0", _flip, "has another checksum", [0, 2]),
        ("truth/snr/c/1", Path.unlink, "is missing", [2, 3, 4]),
        ("frames/fwhm_pix/c/0", _flip, "has another checksum", [0, 1, 2, 3, 4, 5]),
        # Metadata are there twice, and the manifest knows the checksum of the plan.
        ("zarr.json", _truncate, "of", []),
        ("frames/zarr.json", Path.unlink, "is missing", []),
        ("stamps/zarr.json", _flip, "has another checksum", []),
        ("plan.json", _flip, "has another checksum", []),
        ("manifest.json", _truncate, "cannot be read", [0, 1, 2, 3, 4, 5]),
        ("manifest.json", _flip, "was changed|cannot be read", [0, 1, 2, 3, 4, 5]),
    ],
)
def test_damage_is_named_and_repaired_bit_for_bit(path, whole_path, whole, name, spoil, says, again):
    shutil.copytree(whole_path, path)
    spoil(path / name)
    problems = verify(path).problems
    assert len(problems) == 1
    assert name in problems[0]
    assert any(part in problems[0] for part in says.split("|"))
    assert repair(path) == again
    assert files(path) == whole


def test_metadata_that_are_lost_twice_cannot_be_taken_from_the_store(path, whole_path, whole):
    shutil.copytree(whole_path, path)
    _truncate(path / "zarr.json")
    _truncate(path / "snr" / "zarr.json")
    assert repair(path) == [0, 1, 2, 3, 4, 5]
    assert files(path) == whole


def test_frames_of_a_store_whose_plan_is_damaged_are_only_kept_for_the_same_plan(path, whole_path):
    shutil.copytree(whole_path, path)
    _flip(path / "plan.json")
    plan = plan_of(SIZES)
    other = plan | {"inputs": [f"{name}x" for name in plan["inputs"]]}
    assert not is_finished(path, other)
    assert build.still_missing(path, len(SIZES)) == list(range(len(SIZES)))


def test_label_settings_survive_a_repair_and_are_verified(path, whole_path, whole):
    shutil.copytree(whole_path, path)
    store = open_store(path)
    labels = {"label_given": np.ones(store.n_stamps, np.int8), "reason": np.zeros(store.n_stamps, np.int8)}
    labels["flip_probability"] = np.zeros(store.n_stamps, np.float32)
    write_labels(store, "ones", labels, {"mechanism": "none"})
    assert verify(path).problems == ()
    assert {name: content for name, content in files(path).items() if name in whole} == whole
    (path / "stamps" / "c" / "2" / "0" / "0" / "0").unlink()
    assert repair(path) == [2, 3, 4]
    np.testing.assert_array_equal(read_labels(open_store(path), "ones").label_given, labels["label_given"])
    _flip(path / "labels" / "ones" / "reason" / "c" / "0")
    assert verify(path).problems == ("labels/ones/reason/c/0 has another checksum",)


@pytest.mark.parametrize("name", ["manifest.json", "plan.json", "snr/c/0"])
def test_a_damaged_store_is_not_repaired_into_another(path, whole_path, name):
    """--resume with another seed must not replace it, whatever of it is damaged."""
    shutil.copytree(whole_path, path)
    _flip(path / name)
    before = files(path)
    other = build.make_plan({"a": 2}, plan_of(SIZES)["inputs"], {"note": "x"})
    with pytest.raises(InputError, match="was begun with another a"):
        is_finished(path, other)
    assert files(path) == before
    assert not partial_path(path).exists()


def test_a_store_that_nothing_is_known_of_is_only_replaced_on_demand(path, whole_path):
    shutil.copytree(whole_path, path)
    (path / "plan.json").unlink()
    _truncate(path / "zarr.json")
    with pytest.raises(InputError, match="nothing tells any more how it was made; give --overwrite"):
        repair(path)


def test_files_of_others_in_a_store_are_named_and_left(path, whole_path, whole):
    shutil.copytree(whole_path, path)
    (path / ".DS_Store").write_text("?")
    assert open_store(path).n_stamps == sum(SIZES)
    assert verify(path).problems == (".DS_Store does not belong to it",)
    assert repair(path) is None
    assert files(path) == whole | {".DS_Store": b"?"}


def test_a_file_that_vanishes_while_files_are_listed_is_not_there(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("1")
    monkeypatch.setattr(locations.os, "walk", lambda _: [(str(tmp_path), [], ["a", "gone.tmp"])])
    assert locations.list_files(tmp_path) == {"a": 1}


def test_a_link_and_its_target_are_one_store(path, tmp_path):
    (tmp_path / "real").mkdir()
    path.symlink_to(tmp_path / "real" / "s.zarr")
    assert locations.target_of(path) == tmp_path / "real" / "s.zarr"
    assert locations.location(f"file://{tmp_path}/x") == tmp_path / "x"


def test_a_whole_store_is_not_touched(whole_path, whole):
    assert repair(whole_path) is None
    assert files(whole_path) == whole


def test_what_columns_must_agree_on_is_checked_beyond_checksums(path):
    """A store whose bytes are as written, but whose truth points to stamps of other stars."""
    sizes = (20, 20)
    with build_lock(path):
        for index in build.begin(path, plan_of(sizes)):
            good = partition(index, sizes[index])
            stamp = good.truth["stamp"].copy()
            stamp[[0, 1]] = stamp[[1, 0]]
            build.write_partition(
                path, index, build.Partition(**{**vars(good), "truth": {**good.truth, "stamp": stamp}})
            )
        finalise(path)
    assert verify(path).problems == ("truth/stamp: stamps of another star (4)",)


def test_damaged_partitions_are_done_again(path, whole):
    for index in build.begin(path, plan_of(SIZES)):
        build.write_partition(path, index, partition(index, SIZES[index]))
    work = partial_path(path)
    _flip(work / "partition_000002.npz")
    _truncate(work / "partition_000004.npz")
    assert len(verify(path).problems) == 2
    assert verify(path).state == "unfinished"
    with pytest.raises(InputError, match=r"partition_00000[24].npz: unreadable .* run with --resume"):
        finalise(path)
    assert build.begin(path, plan_of(SIZES), resume=True) == [2, 4]
    for index in (2, 4):
        build.write_partition(path, index, partition(index, SIZES[index]))
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


# --- rivals --------------------------------------------------------------------------------------


def test_two_processes_do_not_build_one_store(path):
    with build_lock(path), pytest.raises(InputError, match="another process is building this store"):
        make(path, SIZES)
    make(path, SIZES)
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
        make(path, SIZES)
    holder.kill()
    holder.wait(10)
    holder.stdout.close()
    make(path, SIZES)


def test_jobs_of_one_build_work_together_but_not_beside_a_whole_run(path, whole):
    with build_lock(path, shared=True), build_lock(path, shared=True):
        for job in (2, 1, 3):
            share = build.Share(job, 3)
            for index in share.of(build.begin(path, plan_of(SIZES), join=True)):
                build.write_partition(path, index, partition(index, SIZES[index]))
            with pytest.raises(InputError, match="another process"):
                make(path, SIZES, resume=True)
    with build_lock(path):
        finalise(path)
    assert files(path) == whole


def test_finalise_names_what_is_missing(path):
    for index in build.Share(2, 3).of(build.begin(path, plan_of(SIZES), join=True)):
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


# --- malice --------------------------------------------------------------------------------------


def test_nothing_unpickles():
    """No pickle of foreign origin: neither by name nor through numpy, torch or pandas."""
    for path in [ROOT / "cli.py", *(ROOT / "rbsim").rglob("*.py"), *(ROOT / "rbmodel").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
                assert not {"pickle", "cPickle", "dill", "joblib", "shelve"} & set(names), path
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Attribute) and called.attr == "load":
                owner = ast.unparse(called.value)
                if owner in ("np", "numpy"):
                    keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
                    assert keywords.get("allow_pickle") == "False", f"{path}:{node.lineno}"
                assert owner not in ("torch", "pickle", "yaml"), f"{path}:{node.lineno}"
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("read_pickle", "from_pickle", "unsafe_load"), path


def test_every_page_escapes_what_comes_from_files():
    """Names of frames, header values, reasons: only figures that we drew ourselves are marked as safe."""
    n_environments = 0
    for path in [*(ROOT / "rbsim").rglob("*.py"), *(ROOT / "rbmodel").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "Environment":
                n_environments += 1
                keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert keywords.get("autoescape") == "True", path
    assert n_environments >= 2
    for path in ROOT.rglob("rb*/templates/*.j2"):
        for marked in re.findall(r"{{([^}]*)\|\s*safe[^}]*}}", path.read_text()):
            assert re.search(r"svg|style|script", marked), f"{path}: {marked}"


@pytest.mark.parametrize("name", ["../x", "a/b", "/etc/x", "..", ".hidden", "", "a\\b", "x.partial"])
def test_names_of_label_settings_cannot_leave_the_store(whole_path, whole, name):
    store = open_store(whole_path)
    with pytest.raises(InputError, match="label setting"):
        write_labels(store, name, {}, {})
    with pytest.raises(InputError, match="label setting"):
        read_labels(store, name)
    assert files(whole_path) == whole


def test_a_pickle_in_a_partition_is_not_loaded(path):
    build.begin(path, plan_of((3,)))
    file = partial_path(path) / "partition_000000.npz"
    np.savez(file, name=np.array({"a": 1}, object), reason=np.array(""))
    with pytest.raises(InputError, match=r"unreadable partition \(Object arrays cannot be loaded"):
        finalise(path)


def test_a_store_of_a_newer_version_is_refused_with_the_remedy(path):
    make(path, SIZES)
    content = (path / "zarr.json").read_text()
    old = f'"version": {schema.FORMAT_VERSION},'
    assert old in content
    (path / "zarr.json").write_text(content.replace(old, '"version": 99,'))
    with pytest.raises(InputError, match=r"has store version 99, .*; update rbsim"):
        open_store(path)
    with pytest.raises(InputError, match="exists already"):
        make(path, SIZES)


def test_the_manifest_has_every_file(path):
    make(path, SIZES)
    names = set(files(path)) - {"manifest.json"}
    assert set(read_manifest(path)["files"]) == names
