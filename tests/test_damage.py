"""A store whose files are cut, lost or flipped: what is wrong is named, and repaired bit for bit."""

import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from _build_store import partition, plan_of
from _small_store import SIZES, files, repair
from upath import UPath

from rbsim import build, locations, pack, schema
from rbsim.errors import InputError
from rbsim.label_sets import read_labels, write_labels
from rbsim.lock import build_lock
from rbsim.pack import finalise
from rbsim.repair import is_finished
from rbsim.store import open_store, partial_path
from rbsim.verify import verify

pytestmark = pytest.mark.usefixtures("small_shards")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.zarr"


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
        ("truth/snr/c/1", Path.unlink, "is missing", [4, 5]),
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
    assert verify(path).remedy == "rbsim relabel with --name and --overwrite makes label settings again"
    _flip(path / "snr" / "c" / "0")
    assert verify(path).remedy.startswith("rbsim inject with --resume repairs it; rbsim relabel with")


@contextmanager
def killed_before_the_name_is_given(monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pack, "give_name", killed)
        with pytest.raises(KeyboardInterrupt):
            yield


def test_a_repair_that_ends_at_its_last_step_can_be_repeated(path, whole_path, whole, monkeypatch):
    """The old store, with labels that are nowhere else, is neither lost nor left over."""
    shutil.copytree(whole_path, path)
    store = open_store(path)
    labels = {name: np.ones(store.n_stamps) for name in ("label_given", "reason", "flip_probability")}
    write_labels(store, "ones", labels, {"mechanism": "none"})
    with_labels = files(path)
    (path / "stamps" / "c" / "2" / "0" / "0" / "0").unlink()
    with killed_before_the_name_is_given(monkeypatch):
        repair(path)
    assert not path.exists()
    assert build.begin(path, plan_of(SIZES), resume=True) == []
    finalise(path)
    assert files(path) == with_labels
    assert json.loads((path / "manifest.json").read_bytes())["files"].keys() == whole.keys() - {
        "manifest.json"
    }
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_overwriting_after_that_puts_the_old_store_back_first(path, whole_path, whole, monkeypatch):
    shutil.copytree(whole_path, path)
    build.begin(path, plan_of(SIZES), overwrite=True)
    for index, size in enumerate(SIZES):
        build.write_partition(path, index, partition(index, size))
    with killed_before_the_name_is_given(monkeypatch):
        finalise(path, overwrite=True)
    assert not path.exists()
    build.begin(path, plan_of(SIZES), overwrite=True)
    assert files(path) == whole


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


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_a_file_lost_after_opening_is_an_error_and_no_fill_values(path, whole_path, where):
    there = path if where == "disk" else UPath("memory://lost.zarr")
    for name, content in files(whole_path).items():
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        (there / name).write_bytes(content)
    store = open_store(there)
    stamps = store.read_stamps()
    lost = slice(2 * schema.SHARD_STAMPS, 2 * schema.SHARD_STAMPS + 5)
    (there / "snr/c/1").unlink()
    with pytest.raises(InputError, match=r"snr is damaged .*snr/c/1 is missing"):
        store.column("snr")
    np.testing.assert_array_equal(store.read_stamps(), stamps)
    (there / "stamps/c/2/0/0/0").unlink()
    np.testing.assert_array_equal(store.read_stamps(slice(0, lost.start)), stamps[: lost.start])
    for rows in (slice(None), lost, np.array([0, lost.start])):
        with pytest.raises(InputError, match=r"stamps is damaged .*stamps/c/2/0/0/0 is missing"):
            store.read_stamps(rows)
    with pytest.raises(InputError, match="stamps is damaged"):
        store.read_run(lost.start, np.empty_like(stamps[lost]))


def test_files_of_others_in_a_store_are_named_and_left(path, whole_path, whole):
    shutil.copytree(whole_path, path)
    (path / ".DS_Store").write_text("?")
    assert open_store(path).n_stamps == sum(SIZES)
    assert verify(path).problems == (".DS_Store does not belong to it",)
    assert verify(path).remedy == "remove what does not belong to it"  # a repair would leave it
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
    assert "rbsim inject with --overwrite makes it again" in verify(path).remedy


def test_damaged_partitions_are_done_again(path, whole):
    for index in build.begin(path, plan_of(SIZES)):
        build.write_partition(path, index, partition(index, SIZES[index]))
    work = partial_path(path)
    _flip(work / "partition_000002.npz")
    _truncate(work / "partition_000004.npz")
    assert len(verify(path).problems) == 2
    assert verify(path).state == "unfinished"
    second = build.Share(2, 3)
    assert second.of(build.begin(path, plan_of(SIZES), share=second)) == [4]
    with pytest.raises(InputError, match=r"another a; give another --out, or remove s.zarr.partial first"):
        build.begin(path, plan_of(SIZES) | {"config": {"a": 2}}, share=second)
    with pytest.raises(
        InputError, match=r"partition_00000[24].npz: unreadable .* --resume, or with --partition"
    ):
        finalise(path)
    assert build.begin(path, plan_of(SIZES), resume=True) == [2, 4]
    for index in (2, 4):
        build.write_partition(path, index, partition(index, SIZES[index]))
    finalise(path)
    assert files(path) == whole
