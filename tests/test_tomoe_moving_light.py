"""Light in single frames and along trails is where and as bright as physics says."""

import dataclasses
import math

import numpy as np
import pytest
from _tomoe_scene import image_of, only, scene

from rbsim.emulate.tomoe.artefacts import all_layers, load_artefacts
from rbsim.emulate.tomoe.artefacts.expected import snr_of
from rbsim.emulate.tomoe.artefacts.motion import GAP_S, Motion, exposed, trail
from rbsim.emulate.tomoe.artefacts.moving_objects import moving_objects
from rbsim.emulate.tomoe.artefacts.satellite_glints import satellite_glints
from rbsim.emulate.tomoe.artefacts.satellite_streaks import satellite_streaks

STILL = scene(line_s=0.0)
NOISE = load_artefacts().noise
HALF_LIT = np.where(np.arange(400) < 200, 1.0, 0.5) * np.ones((300, 1))
"""Throughput of a sensor whose right half gets half of the light."""


def test_a_glint_has_the_shape_of_the_psf_and_is_in_one_frame():
    every = dataclasses.replace(NOISE, least_snr=0.0)
    layer = satellite_glints(
        scene(), only("satellite_glint", 1e5).satellite_glint, every, rng=np.random.default_rng(1)
    )
    assert len(layer.rows) > 20
    for row, flash in zip(layer.rows, layer.flashes, strict=True):
        assert row.frame == flash.frame
        wanted = scene().psf.draw((300, 400), [row.x_pix], [row.y_pix], [row.strength])
        one = dataclasses.replace(layer, flashes=(flash,))
        np.testing.assert_allclose(image_of(one, (300, 400), flash.frame), wanted, atol=1e-6 * row.strength)
        assert image_of(one, (300, 400), (flash.frame + 1) % 17).max() == 0


def test_glints_are_as_many_and_as_bright_as_published():
    config = only("satellite_glint", 1e6).satellite_glint
    every = dataclasses.replace(NOISE, least_snr=0.0)
    rows = satellite_glints(scene(), config, every, rng=np.random.default_rng(2)).rows
    listed = satellite_glints(scene(), config, NOISE, rng=np.random.default_rng(2)).rows
    in_stack = np.array([row.strength for row in rows]) / 17
    assert len(listed) == np.count_nonzero(snr_of(scene(), NOISE, in_stack, in_stack) >= 3) < len(rows)
    mag = 22.25 - 2.5 * np.log10([row.strength for row in rows])
    assert mag.min() >= 11
    assert mag.max() <= 17
    deg2, hours = 300 * 400 * (1.189 / 3600) ** 2, 17 * 0.5 / 3600
    # 4.7 per square degree and hour brighter than 15.5 mag, those brighter than 11 mag left out.
    wanted = 4.7 * (1 - 10 ** (0.3 * (11 - 15.5))) * deg2 * hours * 1e6
    assert np.sum(mag < 15.5) == pytest.approx(wanted, abs=4 * math.sqrt(wanted))
    assert np.sum(mag < 14) / np.sum(mag < 15.5) == pytest.approx((10**0.9 - 1) / (10**1.35 - 1), abs=0.07)


def moments(image):
    """Sum, centre and second moments (xx, yy, xy) of an image."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    total = image.sum()
    cx, cy = (image * x).sum() / total, (image * y).sum() / total
    xx, yy = (image * (x - cx) ** 2).sum() / total, (image * (y - cy) ** 2).sum() / total
    return total, cx, cy, xx, yy, (image * (x - cx) * (y - cy)).sum() / total


@pytest.mark.parametrize("angle_deg", [0.0, 40.0, 135.0])
def test_a_trail_is_as_long_as_rate_times_time_and_holds_all_its_light(angle_deg):
    speed, along = 60.0, math.radians(angle_deg)
    v = speed * math.cos(along), speed * math.sin(along)
    body = Motion(200 - v[0] * 4.25, 150 - v[1] * 4.25, *v, e_per_s=1000.0)
    flashes, parts = trail(body, STILL)
    image = sum(image_of(dataclasses.replace(EMPTY, flashes=tuple(flashes)), (300, 400), k) for k in (8,))
    seconds = 0.5 - GAP_S
    total, x, y, xx, yy, xy = moments(image)
    assert total == pytest.approx(1000 * seconds, rel=1e-3)
    _, start, end = next(part for part in parts if part[0] == 8)
    assert (x, y) == (pytest.approx(body.at((start + end) / 2)[0], abs=0.01), pytest.approx(150, abs=15))
    # Variance of a uniform line is length^2 / 12; the rest is the PSF with its pixel, round.
    psf = moments(scene().psf.stamp(16, 16, half_pix=16))[3]
    rotated = np.array([math.cos(along), math.sin(along)])
    matrix = np.array([[xx, xy], [xy, yy]])
    length2 = 12 * (rotated @ matrix @ rotated - psf)
    assert math.sqrt(length2) == pytest.approx(speed * seconds, rel=0.01)
    assert end - start == pytest.approx(seconds)


EMPTY = dataclasses.replace(
    satellite_glints(scene(), only("none").satellite_glint, NOISE, rng=np.random.default_rng(0))
)


def test_a_slow_trail_equals_the_psf_drawn_many_times():
    body = Motion(150.2, 140.1, 8.0, 5.0, e_per_s=2000.0, depth=0.7, period_s=0.21, phase=0.3)
    flashes, _ = trail(body, dataclasses.replace(STILL, n_frames=1))
    times = (np.arange(400) + 0.5) / 400 * (0.5 - GAP_S)
    light = 1 + 0.7 / 1.3 * np.cos(2 * np.pi * (times / 0.21 + 0.3))
    wanted = scene().psf.draw(
        (300, 400), 150.2 + 8 * times, 140.1 + 5 * times, 2000 * (0.5 - GAP_S) / 400 * light
    )
    got = image_of(dataclasses.replace(EMPTY, flashes=tuple(flashes)), (300, 400), 0)
    np.testing.assert_allclose(got, wanted, atol=0.005 * wanted.max())


def test_a_long_trail_has_no_seams_between_its_pieces():
    body = Motion(-100.0, 150.0, 1200.0, 0.0, e_per_s=1e5)
    image = sum(
        image_of(dataclasses.replace(EMPTY, flashes=tuple(trail(body, STILL)[0])), (300, 400), k)
        for k in range(17)
    )
    along = image[140:161].sum(axis=0)
    inside = along[30:-30]
    assert inside.mean() == pytest.approx(1e5 / 1200, rel=1e-3)
    assert np.ptp(inside) < 0.02 * inside.mean()


def test_the_rolling_shutter_skews_what_moves_along_it():
    line_s = 0.00041475
    for vy in (0.0, 600.0, -600.0):
        body = Motion(200.0, 150.0 - 4 * vy, 100.0, vy, e_per_s=1.0)
        for start, end in exposed(body, scene()):
            assert end - start == pytest.approx((0.5 - GAP_S) / (1 - vy * line_s))
        gaps = np.array(exposed(body, scene()))
        np.testing.assert_allclose(gaps[1:, 0] - gaps[:-1, 1], GAP_S / (1 - vy * line_s), rtol=1e-6)
    # A body that stands still is exposed later the farther down it is.
    low, high = (exposed(Motion(5.0, y, 0.0, 0.0, 1.0), scene())[0][0] for y in (0.0, 299.0))
    assert high - low == pytest.approx(299 * line_s)


def test_streaks_have_one_row_per_frame_and_meet_the_sensor_as_often_as_asked():
    config = only("satellite_streak", 2000.0).satellite_streak
    layer = satellite_streaks(scene(), config, rng=np.random.default_rng(3))
    wanted = 300 * config.per_exposure * 700 / 3128
    n = len({(row.angle_deg, row.strength) for row in layer.rows})
    assert n == pytest.approx(wanted, abs=4 * math.sqrt(wanted))
    for row in layer.rows:
        assert -0.5 <= row.x_pix <= 399.5
        assert -0.5 <= row.y_pix <= 299.5
        assert 0 <= row.frame < 17
        assert 0 <= row.length_pix <= 501


def test_moving_objects_trail_over_the_whole_exposure():
    config = only("moving_object", 2e4).moving_object
    layer = moving_objects(STILL, config, rng=np.random.default_rng(4))
    assert len(layer.rows) > 3
    inner = [
        row
        for row in layer.rows
        if min(row.x_pix, 399 - row.x_pix, row.y_pix, 299 - row.y_pix) > row.length_pix / 2 + 20
    ]
    assert inner
    total = sum(flash.electrons.sum() for flash in layer.flashes)
    assert total == pytest.approx(sum(row.strength for row in layer.rows), rel=0.1)
    for row in inner:
        assert row.frame == -1
        speed = row.length_pix * 1.189 / (17 * 0.5 - GAP_S)
        assert 0.3 <= speed <= 10


@pytest.mark.parametrize(
    ("name", "factor"), [("satellite_glint", 1e5), ("satellite_streak", 2000.0), ("moving_object", 2e4)]
)
def test_light_that_comes_and_goes_is_vignetted_as_the_stars_are(name, factor):
    def layer_of(here):
        make = {"satellite_streak": satellite_streaks, "moving_object": moving_objects}.get(name)
        config = getattr(only(name, factor), name)
        if make is None:
            every = dataclasses.replace(NOISE, least_snr=0.0)
            return satellite_glints(here, config, every, rng=np.random.default_rng(6))
        return make(here, config, rng=np.random.default_rng(6))

    full, dimmed = layer_of(scene()), layer_of(scene(throughput=HALF_LIT))
    assert full.rows
    for frame in range(17):
        np.testing.assert_allclose(
            image_of(dimmed, (300, 400), frame), image_of(full, (300, 400), frame) * HALF_LIT, rtol=1e-12
        )
    for a, b in zip(full.rows, dimmed.rows, strict=True):
        assert b.strength == pytest.approx(a.strength * (1.0 if round(a.x_pix) < 200 else 0.5))


def test_clouds_dim_glints_and_stars_alike():
    settings = only("satellite_glint", 1e5)
    sure = dataclasses.replace(
        settings.clouds, rate_factor=1.0, probability=1.0, rms_low_mag=0.3, rms_high_mag=0.3
    )
    settings = dataclasses.replace(settings, clouds=sure)
    with_clouds, without = (
        all_layers(scene(), some, sensor_rng=np.random.default_rng(1), rng=np.random.default_rng(2))
        for some in (settings, only("satellite_glint", 1e5))
    )
    (transparency,) = [layer.transparency for layer in with_clouds if layer.transparency is not None]
    assert np.ptp(transparency) > 0.1
    for frame in range(17):
        np.testing.assert_allclose(
            image_of(with_clouds[0], (300, 400), frame),
            image_of(without[0], (300, 400), frame) * transparency,
            rtol=1e-12,
        )
    behind = scene(star_change_e=np.array([1.0, 2.0, 3.0])).behind(transparency)
    at_stars = transparency[[50, 150, 251], [100, 200, 320]]
    np.testing.assert_allclose(behind.star_e, scene().star_e * at_stars)
    np.testing.assert_allclose(behind.star_change_e, np.array([1.0, 2.0, 3.0]) * at_stars)


def test_trails_of_the_same_seed_are_the_same_and_leave_nothing_outside():
    config = only("satellite_streak", 100.0).satellite_streak
    first, second = (satellite_streaks(scene(), config, rng=np.random.default_rng(5)) for _ in range(2))
    assert first.rows == second.rows
    for a, b in zip(first.flashes, second.flashes, strict=True):
        np.testing.assert_array_equal(a.electrons, b.electrons)
        assert a.y0 >= 0
        assert a.x0 >= 0
        assert a.y0 + a.electrons.shape[0] <= 300
        assert a.x0 + a.electrons.shape[1] <= 400
        assert a.electrons.min() >= 0
