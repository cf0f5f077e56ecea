"""Artefacts of the detector: fixed places, symmetric jumps, the temperature, charge where the rows say."""

import dataclasses

import numpy as np
import pytest
from _tomoe_scene import image_of, only, scene
from scipy import ndimage

from rbsim.emulate.tomoe.artefacts import load_artefacts
from rbsim.emulate.tomoe.artefacts.bad_columns import bad_columns
from rbsim.emulate.tomoe.artefacts.banding import banding
from rbsim.emulate.tomoe.artefacts.cosmic_rays import cosmic_rays
from rbsim.emulate.tomoe.artefacts.crosstalk import crosstalk
from rbsim.emulate.tomoe.artefacts.expected import (
    least_wide_snr,
    line_snr_of,
    pixel_noise_e,
    plateau_snr_of,
)
from rbsim.emulate.tomoe.artefacts.flicker_pixels import flicker_pixels
from rbsim.emulate.tomoe.artefacts.hot_pixels import hot_pixels
from rbsim.emulate.tomoe.artefacts.image_edges import image_edges

SHAPE = (300, 400)
NOISE = only("none").noise
EVERY = dataclasses.replace(NOISE, least_snr=0.0)
"""With rows for the weakest as well."""


def rng(seed):
    return np.random.default_rng(seed)


def stack_of(layer):
    return sum(image_of(layer, SHAPE, frame) for frame in range(17))


@pytest.mark.parametrize("make", [hot_pixels, flicker_pixels])
def test_bad_pixels_stay_where_they_are_and_their_rows_hold_their_charge(make):
    name = make.__name__.removesuffix("s")
    config = getattr(only(name, 5), name)
    if name == "hot_pixel":
        config = dataclasses.replace(config, spill_most=0.0)
    else:
        config = dataclasses.replace(config, jump_low=0.5, jump_high=0.5)  # all of them in every exposure
    nights = [make(scene(), config, EVERY, sensor_rng=rng(1), rng=rng(seed)) for seed in (2, 3)]
    other = make(scene(), config, EVERY, sensor_rng=rng(9), rng=rng(2))
    where = [set(zip(n.impacts.y.tolist(), n.impacts.x.tolist(), strict=True)) for n in (*nights, other)]
    assert len(where[0] & where[1]) > 0.8 * len(where[0] | where[1])
    assert len(where[0] & where[2]) < 0.1 * len(where[0])
    stack = stack_of(nights[0])
    for row in nights[0].rows:
        assert stack[int(row.y_pix), int(row.x_pix)] == pytest.approx(row.strength)
    assert stack.sum() == pytest.approx(sum(row.strength for row in nights[0].rows))
    assert [row.strength for row in nights[0].rows] != [row.strength for row in nights[1].rows]


def test_rows_are_for_pixels_that_a_matched_filter_sees():
    config = only("flicker_pixel", 20).flicker_pixel
    layer = flicker_pixels(scene(), config, NOISE, sensor_rng=rng(1), rng=rng(2))
    stack = stack_of(layer)
    unit = scene().psf.stamp(200, 150, half_pix=12)
    # 17 frames of sky, dark current and read noise.
    assert pixel_noise_e(scene(), NOISE) == pytest.approx(np.sqrt(17 * (12 + 4)))
    filtered = ndimage.correlate(stack, unit) / np.sqrt(17 * (12 + 4) * np.sum(unit**2))
    seen = (np.abs(filtered) > 3) & (stack != 0)
    alone = seen & (np.abs(filtered - stack * unit.max() / np.sqrt(17 * 16 * np.sum(unit**2))) < 0.1)
    rows = {(int(row.y_pix), int(row.x_pix)) for row in layer.rows}
    assert {(int(y), int(x)) for y, x in np.argwhere(alone)} <= rows
    assert len(rows) == pytest.approx(np.count_nonzero(seen), rel=0.1)
    assert len(rows) > 5


def test_a_line_is_listed_from_the_snr_that_noise_makes_a_detection_of_somewhere():
    """An offset along a row of white noise is filtered; how often its highest place is above 5 sigma."""
    unit = scene().psf.stamp(50, 50, half_pix=10)
    length, noise_e = 300, float(pixel_noise_e(scene(), NOISE))
    least = float(least_wide_snr(NOISE, np.array(length / 3.0)))
    offset = least / float(line_snr_of(scene(), NOISE, np.array(1.0)))
    image = rng(1).normal(0, noise_e, (60 * 21, length + 20))
    image[10::21, 10:-10] += offset
    filtered = ndimage.correlate(image, unit) / (noise_e * np.sqrt(np.sum(unit**2)))
    lines = filtered[10::21, 10:-10]
    assert lines.mean() == pytest.approx(least, abs=0.1)
    # A point of S/N 3 is detected in 2.3 % of the cases.
    assert np.mean(lines.max(axis=1) > 5) < 0.15
    assert least_wide_snr(NOISE, np.array(1.0)) == pytest.approx(3.0)
    assert float(least_wide_snr(NOISE, np.array(1e3))) < least < 3.0
    smooth = rng(2).normal(0, noise_e, (300, 300)) + 2.0
    level = ndimage.correlate(smooth, unit)[20:-20, 20:-20].mean() / (noise_e * np.sqrt(np.sum(unit**2)))
    assert float(plateau_snr_of(scene(), NOISE, np.array(2.0))) == pytest.approx(level, abs=0.05)


def test_borders_fall_off_inwards_and_are_those_of_the_sensor():
    config = dataclasses.replace(
        load_artefacts().image_edge, rate_factor=1.0, offset_low_e=4.0, offset_high_e=4.0, decay_low_pix=5.0,
        decay_high_pix=5.0, wander=0.0, lump_rms=0.3,
    )  # fmt: skip
    first, again, other = (
        image_edges(scene(), config, NOISE, sensor_rng=rng(a), rng=rng(b))
        for a, b in ((1, 2), (1, 3), (4, 2))
    )
    np.testing.assert_array_equal(first.steady_e, again.steady_e)
    assert not np.array_equal(first.steady_e, other.steady_e)
    assert len(first.rows) == 4
    image = first.steady_e
    # Away from the corners, where two borders add up.
    for row, strip in zip(
        first.rows,
        (image[:, 70:-70], image[::-1, 70:-70], image[70:-70].T, image[70:-70, ::-1].T),
        strict=True,
    ):
        assert abs(row.strength) == pytest.approx(4 * 17)
        profile = strip.mean(axis=1)
        np.testing.assert_allclose(profile[:12], profile[0] * np.exp(-np.arange(12) / 5.0), rtol=1e-6)
        assert np.sign(profile[0]) == np.sign(row.strength)
        assert np.std(strip[0]) == pytest.approx(0.3 * 4, rel=0.5)
    assert np.abs(image[100:-100, 100:-100]).max() == 0
    assert (first.rows[0].y_pix, first.rows[3].x_pix) == (7.0, 392.0)
    faint = image_edges(
        scene(), dataclasses.replace(config, rate_factor=0.02), NOISE, sensor_rng=rng(1), rng=rng(2)
    )
    assert faint.rows == ()
    np.testing.assert_allclose(faint.steady_e, 0.02 * image)


def test_telegraph_noise_has_three_symmetric_levels():
    config, noise = only("flicker_pixel", 100).flicker_pixel, only("flicker_pixel").noise
    charge = flicker_pixels(scene(), config, noise, sensor_rng=rng(1), rng=rng(2)).impacts.electrons
    n = len(charge)
    assert n > 3000
    assert np.count_nonzero(charge > 0) == pytest.approx(n / 2, abs=4 * np.sqrt(n) / 2)
    up, down = np.sort(charge[charge > 0]), np.sort(-charge[charge < 0])
    quantiles = (0.1, 0.5, 0.9)
    np.testing.assert_allclose(np.quantile(up, quantiles), np.quantile(down, quantiles), rtol=0.1)
    assert up.min() >= config.step_low_e
    assert up.max() <= config.step_high_e
    # One pixel has one step: its impacts are all of the same size.
    layer = flicker_pixels(scene(), config, noise, sensor_rng=rng(1), rng=rng(5))
    pixel = layer.impacts.y * 400 + layer.impacts.x
    for one in np.unique(pixel)[:20]:
        assert np.ptp(np.abs(layer.impacts.electrons[pixel == one])) == 0


def test_leakage_doubles_with_the_temperature_and_follows_the_dark_frames_error():
    config = dataclasses.replace(
        only("hot_pixel", 600).hot_pixel, night_drift_k=0.0, exposure_drift_k=0.0, spill_most=0.0
    )
    noise = only("hot_pixel").noise

    def charge(config, **changes):
        layer = hot_pixels(scene(**changes), config, noise, sensor_rng=rng(1), rng=rng(2))
        return stack_of(layer)[stack_of(layer) != 0]

    # Without drift only the shot noise of the leakage is left: mean 0, variance the leakage itself.
    exact, warm = charge(config), charge(config, temperature_k=294.2)
    leak = np.exp(rng(3).uniform(np.log(5), np.log(200), 10**6)).mean() * 0.5 * 17
    assert abs(exact.mean()) < 4 * np.sqrt(leak / len(exact))
    assert np.var(exact) == pytest.approx(leak, rel=0.25)
    assert np.var(warm) / np.var(exact) == pytest.approx(2, rel=0.15)
    drifted = dataclasses.replace(config, night_drift_k=4.2)
    first, second = charge(drifted), charge(drifted, temperature_k=294.2)
    assert second.mean() / first.mean() == pytest.approx(2, rel=0.05)
    # Of one sign on all pixels, beyond their noise.
    leaky = first[np.abs(first) > 4 * np.sqrt(200 * 0.5 * 17)]
    assert len(leaky) > 10
    np.testing.assert_array_equal(np.sign(leaky), np.sign(first.mean()))


def test_columns_are_as_long_as_their_rows_and_wander_between_exposures():
    config = only("bad_column", 5).bad_column
    first, second = (bad_columns(scene(), config, EVERY, sensor_rng=rng(1), rng=rng(s)) for s in (2, 3))
    assert [(r.x_pix, r.y_pix, r.length_pix) for r in first.rows] == [
        (r.x_pix, r.y_pix, r.length_pix) for r in second.rows
    ]
    ratio = np.array([b.strength / a.strength for a, b in zip(first.rows, second.rows, strict=True)])
    assert 0 < np.std(ratio) < 1
    stack = stack_of(first)
    alone = [r for r in first.rows if sum(r.x_pix == other.x_pix for other in first.rows) == 1]
    assert alone
    for row in alone:
        lit = np.flatnonzero(stack[:, int(row.x_pix)])
        assert (len(lit), lit.mean()) == (row.length_pix, row.y_pix)
        assert stack[lit, int(row.x_pix)] == pytest.approx(row.strength)
    assert len(first.impacts.y) == sum(row.length_pix for row in first.rows)


def test_bands_have_the_width_that_was_drawn_and_jumps_are_lines():
    config = only("banding", 20).banding
    same = dataclasses.replace(config, row_low_e=0.05, row_high_e=0.05, column_low_e=0.02, column_high_e=0.02)
    quiet = banding(scene(), dataclasses.replace(same, rate_factor=0.0), EVERY, rng=rng(1))
    assert quiet.rows == ()
    rows, columns = quiet.steady_e.mean(axis=1), quiet.steady_e.mean(axis=0)
    assert np.std(rows) == pytest.approx(0.05, rel=0.2)
    assert np.std(columns) == pytest.approx(0.02, rel=0.2)
    left = quiet.steady_e - rows[:, None] - columns + quiet.steady_e.mean()
    np.testing.assert_allclose(left, 0, atol=1e-12)
    loud = banding(scene(), same, EVERY, rng=rng(1))
    listed = banding(scene(), same, NOISE, rng=rng(1))
    np.testing.assert_array_equal(listed.steady_e, loud.steady_e)
    assert {row.y_pix for row in loud.rows if abs(row.strength) > 20} <= {row.y_pix for row in listed.rows}
    assert len(listed.rows) < len(loud.rows)
    assert len(loud.rows) > 2
    jumps = loud.steady_e - quiet.steady_e
    assert jumps.sum() == pytest.approx(sum(row.strength * row.length_pix for row in loud.rows) / 17)
    for row in loud.rows:
        start = round(row.x_pix - (row.length_pix - 1) / 2)
        line = jumps[int(row.y_pix)]
        assert np.all(line[start : start + round(row.length_pix)] != 0)


def test_cosmic_rays_are_as_many_as_muons_and_sharper_than_the_psf():
    config = only("cosmic_ray", 300).cosmic_ray
    layer = cosmic_rays(scene(), dataclasses.replace(config, least_row_e=0.0), rng=rng(1))
    wanted = 300 * 2.0 * (300 * 400 * 0.0019**2) * 17 * 0.5 / 60
    assert len(layer.rows) == pytest.approx(wanted, abs=4 * np.sqrt(wanted))
    inner = [r for r in layer.rows if 12 < r.x_pix < 387 and 12 < r.y_pix < 287]
    lonely = [
        row
        for row in inner
        if all(
            np.hypot(row.x_pix - other.x_pix, row.y_pix - other.y_pix) > 20
            for other in layer.rows
            if other is not row and other.frame == row.frame
        )
    ]
    assert len(lonely) > 3
    for row in lonely:
        image = image_of(layer, SHAPE, row.frame)
        y, x = round(row.y_pix), round(row.x_pix)
        box = image[y - 7 : y + 8, x - 7 : x + 8]
        assert box.sum() == pytest.approx(row.strength, rel=0.02, abs=5)
        peak = box.max() / box.sum()
        assert peak > 0.12  # a PSF of 3 px FWHM has 0.09
        assert image_of(layer, SHAPE, (row.frame + 1) % 17)[y - 1 : y + 2, x - 1 : x + 2].sum() == 0
    # 8 um of silicon hold 640 electrons along the vertical; nothing less, and a tail.
    charges = np.array([row.strength for row in layer.rows])
    assert charges.min() >= 640
    assert np.median(charges) < 1500 < charges.max()


def test_echoes_are_a_multiple_of_the_channel_away_and_limited_by_the_well():
    config, noise = only("crosstalk").crosstalk, only("crosstalk").noise
    strong = dataclasses.replace(config, share_low=1e-3, share_high=1e-3, bright_mag=16.0)
    layer = crosstalk(scene(), strong, noise, sensor_rng=rng(1))
    assert layer.rows
    stack = stack_of(layer)
    for row in layer.rows:
        star = int(np.argmin(np.abs(scene().star_y_pix - row.y_pix)))
        assert abs(row.x_pix - scene().star_x_pix[star]) % 100 == pytest.approx(0, abs=1e-9)
        left = max(int(row.x_pix) - 6, 0)
        box = stack[int(row.y_pix) - 6 : int(row.y_pix) + 7, left : int(row.x_pix) + 7]
        most = min(scene().star_e[star] * 0.1, noise.well_e) * 1e-3 * 17
        assert np.abs(box).max() == pytest.approx(most, rel=0.1)
    # That of the fainter star has charge, but no row: 85 e of a PSF's shape have an S/N of 1.
    every = crosstalk(scene(), strong, EVERY, sensor_rng=rng(1))
    assert {row.y_pix for row in layer.rows} == {250.6}
    assert {row.y_pix for row in every.rows} == {150.0, 250.6}
    np.testing.assert_array_equal(stack_of(every), stack)
    assert crosstalk(scene(), only("crosstalk", 0).crosstalk, noise, sensor_rng=rng(1)).rows == ()
