"""Figures of merit equal their definitions; intervals hold what they say."""

import time

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score, roc_auc_score

from rbmodel.evaluate import (
    area_under_curve,
    cleaning_scores,
    clopper_pearson,
    estimate_mislabelled,
    evaluate,
    fpr_at_tpr,
    operating_points,
    tpr_at_fpr,
)

# Few distinct values, so that ties are common.
SAMPLES = st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=2, max_size=30)


def _arrays(samples):
    scores, is_real = (np.array(values) for values in zip(*samples, strict=True))
    assume(is_real.any() and not is_real.all())
    return scores.astype(float), is_real


def _gaussian(n_real, n_bogus, *, shift=2.0, n_groups=20, seed=0):
    rng = np.random.default_rng(seed)
    label = np.repeat([1, 0], [n_real, n_bogus])
    return rng.normal(shift * label, 1), label, rng.integers(0, n_groups, len(label))


@given(SAMPLES)
@settings(max_examples=80, deadline=None)
def test_auc_is_pair_counting_with_ties_half(samples):
    scores, is_real = _arrays(samples)
    above = scores[is_real][:, None] - scores[~is_real][None, :]
    expected = np.mean((above > 0) + 0.5 * (above == 0))
    assert area_under_curve(operating_points(scores, is_real)) == pytest.approx(expected)


@given(SAMPLES)
@settings(max_examples=30, deadline=None)
def test_a_monotone_rescaling_changes_no_ranking_figure(samples):
    scores, is_real = _arrays(samples)
    first, second = (operating_points(s, is_real) for s in (scores, np.exp(scores / 3) - 7))
    assert area_under_curve(first) == area_under_curve(second)
    assert fpr_at_tpr(first, 0.9) == fpr_at_tpr(second, 0.9)
    assert tpr_at_fpr(first, 0.1) == tpr_at_fpr(second, 0.1)


@given(SAMPLES, st.sampled_from([0.5, 0.9, 0.95, 1.0]))
@settings(max_examples=80, deadline=None)
def test_rates_at_operating_points_by_brute_force(samples, target):
    scores, is_real = _arrays(samples)
    rates = [
        (np.mean(scores[is_real] >= t), np.mean(scores[~is_real] >= t)) for t in [np.inf, *np.unique(scores)]
    ]
    points = operating_points(scores, is_real)
    assert fpr_at_tpr(points, target) == min(fpr for tpr, fpr in rates if tpr >= target)
    assert tpr_at_fpr(points, 1 - target) == max(tpr for tpr, fpr in rates if fpr <= 1 - target + 1e-12)


@given(SAMPLES, st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_weighted_counts_are_repeated_samples(samples, seed):
    scores, is_real = _arrays(samples)
    weights = np.random.default_rng(seed).integers(0, 4, (3, len(scores))).astype(np.float32)
    points = operating_points(scores, is_real, weights)
    auc, fpr = area_under_curve(points), fpr_at_tpr(points, 0.9)
    for row, counts in enumerate(weights.astype(int)):
        repeated_scores, repeated_real = np.repeat(scores, counts), np.repeat(is_real, counts)
        if repeated_real.any() and not repeated_real.all():
            repeated = operating_points(repeated_scores, repeated_real)
            assert auc[row] == pytest.approx(area_under_curve(repeated))
            assert fpr[row] == pytest.approx(fpr_at_tpr(repeated, 0.9))
        else:
            assert np.isnan(auc[row])
            assert np.isnan(fpr[row])


def test_figures_at_a_half_agree_with_scikit_learn():
    scores, label, group = _gaussian(300, 700)
    metrics = evaluate(scores - 1, label, group, n_bootstrap=10, rng=np.random.default_rng(0))
    predicted = expit(scores - 1) >= 0.5
    assert metrics.accuracy == accuracy_score(label, predicted)
    assert metrics.precision == pytest.approx(precision_score(label, predicted))
    assert metrics.recall == pytest.approx(recall_score(label, predicted))
    assert metrics.f1 == pytest.approx(f1_score(label, predicted))
    assert metrics.auc.value == pytest.approx(roc_auc_score(label, scores))
    assert sum(metrics.confusion.values()) == 1000
    assert metrics.confusion["tp"] + metrics.confusion["fn"] == 300
    assert metrics.prevalence == 0.3


def test_nothing_accepted_has_no_precision():
    metrics = evaluate(
        np.array([-2.0, -1, -3]), np.array([1, 0, 0]), np.arange(3), rng=np.random.default_rng(0)
    )
    assert np.isnan(metrics.precision)
    assert metrics.recall == metrics.f1 == 0


def test_intervals_over_groups_are_wider_when_groups_differ():
    """Each group has its own offset: its stamps are not independent, and the interval must say so."""
    rng = np.random.default_rng(0)
    label, group = rng.integers(0, 2, 2000), rng.integers(0, 12, 2000)
    scores = rng.normal(label + rng.normal(0, 1, 12)[group] * label, 1)
    widths = []
    for unit in (group, np.arange(2000)):
        auc = evaluate(scores, label, unit, n_bootstrap=400, rng=np.random.default_rng(1)).auc
        assert auc.low < auc.value < auc.high
        widths.append(auc.high - auc.low)
    assert widths[0] > 2 * widths[1]


def test_auc_interval_covers_the_truth_about_as_often_as_it_says():
    truth = 0.7602  # of unit Gaussians one apart: Phi(1 / sqrt 2)
    hits = 0
    for seed in range(200):
        scores, label, _ = _gaussian(100, 100, shift=1.0, seed=seed)
        auc = evaluate(scores, label, np.arange(200), n_bootstrap=200, rng=np.random.default_rng(seed)).auc
        hits += auc.low <= truth <= auc.high
    assert binomtest(hits, 200, 0.95).pvalue > 1e-3


def test_few_false_positives_get_the_exact_binomial_interval():
    label = np.repeat([1, 0], [100, 1000])
    scores = np.concatenate([np.linspace(1, 2, 100), np.linspace(-2, -1, 997), [3.0, 3.0, 3.0]])
    fpr = evaluate(
        scores, label, np.arange(1100) % 7, n_bootstrap=50, rng=np.random.default_rng(0)
    ).fpr_at_tpr90
    exact = binomtest(3, 1000).proportion_ci(0.95, method="exact")
    assert fpr.value == 0.003
    assert fpr.interval == "clopper-pearson"
    assert (fpr.low, fpr.high) == pytest.approx((exact.low, exact.high))


def test_many_false_positives_get_the_bootstrap_interval():
    scores, label, group = _gaussian(200, 500, shift=1.0)
    fpr = evaluate(scores, label, group, n_bootstrap=200, rng=np.random.default_rng(0)).fpr_at_tpr90
    assert fpr.interval == "bootstrap"
    assert fpr.low < fpr.value < fpr.high


def test_a_perfect_auc_does_not_pretend_to_be_certain():
    label = np.repeat([1, 0], [50, 500])
    auc = evaluate(label * 2.0, label, np.arange(550) % 9, n_bootstrap=50, rng=np.random.default_rng(0)).auc
    assert auc.value == auc.high == 1
    assert auc.low == pytest.approx(0.025 ** (1 / 50))


@pytest.mark.parametrize(("hits", "trials"), [(0, 10), (10, 10), (3, 50)])
def test_clopper_pearson_is_the_exact_interval(hits, trials):
    exact = binomtest(hits, trials).proportion_ci(0.95, method="exact")
    assert clopper_pearson(hits, trials) == pytest.approx((exact.low, exact.high))


def test_a_thousand_resamples_of_5000_samples_take_less_than_two_seconds():
    scores, label, group = _gaussian(1000, 4000)
    evaluate(scores, label, group, n_bootstrap=10, rng=np.random.default_rng(0))
    started = time.process_time()
    evaluate(scores, label, group, n_bootstrap=1000, rng=np.random.default_rng(0))
    assert time.process_time() - started < 2


def test_unusable_input_is_refused():
    label, group, rng = np.array([0, 1]), np.array([0, 1]), np.random.default_rng(0)
    with pytest.raises(ValueError, match="1 of 2 scores are not finite"):
        evaluate(np.array([0.0, np.nan]), label, group, rng=rng)
    with pytest.raises(ValueError, match="both 0 and 1 are needed"):
        evaluate(np.zeros(2), np.zeros(2), group, rng=rng)


def test_cleaning_scores_count_wrong_labels_found():
    given = np.array([1, 1, 0, 0, 0, -1, 1])
    true = np.array([1, 0, 0, 1, 1, 1, -1])
    suspect = np.array([True, True, False, True, False, True, True])
    assert cleaning_scores(suspect, given, true) == (2 / 3, 2 / 3)
    assert all(np.isnan(cleaning_scores(np.zeros(2, bool), given[:2], given[:2])))


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.1])
def test_mislabelled_share_is_recovered_from_good_scores(rate):
    rng = np.random.default_rng(0)
    true = rng.integers(0, 2, 20_000)
    given = np.where(rng.random(20_000) < rate, 1 - true, true)
    scores = rng.normal(
        np.where(true == 1, 6, -6), 2
    )  # log-odds of a calibrated classifier: 2 mean / var = 3
    assert estimate_mislabelled(scores, given) == pytest.approx(np.mean(given != true), abs=0.01)


def test_hard_samples_are_not_all_counted_as_mislabelled():
    """Labels are right, the classes overlap: disagreement is common, confident disagreement is rarer."""
    rng = np.random.default_rng(0)
    true = rng.integers(0, 2, 20_000)
    scores = 1.5 * rng.normal(np.where(true == 1, 1, -1), 1)
    disagreement = np.mean((scores >= 0) != true)
    assert estimate_mislabelled(scores, true) < 0.9 * disagreement
    assert np.isnan(estimate_mislabelled(scores, np.ones(20_000, int)))
