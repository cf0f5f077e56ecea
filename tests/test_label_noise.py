"""Label noise: counts exact, contaminations as asked, truth untouched."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbsim.errors import InputError
from rbsim.label_noise import REASON_CODES, contaminate, count_flips


@given(
    n_real=st.integers(50, 5000),
    n_bogus=st.integers(50, 5000),
    mislabel_bogus=st.floats(0, 0.2),
    mislabel_real=st.floats(0, 0.2),
    seed=st.integers(0, 9),
)
def test_contaminations_are_those_asked_for_to_half_a_sample(
    n_real, n_bogus, mislabel_bogus, mislabel_real, seed
):
    truth = np.repeat([1, 0], [n_real, n_bogus])
    try:
        noisy = contaminate(
            truth, mislabel_bogus=mislabel_bogus, mislabel_real=mislabel_real, rng=np.random.default_rng(seed)
        )
    except InputError:
        # Only very unequal classes can make the counts impossible.
        assert max(n_real / n_bogus, n_bogus / n_real) > 3
        return
    given_bogus, given_real = noisy.label_given == 0, noisy.label_given == 1
    wrong_bogus = np.count_nonzero(given_bogus & (truth == 1))
    wrong_real = np.count_nonzero(given_real & (truth == 0))
    assert abs(wrong_bogus - mislabel_bogus * given_bogus.sum()) <= 1
    assert abs(wrong_real - mislabel_real * given_real.sum()) <= 1
    assert np.array_equal(noisy.reason == REASON_CODES["real_given_bogus"], given_bogus & (truth == 1))
    assert np.array_equal(noisy.reason == REASON_CODES["bogus_given_real"], given_real & (truth == 0))


def test_rate_zero_is_the_identity():
    truth = np.array([1, 0, 0, 1, -1])
    noisy = contaminate(truth, mislabel_bogus=0, mislabel_real=0, rng=np.random.default_rng(1))
    np.testing.assert_array_equal(noisy.label_given, truth)
    assert not noisy.reason.any()


def test_excluded_stay_excluded_and_the_same_seed_gives_the_same_labels():
    truth = np.random.default_rng(1).integers(-1, 2, 3000)
    rates = {"mislabel_bogus": 0.1, "mislabel_real": 0.2}
    a, b, c = (contaminate(truth, **rates, rng=np.random.default_rng(seed)).label_given for seed in (5, 5, 6))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    assert (a[truth == -1] == -1).all()


def test_talk_rates_on_balanced_classes():
    assert count_flips(10_000, 10_000, mislabel_bogus=0.006, mislabel_real=0.010) == (60, 100)


@pytest.mark.parametrize("rate", [-0.1, 0.5, float("nan")])
def test_rates_outside_the_range_are_refused(rate):
    with pytest.raises(InputError, match="mislabel-bogus is"):
        count_flips(100, 100, mislabel_bogus=rate, mislabel_real=0)


def test_impossible_counts_are_refused():
    with pytest.raises(InputError, match="impossible with 5 real and 5000 bogus"):
        count_flips(5, 5000, mislabel_bogus=0.3, mislabel_real=0)
