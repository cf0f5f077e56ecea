"""Models: trained on given labels only, whole on disk, the same bits of the same seed; refused if damaged."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from _models import make_model

from rbmodel.checkpoint import save_checkpoint
from rbmodel.dataset import normalise
from rbmodel.model import load_model, save_model
from rbmodel.model_training import ModelConfig, train_model
from rbmodel.train import TrainConfig, predict
from rbsim.errors import InputError
from rbsim.label_sets import write_labels
from rbsim.store import Store, open_store

# Threads that share cores with other work wait for each other; these fits are too small for two.
torch.set_num_threads(1)

FAST = TrainConfig(n_epochs=3, batch_size=64)
CONFIG = ModelConfig(n_bootstrap=50, n_folds=2, train=FAST)


@pytest.fixture(scope="module")
def trained(synthetic_store, tmp_path_factory):
    out = tmp_path_factory.mktemp("model") / "m"
    return out, train_model(synthetic_store.path, out, CONFIG)


@pytest.fixture(scope="module")
def labelled(synthetic_store, tmp_path_factory):
    """A copy of the store with label settings that have one class, or none."""
    path = tmp_path_factory.mktemp("labelled") / "s.zarr"
    shutil.copytree(synthetic_store.path, path)
    store = open_store(path)
    n = store.n_stamps
    for name, label in (("nothing", -1), ("bogus", 0), ("real", 1)):
        arrays = {
            "label_given": np.full(n, label, np.int8),
            "reason": np.zeros(n, np.int8),
            "flip_probability": np.zeros(n, np.float32),
        }
        write_labels(store, name, arrays, {"mechanism": "<b>by | hand</b>"})
    noisy = store.column("label_given")
    noisy[np.flatnonzero(noisy >= 0)[::20]] ^= 1
    write_labels(store, "noisy", arrays | {"label_given": noisy}, {"mechanism": "<b>by | hand</b>"})
    return path


def _files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_model_says_how_it_was_made_and_how_good_it_is(trained, synthetic_store):
    out, told = trained
    assert set(_files(out)) == {
        "model.safetensors", "model.json", "README.md", "reliability.png", "reliability.csv",
    }  # fmt: skip
    facts = json.loads((out / "model.json").read_text())["details"]
    assert facts["version"] == told["version"]
    assert facts["store"]["manifest_sha256"] == synthetic_store.manifest_sha256
    assert facts["labels"]["setting"] is None
    assert facts["labels"]["mislabelled_by_truth"] == 0
    assert facts["prevalence"] == pytest.approx(0.5, abs=0.01)  # balanced by dropping
    assert facts["metrics"]["truth"]["evaluation_only"] is True
    assert facts["metrics"]["given"]["auc"]["value"] > 0.8
    assert 0 < facts["metrics"]["given"]["calibration_error"] < 0.3


def test_the_same_seed_gives_the_same_folder_and_another_seed_another_version(
    trained, synthetic_store, tmp_path
):
    out, told = trained
    train_model(synthetic_store.path, tmp_path / "again", CONFIG)
    assert _files(tmp_path / "again") == _files(out)
    other = ModelConfig(n_bootstrap=50, n_folds=2, seed=2, train=FAST)
    assert train_model(synthetic_store.path, tmp_path / "other", other)["version"] != told["version"]


def test_no_recipe_ever_sees_the_truth(trained, synthetic_store, tmp_path, monkeypatch):
    """With every true label turned around the weights stay, and only the figures against the truth change."""
    column = Store.column

    def turned(self, name):
        values = column(self, name)
        return np.where(values >= 0, 1 - values, values).astype(np.int8) if name == "label_true" else values

    monkeypatch.setattr(Store, "column", turned)
    facts = train_model(synthetic_store.path, tmp_path / "m", CONFIG)
    assert facts["version"] == trained[1]["version"]
    assert facts["metrics"]["given"] == trained[1]["metrics"]["given"]
    assert facts["metrics"]["truth"]["auc"] < 0.5 < trained[1]["metrics"]["truth"]["auc"]


def test_a_loaded_model_gives_the_scores_that_were_judged(trained, synthetic_store):
    model = load_model(trained[0])
    stamps = synthetic_store.read_stamps(slice(0, 100))
    scores = model.score(stamps)
    np.testing.assert_array_equal(scores, predict(model.network, normalise(stamps, method="minmax")))
    probability = model.probability(scores)
    assert np.all((probability > 0) & (probability < 1))
    np.testing.assert_array_equal(np.argsort(probability, kind="stable"), np.argsort(scores, kind="stable"))


def test_wrong_labels_are_in_the_provenance_and_nothing_of_them_is_markup(labelled, tmp_path):
    config = ModelConfig(recipe="removed", labels="noisy", n_bootstrap=50, n_folds=2, train=FAST)
    facts = train_model(labelled, tmp_path / "m", config)
    assert facts["labels"]["mislabelled_by_truth"] == pytest.approx(0.05, abs=0.02)
    assert facts["labels"]["n_suspect"] > 0
    assert 0 <= facts["labels"]["mislabelled_by_stage_1"] < 0.5
    card = (tmp_path / "m" / "README.md").read_text()
    assert "<b>" not in card
    assert "noisy" in card
    header = card.split("---\n")[1]
    assert json.loads(re.search(r"- name: (.*)", header)[1]) == facts["version"]
    assert f"value: {facts['metrics']['given']['auc']['value']}" in header


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("nothing", "none of its 1800 stamps has a given label"),
        ("bogus", "all 1800 labelled stamps are given bogus; a classifier needs real too"),
        ("real", "all 1800 labelled stamps are given real; a classifier needs bogus too"),
        ("absent", "has no label setting 'absent'; there are"),
    ],
)
def test_labels_that_nothing_can_be_learnt_from_are_refused(labelled, tmp_path, labels, message):
    with pytest.raises(InputError, match=message):
        train_model(labelled, tmp_path / "m", ModelConfig(labels=labels, train=FAST))
    assert list(tmp_path.iterdir()) == []


def test_unknown_recipes_and_the_oracle_are_refused():
    for recipe in ("oracle", "magic"):
        with pytest.raises(InputError, match=f"recipe is '{recipe}'; choose one of baseline"):
            ModelConfig(recipe=recipe)


def test_an_older_model_stays_until_the_new_one_is_whole(trained, synthetic_store, tmp_path, monkeypatch):
    out = tmp_path / "m"
    shutil.copytree(trained[0], out)
    before = _files(out)
    with pytest.raises(InputError, match="exists already; give --overwrite"):
        train_model(synthetic_store.path, out, CONFIG)
    monkeypatch.setattr("rbmodel.model_training.write_card", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train_model(synthetic_store.path, out, CONFIG, overwrite=True)
    assert _files(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize(
    "change",
    [{"temperature": 1.6}, {"prevalence": 0.4}, {"normalisation": "asinh"}, {"precision": "bfloat16"}],
)
def test_the_version_knows_all_that_scores_depend_on(change):
    assert make_model(**change).version != make_model().version == make_model().version


def _damage(folder, what):
    facts, weights = folder / "model.json", folder / "model.safetensors"
    content = json.loads(facts.read_text())
    if what == "flipped":
        bits = bytearray(weights.read_bytes())
        bits[-100] ^= 1
        weights.write_bytes(bits)
    elif what == "cut":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif what == "other network":
        save_checkpoint(folder / "c.safetensors", make_model("complex").network, normalisation="minmax")
        shutil.move(folder / "c.safetensors", weights)
        del content["weights_sha256"]
    elif what == "temperature":
        content["details"]["temperature"] = 3.0
    elif what == "nothing known":
        content["details"] = {}
    elif what == "normalisation":
        content["normalisation"] = "magic"
    elif what == "no JSON":
        facts.write_text("[")
        return
    elif what == "channels":
        content["channels"] = content["channels"][::-1]
    facts.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("flipped", "is not as it was written"),
        ("cut", "is not a readable checkpoint"),
        ("other network", "its weights are not those of the network 'simple'"),
        ("temperature", "changed after it was written"),
        ("nothing known", "lacks what scores depend on"),
        ("normalisation", "has a setting that this rbsim does not know"),
        ("no JSON", "is not a readable checkpoint"),
        ("channels", "was trained on other channels or stamp sizes"),
    ],
)
def test_damaged_and_changed_models_are_refused(tmp_path, what, message):
    save_model(tmp_path, make_model(), {})
    assert load_model(tmp_path).version == make_model().version
    _damage(tmp_path, what)
    with pytest.raises(InputError, match=message):
        load_model(tmp_path)


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"is not a model \(no model.json\); give a folder made by rbsim train"
    ):
        load_model(tmp_path)
