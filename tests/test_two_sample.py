"""The two-sample test: it finds a difference where there is one, none where there is none, and no leak."""

import numpy as np
import pytest
import torch

from rbmodel.two_sample import (
    TwoSampleConfig,
    auc_with_interval,
    auc_within_folds,
    held_out_scores,
    tell_apart,
)

FAST = TwoSampleConfig(n_epochs=4, n_bootstrap=200, min_stamps=100)
SIZE = 9


def sample(*, n_stars=40, per_star=6, shift=0.0, own=0.0, seed=1):
    """Noise; real stamps have `shift` in the middle, and every star its `own` pattern on its real stamps."""
    rng = np.random.default_rng(seed)
    n = n_stars * per_star
    star = np.repeat(np.arange(n_stars), per_star)
    stamps = rng.normal(size=(2 * n, 2, SIZE, SIZE)).astype(np.float32)
    stamps[:n, 1, 3:6, 3:6] += shift
    stamps[:n] += own * rng.normal(size=(n_stars, 2, SIZE, SIZE))[star].astype(np.float32)
    is_real = np.repeat([True, False], n)
    return stamps, is_real, np.tile(star, 2), np.tile(star % 4, 2)


def auc(stamps, is_real, fold, config=FAST):
    scores = held_out_scores(stamps, is_real, fold, seed=1, config=config)
    return float(auc_within_folds(scores, is_real, fold))


def test_equal_stamps_cannot_be_told_apart_and_different_ones_can():
    stamps, is_real, star, fold = sample()
    _, rows = tell_apart(stamps, is_real, star, fold, np.zeros(len(star), int), 1, seed=1, config=FAST)
    assert rows[0]["auc_low"] < 0.5 < rows[0]["auc_high"]
    stamps, is_real, _, fold = sample(shift=0.7)
    assert auc(stamps, is_real, fold) > 0.85


def test_a_star_that_recurs_is_not_memorised():
    # Every real star has a look of its own. With folds by star that is of no use; with folds that
    # cut through the stars the network would know them again, and the test would cry wolf.
    stamps, is_real, _, fold = sample(n_stars=12, per_star=20, own=1.0)
    stamps[~is_real] *= np.std(stamps[is_real]) / np.std(stamps[~is_real])
    torn = np.tile(np.arange(len(fold) // 2) % 4, 2)
    long = TwoSampleConfig(n_epochs=10)
    assert auc(stamps, is_real, torn, long) > 0.8
    assert auc(stamps, is_real, fold, long) < 0.65


def test_the_same_seed_gives_the_same_bits_and_leaves_torch_alone():
    stamps, is_real, _, fold = sample(shift=0.3)
    torch.manual_seed(5)
    before, n_threads = torch.get_rng_state(), torch.get_num_threads()
    first = held_out_scores(stamps, is_real, fold, seed=1, config=FAST)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_num_threads() == n_threads
    assert np.array_equal(first, held_out_scores(stamps, is_real, fold, seed=1, config=FAST))
    assert not np.array_equal(first, held_out_scores(stamps, is_real, fold, seed=2, config=FAST))


def test_auc_counts_pairs_within_folds_only():
    rng = np.random.default_rng(3)
    fold = rng.integers(0, 3, 80)
    is_real = rng.random(80) < 0.4
    scores = np.round(rng.normal(size=80) + 0.5 * is_real, 1)  # with ties
    pairs = [
        (scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j])
        for i in np.flatnonzero(is_real)
        for j in np.flatnonzero(~is_real)
        if fold[i] == fold[j]
    ]
    assert auc_within_folds(scores, is_real, fold) == pytest.approx(np.mean(pairs))
    # A network of another fold may have another zero point.
    assert auc_within_folds(scores + 100 * fold, is_real, fold) == pytest.approx(np.mean(pairs))


def test_the_interval_knows_that_stamps_of_one_star_are_alike():
    rng = np.random.default_rng(4)
    star = np.repeat(np.arange(50), 40)
    look = rng.normal(size=50)[star]
    scores = np.r_[look + 0.1 * rng.normal(size=2000), rng.normal(size=2000)]
    is_real, fold = np.repeat([True, False], 2000), np.zeros(4000, int)
    width = {}
    for name, who in (("stars", np.tile(star, 2)), ("stamps", np.arange(4000))):
        row = auc_with_interval(scores, is_real, fold, who, rng=np.random.default_rng(1))
        width[name] = row["auc_high"] - row["auc_low"]
    assert width["stars"] > 3 * width["stamps"]


def test_an_auc_below_one_half_is_reported_as_it_is():
    scores = np.r_[np.zeros(30), np.ones(30)]
    who = np.tile(np.arange(30), 2)
    row = auc_with_interval(
        scores, np.repeat([True, False], 30), np.zeros(60, int), who, rng=np.random.default_rng(1)
    )
    assert row["auc"] == 0.0


def test_too_little_is_not_measured():
    stamps, is_real, star, fold = sample(n_stars=5)
    scores, rows = tell_apart(stamps, is_real, star, fold, np.zeros(len(star), int), 2, seed=1)
    assert np.isnan(scores).all()
    assert rows[0]["auc"] is None
    assert rows[0]["reason"] == "60 stamps to learn from; 500 are needed"
    assert (rows[1]["n_stars"], rows[1]["auc"]) == (0, None)
    stamps, is_real, star, fold = sample()
    few = np.where(star < 10, 0, 1)  # 10 stars in the first bin
    _, rows = tell_apart(stamps, is_real, star, fold, few, 2, seed=1, config=FAST)
    assert (rows[0]["auc"], rows[0]["reason"]) == (None, "10 stars; 20 are needed")
    assert rows[1]["auc"] is not None
