"""The fitted efficiency: truth recovered, intervals that hold what they promise, no opinion without data."""

import numpy as np
import pytest
from scipy.special import ndtr, ndtri
from scipy.stats import binom

from rbsim.efficiency import MAX_GROUPS, _group, fit_efficiency


def trials(n, *, rng, midpoint=5.0, width=1.0, asymptote=0.95, low=2.5, high=20.0):
    x = np.exp(rng.uniform(np.log(low), np.log(high), n))
    return x, rng.random(n) < asymptote * ndtr((x - midpoint) / width)


def test_midpoint_width_asymptote_and_points_are_recovered():
    x, found = trials(40_000, rng=np.random.default_rng(1), midpoint=5.3, width=0.8, asymptote=0.96)
    fit = fit_efficiency(x, found, rising=True)
    assert fit.midpoint == pytest.approx(5.3, abs=0.05)
    assert fit.width == pytest.approx(0.8, abs=0.05)
    assert fit.asymptote == pytest.approx(0.96, abs=0.005)
    for point in fit.points:
        assert point.value == pytest.approx(5.3 + 0.8 * ndtri(point.level / 0.96), abs=0.06)
        assert point.low < point.value < point.high
        assert fit.at(np.array([point.value])) == pytest.approx(point.level, abs=1e-4)
    assert fit.points[0].high - fit.points[0].low < 0.1


def test_magnitudes_fall_where_fluxes_rise():
    x, found = trials(3000, rng=np.random.default_rng(2))
    rising, falling = fit_efficiency(x, found, rising=True), fit_efficiency(-x, found, rising=False)
    assert falling.points[0].value == pytest.approx(-rising.points[0].value, abs=1e-3)
    assert (falling.points[0].low, falling.points[0].high) == pytest.approx(
        (-rising.points[0].high, -rising.points[0].low), abs=5e-3
    )
    assert falling.at(np.array([-20.0])) > falling.at(np.array([-3.0]))


def test_intervals_have_their_coverage():
    rng, n_runs = np.random.default_rng(3), 120
    truth = {"half": 5 + ndtri(0.5 / 0.95), "asymptote": 0.95}
    inside = dict.fromkeys(truth, 0)
    for _ in range(n_runs):
        fit = fit_efficiency(*trials(400, rng=rng), rising=True, levels=(0.5,))
        inside["half"] += fit.points[0].low <= truth["half"] <= fit.points[0].high
        inside["asymptote"] += fit.asymptote_low <= 0.95 <= fit.asymptote_high
    # Within what 120 runs of a true 95 % interval do in 99.9 % of cases; too wide would be wrong as well.
    low, high = binom.ppf([0.0005, 0.9995], n_runs, 0.95)
    for name, n in inside.items():
        assert low <= n <= high, (name, n)
    width = fit_efficiency(*trials(6400, rng=rng), rising=True).points[0]
    assert 0.07 < width.high - width.low < 0.25


def test_the_order_of_the_stars_does_not_matter():
    rng = np.random.default_rng(4)
    x, found = trials(2000, rng=rng)
    x = np.round(x, 1)  # with ties
    order = rng.permutation(len(x))
    assert fit_efficiency(x, found, rising=True) == fit_efficiency(x[order], found[order], rising=True)


def test_sums_over_groups_change_nothing_that_matters():
    x, found = trials(3000, rng=np.random.default_rng(5))
    grouped = _group(x, found)
    assert len(grouped.n) == MAX_GROUPS
    assert (grouped.n.sum(), grouped.n_found.sum()) == (3000, found.sum())
    single = type(grouped)(np.sort(x), np.ones(3000, int), found[np.argsort(x)].astype(int))
    low, high = (t.deviance(5.2, 0.1, 0.94)[0] - t.deviance(5.0, 0.0, 0.95)[0] for t in (grouped, single))
    assert low == pytest.approx(high, abs=0.1)


def test_the_gradient_is_that_of_the_deviance():
    x, found = trials(500, rng=np.random.default_rng(6))
    grouped, at = _group(x, found), np.array([5.4, 0.2, 0.9])
    _, gradient = grouped.deviance(*at)
    for i in range(3):
        step = np.zeros(3)
        step[i] = 1e-5
        slope = (grouped.deviance(*(at + step))[0] - grouped.deviance(*(at - step))[0]) / 2e-5
        assert gradient[i] == pytest.approx(slope, rel=1e-4, abs=1e-4)


def test_what_the_data_do_not_bracket_is_not_told():
    rng = np.random.default_rng(7)
    above = fit_efficiency(*trials(2000, rng=rng, low=6.0), rising=True)
    assert not above.points[0].bracketed
    assert np.isnan([above.points[0].low, above.points[0].high]).all()
    assert above.asymptote_low < 0.95 < above.asymptote_high
    below = fit_efficiency(*trials(2000, rng=rng, high=4.9), rising=True)
    assert not below.points[0].bracketed
    dim = fit_efficiency(*trials(2000, rng=rng, asymptote=0.8), rising=True)
    assert dim.points[0].bracketed
    assert not dim.points[1].bracketed
    everything = fit_efficiency(np.linspace(5, 9, 100), np.ones(100, bool), rising=True)
    assert not everything.points[0].bracketed
    assert everything.asymptote_high == 1.0
    assert everything.asymptote_low > 0.9


@pytest.mark.parametrize(
    ("x", "found"),
    [
        (np.linspace(1, 9, 19), np.arange(19) > 9),
        (np.linspace(1, 9, 50), np.zeros(50, bool)),
        (np.full(50, 5.0), np.arange(50) > 20),
    ],
)
def test_too_little_to_fit_is_none(x, found):
    assert fit_efficiency(x, found, rising=True) is None
