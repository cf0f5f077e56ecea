"""The emulator's optics keep the flux and the place of what they draw."""

import dataclasses

import numpy as np
import pytest
from _emulated import FLAT_PSF

from rbsim.emulate import optics


@pytest.mark.parametrize("draw", [optics.draw_points, optics.draw_points_exactly])
def test_a_star_keeps_its_flux_and_its_place(draw):
    flux = 1e5
    for x, y in ((70.0, 60.0), (69.73, 60.41), (71.5, 59.5)):
        image = draw((121, 141), np.array([x]), np.array([y]), np.array([flux]), psf=FLAT_PSF)
        rows, columns = np.mgrid[:121, :141]
        # Beyond the stamp the Moffat wings hold 0.06 % of the light.
        assert image.sum() == pytest.approx(flux, rel=2e-3)
        assert (image * columns).sum() / image.sum() == pytest.approx(x, abs=0.01)
        assert (image * rows).sum() / image.sum() == pytest.approx(y, abs=0.01)


@pytest.mark.parametrize(("fwhm_pix", "beta"), [(2.0, 3.5), (2.5, 3.0), (3.5, 3.0)])
def test_fast_drawing_equals_exact_drawing(fwhm_pix, beta):
    psf = dataclasses.replace(FLAT_PSF, fwhm_pix=fwhm_pix, beta=beta)
    rng = np.random.default_rng(1)
    for x, y in rng.uniform(30, 90, (8, 2)):
        star = np.array([x]), np.array([y]), np.array([1e5])
        exact = optics.draw_points_exactly((121, 141), *star, psf=psf)
        assert np.abs(optics.draw_points((121, 141), *star, psf=psf) - exact).max() < 1e-3 * exact.max()


def test_galaxies_keep_their_flux():
    galaxy = {
        "radius_pix": np.array([4.0]),
        "bulge_fraction": np.array([0.4]),
        "shear": np.array([[0.3], [-0.1]]),
    }
    at = np.array([70.2]), np.array([60.3]), np.array([1e4])
    image = optics.draw_galaxies((121, 141), *at, **galaxy, psf=FLAT_PSF)
    assert image.sum() == pytest.approx(1e4, rel=0.01)
    assert np.unravel_index(image.argmax(), image.shape) == (60, 70)


def test_the_psf_varies_as_its_terms_say():
    psf = dataclasses.replace(FLAT_PSF, fwhm_terms=(0.05, 0.0, 0.0), shear=(0.0, 0.0))
    for x, fwhm in ((0.0, 2.85), (70.0, 3.0), (140.0, 3.15)):
        assert psf.at(x, 60.0).original.fwhm == pytest.approx(fwhm)


def test_noise_area_is_that_of_the_matched_filter():
    stamp = optics.unit_stamp(FLAT_PSF, 70.0, 60.0, half_pix=12)
    # The closed form leaves out the pixel's own width.
    assert FLAT_PSF.noise_area_pix == pytest.approx(1 / np.sum(stamp**2), rel=0.15)
    assert FLAT_PSF.noise_area_pix < 1 / np.sum(stamp**2)


def test_projection_is_the_same_as_its_wcs():
    projection = optics.Projection(45.6, 20.2, 310.3, 281.8, 3.0, 1.189)
    x, y = projection.to_pix(np.array([0.0, 100.0]), np.array([0.0, -50.0]))
    ra, dec = projection.to_wcs().wcs_pix2world(x, y, 0)
    assert (ra[0], dec[0]) == pytest.approx((45.6, 20.2))
    assert (ra[1] - 45.6) * np.cos(np.radians(dec[1])) * 3600 == pytest.approx(100, abs=0.02)
    assert (dec[1] - 20.2) * 3600 == pytest.approx(-50, abs=0.02)
