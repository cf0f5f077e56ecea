"""The audit of labels: honest intervals, narrower than of a simple sample, whatever the scores are worth."""

import numpy as np
import pytest
from scipy.special import expit

from rbmodel.audit import draw_sample, estimate_rate, make_strata, probability_wrong
from rbmodel.evaluate import clopper_pearson
from rbsim.errors import InputError

N_REPEATS = 300


def _population(n=10_000, *, rate=0.01, skill=8.0, overconfident=3.0, learnt=0.0, seed=0):
    """Scores (times a factor), given labels, and which of them are wrong; `learnt` agree with their label."""
    rng = np.random.default_rng(seed)
    true = (rng.random(n) < 0.5).astype(int)
    wrong = rng.random(n) < rate
    score = rng.normal(skill * (2 * true - 1), np.sqrt(2 * skill))
    believed = wrong & (rng.random(n) < learnt)
    score[believed] *= -1
    return overconfident * score, np.where(wrong, 1 - true, true), wrong


def _repeat(score, given, wrong, *, n=300):
    """Estimates of many audits of one population, and of simple random samples of the same size."""
    strata, rng = make_strata(score, given), np.random.default_rng(1)
    k = len(strata.label)
    audits, simple = [], []
    for _ in range(N_REPEATS):
        index = draw_sample(strata, n, rng=rng)
        stratum = strata.of_stamp[index]
        counts = (np.bincount(part, minlength=k) for part in (stratum, stratum[wrong[index]]))
        audits.append(estimate_rate(strata.n_population, *counts))
        n_found = int(wrong[rng.choice(len(wrong), n, replace=False)].sum())
        simple.append(estimate_rate(np.array([len(wrong)]), np.array([n]), np.array([n_found])))
    return audits, simple


def _covered(estimates, truth):
    return np.mean([one.low <= truth <= one.high for one in estimates])


def _width(estimates):
    return np.mean([one.high - one.low for one in estimates])


@pytest.mark.parametrize(
    ("kinds", "narrower"),
    [
        ({}, 0.6),
        ({"rate": 0.05}, 0.6),
        ({"skill": 2.0, "overconfident": 1.0}, 0.9),
        ({"learnt": 0.5}, 0.9),
        ({"learnt": 1.0}, 1.15),
    ],
)
def test_the_interval_covers_and_is_narrower_than_that_of_a_simple_sample(kinds, narrower):
    score, given, wrong = _population(**kinds)
    audits, simple = _repeat(score, given, wrong)
    truth = wrong.mean()
    # 300 repeats of a 95 % interval: 0.92 is beyond two standard errors. It errs to the wide side.
    assert _covered(audits, truth) >= 0.92
    assert _covered(simple, truth) >= 0.90
    assert _width(audits) < narrower * _width(simple)
    values = np.array([one.value for one in audits])
    assert values.mean() == pytest.approx(truth, abs=3 * values.std() / np.sqrt(N_REPEATS))


def test_where_scores_find_the_wrong_labels_the_estimate_scatters_a_third_as_much():
    score, given, wrong = _population()
    audits, simple = _repeat(score, given, wrong)
    assert np.std([one.value for one in audits]) < 0.4 * np.std([one.value for one in simple])


def test_the_probability_of_a_wrong_label_is_one():
    """Bins of predicted probability contain that share of wrong labels, also for overconfident scores."""
    score, given, wrong = _population(200_000, rate=0.02)
    probability = probability_wrong(score, given)
    for low, high in ((0, 0.01), (0.05, 0.3), (0.3, 0.7), (0.7, 0.95), (0.95, 1.01)):
        here = (probability >= low) & (probability < high)
        assert wrong[here].mean() == pytest.approx(probability[here].mean(), abs=0.04)
    assert probability.mean() == pytest.approx(0.02, rel=0.15)
    # Mere disagreement is not enough: a stamp that is half contradicted is hard, not wrong.
    against = np.where(given == 1, -score, score) / 3
    assert probability[np.abs(against - 1) < 0.2].max() < 0.2 < expit(1)


def test_a_simple_sample_has_the_interval_of_a_binomial():
    for n_wrong in (0, 3, 30, 297, 300):
        one = estimate_rate(np.array([10**9]), np.array([300]), np.array([n_wrong]))
        low, high = clopper_pearson(n_wrong, 300)
        assert one.low == pytest.approx(low, abs=0.006)
        assert one.high == pytest.approx(high, abs=0.006)
        assert one.low <= one.value == n_wrong / 300 <= one.high


def test_what_was_seen_whole_is_known_exactly_and_nothing_wrong_is_not_nothing():
    whole = estimate_rate(np.array([50, 20]), np.array([50, 20]), np.array([5, 0]))
    assert whole.value == whole.low == whole.high == pytest.approx(5 / 70)
    part = estimate_rate(np.array([50, 10_000]), np.array([50, 100]), np.array([5, 0]))
    assert part.low == pytest.approx(5 / 10_050)
    assert 0.01 < part.high < 0.03
    smaller = estimate_rate(np.array([50, 150]), np.array([50, 100]), np.array([5, 0]))
    assert smaller.high - smaller.low < 0.6 * (part.high - part.low)  # two thirds of it were seen


def test_samples_are_exact_in_number_without_repetition_and_the_same_for_the_same_seed():
    score, given, _ = _population(2000)
    strata = make_strata(score, given)
    for n in (50, 299, 1500, 2000, 5000):
        index = draw_sample(strata, n, rng=np.random.default_rng(3))
        assert len(index) == len(set(index.tolist())) == min(n, 2000)
        taken = np.bincount(strata.of_stamp[index], minlength=len(strata.label))
        assert np.all((taken >= np.minimum(5, strata.n_population)) & (taken <= strata.n_population))
        np.testing.assert_array_equal(index, draw_sample(strata, n, rng=np.random.default_rng(3)))
    for k, label in enumerate(strata.label):
        assert set(given[strata.of_stamp == k]) == {label}


def test_the_first_half_of_a_sample_is_a_sample():
    """Whoever stops early has seen every stratum in nearly the right proportion."""
    score, given, _ = _population()
    strata = make_strata(score, given)
    index = draw_sample(strata, 600, rng=np.random.default_rng(0))
    k = len(strata.label)
    whole, half = (np.bincount(strata.of_stamp[part], minlength=k) for part in (index, index[:300]))
    assert np.all(half > 0)
    assert np.all(np.abs(half - whole / 2) < 5 * np.sqrt(whole) / 2 + 1)


def test_stamps_without_a_label_are_no_part_of_it():
    score, given, _ = _population(2000)
    given[::3] = -1
    strata = make_strata(score, given)
    assert strata.n_population.sum() == np.sum(given >= 0)
    assert np.all(given[draw_sample(strata, 200, rng=np.random.default_rng(0))] >= 0)


def test_bad_populations_and_samples_are_refused():
    score, given, _ = _population(500)
    with pytest.raises(InputError, match="both are needed"):
        make_strata(score, np.ones(500, int))
    with pytest.raises(InputError, match="10 stamps are too few for an audit; give at least 50"):
        draw_sample(make_strata(score, given), 10, rng=np.random.default_rng(0))
    with pytest.raises(InputError, match="nothing was inspected of 1 of 2 strata"):
        estimate_rate(np.array([10, 10]), np.array([5, 0]), np.array([1, 0]))
