"""The true PSF of emulated exposures, and the fast drawing with it, against GalSim's own drawing."""

import galsim
import numpy as np
import pytest
from _tomoe_night import STEADY, small_night

from rbsim.emulate.tomoe.optics import Blur, cell_centres, make_psf
from rbsim.emulate.tomoe.view import psf_of
from rbsim.emulate.tomoe.weather import Weather
from rbsim.tomoe.sensors import read_sensors

SHAPE = (120, 160)
KOLMOGOROV_PIX = 2.6
BLUR = Blur.round(1.1) + Blur.along(0.4, 30.0)
CALM = Weather(3.5, 0.0, 20.0, (0.0, 0.0), 290.0, 0.0, 0.0, 0.0, 0.0)


def psf_with(blur=BLUR, shape=SHAPE, kolmogorov=KOLMOGOROV_PIX):
    rows, columns = (len(axis) for axis in cell_centres(shape))
    blurs = np.empty((rows, columns), object)
    blurs[:] = blur
    return make_psf(shape, kolmogorov_fwhm_pix=kolmogorov, blurs=blurs)


PSF = psf_with()


def exact(x, y, half):
    """The same profile by GalSim, on the pixels around the nearest one."""
    profile = galsim.Convolve([galsim.Kolmogorov(fwhm=KOLMOGOROV_PIX), BLUR.gaussian()])
    image = galsim.ImageD(2 * half + 1, 2 * half + 1)
    column, row = np.floor(x + 0.5), np.floor(y + 0.5)
    centre = galsim.PositionD(x - column + half + 1, y - row + half + 1)
    return profile.drawImage(image=image, scale=1.0, center=centre).array


def moments(image):
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    total = image.sum()
    mean_x, mean_y = (image * x).sum() / total, (image * y).sum() / total
    dx, dy = x - mean_x, y - mean_y
    return (
        mean_x,
        mean_y,
        (image * dx * dx).sum() / total,
        (image * dx * dy).sum() / total,
        (image * dy * dy).sum() / total,
    )


@pytest.mark.parametrize(("x", "y"), [(80.0, 60.0), (80.31, 60.12), (79.5, 60.49), (80.77, 59.94)])
def test_stamps_and_drawings_are_what_galsim_draws(x, y):
    wanted, half = exact(x, y, 12), 12
    column, row = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
    box = np.s_[row - half : row + half + 1, column - half : column + half + 1]
    one = np.array([x]), np.array([y]), np.array([1e5])
    for name, drawn, tolerance in (
        ("stamp", PSF.stamp(x, y, half_pix=half), 0.003),
        ("draw", PSF.draw(SHAPE, *one)[box] / 1e5, 0.003),
        ("diffuse", PSF.draw_diffuse(SHAPE, *one)[box] / 1e5, 0.01),
    ):
        assert np.abs(drawn - wanted).max() < tolerance * wanted.max(), name


def test_flux_is_conserved_and_what_falls_outside_is_lost():
    x, y, flux = np.array([80.2, 30.7]), np.array([60.9, 40.1]), np.array([4e5, 2e5])
    image = PSF.draw(SHAPE, x, y, flux)
    # Kolmogorov wings: one per cent lies beyond 15 px.
    assert image.sum() == pytest.approx(6e5, rel=0.01)
    at_edge = PSF.draw(SHAPE, np.array([-0.5]), np.array([60.0]), np.array([1e5])).sum()
    assert at_edge == pytest.approx(5e4, rel=0.02)
    assert PSF.draw(SHAPE, np.array([-500.0]), np.array([60.0]), np.array([1e5])).sum() < 1


def test_far_wings_join_the_core_without_a_step():
    image = PSF.draw((400, 400), np.array([200.0]), np.array([200.0]), np.array([1e7]))
    profile = image[200, 200:]
    ratio = profile[14:20] / profile[13:19]
    assert np.all((ratio > 0.6) & (ratio < 1.0))  # a power law of -11/3 or so
    assert profile[60] / profile[30] == pytest.approx(2 ** (-11 / 3), rel=0.25)


def test_faint_points_on_the_grid_are_drawn_like_bright_ones_one_by_one():
    rng = np.random.default_rng(1)
    x, y, flux = rng.uniform(-5, 165, 300), rng.uniform(-5, 125, 300), rng.uniform(50, 100, 300)
    one_by_one = PSF.draw(SHAPE, x, y, flux * 1e3) / 1e3
    together = PSF.draw_diffuse(SHAPE, x, y, flux)
    inner = np.s_[20:-20, 20:-20]
    assert np.abs(one_by_one - together)[inner].max() < 0.01 * one_by_one.max()
    assert together.sum() == pytest.approx(one_by_one.sum(), rel=0.02)


def test_cells_change_the_psf_over_the_sensor():
    shape = (120, 800)
    blurs = np.empty((1, 2), object)
    blurs[0] = [Blur.round(1.0), Blur.round(3.0)]
    psf = make_psf(shape, kolmogorov_fwhm_pix=2.0, blurs=blurs)
    left, right = psf.stamp(100, 60, half_pix=10), psf.stamp(700, 60, half_pix=10)
    assert right.max() < 0.7 * left.max()
    drawn = psf.draw_diffuse(shape, np.array([100.0, 700.0]), np.array([60.0, 60.0]), np.array([1.0, 1.0]))
    assert drawn[60, 700] == pytest.approx(right.max(), rel=0.01)
    # Below 2.5 px of FWHM the spread over the grid is not undone completely.
    assert drawn[60, 100] == pytest.approx(left.max(), rel=0.04)


def test_motion_stretches_along_its_line_by_its_variance():
    still, moved = psf_with(Blur.round(1.0)), psf_with(Blur.round(1.0) + Blur.along(1.2, 60.0))
    before = moments(still.stamp(80, 60, half_pix=16))
    after = moments(moved.stamp(80, 60, half_pix=16))
    angle = np.radians(60.0)
    expected = 1.44 * np.array([np.cos(angle) ** 2, np.cos(angle) * np.sin(angle), np.sin(angle) ** 2])
    np.testing.assert_allclose(np.subtract(after[2:], before[2:]), expected, atol=0.08)
    assert after[:2] == pytest.approx((16.0, 16.0), abs=1e-3)


def test_fwhm_is_that_of_the_condition_and_grows_to_the_edge_of_the_field():
    centre = psf_of(small_night(STEADY), CALM)
    # 3.5 arcsec are 2.94 px; the pixel adds its own.
    assert centre.fwhm_pix == pytest.approx(np.hypot(3.5 / 1.189, 0.95), rel=0.08)
    edge = psf_of(small_night(STEADY, sensor=read_sensors()[115]), CALM)
    assert edge.fwhm_pix > centre.fwhm_pix * 1.02


def test_images_at_the_edge_are_stretched_along_the_radius():
    sensor = read_sensors()[115]  # far out, nearly along its x axis
    stamp = psf_of(small_night(STEADY, sensor=sensor), CALM).stamp(130, 90, half_pix=16)
    _, _, xx, _, yy = moments(stamp)
    assert xx > 1.03 * yy
