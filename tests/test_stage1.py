"""Stage 1 in rounds and with a threshold; what it does with input that it cannot use."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rbmodel import label_cleaning
from rbmodel.dataset import TrainingSet
from rbmodel.label_cleaning import (
    Cleaning,
    assign_folds,
    clean_labels,
    find_suspects,
    labels_without_suspects,
)
from rbmodel.networks import make_network
from rbmodel.recipes.table import RECIPES
from rbmodel.train import FitResult, TrainConfig, predict
from rbsim.errors import InputError

torch.set_num_threads(1)
FAST = TrainConfig(n_epochs=2, batch_size=32)
N = 120


def _set(label_given, group=None):
    """Stamps of which the first pixel says what they are."""
    label_given = np.asarray(label_given, np.int8)
    stamps = np.random.default_rng(0).random((len(label_given), 3, 29, 29)).astype(np.float32)
    return TrainingSet(stamps, label_given, np.arange(len(label_given)) % 12 if group is None else group)


ALTERNATING = np.arange(N) % 2


@pytest.fixture
def recorded(monkeypatch):
    """The training sets of all fits; nothing is trained, scores are what `scores` says of each round."""
    seen = []

    def no_fit(_network, training_set, _validation_set, _loss, config, **_options):
        seen.append(training_set)
        return FitResult((0.0,) * config.n_epochs, (0.0,) * config.n_epochs, 0, 1.0, 1.0)

    monkeypatch.setattr(label_cleaning, "fit", no_fit)
    return seen


def test_a_second_round_trains_without_the_suspects_of_the_first_and_judges_all_anew(recorded, monkeypatch):
    data = _set(ALTERNATING)
    marked = data.stamps[:, 0, 0, 0]
    suspects_of_round = [marked > np.sort(marked)[-11], marked > np.sort(marked)[-4]]
    numbers = iter(range(6))

    def score(_network, stamps, **_options):
        contradicted = np.isin(stamps[:, 0, 0, 0], marked[suspects_of_round[next(numbers) // 3]])
        given = np.isin(stamps[:, 0, 0, 0], marked[data.label_given == 1])
        return np.where(given ^ contradicted, 3.0, -3.0).astype(np.float32)

    monkeypatch.setattr(label_cleaning, "predict", score)
    calls = []
    cleaning = clean_labels(
        "simple", data, data, FAST, seed=0, n_folds=3, rounds=2, progress=lambda *call: calls.append(call)
    )
    np.testing.assert_array_equal(cleaning.suspect, suspects_of_round[1])
    trained = [np.isin(marked, one.stamps[:, 0, 0, 0]) for one in recorded]
    for fold in range(3):
        held_out = cleaning.fold == fold
        np.testing.assert_array_equal(trained[fold], ~held_out)
        np.testing.assert_array_equal(trained[3 + fold], ~held_out & ~suspects_of_round[0])
    n_trained = sum(len(one) for one in recorded)
    assert cleaning.passes == FAST.n_epochs * n_trained / N


def test_rounds_have_fresh_weights_and_one_round_is_as_before():
    data = _set(ALTERNATING)
    data.stamps[:, :, 10:19, 10:19] += data.label_given[:, None, None, None]
    options = {"config": replace(FAST, n_epochs=4), "seed": 0, "n_folds": 2}
    wrong = data.with_labels(np.where(np.arange(N) < 4, 1 - data.label_given, data.label_given))
    one, same, two = (clean_labels("simple", wrong, data, rounds=rounds, **options) for rounds in (1, 1, 2))
    np.testing.assert_array_equal(one.oof_score, same.oof_score)
    np.testing.assert_array_equal(one.fold, two.fold)
    assert not np.any(one.oof_score == two.oof_score)
    assert one.passes == 4  # four epochs of two folds, half of the stamps each
    assert one.suspect.any()
    assert two.passes == pytest.approx(8 - 4 * one.suspect.mean())


def test_a_threshold_suspects_only_what_is_contradicted_so_much():
    score = np.array([-3.0, -1.0, 0.0, 1.0, 3.0])
    for label, contradicted in ((0, score >= 0), (1, score < 0)):
        given = np.full(5, label)
        np.testing.assert_array_equal(find_suspects(score, given, confidence=0.5), contradicted)
        strict = find_suspects(score, given, confidence=0.9)  # logit 2.2
        np.testing.assert_array_equal(strict, contradicted & (np.abs(score) > 2.2))
    assert not find_suspects(score, np.full(5, -1), confidence=0.5).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rounds": 0}, "rounds is 0; stage 1 needs at least 1"),
        ({"confidence": 0.49}, "confidence is 0.49; it must be at least 0.5 and below 1"),
        ({"confidence": 1.0}, "confidence is 1.0"),
    ],
)
def test_unusable_rounds_and_thresholds_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        clean_labels("simple", _set(ALTERNATING), _set(ALTERNATING), FAST, seed=0, **change)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (np.ones(N), "stage 1 has 120 stamps given real and 0 given bogus; both are needed"),
        (np.zeros(N), "stage 1 has 0 stamps given real and 120 given bogus"),
        (np.full(N, -1), "stage 1 has 0 stamps given real and 0 given bogus"),
    ],
)
def test_one_class_or_none_is_refused_by_stage_1_and_by_every_recipe(label, message):
    data = _set(label)
    with pytest.raises(InputError, match=message):
        clean_labels("simple", data, _set(ALTERNATING), FAST, seed=0)
    nothing = Cleaning(np.zeros(N, np.int8), np.zeros(N, np.float32), np.zeros(N, bool), 0.0)
    for recipe in RECIPES.values():
        network = recipe.make_network("simple", generator=torch.Generator().manual_seed(0))
        with pytest.raises(InputError, match=r"needs cleanlab|both are needed|there is one class"):
            recipe.train(network, data, _set(ALTERNATING), FAST, cleaning=nothing, seed=0)


def test_folds_of_one_group_each_work_and_fewer_groups_than_folds_are_refused():
    label, group = np.tile([0, 1], 10), np.arange(20) // 4
    fold = assign_folds(label, group, n_folds=5, seed=0)
    assert len(np.unique(fold)) == 5
    assert all(len(np.unique(group[fold == number])) == 1 for number in range(5))
    with pytest.raises(InputError, match="1 training groups cannot make 5 folds"):
        assign_folds(label, np.zeros(20), n_folds=5, seed=0)


@pytest.mark.parametrize("name", [name for name, r in RECIPES.items() if r.needs_cleaning])
def test_without_suspects_a_recipe_still_trains(name):
    if name == "confident":
        pytest.importorskip("cleanlab")
    data = _set(ALTERNATING)
    score = np.where(data.label_given == 1, 5.0, -5.0).astype(np.float32)
    none = Cleaning(np.zeros(N, np.int8), score, np.zeros(N, bool), 0.0)
    scores = {}
    for method in ("baseline", name):
        network = make_network("simple", generator=torch.Generator().manual_seed(0))
        RECIPES[method].train(network, data, data, FAST, cleaning=none, seed=0)
        scores[method] = predict(network, data.stamps[:20])
    assert np.all(np.isfinite(scores[name]))
    if name in ("removed", "confident"):
        np.testing.assert_array_equal(scores[name], scores["baseline"])


@pytest.mark.parametrize("name", ["removed", "unlabelled", "fixmatch"])
def test_a_class_that_is_suspect_as_a_whole_is_named(name):
    data = _set(ALTERNATING)
    everything_real = Cleaning(np.zeros(N, np.int8), np.full(N, -3.0, np.float32), data.label_given == 1, 0.0)
    network = make_network("simple", generator=torch.Generator().manual_seed(0))
    message = "all 60 stamps given real are suspect, none is left to train on; raise the confidence"
    with pytest.raises(InputError, match=message):
        RECIPES[name].train(network, data, data, FAST, cleaning=everything_real, seed=0)
    np.testing.assert_array_equal(
        labels_without_suspects(data, np.arange(N) < 2), [-1, -1, *data.label_given[2:]]
    )
