"""Benchmarks on label settings: training on them, tests on the truth, rows that say what was in them."""

import json
import shutil

import numpy as np
import pytest
import torch

from rbmodel import results
from rbmodel.recipes.table import RECIPES, Recipe
from rbmodel.report import build_report
from rbmodel.splits import make_split, read_footprints, read_tiling
from rbmodel.study import BenchmarkConfig, run_benchmark
from rbmodel.train import TrainConfig
from rbmodel.trial import load_pools, make_trial
from rbsim import label_sets, schema
from rbsim.errors import InputError
from rbsim.label_noise import REASON_CODES
from rbsim.relabel import RelabelConfig, relabel
from rbsim.store import open_store

torch.set_num_threads(1)
TRANSIENT = schema.KIND_CODES["emulated_transient"]


def config(**changes):
    given = {
        "mislabel_bogus": 0.0,
        "mislabel_real": 0.0,
        "labels": "survey",
        "n_folds": 2,
        "n_bootstrap": 20,
        "train": TrainConfig(n_epochs=4, batch_size=64),
    }
    return BenchmarkConfig(**(given | changes))


@pytest.fixture(scope="module")
def store(synthetic_store, tmp_path_factory):
    """A copy of the synthetic store with two settings: transients left among the bogus, and chance."""
    path = tmp_path_factory.mktemp("labels") / "s.zarr"
    shutil.copytree(synthetic_store.path, path)
    relabel(path, "survey", RelabelConfig("mechanism", 0.1, 0.0))
    relabel(path, "chance", RelabelConfig("class-conditional", 0.1, 0.2))
    return open_store(path)


def pools_of(store, name):
    split = make_split(read_footprints(store), read_tiling(store), split_seed=0)
    label_set = None if name is None else label_sets.read_labels(store, name)
    return load_pools(store, split, normalisation="minmax", label_set=label_set)


def test_training_has_the_labels_of_the_setting_and_the_test_none_of_it(store):
    plain, survey = pools_of(store, None), pools_of(store, "survey")
    for name in ("row", "label_true", "kind", "group"):
        np.testing.assert_array_equal(getattr(plain.test, name), getattr(survey.test, name))
    assert TRANSIENT in survey.training.kind
    assert TRANSIENT not in plain.training.kind
    left = survey.training.kind == TRANSIENT
    assert (survey.training.label_given[left] == 0).all()
    assert (survey.training.label_true[left] == 1).all()
    # What the setting does not bring in stays out.
    setting = label_sets.read_labels(store, "survey")
    np.testing.assert_array_equal(
        setting.reason[survey.training.row[left]], np.full(left.sum(), REASON_CODES["transient_left"])
    )
    trial = make_trial(survey, bogus_per_real=1.0, mislabel_bogus=0.0, mislabel_real=0.0, seed=0)
    np.testing.assert_array_equal(trial.training_set.label_given, setting.label_given[trial.training_row])
    got = trial.contamination
    assert got.n_wrong_bogus == np.sum((trial.training_set.label_given == 0) & (trial.training_true == 1))
    assert got.mislabel_bogus == pytest.approx(0.1, abs=0.04)
    assert got.n_wrong_real == 0
    with pytest.raises(InputError, match="has its wrong labels already"):
        make_trial(survey, bogus_per_real=1.0, mislabel_bogus=0.1, mislabel_real=0.0, seed=0)


def test_known_objects_left_among_the_bogus_are_real_to_the_oracle(store):
    setting = label_sets.read_labels(store, "survey")
    pools = pools_of(store, "survey")
    row = pools.training.row[pools.training.label_given == 0][0]
    reason, given = setting.reason.copy(), setting.label_given.copy()
    reason[row] = REASON_CODES["known_left"]
    split = make_split(read_footprints(store), read_tiling(store), split_seed=0)
    changed = label_sets.LabelSet("k", given, reason, setting.flip_probability, {"mechanism": "mechanism"})
    training = load_pools(store, split, normalisation="minmax", label_set=changed).training
    assert training.label_true[training.row == row] == [1]


def test_rows_say_which_setting_and_what_the_training_set_had(store, tmp_path):
    rows = {}
    for name in ("survey", "chance"):
        out = tmp_path / name
        rows[name] = run_benchmark(store.path, out, config(labels=name, methods=("baseline", "removed")))
        assert [row["reason"] for row in rows[name]] == ["", ""]
        with np.load(out / "runs" / f"{rows[name][1]['run_id']}.npz", allow_pickle=False) as run:
            given, true = run["train_label_given"], run["train_label_true"]
            assert schema.KIND_CODES["injected_lost"] not in run["test_kind"]
        for row in rows[name]:
            assert row["mislabel_bogus"] == np.mean(true[given == 0] == 1)
            assert row["mislabel_real"] == np.mean(true[given == 1] == 0)
        assert json.loads((out / "study.json").read_text())["labels"]["seed"] == 1
    assert [row["label_noise"] for row in rows["survey"]] == ["mechanism/survey"] * 2
    assert [row["label_noise"] for row in rows["chance"]] == ["class-conditional/chance"] * 2
    assert rows["chance"][0]["mislabel_real"] == pytest.approx(0.2, abs=0.04)
    ids = [row["run_id"] for name in rows for row in rows[name]]
    assert len(set(ids)) == 4
    # A setting made anew under the old name is another benchmark.
    relabel(store.path, "chance", RelabelConfig("class-conditional", 0.1, 0.2, seed=2), overwrite=True)
    same = config(labels="chance", methods=("baseline", "removed"))
    with pytest.raises(InputError, match="was begun with another labels"):
        run_benchmark(store.path, tmp_path / "chance", same, resume=True)


def test_seeds_of_a_setting_are_one_setting_of_the_report(store, tmp_path):
    out = tmp_path / "out"
    rows = run_benchmark(store.path, out, config(n_seeds=2, methods=("baseline",)))
    assert rows[0]["mislabel_bogus"] != rows[1]["mislabel_bogus"]
    page = build_report(out, store.path).read_text()
    # With several settings the figures of each would have its number.
    assert not list((out / "figures").glob("setting*"))
    assert "mechanism/survey" in page


def test_recipes_cannot_read_the_truth_of_a_setting(store, tmp_path, monkeypatch):
    """All that a recipe is handed is given labels, wrong ones too."""
    seen = []

    def record(_network, training_set, validation_set, _config, **_options):
        seen.append((training_set.label_given, validation_set.label_given))
        raise RuntimeError("not trained")

    monkeypatch.setitem(RECIPES, "baseline", Recipe(record))
    run_benchmark(store.path, tmp_path / "out", config(methods=("baseline", "oracle")))
    (given, _), (true, _) = seen
    assert np.sum(given != true) == np.sum((given == 0) & (true == 1)) > 10
    assert len(results.read_rows(tmp_path / "out")) == 2


def test_a_setting_that_is_not_there_and_double_noise_are_refused(store, tmp_path):
    with pytest.raises(InputError, match="has no label setting 'none'; there are chance, survey"):
        run_benchmark(store.path, tmp_path / "out", config(labels="none"))
    with pytest.raises(InputError, match="survey has its wrong labels already; mislabel_bogus"):
        config(mislabel_real=0.1)
