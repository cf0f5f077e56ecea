"""Frames of the emulated sensor; their mean drawn at once is distributed as the mean of frames."""

import dataclasses

import numpy as np
import pytest
from _tomoe_night import DARK
from scipy import stats

from rbsim.emulate.tomoe.detector import Light, expose_frames, expose_mean, make_chip, respond
from rbsim.emulate.tomoe.scene import Flash, Impacts

CAMERA = DARK.camera
PLAIN = dataclasses.replace(CAMERA, dark_scatter=0.0, flat_scatter=0.0, flat_gradient=0.0)
SHAPE = (60, 80)
N = 17
NO_IMPACTS = Impacts(*np.zeros((3, 0), int), np.zeros(0))


def chip_with(camera=PLAIN, shape=SHAPE, efficiency=None):
    share = np.ones(shape, np.float32) if efficiency is None else efficiency
    return make_chip(camera, share, rng=np.random.default_rng(3))


def light_of(steady, *, flashes=(), impacts=(), dark=0.25, dark_frame=0.25, shape=SHAPE):
    return Light(np.broadcast_to(np.asarray(steady, float), shape).copy(), flashes, impacts, dark, dark_frame)


def both_ways(chip, light, repeats=40):
    """Means of `N` frames: frame by frame, and at once, shape (repeats, ny, nx)."""
    slow = [
        expose_frames(chip, light, N, rng=np.random.default_rng([1, i])).mean(axis=0) for i in range(repeats)
    ]
    fast = [expose_mean(chip, light, N, rng=np.random.default_rng([2, i])) for i in range(repeats)]
    return np.array(slow), np.array(fast)


@pytest.mark.parametrize("steady_e", [0.5, 10.0, 300.0, 2300.0, 2500.0, 4000.0])
def test_the_mean_drawn_at_once_has_mean_variance_and_tails_of_the_mean_of_frames(steady_e):
    slow, fast = both_ways(chip_with(), light_of(steady_e), repeats=6)
    n = slow.size  # 28,800 values: the mean to 0.6 %, the variance to 0.8 % of sigma
    sigma = slow.std()
    assert abs(slow.mean() - fast.mean()) < 5 * sigma * np.sqrt(2 / n)
    assert fast.var() / slow.var() == pytest.approx(1, abs=5 * np.sqrt(4 / n))
    # Tails: the same share beyond 3 sigma on either side, and the same distribution as a whole.
    for sign in (-1, 1):
        beyond = [np.count_nonzero(sign * (values - slow.mean()) > 3 * sigma) for values in (slow, fast)]
        assert abs(beyond[0] - beyond[1]) < 5 * np.sqrt(sum(beyond) + 1)
    assert stats.ks_2samp(slow.ravel(), fast.ravel()).pvalue > 1e-4


def test_their_variance_is_that_of_photons_and_readout():
    values = expose_mean(chip_with(), light_of(10.0), N, rng=np.random.default_rng(1))
    expected_e2 = (10.25 + CAMERA.read_noise_e**2 + CAMERA.gain_e_per_adu**2 / 12) / N
    assert values.var() * CAMERA.gain_e_per_adu**2 == pytest.approx(expected_e2, rel=0.06)
    assert values.mean() * CAMERA.gain_e_per_adu == pytest.approx(10.0, abs=0.06)


@pytest.mark.parametrize("steady_e", [5700.0, 6050.0, 9000.0])
def test_pixels_at_the_well_are_the_same_both_ways(steady_e):
    slow, fast = both_ways(chip_with(shape=(20, 30)), light_of(steady_e, shape=(20, 30)), repeats=12)
    sigma = max(slow.std(), 0.1)
    assert abs(slow.mean() - fast.mean()) < 5 * sigma * np.sqrt(2 / slow.size)
    assert fast.std() / slow.std() == pytest.approx(1, abs=0.06)
    assert stats.ks_2samp(slow.ravel(), fast.ravel()).pvalue > 1e-4


def test_light_in_one_frame_is_the_same_both_ways_also_where_that_frame_saturates():
    shape = (24, 30)
    flashes = [
        Flash(4, 5, 6, np.full((2, 3), 60.0)),
        Flash(4, 10, -2, np.full((3, 5), 3000.0)),  # partly outside
        Flash(16, 15, 20, np.full((2, 2), 20000.0)),
        Flash(17, 0, 0, np.full((24, 30), 1e6)),  # after the last frame
    ]
    impacts = [
        Impacts(
            np.array([2, 2, -1, 7]),
            np.array([20, 20, 21, 22]),
            np.array([3, 3, 4, 5]),
            np.array([50.0, 900.0, 5.0, -30.0]),
        ),
        NO_IMPACTS,
    ]
    slow, fast = both_ways(
        chip_with(shape=shape), light_of(10.0, flashes=flashes, impacts=impacts, shape=shape), 150
    )
    error = np.sqrt((slow.var(axis=0) + fast.var(axis=0)) / len(slow))
    pulls = (slow.mean(axis=0) - fast.mean(axis=0)) / error
    assert np.abs(pulls).max() < 5
    assert pulls.std() == pytest.approx(1, abs=0.12)
    # Known truth: a flash is diluted by the number of frames, and a frame holds no more than the well.
    gain = CAMERA.gain_e_per_adu
    assert fast[:, 5:7, 6:9].mean() == pytest.approx((10 + 60 / N) / gain, abs=1.0)
    full = float(respond(np.array(CAMERA.well_e), CAMERA))
    assert fast[:, 15:17, 20:22].mean() == pytest.approx((10 * 16 + full) / N / gain, rel=0.01)
    assert fast[:, 20, 3].mean() == pytest.approx((10 + 950 / N) / gain, rel=0.02)
    assert fast[:, 21, 4].mean() == pytest.approx(15 / gain, rel=0.03)


def test_saturated_pixels_read_the_same_whatever_falls_on_them():
    chip = chip_with(shape=(10, 12))
    values = [
        expose_mean(chip, light_of(e, shape=(10, 12)), N, rng=np.random.default_rng(1)).mean()
        for e in (7e3, 7e5, 7e9)
    ]
    assert np.ptp(values) < 5
    # tomoe-facts, section 2: 25,000 ADU in practice.
    assert values[0] == pytest.approx(25_000, rel=0.02)


def test_response_falls_short_by_less_than_five_per_cent_below_the_well():
    charge = np.linspace(0, CAMERA.well_e, 50)
    shortfall = 1 - respond(charge, CAMERA)[1:] / charge[1:]
    assert np.all(np.diff(shortfall) > 0)
    assert shortfall[-1] == pytest.approx(CAMERA.nonlinearity_at_well)
    assert CAMERA.nonlinearity_at_well < 0.05
    assert respond(np.array(-40.0), CAMERA) == -40.0


def test_dark_current_of_another_temperature_leaves_its_pattern():
    camera = dataclasses.replace(PLAIN, dark_scatter=0.3)
    shape = (80, 100)
    chip = chip_with(camera, shape)
    warm, cold = CAMERA.dark_e_per_s_at(305.0) * 0.5, CAMERA.dark_e_per_s_at(303.0) * 0.5
    image = expose_mean(
        chip, light_of(10.0, dark=warm, dark_frame=cold, shape=shape), N, rng=np.random.default_rng(1)
    )
    assert image.mean() * CAMERA.gain_e_per_adu == pytest.approx(
        10 + (warm - cold) * chip.dark_share.mean(), rel=0.01
    )
    assert np.corrcoef(image.ravel(), chip.dark_share.ravel())[0, 1] > 0.15
    exact = expose_mean(
        chip, light_of(10.0, dark=warm, dark_frame=warm, shape=shape), N, rng=np.random.default_rng(1)
    )
    assert abs(np.corrcoef(exact.ravel(), chip.dark_share.ravel())[0, 1]) < 0.05


def test_the_flat_undoes_vignetting_and_leaves_more_noise_where_light_was_lost():
    shape = (60, 200)
    efficiency = np.broadcast_to(np.linspace(1.0, 0.5, 200, dtype=np.float32), shape)
    chip = chip_with(PLAIN, shape, efficiency)
    image = expose_mean(chip, light_of(40.0 * efficiency, shape=shape), N, rng=np.random.default_rng(1))
    left, right = image[:, :40], image[:, -40:]
    assert left.mean() == pytest.approx(right.mean(), rel=0.01)
    assert right.std() > 1.2 * left.std()


def test_frames_are_whole_adu_before_calibration():
    frames = expose_frames(
        chip_with(shape=(8, 9)), light_of(10.0, dark_frame=0.0, shape=(8, 9)), 2, rng=np.random.default_rng(1)
    )
    np.testing.assert_array_equal(frames, np.rint(frames))
