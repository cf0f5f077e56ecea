"""Detection: the matched filter is unbiased and calibrated, peaks of noise are as rare as they should be."""

import numpy as np
import pytest
from scipy.stats import norm

from rbsim.detect import detect
from rbsim.match import match
from rbsim.significance import matched_filter


def gaussian_psf(sigma_pix=1.4, half=7):
    axis = np.arange(-half, half + 1)
    psf = np.exp(-0.5 * (axis[:, None] ** 2 + axis[None, :] ** 2) / sigma_pix**2)
    psf /= psf.sum()
    return lambda x, _: np.repeat(psf[None], len(x), 0)


def star(shape, x, y, flux, sigma_pix=1.4):
    grid_y, grid_x = np.mgrid[: shape[0], : shape[1]]
    return (
        flux
        / (2 * np.pi * sigma_pix**2)
        * np.exp(-0.5 * ((grid_x - x) ** 2 + (grid_y - y) ** 2) / sigma_pix**2)
    )


def test_flux_of_a_noiseless_star_is_exact_and_its_position_too():
    shape = (120, 130)
    variance = np.full(shape, 4.0)
    filtered = matched_filter(star(shape, 60.0, 50.0, 1000.0), variance, gaussian_psf())
    assert filtered.flux_adu[50, 60] == pytest.approx(1000, rel=1e-3)
    moved = detect(
        matched_filter(star(shape, 60.35, 49.8, 1000.0), variance, gaussian_psf()), np.zeros(shape, bool)
    )
    assert len(moved) == 1
    assert (moved.x_pix[0], moved.y_pix[0]) == (pytest.approx(60.35, abs=0.01), pytest.approx(49.8, abs=0.01))
    assert moved.flux_adu[0] == pytest.approx(1000, rel=0.01)


def test_snr_of_noise_has_unit_width_also_where_the_variance_changes():
    rng = np.random.default_rng(1)
    sigma = np.ones((600, 600))
    sigma[:, 300:] = 3
    filtered = matched_filter(rng.normal(0, sigma), sigma**2, gaussian_psf())
    for half in (slice(20, 280), slice(320, 580)):
        assert np.std(filtered.snr[20:-20, half]) == pytest.approx(1, abs=0.03)


def test_flux_error_beside_a_mask_grows_and_the_flux_stays():
    shape = (100, 100)
    variance = np.ones(shape)
    variance[:, 52:] = np.inf
    image = star(shape, 50.0, 50.0, 500.0)
    image[:, 52:] = np.nan
    filtered = matched_filter(image, variance, gaussian_psf())
    assert filtered.flux_adu[50, 50] == pytest.approx(500, rel=1e-3)
    whole = matched_filter(star(shape, 50.0, 50.0, 500.0), np.ones(shape), gaussian_psf())
    assert filtered.flux_err_adu[50, 50] > 1.02 * whole.flux_err_adu[50, 50]
    assert filtered.snr[50, 70] == 0


def test_noise_peaks_follow_the_density_of_a_gaussian_random_field():
    """Peaks above nu per area: (2 pi)^-3/2 (det L)^1/2 nu exp(-nu^2/2), Adler (1981) eq. 6.5.5, high nu."""
    sigma_pix, threshold, n_frames, size = 1.4, 4.0, 12, 500
    rng = np.random.default_rng(4)
    filtered_sigma = sigma_pix * np.sqrt(2)  # of the correlation function of filtered white noise
    found = 0
    for _ in range(n_frames):
        noise = rng.normal(size=(size, size))
        found += len(
            detect(
                matched_filter(noise, np.ones_like(noise), gaussian_psf(sigma_pix)),
                np.zeros(noise.shape, bool),
                threshold_snr=threshold,
            )
        )
    density = (2 * np.pi) ** -1.5 / filtered_sigma**2 * threshold * np.exp(-(threshold**2) / 2)
    expected = density * n_frames * size**2
    assert found == pytest.approx(expected, rel=0.25)
    assert norm.sf(threshold) * n_frames * size**2 > expected  # fewer peaks than pixels above


def test_nothing_found_is_an_empty_table():
    zero = np.zeros((80, 80))
    found = detect(matched_filter(zero, np.ones_like(zero), gaussian_psf()), np.zeros(zero.shape, bool))
    assert len(found) == 0
    assert found.select(np.zeros(0, bool)).x_pix.shape == (0,)


def test_nothing_is_detected_on_bad_pixels():
    shape = (100, 100)
    bad = np.zeros(shape, bool)
    bad[40:60, 40:60] = True
    filtered = matched_filter(star(shape, 50, 50, 1000.0), np.ones(shape), gaussian_psf())
    found = detect(filtered, bad)
    assert not bad[np.rint(found.y_pix).astype(int), np.rint(found.x_pix).astype(int)].any()


def test_matching_is_one_to_one_and_knows_what_is_ambiguous():
    truth = np.array([[10.0, 10.0], [50.0, 50.0], [52.0, 50.0], [80.0, 80.0], [np.nan, np.nan]])
    detected = np.array([[10.3, 10.0], [51.0, 50.0], [80.2, 80.0], [20.0, 90.0], [30.0, 30.0]])
    before = np.array([[80.3, 80.0], [30.1, 30.0]])
    found = match(truth, detected, before, radius_pix=1.5)
    assert found.detection[0] == 0
    assert np.count_nonzero(found.detection == 1) == 1  # the blend belongs to one of the two
    assert found.detection[4] == -1
    assert found.ambiguous.tolist() == [False, True, True, True, False]
    assert found.unmatched.tolist() == [3]  # 4 was there before
    assert found.separation_pix[0] == pytest.approx(0.3)


def test_matching_of_nothing():
    none = np.empty((0, 2))
    assert match(none, none, none, radius_pix=1).unmatched.size == 0
    assert match(np.array([[1.0, 1.0]]), none, none, radius_pix=1).detection.tolist() == [-1]
    assert match(none, np.array([[1.0, 1.0]]), none, radius_pix=1).unmatched.tolist() == [0]
