"""Exposures of an emulated Tomo-e sensor: depth, positions, vignetting, truth, and the same bits always."""

import dataclasses

import numpy as np
import pytest
from _tomoe_night import DARK, SENSOR, SHAPE, STEADY, changed, small_night, without_artefacts
from astropy.coordinates import SkyCoord

from rbsim.emulate.tomoe import exposure
from rbsim.emulate.tomoe.detector import Light, expose_frames, expose_mean
from rbsim.emulate.tomoe.exposure import emulate_exposure
from rbsim.emulate.tomoe.pointing import draw_wcs_error, efficiency_map, sensor_wcs
from rbsim.emulate.tomoe.sensor_night import Visit, dither_of, field_centre, name_of, weather_of
from rbsim.emulate.tomoe.settings import load_settings
from rbsim.emulate.tomoe.sky import Galaxies, Glow, Sky, Stars, Variables
from rbsim.emulate.tomoe.view import psf_of
from rbsim.emulate.tomoe.weather import draw_weather
from rbsim.tomoe.sensors import PIXEL_SCALE_ARCSEC, beam_efficiency, field_positions, read_sensors

SHARP_WCS = {"wcs_shift_pix": 0.0, "wcs_corner_pix": 0.0}


def with_stars(night, x_pix, y_pix, mag):
    """The night with nothing in its sky but these stars."""
    n = len(mag)
    ra, dec = night.wcs.wcs_pix2world(x_pix, y_pix, 0)
    none = np.empty(0)
    stars = Stars(ra, dec, np.asarray(mag, float), *np.zeros((3, n)))
    sky = Sky(
        stars,
        Variables(np.empty(0, int), none, none, none),
        Galaxies(*np.zeros((10, 0))),
        Glow(none, none, np.empty(0, int), none),
        red_dwarfs=np.empty(0, int),
    )
    slow = dataclasses.replace(night.slow, **{key: value[:0] for key, value in vars(night.slow).items()})
    return dataclasses.replace(night, sky=sky, slow=slow)


QUIET = changed(STEADY, optics=SHARP_WCS, transients={"flares_per_exposure": 0.0})
QUIET = dataclasses.replace(QUIET, mode=dataclasses.replace(QUIET.mode, dither_arcsec=0.0))


@pytest.fixture(scope="module")
def night():
    return small_night(DARK)


def test_depth_is_17_mag_in_a_frame_and_18_5_in_a_stack_of_the_dark_condition(monkeypatch):
    """Faint stars are put into the field; noise and signal are measured with the matched filter in pixels."""
    without_artefacts(monkeypatch)
    rows, columns = np.meshgrid(np.arange(20, 170, 20), np.arange(20, 250, 20), indexing="ij")
    mag = np.where((rows + columns) // 20 % 2 == 0, 17.0, 99.0).ravel()
    night = with_stars(small_night(QUIET), columns.ravel(), rows.ravel(), mag)
    made = emulate_exposure(night, Visit(0), with_cube=True)
    psf = psf_of(night, made.weather).stamp(100, 80, half_pix=8)
    limits = []
    for image in (made.cube[3], made.stack):
        level = np.median(image)
        fluxes = np.array(
            [
                np.sum((image[y - 8 : y + 9, x - 8 : x + 9] - level) * psf) / np.sum(psf**2)
                for y, x in zip(rows.ravel(), columns.ravel(), strict=True)
            ]
        )
        signal, noise = fluxes[mag < 20].mean(), fluxes[mag > 20].std()
        limits.append(17.0 + 2.5 * np.log10(signal / (5 * noise)))
    frame, stack = limits
    assert frame == pytest.approx(17.0, abs=0.35)  # tomoe-facts, section 2
    assert stack == pytest.approx(18.5, abs=0.35)
    assert stack - frame == pytest.approx(1.25 * np.log10(17), abs=0.25)


def test_star_fluxes_are_those_of_the_zero_point(monkeypatch):
    without_artefacts(monkeypatch)
    night = with_stars(small_night(QUIET), np.array([70.3, 180.6]), np.array([90.2, 60.9]), [13.0, 14.0])
    image = emulate_exposure(night, Visit(0)).stack
    image = image - np.median(image)
    for x, y, mag in ((70, 90, 13.0), (181, 61, 14.0)):
        electrons = image[y - 12 : y + 13, x - 12 : x + 13].sum() * DARK.camera.gain_e_per_adu
        assert electrons == pytest.approx(10 ** (0.4 * (23.0 - mag)) * 0.499904, rel=0.03)


def test_truth_gives_positions_and_fluxes_that_are_in_the_pixels(monkeypatch):
    without_artefacts(monkeypatch)
    night = with_stars(
        small_night(changed(QUIET, optics={"wcs_shift_pix": 0.5, "wcs_corner_pix": 1.0})), *np.zeros((3, 0))
    )
    x, y = np.array([60.25, 200.5]), np.array([120.0, 50.75])
    ra, dec = night.wcs.wcs_pix2world(x, y, 0)
    n = np.zeros(2)
    slow = dataclasses.replace(
        night.slow,
        kind=np.array(["dwarf_nova"] * 2),
        ra_deg=ra,
        dec_deg=dec,
        rate_ra_deg_per_s=n,
        rate_dec_deg_per_s=n,
        mag=np.array([13.0, 14.0]),
        fade_mag_per_s=n,
        host_offset_arcsec=n + np.nan,
    )
    made = emulate_exposure(dataclasses.replace(night, slow=slow), Visit(0))
    image = made.stack - np.median(made.stack)
    assert len(made.transients) == 2
    for row in made.transients:
        column, line = round(row["x_pix"]), round(row["y_pix"])
        box = image[line - 6 : line + 7, column - 6 : column + 7]
        ys, xs = np.mgrid[-6:7, -6:7]
        assert np.sum(box * xs) / box.sum() + column == pytest.approx(row["x_pix"], abs=0.1)
        assert np.sum(box * ys) / box.sum() + line == pytest.approx(row["y_pix"], abs=0.1)
        wide = image[line - 12 : line + 13, column - 12 : column + 13].sum()
        # The box lacks 1 to 3 % of the light, in the wings that turbulence makes; the noise is 1.3 %.
        assert 0.94 < wide * DARK.camera.gain_e_per_adu * 17 / row["flux_e"] < 1.03
        # The header's WCS is wrong by what it is said to be.
        header_x, header_y = made.wcs.wcs_world2pix(row["ra_deg"], row["dec_deg"], 0)
        assert 0.02 < np.hypot(header_x - row["x_pix"], header_y - row["y_pix"]) < 3


def test_expected_snr_is_the_scatter_of_fluxes(monkeypatch):
    without_artefacts(monkeypatch)
    x, y = np.array([100.0]), np.array([80.0])
    night = with_stars(small_night(QUIET), *np.zeros((3, 0)))
    ra, dec = night.wcs.wcs_pix2world(x, y, 0)
    zero = np.zeros(1)
    slow = dataclasses.replace(
        night.slow, kind=np.array(["dwarf_nova"]), ra_deg=ra, dec_deg=dec, rate_ra_deg_per_s=zero,
        rate_dec_deg_per_s=zero, mag=np.array([17.0]), fade_mag_per_s=zero, host_offset_arcsec=zero * np.nan,
    )  # fmt: skip
    night = dataclasses.replace(night, slow=slow)
    psf = psf_of(night, weather_of(QUIET, Visit(0), seed=night.seed)).stamp(100, 80, half_pix=8)
    fluxes, expected = [], []
    for index in range(60):
        made = emulate_exposure(night, Visit(index))
        box = made.stack[72:89, 92:109] - np.median(made.stack)
        fluxes.append(np.sum(box * psf) / np.sum(psf**2))
        expected.append(made.transients[0]["snr_expected"])
    assert np.mean(fluxes) / np.std(fluxes) == pytest.approx(np.mean(expected), rel=0.3)


def test_a_flare_is_in_its_frames_of_the_cube_and_diluted_in_the_stack(monkeypatch):
    without_artefacts(monkeypatch)
    night = with_stars(small_night(QUIET), np.array([120.0]), np.array([70.0]), [16.0])
    flare = exposure.transients.Flares(
        np.array([0]), np.array([4.0]), np.array([0.3]), np.array([0.3]), np.array([20.0])
    )
    monkeypatch.setattr(exposure, "_flares", lambda *_: {0: flare})
    made = emulate_exposure(night, Visit(0), with_cube=True)
    curve = made.cube[:, 66:75, 116:125].sum(axis=(1, 2))
    # Frame k of the cube is exposed from 0.5 k s to 0.5 (k + 1) s; the maximum is at 4 s.
    assert set(np.argsort(curve)[-2:]) <= {7, 8}
    assert made.cube.shape == (18, *SHAPE)
    np.testing.assert_allclose(made.stack, made.cube[1:].mean(axis=0), rtol=1e-5)
    assert [row["kind"] for row in made.transients] == ["flare"]


def test_exposures_do_not_depend_on_order_or_company(night):
    alone = emulate_exposure(small_night(DARK), Visit(3))
    emulate_exposure(night, Visit(0))
    again = emulate_exposure(night, Visit(3))
    np.testing.assert_array_equal(alone.stack, again.stack)
    assert repr(alone.transients) == repr(again.transients)  # NaN is not equal to itself
    assert alone.artefacts == again.artefacts
    assert not np.array_equal(alone.stack, emulate_exposure(night, Visit(4)).stack)


def test_epochs_have_the_stars_but_not_the_transients(night):
    made = emulate_exposure(night, Visit(2, is_epoch=True))
    assert {row["kind"] for row in made.transients} <= {"variable"}
    assert name_of(night, Visit(2, is_epoch=True)).start < name_of(night, Visit(0)).start
    assert name_of(night, Visit(2, is_epoch=True)).file_name("s") != name_of(night, Visit(2)).file_name("s")


def test_all_sensors_have_the_same_weather():
    for visit in (Visit(0), Visit(3), Visit(0, is_epoch=True)):
        assert weather_of(DARK, visit, seed=1) == weather_of(DARK, visit, seed=1)
    assert weather_of(DARK, Visit(0), seed=1) != weather_of(DARK, Visit(0, is_epoch=True), seed=1)


def test_weather_has_the_medians_and_the_memory_of_its_condition():
    condition = load_settings("all-sky", "windy").condition
    series = draw_weather(condition, 3000, rng=np.random.default_rng(1))
    fwhm = np.log([weather.fwhm_arcsec for weather in series])
    assert np.exp(np.median(fwhm)) == pytest.approx(condition.fwhm_arcsec, rel=0.05)
    assert fwhm.std() == pytest.approx(condition.fwhm_scatter, rel=0.15)
    assert np.corrcoef(fwhm[1:], fwhm[:-1])[0, 1] > 0.8
    shaken = np.mean([weather.shake_rms_pix > 0 for weather in series])
    assert shaken == pytest.approx(condition.shake_probability, abs=0.05)
    assert series[:5] == draw_weather(condition, 5, rng=np.random.default_rng(1))


def test_vignetting_costs_depth_at_the_edge_of_the_field(monkeypatch):
    without_artefacts(monkeypatch)
    noises = []
    for sensor in (SENSOR, read_sensors()[115]):
        night = with_stars(small_night(QUIET, sensor=sensor), *np.zeros((3, 0)))
        image = emulate_exposure(night, Visit(0)).stack
        noises.append(image.std() / 10 ** (0.4 * 2.5 * np.log10(night.chip.efficiency_middle)))
    # 0.59 of the light: between 0.28 (sky-limited) and 0.57 mag (limited by the readout).
    assert 0.28 < 2.5 * np.log10(noises[1] / noises[0]) < 0.6


def test_efficiency_of_pixels_is_the_law_of_the_field():
    sensor = read_sensors()[115]
    share = efficiency_map(sensor, (300, 500))
    y, x = np.array([0, 299, 150, 17]), np.array([0, 499, 250, 333])
    exact = beam_efficiency(np.hypot(*field_positions(sensor, x, y, shape=(300, 500))))
    np.testing.assert_allclose(share[y, x], exact, atol=2e-5)


@pytest.mark.parametrize("number", [111, 215, 351, 443])
def test_sensors_look_where_the_field_says(number):
    """Pixels to the sky by the WCS, and by the sensor's place in the field."""
    sensors = read_sensors()
    sensor = sensors.get(number) or list(sensors.values())[number % 84]
    ra, dec = field_centre(DARK)
    wcs = sensor_wcs(sensor, ra, dec, (1128, 2000))
    centre = SkyCoord(ra, dec, unit="deg")
    middle = SkyCoord(*wcs.wcs_pix2world(999.5, 563.5, 0), unit="deg")
    assert centre.separation(middle).deg == pytest.approx(
        np.hypot(sensor.x_field_deg, sensor.y_field_deg), abs=1e-4
    )
    up = SkyCoord(*wcs.wcs_pix2world(999.5, 564.5, 0), unit="deg")
    right = SkyCoord(*wcs.wcs_pix2world(1000.5, 563.5, 0), unit="deg")
    for step in (up, right):
        assert middle.separation(step).arcsec == pytest.approx(PIXEL_SCALE_ARCSEC, rel=1e-4)
    # Towards the field's centre along x, at the sensor: the direction agrees.
    x_field, y_field = field_positions(sensor, np.array([999.5, 1099.5]), np.array([563.5, 563.5]))
    moved = SkyCoord(*wcs.wcs_pix2world(1099.5, 563.5, 0), unit="deg")
    nearer = centre.separation(moved).deg - centre.separation(middle).deg
    assert nearer == pytest.approx(np.diff(np.hypot(x_field, y_field))[0], abs=2e-4)


def test_wcs_errors_are_coherent_and_larger_in_the_corners():
    shape, middle, corner = (1128, 2000), [], []
    for i in range(300):
        error = draw_wcs_error(
            shape, DARK.optics, sensor_rng=np.random.default_rng([1, i]), rng=np.random.default_rng([2, i])
        )
        middle.append(error(999.5, 563.5))
        corner.append(error(1999.0, 1127.0))
    assert np.std(middle) == pytest.approx(0.2, rel=0.15)
    assert np.std(corner) == pytest.approx(np.hypot(0.2, 0.3), rel=0.15)
    one = draw_wcs_error(
        shape, DARK.optics, sensor_rng=np.random.default_rng(1), rng=np.random.default_rng(2)
    )
    steps = np.diff(one(np.arange(0, 2000, 10.0), np.full(200, 500.0))[0])
    assert np.abs(steps).max() < 0.05


def test_dithers_repeat_and_stay_within_their_limit():
    offsets = [dither_of(DARK, Visit(i), seed=1) for i in range(10)]
    assert offsets[:5] == offsets[5:]
    assert len(set(offsets)) == 5
    assert max(abs(value) for _, *offset in offsets for value in offset) <= DARK.mode.dither_arcsec
    assert dither_of(load_settings("high-cadence", "dark"), Visit(3), seed=1) == (1, 0.0, 0.0)


def test_the_fast_path_of_a_whole_scene_has_the_noise_of_its_frames(night):
    """Stars, hot pixels and all: the difference of both ways scatters as each of them does."""
    made = emulate_exposure(night, Visit(1))
    steady = np.maximum(made.stack * DARK.camera.gain_e_per_adu, 1.0)
    light = Light(steady, (), (), 0.25, 0.25)
    slow = np.array(
        [expose_frames(night.chip, light, 17, rng=np.random.default_rng(i)).mean(axis=0) for i in range(4)]
    )
    fast = np.array(
        [expose_mean(night.chip, light, 17, rng=np.random.default_rng(100 + i)) for i in range(4)]
    )
    pulls = (slow.mean(axis=0) - fast.mean(axis=0)) / np.sqrt(
        (slow.var(axis=0, ddof=1) + fast.var(axis=0, ddof=1)) / 4
    )
    # Of a t distribution with about 6 degrees of freedom.
    assert np.median(np.abs(pulls)) == pytest.approx(0.72, abs=0.03)
    assert slow.var(axis=0, ddof=1).mean() == pytest.approx(fast.var(axis=0, ddof=1).mean(), rel=0.1)
