"""Matching: one to one, in units of the position error, whatever the order of the rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbsim.match import match

MIN_RADIUS_PIX = 0.5


def match_all(truth, detected, before=None, *, err=0.4, radius_sigma=5.0, max_radius_pix=3.0):
    truth, detected = np.reshape(truth, (-1, 2)).astype(float), np.reshape(detected, (-1, 2)).astype(float)
    return match(
        truth,
        detected,
        np.reshape([] if before is None else before, (-1, 2)),
        truth_err_pix=np.full(len(truth), err),
        detected_err_pix=np.zeros(len(detected)),
        radius_sigma=radius_sigma,
        min_radius_pix=MIN_RADIUS_PIX,
        max_radius_pix=max_radius_pix,
    )


def test_matching_is_one_to_one_and_knows_what_is_ambiguous():
    truth = np.array([[10.0, 10.0], [50.0, 50.0], [52.0, 50.0], [80.0, 80.0], [np.nan, np.nan]])
    detected = np.array([[10.3, 10.0], [51.0, 50.0], [80.2, 80.0], [20.0, 90.0], [30.0, 30.0]])
    before = np.array([[80.3, 80.0], [30.1, 30.0]])
    found = match_all(truth, detected, before, err=0.3)
    assert found.detection[0] == 0
    assert np.count_nonzero(found.detection == 1) == 1  # the blend belongs to one of the two
    assert found.detection[4] == -1
    assert found.ambiguous.tolist() == [False, True, True, True, False]
    assert found.unmatched.tolist() == [3]  # 4 was there before
    assert found.separation_pix[0] == pytest.approx(0.3)


def test_matching_of_nothing():
    assert match_all([], []).unmatched.size == 0
    assert match_all([1.0, 1.0], []).detection.tolist() == [-1]
    assert match_all([], [1.0, 1.0]).unmatched.tolist() == [0]
    assert match_all([np.nan, np.nan], [1.0, 1.0], [5.0, 5.0]).detection.tolist() == [-1]


@pytest.mark.parametrize(
    ("err", "separation", "matches"),
    [
        (0.2, 0.99, True),  # 5 sigma is 1 px
        (0.2, 1.01, False),
        (0.01, 0.49, True),  # at least half a pixel
        (0.01, 0.51, False),
        (2.0, 2.99, True),  # at most one FWHM
        (2.0, 3.01, False),
    ],
)
def test_radius_is_in_units_of_the_error_between_two_limits(err, separation, matches):
    found = match_all([10.0, 10.0], [10.0 + separation, 10.0], err=err)
    assert (found.detection[0] == 0) == matches
    assert (len(found.unmatched) == 0) == matches


def test_the_larger_error_of_a_pair_counts():
    truth, detected = np.array([[10.0, 10.0]]), np.array([[11.5, 10.0]])
    for truth_err, detected_err, matches in ((0.4, 0.0, True), (0.0, 0.4, True), (0.2, 0.2, False)):
        found = match(
            truth,
            detected,
            np.empty((0, 2)),
            truth_err_pix=np.array([truth_err]),
            detected_err_pix=np.array([detected_err]),
            radius_sigma=5.0,
            min_radius_pix=0.5,
            max_radius_pix=3.0,
        )
        assert (found.detection[0] == 0) == matches


def test_the_nearest_in_sigma_wins_not_the_nearest_in_pixels():
    """Bright: 0.4 px off, error 0.05 px; faint: 0.6 px off, error 0.4 px: the faint one gets it."""
    found = match(
        np.array([[0.4, 0.0], [-0.6, 0.0]]),
        np.array([[0.0, 0.0]]),
        np.empty((0, 2)),
        truth_err_pix=np.array([0.05, 0.4]),
        detected_err_pix=np.zeros(1),
        radius_sigma=5.0,
        min_radius_pix=0.5,
        max_radius_pix=3.0,
    )
    assert found.detection.tolist() == [-1, 0]
    assert found.ambiguous.tolist() == [True, True]


# A coarse lattice, so that equal distances and shared radii occur all the time.
points = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=12, unique=True)
errors = st.floats(0, 1)


@settings(max_examples=150, deadline=None)
@given(truth=points, detected=points, err=errors, seed=st.integers(0, 2**16))
def test_properties_of_any_matching(truth, detected, err, seed):
    truth = np.array(truth, float).reshape(-1, 2) / 2
    detected = np.array(detected, float).reshape(-1, 2) / 2
    found = match_all(truth, detected, err=err)
    has = found.detection >= 0
    partners = found.detection[has]
    assert len(set(partners.tolist())) == len(partners)
    distance = np.hypot(*(truth[has] - detected[partners]).T)
    np.testing.assert_allclose(found.separation_pix[has], distance)
    assert np.isnan(found.separation_pix[~has]).all()
    assert (distance <= np.clip(5 * err, MIN_RADIUS_PIX, 3.0) + 1e-9).all()
    assert not set(partners.tolist()) & set(found.unmatched.tolist())
    # No pair within the radius is left with both sides free.
    if len(truth) and len(detected):
        gap = np.hypot(*(truth[:, None] - detected[None]).transpose(2, 0, 1))
        near = gap <= np.clip(5 * err, MIN_RADIUS_PIX, 3.0) - 1e-9
        free = ~np.isin(np.arange(len(detected)), partners)
        assert not near[~has][:, free].any()
    rng = np.random.default_rng(seed)
    a, b = rng.permutation(len(truth)), rng.permutation(len(detected))
    other = match_all(truth[a], detected[b], err=err)
    expected = {(*truth[t], *detected[d]) for t, d in enumerate(found.detection) if d >= 0}
    assert {(*truth[a][t], *detected[b][d]) for t, d in enumerate(other.detection) if d >= 0} == expected
    np.testing.assert_array_equal(other.ambiguous, found.ambiguous[a])
    assert {tuple(detected[b][k]) for k in other.unmatched} == {tuple(detected[k]) for k in found.unmatched}
