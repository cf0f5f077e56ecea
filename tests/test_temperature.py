"""Calibration: a known temperature comes back, probabilities are frequencies, at any prevalence."""

import numpy as np
import pytest
from scipy.special import expit, logit

from rbmodel.reliability import draw_reliability
from rbmodel.sheet import Sheet
from rbmodel.temperature import TEMPERATURE_LIMITS, fit_temperature, probability_of, reliability
from rbsim.errors import InputError


def _night(n, *, prevalence=0.5, temperature=1.0, seed=0):
    """Scores that are `temperature` times the true log odds at prevalence 0.5, and labels drawn from them."""
    rng = np.random.default_rng(seed)
    label = (rng.random(n) < prevalence).astype(np.int8)
    # Normal log-likelihood ratios with mean m have variance 2 m: then they are log odds.
    return temperature * rng.normal(3 * (2 * label - 1), np.sqrt(6)), label


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_a_known_temperature_comes_back(temperature):
    score, label = _night(100_000, temperature=temperature)
    assert fit_temperature(score, label) == pytest.approx(temperature, rel=0.02)


def test_unlabelled_stamps_do_not_count_and_one_class_is_refused():
    score, label = _night(2000, temperature=2.0)
    more_score, more_label = np.append(score, [1e6] * 50), np.append(label, [-1] * 50)
    assert fit_temperature(more_score, more_label) == fit_temperature(score, label)
    with pytest.raises(InputError, match="0 stamps given real and 1000 given bogus"):
        fit_temperature(np.zeros(1000), np.zeros(1000, int))


def test_what_is_never_wrong_gets_no_temperature_of_zero():
    label = np.arange(100) % 2
    low, high = TEMPERATURE_LIMITS
    assert low * 0.99 < fit_temperature(10.0 * (2 * label - 1), label) < 0.2 < high


def test_wrong_labels_make_probabilities_more_careful_not_less():
    score, label = _night(50_000)
    flipped = np.where(np.random.default_rng(1).random(len(label)) < 0.01, 1 - label, label)
    assert 1.0 < fit_temperature(score, flipped) < 1.3


def test_calibrated_probabilities_are_frequencies_and_overconfident_ones_are_not():
    score, label = _night(200_000, temperature=4.0)
    before = reliability(expit(score), label)
    after = reliability(probability_of(score, temperature=4.0, prevalence=0.5), label)
    assert after.calibration_error < 0.004 < 0.03 < before.calibration_error
    assert before.n.sum() == after.n.sum() == len(label)
    inside = (after.frequency_low <= after.probability) & (after.probability <= after.frequency_high)
    assert inside.mean() > 0.8  # each is a 95 % interval


def test_probabilities_hold_at_another_prevalence_only_with_the_shift():
    score, label = _night(400_000, prevalence=0.02, seed=5)
    shifted = probability_of(score, temperature=1.0, prevalence=0.5, prevalence_wanted=0.02)
    unshifted = probability_of(score, temperature=1.0, prevalence=0.5)
    assert reliability(shifted, label).calibration_error < 0.001
    assert reliability(unshifted, label).calibration_error > 0.03
    assert shifted.mean() == pytest.approx(label.mean(), rel=0.03)
    assert logit(probability_of(np.zeros(1), temperature=3, prevalence=0.5, prevalence_wanted=0.1)) == (
        pytest.approx(logit(0.1))
    )


@pytest.mark.parametrize("prevalence", [0, 1, -0.1, np.nan])
def test_prevalences_that_are_none_are_refused(prevalence):
    with pytest.raises(InputError, match=r"prevalence is .*; it must lie between 0 and 1"):
        probability_of(np.zeros(1), temperature=1, prevalence=0.5, prevalence_wanted=prevalence)


def test_no_labels_have_no_reliability():
    with pytest.raises(InputError, match="no stamp has one"):
        reliability(np.full(3, 0.5), np.full(3, -1))


def test_the_figure_has_its_numbers_beside_it(tmp_path):
    score, label = _night(1000)
    table = reliability(expit(score), label)
    draw_reliability({"calibrated": table}, Sheet(tmp_path, ""))
    assert (tmp_path / "reliability.png").read_bytes().startswith(b"\x89PNG")
    read = np.genfromtxt(tmp_path / "reliability.csv", delimiter=",", names=True, dtype=None, encoding=None)
    assert read["series"].tolist() == ["calibrated"] * len(table.n)
    np.testing.assert_array_equal(read["n"], table.n)
    np.testing.assert_allclose(read["frequency"], table.frequency)
