"""Curves of stage 1 are what counting gives; the estimated share of wrong labels covers the true one."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from rbmodel.cleaning_curves import cleaning_curve, contradiction, estimate_with_interval
from rbmodel.evaluate import cleaning_scores, estimate_mislabelled, mislabelled_shares
from rbmodel.label_cleaning import find_suspects


def _sample(n, rate, *, seed=0):
    """Log-odds of a calibrated classifier, given labels with a share of wrong ones, true labels."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 2, n)
    given = np.where(rng.random(n) < rate, 1 - true, true)
    return rng.normal(np.where(true == 1, 6, -6), 2), given, true


def test_every_point_of_the_curve_is_that_of_the_suspects_at_its_threshold():
    scores, given, true = _sample(400, 0.2)
    scores = np.round(scores, 1)  # ties
    given[:20], true[10:30] = -1, -1
    curve = cleaning_curve(scores, given, true)
    against = contradiction(scores, given)
    assert np.isnan(against[:20]).all()
    assert np.all(np.diff(curve.threshold) < 0)
    for k in range(0, len(curve.threshold), 7):
        found = cleaning_scores(against >= curve.threshold[k], given, true)
        assert found == pytest.approx((curve.recall[k], curve.precision[k]))
    for confidence in (0.5, 0.9, 0.99):
        k = np.flatnonzero(curve.threshold >= confidence)[-1]
        suspect = find_suspects(scores, given, confidence=confidence)
        assert cleaning_scores(suspect, given, true) == pytest.approx((curve.recall[k], curve.precision[k]))


def test_average_precision_is_that_of_scikit_learn():
    scores, given, true = _sample(2000, 0.05)
    wrong = given != true
    expected = average_precision_score(wrong, contradiction(scores, given))
    assert cleaning_curve(scores, given, true).average_precision == pytest.approx(expected)
    perfect = np.where(true == 1, 9.0, -9.0)
    assert cleaning_curve(perfect, given, true).average_precision == 1


def test_where_nothing_is_wrong_or_known_there_is_no_average_precision():
    scores, _, true = _sample(50, 0.0)
    curve = cleaning_curve(scores, true, true)
    assert np.isnan(curve.average_precision)
    assert np.isnan(curve.recall).all()
    assert (curve.precision == 0).all()
    empty = cleaning_curve(scores, true, np.full(50, -1))
    assert np.isnan(empty.average_precision)
    assert len(empty.threshold) == 0


def test_the_interval_of_the_mislabel_rate_covers_the_true_rate():
    """Sixty samples of a night with 5 % wrong labels that come group by group: 95 % of intervals hold it."""
    covered, widths = 0, []
    for seed in range(60):
        rng = np.random.default_rng(100 + seed)
        group = np.arange(2000) % 40
        rate_of_group = rng.beta(1, 19, 40)  # mean 5 %
        true = rng.integers(0, 2, 2000)
        given = np.where(rng.random(2000) < rate_of_group[group], 1 - true, true)
        scores = rng.normal(np.where(true == 1, 6, -6), 2)
        found = estimate_with_interval(scores, given, group, n_bootstrap=200, rng=rng)
        assert found.low <= found.value <= found.high
        assert found.value == estimate_mislabelled(scores, given)
        covered += found.low <= 0.05 <= found.high
        widths.append(found.high - found.low)
    assert covered >= 51  # 95 % less three standard deviations of a binomial
    # Groups differ: an interval from single samples, 2 x 1.96 sqrt(0.05 x 0.95 / 2000), would be too narrow.
    assert np.mean(widths) > 1.3 * 0.0191


def test_weights_are_repetitions():
    scores, given, _ = _sample(300, 0.1)
    weights = np.random.default_rng(1).integers(0, 3, (4, 300))
    found = mislabelled_shares(scores, given, weights)
    assert found.shape == (4, 2)
    for one, row in zip(weights, found, strict=True):
        np.testing.assert_allclose(row, mislabelled_shares(np.repeat(scores, one), np.repeat(given, one)))


def test_one_group_or_one_class_has_no_interval():
    scores, given, _ = _sample(100, 0.1)
    rng = np.random.default_rng(0)
    found = estimate_with_interval(scores, given, np.zeros(100), rng=rng)
    assert np.isfinite(found.value)
    assert np.isnan([found.low, found.high]).all()
    found = estimate_with_interval(scores, np.ones(100, int), np.arange(100), rng=rng)
    assert np.isnan([found.value, found.low, found.high]).all()
    # Resamples in which a class is missing are left out.
    rare = np.zeros(100, int)
    rare[0] = 1
    found = estimate_with_interval(scores, rare, np.arange(100), rng=rng, n_bootstrap=50)
    assert np.isfinite([found.low, found.high]).all()
