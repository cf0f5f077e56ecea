"""Detection: the matched filter is unbiased and calibrated, peaks of noise are as rare as they should be."""

import functools

import galsim
import numpy as np
import pytest
from scipy import integrate, ndimage
from scipy.spatial import cKDTree
from scipy.stats import norm

from rbsim.detect import detect, peak_width, position_error
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


def density_of_maxima(threshold, sigma_pix):
    """Maxima above a height per pixel in white noise filtered with a Gaussian.

    Bond & Efstathiou (1987, MNRAS 226, 655), eq. A1.9 with its G; gamma = 1/sqrt(2), theta_star = sigma.
    At 4 sigma it is 0.1 % above the high-threshold limit (2 pi)^-3/2 nu exp(-nu^2/2) / (2 sigma^2).
    """
    gamma = np.sqrt(0.5)
    rest = 1 - gamma**2

    def count(nu):
        x = gamma * nu
        shape = (
            (x**2 - gamma**2) * norm.cdf(x / np.sqrt(rest))
            + x * rest * np.exp(-(x**2) / (2 * rest)) / np.sqrt(2 * np.pi * rest)
            + np.exp(-(x**2) / (3 - 2 * gamma**2))
            / np.sqrt(3 - 2 * gamma**2)
            * norm.cdf(x / np.sqrt(rest * (3 - 2 * gamma**2)))
        )
        return np.exp(-(nu**2) / 2) * shape

    return integrate.quad(count, threshold, 15)[0] / ((2 * np.pi) ** 1.5 * sigma_pix**2)


def test_density_of_maxima_has_the_known_total():
    assert density_of_maxima(-15, 1.0) == pytest.approx(1 / (4 * np.pi * np.sqrt(3)), rel=1e-6)


@pytest.mark.parametrize(("sigma_pix", "n_frames"), [(1.4, 20), (0.76, 10)])
def test_noise_peaks_follow_the_density_of_a_gaussian_random_field(sigma_pix, n_frames):
    """FWHM 3.3 and 1.8 px, positive and negative; at 3.5 sigma too, where the counts are large."""
    size, rng = 700, np.random.default_rng(4)
    positive, negative = [], []
    for _ in range(n_frames):
        noise = rng.normal(size=(size, size)).astype(np.float32)
        found = detect(
            matched_filter(noise, np.ones_like(noise), gaussian_psf(sigma_pix)),
            np.zeros(noise.shape, bool),
            threshold_snr=3.5,
        )
        positive.append(found.snr[found.is_positive])
        negative.append(-found.snr[~found.is_positive])
    for snr in (np.concatenate(positive), np.concatenate(negative)):
        for threshold, tolerance in ((4.0, 0.2), (3.5, 0.12)):
            expected = density_of_maxima(threshold, sigma_pix) * n_frames * size**2
            assert np.count_nonzero(snr > threshold) == pytest.approx(expected, rel=tolerance)


def psf_of(fwhm_pix, half=12):
    """Effective PSF on pixels, and a function that draws it at a sub-pixel offset."""
    profile = galsim.Convolve(galsim.Moffat(beta=3.5, fwhm=fwhm_pix), galsim.Pixel(1.0))
    size = 2 * half + 1

    def draw(dx, dy):
        return profile.drawImage(nx=size, ny=size, scale=1.0, method="no_pixel", offset=(dx, dy)).array

    centred = draw(0, 0) / draw(0, 0).sum()
    return draw, lambda x, _: np.repeat(centred[None], len(x), 0)


@functools.cache
def grid_of_stars(fwhm_pix, *, n_side=28, step=30, half=12):
    """Noiseless stars of flux 1 at random pixel phases: image, positions, PSF."""
    draw, psf_at = psf_of(fwhm_pix, half)
    image = np.zeros((step * n_side, step * n_side))
    offsets = np.random.default_rng(5).uniform(-0.5, 0.5, (n_side**2, 2))
    centres = np.stack(np.meshgrid(*[np.arange(n_side) * step + step // 2] * 2), axis=-1).reshape(-1, 2)
    for (x, y), (dx, dy) in zip(centres, offsets, strict=True):
        image[y - half : y + half + 1, x - half : x + half + 1] += draw(dx, dy)
    return image, centres + offsets, psf_at


@pytest.mark.parametrize("fwhm_pix", [2.8, 1.45])  # 3.0 and 1.8 px with the pixel
@pytest.mark.parametrize("snr", [100, 30, 10, 5])
def test_positions_scatter_as_their_errors_say(fwhm_pix, snr):
    stars, truth, psf_at = grid_of_stars(fwhm_pix)
    flux = snr / np.sqrt((psf_at(np.zeros(1), None)[0] ** 2).sum())
    image = flux * stars + np.random.default_rng(6).normal(size=stars.shape)
    found = detect(
        matched_filter(image, np.ones_like(image), psf_at),
        np.zeros(image.shape, bool),
        threshold_snr=4.0,
        psf_at=psf_at,
    )
    distance, row = cKDTree(np.column_stack([found.x_pix, found.y_pix])).query(truth)
    near = distance < 3
    assert near.mean() > (0.8 if snr == 5 else 0.99)
    pulls = (np.column_stack([found.x_pix, found.y_pix])[row] - truth)[near]
    pulls /= found.position_err_pix[row[near], None]
    assert 1.4826 * np.median(np.abs(pulls)) == pytest.approx(1, abs=0.15)
    assert pulls.std() == pytest.approx(1, abs=0.15 if snr > 5 else 0.2)  # noise peaks make a tail
    assert np.abs(pulls.mean(axis=0)).max() < 4 / np.sqrt(len(pulls))
    assert np.median(found.snr[row[near]]) == pytest.approx(snr, rel=0.1 if snr == 5 else 0.03)


def test_peak_width_of_a_gaussian_is_sqrt_two_sigma():
    psf = gaussian_psf(1.4, half=10)(np.zeros(1), None)
    assert peak_width(psf)[0] == pytest.approx(1.4 * np.sqrt(2), rel=1e-3)
    floor = position_error(np.array([1e9]), np.array([2.0]))[0]
    assert 0.005 <= floor < 0.006
    assert position_error(np.array([0.0]), np.array([2.0]))[0] == pytest.approx(2.0, rel=0.01)


def test_a_negative_source_mirrors_a_positive_one():
    shape, rng = (120, 120), np.random.default_rng(6)
    image = rng.normal(size=shape) + star(shape, 40.3, 70.6, 300.0) - star(shape, 80.2, 30.1, 200.0)
    found = detect(matched_filter(image, np.ones(shape), gaussian_psf()), np.zeros(shape, bool))
    turned = detect(matched_filter(-image, np.ones(shape), gaussian_psf()), np.zeros(shape, bool))
    assert found.is_positive.tolist() == [False, True]
    assert turned.is_positive.tolist() == [True, False]
    np.testing.assert_array_equal(found.snr, -turned.snr)
    np.testing.assert_array_equal(found.x_pix, turned.x_pix)
    assert (np.sign(found.flux_adu) == np.sign(found.snr)).all()
    assert np.isnan(found.position_err_pix).all()  # no PSF was given
    only = detect(
        matched_filter(image, np.ones(shape), gaussian_psf()), np.zeros(shape, bool), negatives=False
    )
    assert only.is_positive.tolist() == [True]


@pytest.mark.parametrize(("snr", "ratio"), [(10, 1.0), (100, 1.0), (100, 0.5)])
@pytest.mark.parametrize("angle_deg", [0.0, 37.0])
def test_two_stars_two_fwhm_apart_are_two(snr, ratio, angle_deg):
    """The map is filtered, so its peaks are sqrt(2) wider than the stars: at a contrast of 10 there is no
    second maximum at this distance."""
    shape, sigma = (100, 100), 1.4
    apart = 2 * 2.3548 * sigma
    flux = snr * np.sqrt(4 * np.pi) * sigma
    x = 50 + apart * np.cos(np.radians(angle_deg))
    y = 50 + apart * np.sin(np.radians(angle_deg))
    image = np.random.default_rng(7).normal(size=shape)
    image = image + star(shape, 50, 50, flux) + star(shape, x, y, ratio * flux)
    found = detect(
        matched_filter(image, np.ones(shape), gaussian_psf()), np.zeros(shape, bool), negatives=False
    )
    found = found.select(found.snr > 5.5)
    distance, _ = cKDTree(np.column_stack([found.x_pix, found.y_pix])).query([[50, 50], [x, y]])
    assert len(found) == 2
    assert distance.max() < 0.6


def test_a_bright_star_does_not_shatter():
    """S/N 1000 with wide wings: twenty noise realisations, one detection each."""
    _, psf_at = psf_of(3.0, half=20)
    psf = psf_at(np.zeros(1), None)[0]
    rng, extra = np.random.default_rng(8), 0
    for _ in range(20):
        image = rng.normal(size=(121, 121))
        image[40:81, 40:81] += 1000 / np.sqrt((psf**2).sum()) * psf
        found = detect(
            matched_filter(image, np.ones_like(image), psf_at), np.zeros(image.shape, bool), negatives=False
        )
        near = np.hypot(found.x_pix - 60, found.y_pix - 60) < 25
        extra += np.count_nonzero(near) - 1
        assert found.snr.max() > 990
    assert extra <= 1  # noise alone has 0.01 peaks above 5 sigma in this area per frame


def test_the_rim_of_a_saturated_star_is_a_few_sources_not_tens():
    """A masked core within a bright ring that is uneven by a few per cent, as bad subtractions are."""
    shape, rng = (121, 121), np.random.default_rng(9)
    y, x = np.mgrid[: shape[0], : shape[1]] - 60.0
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    ring = 60 * np.exp(-0.5 * ((radius - 9) / 1.5) ** 2) * (1 + 0.05 * np.cos(7 * angle))
    image, variance = rng.normal(size=shape) + ring, np.ones(shape)
    core = radius < 6
    image[core], variance[core] = np.nan, np.inf
    found = detect(matched_filter(image, variance, gaussian_psf()), core)
    assert 1 <= np.count_nonzero(found.is_positive) <= 4
    maxima = ndimage.maximum_filter(ring, size=3) == ring
    assert np.count_nonzero(maxima & (ring > 30)) > 7  # what local maxima alone would give


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
