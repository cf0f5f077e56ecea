"""Stage 1 finds wrong labels; each recipe uses exactly what it may."""

from functools import cache

import numpy as np
import pytest
import torch

from rbmodel.dataset import TrainingSet, normalise
from rbmodel.label_cleaning import Cleaning, assign_folds, clean_labels
from rbmodel.networks import make_network
from rbmodel.recipes.fixmatch import FixmatchTerms
from rbmodel.recipes.table import RECIPES
from rbmodel.recipes.unlabelled import LossTerms, train_unlabelled
from rbmodel.train import TrainConfig, predict
from rbmodel.vat import smoothness_loss
from rbsim.errors import InputError

# Threads that share cores with other work wait for each other; these fits are too small for two.
torch.set_num_threads(1)

FAST = TrainConfig(n_epochs=3, batch_size=32)


def _data(n, *, seed):
    rng = np.random.default_rng(seed)
    label = (np.arange(n) % 2).astype(np.int8)
    y, x = np.mgrid[:29, :29] - 14
    stamps = rng.normal(0, 1, (n, 3, 29, 29))
    stamps[:, 1:] += label[:, None, None, None] * 5 * np.exp(-(x**2 + y**2) / 4.5)
    return TrainingSet(normalise(stamps.astype(np.float32), method="minmax"), label, (np.arange(n) // 2) % 12)


@pytest.fixture(scope="module")
def clean():
    return _data(240, seed=1), _data(60, seed=2)


@pytest.fixture(scope="module")
def wrong():
    """Rows whose given label is wrong."""
    return np.array([3, 50, 77, 120, 160, 201])


@pytest.fixture(scope="module")
def noisy(clean, wrong):
    label = clean[0].label_given.copy()
    label[wrong] = 1 - label[wrong]
    return clean[0].with_labels(label)


@pytest.fixture(scope="module")
def suspects(clean, wrong):
    """What a perfect stage 1 would return."""
    suspect = np.zeros(240, bool)
    suspect[wrong] = True
    score = np.where((clean[0].label_given == 1), 4.0, -4.0).astype(np.float32)
    return Cleaning(np.zeros(240, np.int8), score, suspect, 0.0)


def _train(recipe, training_set, clean, cleaning, **options):
    network = RECIPES[recipe].make_network("simple", generator=torch.Generator().manual_seed(0))
    train = RECIPES[recipe].train
    result = train(network, training_set, clean[1], FAST, cleaning=cleaning, seed=5, **options)
    return predict(network, clean[1].stamps), result


@pytest.fixture(scope="module")
def first_scores(noisy, clean, suspects):
    """Scores of a recipe trained on the noisy labels; each is trained once for all tests."""
    return cache(lambda recipe: _train(recipe, noisy, clean, suspects)[0])


def _with_pixels(data, rows, value):
    stamps = data.stamps.copy()
    stamps[rows] = value
    return TrainingSet(stamps, data.label_given, data.group)


def test_stage_1_finds_the_wrong_labels(noisy, clean, wrong):
    calls = []
    cleaning = clean_labels(
        "simple", noisy, clean[1], TrainConfig(n_epochs=10, batch_size=16), seed=0, n_folds=3,
        progress=lambda *call: calls.append(call),
    )  # fmt: skip
    assert set(wrong) <= set(np.flatnonzero(cleaning.suspect))
    assert cleaning.suspect.sum() <= len(wrong) + 5
    np.testing.assert_array_equal(cleaning.suspect, (cleaning.oof_score >= 0) != (noisy.label_given == 1))
    assert calls[-1][1] <= calls[-1][2] == 30
    assert [call[1] for call in calls] == sorted({call[1] for call in calls})


def test_a_group_lies_in_one_fold_and_folds_have_both_classes():
    rng = np.random.default_rng(0)
    group, label = rng.integers(0, 23, 500), rng.integers(0, 2, 500)
    fold = assign_folds(label, group, n_folds=5, seed=1)
    assert sorted(np.unique(fold)) == [0, 1, 2, 3, 4]
    for number in np.unique(group):
        assert len(np.unique(fold[group == number])) == 1
    for number in range(5):
        assert set(label[fold == number]) == {0, 1}
    assert np.array_equal(fold, assign_folds(label, group, n_folds=5, seed=1))
    assert not np.array_equal(fold, assign_folds(label, group, n_folds=5, seed=2))


def test_scores_come_from_networks_that_did_not_see_the_sample(clean):
    """Turning the labels of one fold around changes all scores except that fold's."""
    first = clean_labels("simple", clean[0], clean[1], FAST, seed=0, n_folds=3)
    held_out = first.fold == 1
    turned = clean[0].with_labels(np.where(held_out, 1 - clean[0].label_given, clean[0].label_given))
    second = clean_labels("simple", turned, clean[1], FAST, seed=0, n_folds=3)
    # Every group has as many reals as bogus, so the folds stay.
    np.testing.assert_array_equal(first.fold, second.fold)
    np.testing.assert_array_equal(first.oof_score[held_out], second.oof_score[held_out])
    assert not np.any(first.oof_score[~held_out] == second.oof_score[~held_out])


def test_unlabelled_samples_are_never_suspect(noisy, clean):
    label = noisy.label_given.copy()
    label[:40] = -1
    cleaning = clean_labels("simple", noisy.with_labels(label), clean[1], FAST, seed=0, n_folds=2)
    assert not np.any(cleaning.suspect[:40])
    assert np.all(np.isfinite(cleaning.oof_score))


def test_unusable_folds_are_refused():
    label, group = np.array([0, 1] * 8), np.arange(16) // 4
    with pytest.raises(InputError, match="4 training groups cannot make 5 folds"):
        assign_folds(label, group, n_folds=5, seed=0)
    one_sided = np.where(group == 0, 1, 0)
    with pytest.raises(InputError, match="lacks real or bogus samples"):
        assign_folds(one_sided, group, n_folds=4, seed=0)


@pytest.mark.parametrize("recipe", ["baseline", "removed", "unlabelled"])
def test_recipes_repeat_bit_for_bit(recipe, noisy, clean, suspects, first_scores):
    first = first_scores(recipe)
    second, _ = _train(recipe, noisy, clean, suspects)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("recipe", "uses_labels"),
    [("baseline", True), ("removed", False), ("unlabelled", False), ("fixmatch", False)],
)
def test_only_the_baseline_uses_the_labels_of_suspects(
    recipe, uses_labels, noisy, clean, suspects, wrong, first_scores
):
    flipped = noisy.label_given.copy()
    flipped[wrong] = 1 - flipped[wrong]
    first = first_scores(recipe)
    second, _ = _train(recipe, noisy.with_labels(flipped), clean, suspects)
    assert np.array_equal(first, second) is not uses_labels


@pytest.mark.parametrize(
    ("recipe", "uses_pixels"), [("removed", False), ("unlabelled", True), ("fixmatch", True)]
)
def test_only_semi_supervised_recipes_look_at_the_suspects(
    recipe, uses_pixels, noisy, clean, suspects, wrong, first_scores
):
    # So few steps make no network sure of anything.
    options = {"terms": FixmatchTerms(threshold=0.5)} if recipe == "fixmatch" else {}
    first = _train(recipe, noisy, clean, suspects, **options)[0] if options else first_scores(recipe)
    second, _ = _train(recipe, _with_pixels(noisy, wrong, 0.5), clean, suspects, **options)
    assert np.array_equal(first, second) is not uses_pixels


def test_without_smoothness_the_suspects_pixels_do_not_matter(noisy, clean, suspects, wrong):
    terms = LossTerms(vat=0.0)
    first, _ = _train("unlabelled", noisy, clean, suspects, terms=terms)
    second, _ = _train("unlabelled", _with_pixels(noisy, wrong, 0.5), clean, suspects, terms=terms)
    np.testing.assert_allclose(first, second, atol=1e-6)


def test_smoothness_makes_the_prediction_smoother(noisy, clean, suspects):
    """What the term is for, measured on stamps that were not trained on."""
    roughness = {}
    for weight in (0.0, 3.0):
        network = make_network("simple", generator=torch.Generator().manual_seed(0))
        terms = LossTerms(cross_entropy=1.0, auc=0.1, vat=weight, epsilon=1.0)
        train_unlabelled(network, noisy, clean[1], FAST, cleaning=suspects, seed=5, terms=terms)
        stamps = torch.from_numpy(clean[1].stamps)
        loss = smoothness_loss(
            network, stamps, epsilon=1.0, xi=0.5, generator=torch.Generator().manual_seed(1)
        )
        roughness[weight] = float(loss.detach())
    assert roughness[3.0] < 0.7 * roughness[0.0]
