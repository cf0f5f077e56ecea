"""The effective PSF: a known varying one is recovered, flux is 1, sub-pixel shifts are shifts."""

import galsim
import numpy as np
import pytest
from _star_field import draw_field, frame_of, make_field

from rbsim.errors import InputError
from rbsim.psf import sample
from rbsim.psf_fit import fit_psf
from rbsim.reference import sources_of
from rbsim.sources import is_point_like, star_radius


def fit(frame, **options):
    sources = sources_of(frame)
    radius = star_radius(sources)
    stars = is_point_like(sources, radius) & ~sources.saturated
    return fit_psf(
        frame.image,
        frame.variance,
        frame.bad | frame.saturated,
        sources,
        stars,
        fwhm_guess_pix=2 * radius,
        **options,
    )


def pixelated_fwhm(fwhm_pix):
    """Equal-area FWHM of the pixel-convolved Moffat, independently of the code under test."""
    profile = galsim.Convolve(galsim.Moffat(beta=3.5, fwhm=fwhm_pix), galsim.Pixel(1.0))
    image = profile.drawImage(nx=401, ny=401, scale=0.05, method="no_pixel").array
    return 2 * np.sqrt(np.count_nonzero(image > image.max() / 2) / np.pi) * 0.05


@pytest.mark.parametrize("fwhm_pix", [2.0, 3.0, 5.0])
def test_width_is_recovered_to_a_per_cent(tmp_path, fwhm_pix):
    field = make_field(shape=(400, 400), n_stars=80, flux=(3_000, 100_000))
    frame = frame_of(tmp_path, draw_field(field, shape=(400, 400), fwhm_pix=fwhm_pix))
    assert fit(frame).fwhm_pix == pytest.approx(pixelated_fwhm(fwhm_pix), rel=0.01)


def test_gradient_across_the_field_is_recovered(tmp_path):
    shape = (500, 500)
    field = make_field(shape=shape, n_stars=150, flux=(5_000, 100_000))
    frame = frame_of(tmp_path, draw_field(field, shape=shape, fwhm_pix=lambda x, _: 2.6 + 0.8 * x / 500))
    psf = fit(frame)
    peaks = sample(psf, np.array([30.0, 250.0, 470.0]), np.full(3, 250.0)).max(axis=(1, 2))
    flat = fit(frame, max_order=0)
    flat_peaks = sample(flat, np.array([30.0, 470.0]), np.full(2, 250.0)).max(axis=(1, 2))
    expected = (pixelated_fwhm(2.6 + 0.8 * 0.94) / pixelated_fwhm(2.6 + 0.8 * 0.06)) ** 2
    assert peaks[0] / peaks[2] == pytest.approx(expected, rel=0.02)
    assert flat_peaks[0] == flat_peaks[1]


def test_flux_is_one_at_any_place_phase_and_oversampling(tmp_path):
    psf = fit(frame_of(tmp_path, draw_field(make_field(n_stars=60, flux=(3_000, 60_000)))))
    x, y = np.array([20.0, 150.0, 280.0]), np.array([20.0, 120.0, 240.0])
    for oversample in (1, 2, 4):
        total = sample(psf, x, y, oversample=oversample).sum(axis=(1, 2)) / oversample**2
        np.testing.assert_allclose(total, 1, rtol=1e-12)


def test_subpixel_shift_moves_the_centroid(tmp_path):
    psf = fit(frame_of(tmp_path, draw_field(make_field(n_stars=60, flux=(3_000, 60_000)))))
    at = np.array([150.0])
    still = sample(psf, at, at)[0]
    moved = sample(psf, at, at, dx_pix=np.array([0.4]), dy_pix=np.array([-0.3]))[0]
    axis = np.arange(still.shape[0])
    step_x = (moved.sum(axis=0) - still.sum(axis=0)) @ axis
    step_y = (moved.sum(axis=1) - still.sum(axis=1)) @ axis
    assert (step_x, step_y) == (pytest.approx(0.4, abs=0.01), pytest.approx(-0.3, abs=0.01))


def test_too_few_stars_is_said(tmp_path):
    field = make_field(n_stars=1, flux=(5_000, 5_001))
    with pytest.raises(InputError, match="stars"):
        fit(frame_of(tmp_path, draw_field(field)))
