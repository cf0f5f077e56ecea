"""The authors' files to a store and back: pixels and labels bit by bit, and a store that can be split."""

import csv

import numpy as np
import pytest
from _synthetic_store import make_store

from rbmodel.splits import make_split, read_footprints, read_tiling
from rbmodel.trial import load_pools
from rbsim import schema
from rbsim.card import card_files
from rbsim.convert.authors import import_authors, open_images
from rbsim.convert.authors_out import export_authors
from rbsim.describe import describe_store, describe_text
from rbsim.errors import InputError

CLASSES = ("artifact", "galx_artificial_real", "rand_artificial_real")


def write_set(folder, sensors, *, n=60, seed=0, **columns):
    """Images with NaN here and there, and tables with columns of ours and of nobody."""
    folder.mkdir(exist_ok=True)
    for sensor in sensors:
        rng = np.random.default_rng([seed, sensor])
        images = rng.normal(0, 5, (n, 29, 29, 3)).astype(np.float32)
        np.save(folder / f"images{sensor}.npy", images)
        with (folder / f"params{sensor}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["object_type", "mag", "x", "seeing", *columns])
            for i in range(n):
                writer.writerow(
                    [CLASSES[i % 3], 15 + i / 10, 10 * i, "good", *(c[i] for c in columns.values())]
                )
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("authors"), (2, 10, 111))


@pytest.fixture(scope="module")
def imported(folder):
    return import_authors(folder, folder.parent / "authors.zarr", piece_stamps=25)


def test_sensors_are_sorted_by_number_and_rows_stay_in_order(imported):
    sensor = imported.store.column("sensor")
    assert sensor.tolist() == [2] * 60 + [10] * 60 + [111] * 60
    assert np.allclose(imported.store.column("mag")[:60], 15 + np.arange(60) / 10)
    assert imported.store.column("frames/sensor").tolist() == [2, 2, 2, 10, 10, 10, 111, 111, 111]


def test_pixels_are_those_of_the_files_with_the_channels_by_name(folder, imported):
    images = np.load(folder / "images10.npy")
    stamps = imported.store.read_stamps(slice(60, 120))
    for number, channel in enumerate(("reference", "science", "difference")):
        assert np.array_equal(stamps[:, schema.CHANNELS.index(channel)], images[..., number])


def test_another_order_of_the_channels_is_taken_as_said(folder, tmp_path):
    store = import_authors(folder, tmp_path / "o.zarr", channels="new, ref ,sub").store
    images = np.load(folder / "images2.npy")
    assert np.array_equal(
        store.read_stamps(slice(0, 60))[:, schema.CHANNELS.index("science")], images[..., 0]
    )
    with pytest.raises(InputError, match="give ref, new and sub once each"):
        import_authors(folder, tmp_path / "p.zarr", channels="ref,new,new")


def test_classes_are_kinds_and_bogus_are_only_assumed(imported):
    kind, label = imported.store.column("kind"), imported.store.column("label_true")
    names = [schema.KINDS[k].name for k in kind[:3]]
    assert names == ["detection", "injected_near_galaxy", "injected_random"]
    assert label[:3].tolist() == [0, 1, 1]
    source = imported.store.column("label_true_source")
    assert set(source[label == 0]) == {schema.LABEL_SOURCES["assumed"]}
    assert imported.n_of_class == dict.fromkeys(CLASSES, 60)


def test_columns_are_kept_or_said_to_be_lost(imported):
    assert imported.kept == {"mag": "mag", "x": "x_pix"}
    assert imported.dropped == ("seeing",)
    assert imported.store.attributes["config"]["columns_dropped"] == ["seeing"]
    assert np.isnan(imported.store.column("snr")).all()
    assert np.allclose(imported.store.column("noise_adu"), 5, rtol=0.25)


def test_what_the_files_do_not_say_is_unknown_and_no_number(imported):
    store = imported.store
    assert store.attributes["config"]["threshold_snr"] is None
    facts = describe_store(store)
    assert facts["threshold_snr"] is None
    assert dict(describe_text(facts))["detection threshold"] == "not known"
    assert "| threshold\\_snr | not given |" in card_files(store, {})["README.md"]


def test_it_can_be_split_and_gives_pools_for_a_benchmark(tmp_path):
    store = import_authors(write_set(tmp_path / "a", (1, 2, 3), n=300), tmp_path / "a.zarr").store
    split = make_split(read_footprints(store), read_tiling(store), split_seed=0)
    pools = load_pools(store, split, normalisation="asinh")
    sensor, block = store.column("sensor"), store.column("block")
    rows = {role: split.rows(role) for role in ("train", "validation", "test")}
    assert len({s for r in rows.values() for s in set(sensor[r])}) == 3
    assert not set(sensor[rows["train"]]) & set(sensor[rows["test"]])
    assert not set(block[rows["train"]]) & set(block[rows["test"]])
    assert min(len(p) for p in (pools.training, pools.validation, pools.test)) > 0


def test_one_detector_alone_can_be_split_too(tmp_path):
    store = import_authors(write_set(tmp_path / "a", (7,), n=300), tmp_path / "a.zarr").store
    split = make_split(read_footprints(store), read_tiling(store), split_seed=0)
    assert all(len(split.rows(role)) for role in ("train", "validation", "test"))
    assert "leakage cannot be excluded" in store.attributes["groups"]


def test_a_store_goes_out_and_comes_back_bit_by_bit(tmp_path):
    store = make_store(tmp_path / "s.zarr", n_stamps=800)
    done = export_authors(store, tmp_path / "out")
    given = store.column("label_given")
    rows = np.flatnonzero(given >= 0)
    assert done.n_left_out == len(given) - len(rows)
    assert sum(done.n_of_class.values()) == len(rows)
    back = import_authors(tmp_path / "out", tmp_path / "back.zarr").store
    assert np.array_equal(back.read_stamps(), store.read_stamps(rows))
    assert np.array_equal(back.column("label_given"), given[rows])
    for name in ("snr", "noise_adu"):
        assert np.array_equal(back.column(name), store.column(name)[rows])


def test_the_files_are_what_the_authors_reader_expects(tmp_path):
    store = make_store(tmp_path / "s.zarr", n_stamps=80)
    export_authors(store, tmp_path / "out")
    images = np.load(tmp_path / "out" / "images0.npy")  # no allow_pickle, as they do it
    assert images.dtype == np.float32
    assert images.shape[1:] == (29, 29, 3)
    with (tmp_path / "out" / "params0.csv").open() as file:
        rows = list(csv.DictReader(file))
    labels = [
        {"artifact": 0, "galx_artificial_real": 1, "rand_artificial_real": 1}[r["object_type"]] for r in rows
    ]
    assert len(images) == len(rows)
    given = store.column("label_given")
    assert labels == given[given >= 0].tolist()
    assert [int(r["stamp"]) for r in rows] == np.flatnonzero(given >= 0).tolist()


def test_labels_of_another_setting_and_pixels_without_value(tmp_path):
    write_set(tmp_path / "in", (1, 5), n=12)
    images = np.load(tmp_path / "in" / "images5.npy")
    images[3, 4, 5, 2] = np.nan
    np.save(tmp_path / "in" / "images5.npy", images)
    store = import_authors(tmp_path / "in", tmp_path / "s.zarr").store
    assert store.column("flags")[12 + 3] == 0  # only the difference lacks it
    labels = 1 - store.column("label_given")
    labels[0] = -1
    done = export_authors(store, tmp_path / "out", labels=labels, fill=-7.5)
    assert (done.n_filled_pixels, done.n_left_out, done.sensors) == (1, 1, (1, 5))
    assert np.load(tmp_path / "out" / "images5.npy")[3, 4, 5, 2] == -7.5
    assert done.n_of_class == {
        "artifact": 16,  # what was real is bogus now
        "galx_artificial_real": 0,
        "rand_artificial_real": 7,
    }
    with pytest.raises(InputError, match=r"labels have shape \(3,\)"):
        export_authors(store, tmp_path / "x", labels=labels[:3])


def test_an_interrupted_import_goes_on_and_gives_the_same(folder, imported, tmp_path, monkeypatch):
    from rbsim import build  # noqa: PLC0415

    write = build.write_partition

    def dies(path, index, partition):
        if index == 4:
            raise KeyboardInterrupt
        write(path, index, partition)

    monkeypatch.setattr(build, "write_partition", dies)
    with pytest.raises(KeyboardInterrupt):
        import_authors(folder, tmp_path / "o.zarr", piece_stamps=25)
    assert not (tmp_path / "o.zarr").exists()
    monkeypatch.setattr(build, "write_partition", write)
    again = import_authors(folder, tmp_path / "o.zarr", piece_stamps=25, resume=True).store
    manifest = (imported.store.path / "manifest.json").read_bytes()
    assert (again.path / "manifest.json").read_bytes() == manifest


def spoil(folder, how):
    params, images = folder / "params1.csv", folder / "images1.npy"
    text = params.read_text()
    match how:
        case "count":
            params.write_text(text.rsplit("\n", 2)[0] + "\n")
        case "class":
            params.write_text(text.replace("artifact", "ghost"))
        case "shape":
            np.save(images, np.zeros((6, 3, 29, 29), np.float32))
        case "pickle":
            np.save(images, np.array([{"a": 1}], dtype=object), allow_pickle=True)
        case "dtype":
            np.save(images, np.zeros((6, 29, 29, 3), int))
        case "lonely":
            params.unlink()
        case "cells":
            params.write_text(text + "artifact,1\n")
        case "number":
            params.write_text(text.replace("15.0", "bright"))
        case "column":
            params.write_text(text.replace("object_type", "type"))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("count", "has 5 rows and images1.npy 6 images"),
        ("class", "row 1 has object_type 'ghost'; known are artifact"),
        ("shape", r"has shape \(6, 3, 29, 29\); \(n, 29, 29, 3\) is wanted"),
        ("pickle", "is no NumPy array of numbers"),
        ("dtype", "has data type int64; float32 is wanted"),
        ("lonely", "there is no params1.csv beside it"),
        ("cells", "line 8 has 2 cells and the header 4"),
        ("number", "row 1 has mag 'bright'"),
        ("column", "needs one column object_type"),
    ],
)
def test_unusable_files_are_named_and_no_store_appears(tmp_path, how, words):
    folder = write_set(tmp_path / "a", (1,), n=6)
    spoil(folder, how)
    with pytest.raises(InputError, match=words):
        import_authors(folder, tmp_path / "o.zarr")
    assert not (tmp_path / "o.zarr").exists()


def test_files_are_mapped_and_not_read(folder):
    assert isinstance(open_images(folder / "images2.npy"), np.memmap)
