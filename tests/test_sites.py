"""What a star is expected to show: S/N against a slow sum and against trials, host light against truth."""

from dataclasses import replace

import numpy as np
import pytest
from _star_field import draw_field, frame_of, make_field

from rbsim import psf as psf_model
from rbsim.config import SubtractConfig
from rbsim.inject import inject
from rbsim.lights import point_lights
from rbsim.reference import psf_of, sources_of
from rbsim.significance import calibrate_noise, filter_difference
from rbsim.sites import expected_snr, surface_brightness
from rbsim.sources import star_radius
from rbsim.subtract import subtract

SHAPE = (300, 320)


@pytest.fixture(scope="module", params=["reference", "science"])
def subtracted(request, tmp_path_factory):
    """Frame, PSF and calibrated difference of a star field, with either image convolved."""
    folder = tmp_path_factory.mktemp("sites")
    field = make_field(shape=SHAPE, n_stars=120)
    sharp, wide = 2.4, 3.2
    fwhm = (wide, sharp) if request.param == "reference" else (sharp, wide)
    science = frame_of(
        folder, np.rint(draw_field(field, shape=SHAPE, fwhm_pix=fwhm[0])).astype(np.int32), "s.fits"
    )
    reference = frame_of(
        folder, draw_field(field, shape=SHAPE, fwhm_pix=fwhm[1], gain=100.0, seed=8), "r.fits", GAIN=100.0
    )
    stars = sources_of(reference)
    psf = psf_of(science, sources_of(science), star_radius(sources_of(science)))
    difference = subtract(
        science,
        psf,
        reference,
        fwhm[1],
        stars.select(~stars.saturated),
        config=SubtractConfig(convolve=request.param),
    )
    return science, reference, psf, calibrate_noise(difference)[0]


def grid(step=45):
    return (a.ravel() for a in np.meshgrid(np.arange(30.0, 290, step), np.arange(30.0, 270, step)))


def test_without_own_noise_it_is_the_filters_and_the_two_degrees_of_freedom(subtracted):
    _, _, psf, difference = subtracted
    x, y = grid()
    error = filter_difference(difference).flux_err_adu[y.astype(int), x.astype(int)]
    flux = 6.0 * error
    found = expected_snr(psf, difference, x, y, flux, gain_e_per_adu=1e12)
    np.testing.assert_allclose(np.sqrt(found**2 - 2), 6.0, rtol=0.025)


def test_own_noise_lowers_it_as_the_sum_over_pixels_says(subtracted):
    _, _, psf, difference = subtracted
    if difference.convolved == "science":
        pytest.skip("the slow sum has no kernel")
    x, y, flux, gain = np.array([100.3]), np.array([80.8]), np.array([4000.0]), 1.7
    profile = psf_model.sample(psf, x, y, dx_pix=x - 100, dy_pix=y - 81)[0]
    half = profile.shape[0] // 2
    information = 0.0
    for j in range(profile.shape[0]):
        for i in range(profile.shape[1]):
            variance = difference.variance[81 - half + j, 100 - half + i]
            information += profile[j, i] ** 2 / (variance + max(profile[j, i], 0) * flux[0] / gain)
    expected = np.sqrt((flux[0] / difference.noise_factor[81, 100]) ** 2 * information + 2)
    assert expected_snr(psf, difference, x, y, flux, gain_e_per_adu=gain) == pytest.approx(expected)


def test_it_is_the_mean_of_what_the_filter_measures(subtracted):
    science, _, psf, difference = subtracted
    x, y = grid()
    gain = science.detector.gain_e_per_adu
    error = filter_difference(difference).flux_err_adu[y.astype(int), x.astype(int)]
    flux = 12.0 * error.astype(float)
    before = filter_difference(difference).snr[y.astype(int), x.astype(int)]
    measured = []
    for seed in range(4):
        stars = inject(
            science,
            psf,
            difference,
            point_lights(x, y, flux),
            rng=np.random.default_rng(seed),
        ).difference
        measured.append(filter_difference(stars).snr[y.astype(int), x.astype(int)])
    expected = np.sqrt(expected_snr(psf, difference, x, y, flux, gain_e_per_adu=gain) ** 2 - 2)
    # The frame's own noise at the place is in every measurement; it is taken out as far as it is linear.
    pull = np.mean(measured, axis=0) - before * expected / 12.0 - expected
    assert abs(np.median(pull)) < 0.35


def test_outside_masked_and_dark_places_are_unknown(subtracted):
    _, reference, psf, difference = subtracted
    x = np.array([np.nan, -5.0, 400.0, 100.0, 150.0])
    y = np.array([50.0, 50.0, 50.0, 100.0, 150.0])
    flux = np.array([1e3, 1e3, 1e3, 0.0, 1e3])
    found = expected_snr(psf, difference, x, y, flux, gain_e_per_adu=1.0)
    assert np.isnan(found).tolist() == [True, True, True, True, False]
    blind = replace(difference, variance=np.full(SHAPE, np.inf, np.float32))
    assert np.isnan(expected_snr(psf, blind, x, y, flux, gain_e_per_adu=1.0)).all()
    none = np.zeros(0)
    assert expected_snr(psf, difference, none, none, none, gain_e_per_adu=1.0).shape == (0,)
    light = surface_brightness(reference, psf, x, y, scale=1.0, zero_point_mag=25.0)
    assert np.isnan(light[:3]).all()
    assert surface_brightness(reference, psf, none, none, scale=1.0, zero_point_mag=25.0).shape == (0,)


def test_surface_brightness_of_a_flat_light_is_its_own_and_holes_do_not_count(subtracted):
    _, reference, psf, _ = subtracted
    flat = replace(
        reference,
        image=np.full(SHAPE, 40.0, np.float32),
        variance=np.full(SHAPE, 25.0, np.float32),
        mask=np.zeros(SHAPE, np.uint8),
    )
    at = np.array([100.4]), np.array([120.2])
    expected = 25 - 2.5 * np.log10(2 * 40.0)
    given = {"scale": 2.0, "zero_point_mag": 25.0}
    assert surface_brightness(flat, psf, *at, **given) == pytest.approx(expected, abs=1e-5)
    holed = flat.image.copy()
    holed[118:120, 97:104] = np.nan
    assert surface_brightness(replace(flat, image=holed), psf, *at, **given) == pytest.approx(
        expected, abs=1e-5
    )
    holed[115:126, 95:106] = np.nan
    assert np.isnan(surface_brightness(replace(flat, image=holed), psf, *at, **given))
    noisy = replace(flat, variance=np.full(SHAPE, 1e5, np.float32))
    assert np.isnan(surface_brightness(noisy, psf, *at, **given))
