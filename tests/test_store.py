"""The store's life: init, partitions, finalise, and everything that must be refused or survive."""

import json
import shutil
import warnings

import numpy as np
import pytest
import xarray as xr
import zarr

from rbsim import build, schema
from rbsim.build import Partition
from rbsim.errors import InputError
from rbsim.manifest import read_manifest, write_manifest
from rbsim.pack import finalise
from rbsim.pair_schema import ADDED_TO_5, BEFORE_5
from rbsim.store import open_store, partial_path

NOTE = {"note": "x"}


def partition(n_stamps, n_truth=7, seed=1, name="frame.fits", reason=""):
    rng = np.random.default_rng(seed)

    def fill(specs, length):
        return {s.name: rng.integers(0, 2, length).astype(s.dtype) for s in specs if s.name != "frame"}

    truth = fill(schema.TRUTH_COLUMNS, n_truth)
    truth["stamp"] = np.where(np.arange(n_truth) < n_stamps, np.arange(n_truth), -1)
    return Partition(
        name=name,
        reason=reason,
        frame={s.name: 1 for s in schema.FRAME_COLUMNS},
        stamps=rng.normal(size=(n_stamps, 3, 29, 29)).astype(np.float32),
        candidates=fill(schema.CANDIDATE_COLUMNS, n_stamps),
        truth=truth,
    )


def make(path, sizes=(5, 0, 9), **init):
    build.init(path, config={"a": 1}, inputs=[str(i) for i in range(len(sizes))], summary=NOTE, **init)
    for i, size in enumerate(sizes):
        build.write_partition(path, i, partition(size, seed=i, name=f"f{i}.fits"))
    return finalise(path, overwrite=init.get("overwrite", False))


def files(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store as `make` makes it; treat it as read-only."""
    return make(tmp_path_factory.mktemp("made") / "s.zarr").path


@pytest.fixture
def copied(made, tmp_path):
    """A copy of it, to be spoilt or replaced."""
    return shutil.copytree(made, tmp_path / "s.zarr")


def test_what_is_written_is_read(tmp_path):
    store = make(tmp_path / "s.zarr")
    assert store.n_stamps == 14
    np.testing.assert_array_equal(store.read_stamps(slice(5, 14)), partition(9, seed=2).stamps)
    np.testing.assert_array_equal(
        store.read_stamps(np.array([13, 0])),
        [partition(9, seed=2).stamps[-1], partition(5, seed=0).stamps[0]],
    )
    np.testing.assert_array_equal(store.column("frame"), np.repeat([0, 2], [5, 9]))
    np.testing.assert_array_equal(store.column("truth/frame"), np.repeat([0, 1, 2], 7))
    stamp = store.column("truth/stamp")
    np.testing.assert_array_equal(stamp[:7], [0, 1, 2, 3, 4, -1, -1])
    np.testing.assert_array_equal(stamp[7:14], -1)
    np.testing.assert_array_equal(stamp[14:], np.arange(5, 12))
    assert store.frame_names == ["f0.fits", "f1.fits", "f2.fits"]
    assert not partial_path(tmp_path / "s.zarr").exists()


def test_stamps_cross_shards_without_loss(tmp_path, monkeypatch):
    monkeypatch.setattr(schema, "SHARD_STAMPS", 512)
    path = tmp_path / "s.zarr"
    store = make(path, sizes=(700, 3, 0, 900))
    expected = np.concatenate([partition(n, seed=i).stamps for i, n in enumerate((700, 3, 0, 900))])
    np.testing.assert_array_equal(store.read_stamps(), expected)
    rows = np.random.default_rng(1).permutation(1603)
    np.testing.assert_array_equal(store.read_stamps(rows), expected[rows])
    assert len(list((path / "stamps" / "c").iterdir())) == 4


def test_plain_zarr_and_xarray_open_it_without_a_warning(made):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = xr.open_zarr(made)
        assert dict(data.sizes) == {"stamp": 14, "channel": 3, "y": 29, "x": 29}
        assert dict(xr.open_zarr(made, group="truth").sizes) == {"truth": 21}
        assert dict(xr.open_zarr(made, group="frames").sizes) == {"frame": 3}
        root = zarr.open_group(made, mode="r")
    assert root["stamps"].metadata.zarr_format == 3
    assert root["stamps"].shards == (schema.SHARD_STAMPS, 3, 29, 29)
    assert {s.name for s in (schema.STAMPS, *schema.CANDIDATE_COLUMNS)} <= set(root.array_keys())
    for spec in (schema.STAMPS, *schema.CANDIDATE_COLUMNS):
        assert root[spec.name].dtype == spec.dtype
        assert root[spec.name].attrs["description"] == spec.description


def test_order_and_resumption_do_not_change_a_byte(made, tmp_path):
    b = tmp_path / "b.zarr"
    assert build.init(b, config={"a": 1}, inputs=["0", "1", "2"], summary=NOTE) == [0, 1, 2]
    build.write_partition(b, 2, partition(9, seed=2, name="f2.fits"))
    with pytest.raises(InputError, match="unfinished build; give --resume"):
        build.init(b, config={"a": 1}, inputs=["0", "1", "2"], summary=NOTE)
    with pytest.raises(InputError, match="is unfinished"):
        open_store(b)
    assert build.init(b, config={"a": 1}, inputs=["0", "1", "2"], summary=NOTE, resume=True) == [0, 1]
    build.write_partition(b, 1, partition(0, seed=1, name="f1.fits"))
    with pytest.raises(InputError, match=r"partitions 1 of 3 are missing \(0\)"):
        finalise(b)
    build.write_partition(b, 0, partition(5, seed=0, name="f0.fits"))
    finalise(b)
    assert files(made) == files(b)


def test_finalise_can_be_repeated_after_a_kill(made, tmp_path):
    path = tmp_path / "b.zarr"
    build.init(path, config={"a": 1}, inputs=["0", "1", "2"], summary=NOTE)
    for i, size in enumerate((5, 0, 9)):
        build.write_partition(path, i, partition(size, seed=i, name=f"f{i}.fits"))
    half_done = partial_path(path) / "store"
    shutil.copytree(made, half_done)
    (half_done / "zarr.json").unlink()
    finalise(path)
    assert files(made) == files(path)


def test_another_configuration_or_input_cannot_resume(tmp_path):
    path = tmp_path / "s.zarr"
    build.init(path, config={"a": 1, "b": 2}, inputs=["0"])
    with pytest.raises(InputError, match="was begun with another b"):
        build.init(path, config={"a": 1, "b": 3}, inputs=["0"], resume=True)
    with pytest.raises(InputError, match="other frames or frames that have changed"):
        build.init(path, config={"a": 1, "b": 2}, inputs=["1"], resume=True)
    with pytest.raises(InputError, match="exclude each other"):
        build.init(path, config={}, inputs=[], resume=True, overwrite=True)


def test_existing_store_is_refused_or_replaced_only_when_the_new_one_is_whole(copied):
    path = copied
    with pytest.raises(InputError, match="exists already; give --overwrite"):
        build.init(path, config={}, inputs=["0"])
    build.init(path, config={"a": 2}, inputs=["0"], overwrite=True)
    assert open_store(path).attributes["config"] == {"a": 1}
    build.write_partition(path, 0, partition(2))
    finalise(path, overwrite=True)
    assert open_store(path).attributes["config"] == {"a": 2}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "no such store"),
        (lambda p: (p / "zarr.json").unlink(), "is not a Zarr v3 group"),
        (lambda p: _edit(p, version=99), r"has store version 99, this rbsim reads version \d+"),
        (lambda p: _edit(p, format="other"), "is not an rbsim store"),
    ],
)
def test_what_is_not_our_store_is_refused(copied, spoil, message):
    spoil(copied)
    with pytest.raises(InputError, match=message):
        open_store(copied)


def _delete(path, name):
    target = path / name
    shutil.rmtree(target) if target.is_dir() else target.unlink()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("label_true", "file label_true/c/0 is missing and 1 more"),
        ("truth/snr", "file truth/snr/c/0 is missing and 1 more"),
        ("stamps/c/0", "file stamps/c/0/0/0/0 is missing"),
        ("snr/c/0", "file snr/c/0 is missing"),
    ],
)
def test_a_store_that_lost_a_part_is_refused_not_read_as_zeros(copied, name, message):
    _delete(copied, name)
    with pytest.raises(InputError, match=message):
        open_store(copied)


def test_nothing_but_a_store_is_ever_replaced(tmp_path):
    precious = tmp_path / "frames"
    precious.mkdir()
    (precious / "a.fits").write_text("photons")
    for place in (precious, precious / "a.fits"):
        with pytest.raises(InputError, match="is not an rbsim store and is not replaced"):
            build.init(place, config={}, inputs=["0"], overwrite=True)
    assert (precious / "a.fits").read_text() == "photons"


def test_an_interrupted_overwrite_is_resumed(copied):
    path = copied
    build.init(path, config={"a": 2}, inputs=["0"], overwrite=True)
    assert build.init(path, config={"a": 2}, inputs=["0"], resume=True) == [0]
    build.write_partition(path, 0, partition(2))
    assert build.finished(path, [0]) == [("", 2)]
    finalise(path, overwrite=True)
    assert open_store(path).n_stamps == 2


def _edit(path, **attributes):
    content = json.loads((path / "zarr.json").read_text())
    content["attributes"] |= attributes
    (path / "zarr.json").write_text(json.dumps(content))


def test_a_flipped_byte_is_an_error_not_a_wrong_pixel(tmp_path):
    path = tmp_path / "s.zarr"
    store = make(path, sizes=(300,))
    shard = next(p for p in (path / "stamps").rglob("*") if p.is_file() and p.name != "zarr.json")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(InputError, match=r"stamps is damaged .*checksum"):
        store.read_stamps()


def test_partitions_that_do_not_fit_the_schema_are_refused(tmp_path):
    path = tmp_path / "s.zarr"
    build.init(path, config={}, inputs=["0"])
    good = partition(4)
    short = Partition(**{**vars(good), "candidates": {**good.candidates, "snr": np.zeros(3)}})
    with pytest.raises(InputError, match=r"columns of wrong length: \['snr'\]"):
        build.write_partition(path, 0, short)
    extra = Partition(**{**vars(good), "truth": {**good.truth, "colour": np.zeros(7)}})
    with pytest.raises(InputError, match=r"differ from the schema: .*colour"):
        build.write_partition(path, 0, extra)
    wrong = Partition(**{**vars(good), "stamps": good.stamps[:, :, :20]})
    with pytest.raises(InputError, match="stamps have shape"):
        build.write_partition(path, 0, wrong)


def test_truncated_partition_is_named(tmp_path):
    path = tmp_path / "s.zarr"
    build.init(path, config={}, inputs=["0"])
    build.write_partition(path, 0, partition(4))
    file = partial_path(path) / "partition_000000.npz"
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(
        InputError, match=r"partition_000000.npz: unreadable partition .* --resume, or with --partition"
    ):
        finalise(path)


def test_unwritable_place_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write there"):
        build.init(tmp_path / "file" / "s.zarr", config={}, inputs=["0"])


def test_bits_codes_and_names_of_the_schema_are_unique():
    for flags in (schema.MASK_PLANES, schema.CANDIDATE_FLAGS, schema.INJECTION_FLAGS):
        assert len({f.bit for f in flags}) == len({f.name for f in flags}) == len(flags)
    assert [kind.code for kind in schema.KINDS] == list(range(len(schema.KINDS)))
    assert schema.label_of_kind(schema.KIND_CODES["artefact"]) == (0, schema.LABEL_SOURCES["emulator"])
    for specs in (schema.CANDIDATE_COLUMNS, schema.TRUTH_COLUMNS, schema.FRAME_COLUMNS):
        assert len({s.name for s in specs}) == len(specs)


def test_a_store_of_version_4_is_read_as_one_of_a_single_reference(tmp_path):
    path = tmp_path / "s.zarr"
    make(path)
    root = path / "zarr.json"
    root.write_text(root.read_text().replace('"version": 5,', '"version": 4,'))
    counts = {name: value for name, value in read_manifest(path).items() if name != "files"}
    for name in BEFORE_5:
        shutil.rmtree(path / name)
    write_manifest(path, **counts)
    old = open_store(path)
    assert old.references == ()
    specs = {s.name: s for s in (*schema.CANDIDATE_COLUMNS, *schema.FRAME_COLUMNS)}
    for name, value in BEFORE_5.items():
        values = old.column(name)
        assert values.dtype == specs[name.rpartition("/")[2]].dtype
        assert values.shape == ((len(old.frame_names),) if "/" in name else (old.n_stamps,))
        np.testing.assert_array_equal(values, np.full_like(values, value))


def test_a_store_without_the_columns_added_to_its_version_is_read(tmp_path):
    path = tmp_path / "s.zarr"
    make(path)
    facts = json.loads((path / "zarr.json").read_text())
    counts = {name: value for name, value in read_manifest(path).items() if name != "files"}
    for name in ADDED_TO_5:
        shutil.rmtree(path / name)
        assert facts["consolidated_metadata"]["metadata"].pop(name)
    (path / "zarr.json").write_text(json.dumps(facts))
    write_manifest(path, **counts)
    old = open_store(path)
    for name in ADDED_TO_5:
        np.testing.assert_array_equal(old.column(name), np.full(len(old.frame_names), BEFORE_5[name]))
