"""Features by physics: a star, a hot pixel, a dipole, a trail, and what lies around them."""

import numpy as np
import pytest

from rbsim.detect import detect
from rbsim.difference import Difference
from rbsim.features import measure_features
from rbsim.schema import CANDIDATE_FLAG, MASK
from rbsim.significance import matched_filter
from rbsim.sources import Sources

SHAPE, SIGMA_PIX = (200, 220), 1.4
FWHM_PIX = 2.3548 * SIGMA_PIX
NOISE_AREA = np.sqrt(4 * np.pi) * SIGMA_PIX
"""Flux of a star of S/N 1 in noise of 1 ADU."""


def psf_at(x_pix, _):
    axis = np.arange(-10, 11)
    psf = np.exp(-0.5 * (axis[:, None] ** 2 + axis**2) / SIGMA_PIX**2)
    return np.repeat(psf[None] / psf.sum(), len(x_pix), 0)


def star(x, y, snr, sigma_x=SIGMA_PIX, angle_deg=0.0):
    grid_y, grid_x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    c, s = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    along, across = (grid_x - x) * c + (grid_y - y) * s, (grid_y - y) * c - (grid_x - x) * s
    profile = np.exp(-0.5 * ((along / sigma_x) ** 2 + (across / SIGMA_PIX) ** 2))
    return snr * NOISE_AREA * profile / (2 * np.pi * sigma_x * SIGMA_PIX)


def sources(x=(), y=(), flux=(), radius=2.0, saturated=()):
    n = len(x)
    values = {name: np.ones(n) for name in Sources.__dataclass_fields__}
    return Sources(
        **{
            **values,
            "x_pix": np.array(x, float),
            "y_pix": np.array(y, float),
            "flux_adu": np.array(flux if len(flux) else np.ones(n), float),
            "radius_half_pix": np.full(n, radius),
            "saturated": np.array(saturated if len(saturated) else np.zeros(n), bool),
        }
    )


def measure(image, *, seed=1, mask=None, reference=None, hosts=None, one_frame=None, threshold=5.0, noise=1):
    """Detections and features of a noiseless picture plus noise of 1 ADU; NaN stays without value."""
    noisy = (image + noise * np.random.default_rng(seed).normal(size=SHAPE)).astype(np.float32)
    variance = np.where(np.isfinite(noisy), 1.0, np.inf).astype(np.float32)
    difference = Difference(
        image=noisy,
        variance=variance,
        mask=np.zeros(SHAPE, np.uint8) if mask is None else mask,
        kernel_at=None,
        fit=None,
        convolved="reference",
        kernel_sum=np.ones(SHAPE, np.float32),
        noise_factor=np.ones(SHAPE, np.float32),
        psf_at=psf_at,
    )
    filtered = matched_filter(noisy, variance, psf_at)
    found = detect(filtered, difference.bad, threshold_snr=threshold, psf_at=psf_at)
    features = measure_features(
        difference,
        filtered,
        found,
        reference_sources=sources() if reference is None else reference,
        hosts=sources() if hosts is None else hosts,
        one_frame=np.zeros(SHAPE, bool) if one_frame is None else one_frame,
        fwhm_pix=FWHM_PIX,
        threshold_snr=threshold,
    )
    return found, features


def nearest(found, x, y):
    return int(np.argmin(np.hypot(found.x_pix - x, found.y_pix - y)))


def grid_of(snr, **shape):
    """Sixteen stars at different pixel phases, their positions."""
    rng = np.random.default_rng(3)
    at = [(x + rng.random(), y + rng.random()) for x in range(30, 200, 45) for y in range(30, 190, 45)]
    return sum(star(x, y, snr, **shape) for x, y in at), at


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("snr", [10, 50, 1000])
def test_a_star_is_round_as_sharp_as_the_psf_and_fits_it(snr, sign):
    image, at = grid_of(sign * snr)
    found, features = measure(image)
    rows = [nearest(found, *position) for position in at]
    assert (found.is_positive[rows] == (sign > 0)).all()
    scatter = 1 / snr
    values = {name: values[rows] for name, values in vars(features).items()}
    assert np.median(values["elongation"]) < 1 + 0.02 + 4 * scatter
    assert np.median(values["sharpness"]) == pytest.approx(1, abs=0.01 + scatter)
    assert np.median(values["shape_fwhm_pix"]) == pytest.approx(FWHM_PIX, rel=0.02 + 2 * scatter)
    # The model may be 2 % off: a bright star's chi-square must stay below 1, not blow up.
    low = 0.75 if snr < 100 else 0.0
    assert low < np.mean(values["psf_chi2"]) < 1.25
    assert np.max(values["negative_share"]) < 0.05
    assert (values["n_bad"] == 0).all()


def test_a_hot_pixel_is_far_too_sharp():
    image = np.zeros(SHAPE)
    image[80, 90] = 40.0
    found, features = measure(image)
    row = nearest(found, 90, 80)
    # Filtered, its flux is Q P0 / sum P^2, so the central pixel has sum P^2 / P0^2 = pi sigma^2 too much.
    assert features.sharpness[row] == pytest.approx(np.pi * SIGMA_PIX**2, rel=0.1)
    assert features.psf_chi2[row] > 10
    assert features.shape_fwhm_pix[row] < 0.5 * FWHM_PIX


def test_a_dipole_is_half_negative():
    found, features = measure(star(80, 90, 60) - star(82.0, 90, 60))
    assert found.is_positive.tolist().count(True) == found.is_positive.tolist().count(False) == 1
    np.testing.assert_allclose(features.negative_share, 0.5, atol=0.12)
    assert (features.psf_chi2 > 2).all()


@pytest.mark.parametrize("angle_deg", [0, 30, 90, 150])
def test_a_trail_is_long_in_its_direction(angle_deg):
    image, at = grid_of(60, sigma_x=2 * SIGMA_PIX, angle_deg=angle_deg)
    found, features = measure(image)
    rows = [nearest(found, *position) for position in at]
    assert np.median(features.elongation[rows]) == pytest.approx(2, abs=0.15)
    off = (features.position_angle_deg[rows] - angle_deg + 90) % 180 - 90
    assert np.abs(np.median(off)) < 3
    assert np.median(features.shape_fwhm_pix[rows]) == pytest.approx(np.sqrt(2) * FWHM_PIX, rel=0.06)
    assert np.median(features.psf_chi2[rows]) > 2


def test_distances_and_flux_ratio_of_the_reference():
    reference = sources([60.0, 150.0], [60.0, 50.0], flux=[1500.0, 60_000.0])
    found, features = measure(star(63, 64, 30) + star(12, 180, 30), reference=reference)
    near, far = nearest(found, 63, 64), nearest(found, 12, 180)
    assert features.reference_distance_pix[near] == pytest.approx(5, abs=0.3)
    assert features.reference_flux_ratio[near] == pytest.approx(30 * NOISE_AREA / 1500, rel=0.1)
    assert features.bright_star_distance_pix[near] == pytest.approx(np.hypot(87, 14), abs=0.3)
    assert features.edge_distance_pix[far] == pytest.approx(12.5, abs=0.3)
    alone, without = measure(star(63, 64, 30))
    assert np.isnan(without.reference_distance_pix[nearest(alone, 63, 64)])
    assert np.isnan(without.bright_star_distance_pix).all()


def flagged(features, row, name):
    return bool(features.flags[row] & CANDIDATE_FLAG[name])


def test_saturated_pixels_flag_within_three_fwhm():
    mask = np.zeros(SHAPE, np.uint8)
    mask[100, 60] = MASK["SATURATED_REFERENCE"]
    mask[100, 160] = MASK["SATURATED"]
    places = [(60 + 2.8 * FWHM_PIX, 100), (60, 100 + 3.2 * FWHM_PIX), (160, 100 - 2.8 * FWHM_PIX)]
    found, features = measure(sum(star(x, y, 100) for x, y in places), mask=mask)
    hits = [flagged(features, nearest(found, *place), "NEAR_SATURATED") for place in places]
    assert hits == [True, False, True]


def test_bright_stars_flag_where_one_per_cent_of_them_would_be_detected():
    """S/N 5000 leaves 50: the autocorrelation of the PSF falls to a tenth at 2 sigma sqrt(ln 10)."""
    reach = 2 * SIGMA_PIX * np.sqrt(np.log(10))
    reference = sources(
        [60.0, 160.0, 60.0], [50.0, 50.0, 150.0], [5000 * NOISE_AREA, 400 * NOISE_AREA, 9.0], 2.0, [0, 0, 1]
    )
    places = [
        (60 + reach - 1.2, 50),
        (60 - reach - 1.2, 50),
        (160, 50),
        (60 + 2.8 * FWHM_PIX, 150),
        (200, 150),
    ]
    found, features = measure(sum(star(x, y, 50) for x, y in places), reference=reference)
    hits = [flagged(features, nearest(found, *place), "NEAR_BRIGHT_STAR") for place in places]
    assert hits == [True, False, False, True, False]


def test_galaxy_cores_and_single_frames_flag():
    one_frame = np.zeros(SHAPE, bool)
    one_frame[150, 61] = True
    hosts = sources([60.0, 160.0], [50.0, 50.0], radius=4.0)
    places = [(63.5, 50), (160, 54.8), (60.2, 150), (58.0, 180)]
    found, features = measure(sum(star(x, y, 100) for x, y in places), hosts=hosts, one_frame=one_frame)
    rows = [nearest(found, *place) for place in places]
    assert [flagged(features, row, "ON_GALAXY_CORE") for row in rows] == [True, False, False, False]
    assert [flagged(features, row, "ONE_FRAME") for row in rows] == [False, False, True, False]


def test_pixels_without_value_are_counted_and_do_no_harm():
    image = star(80, 90, 60) + star(0, 150, 60)
    image[88:93, 82] = np.nan
    found, features = measure(image)
    row = nearest(found, 80, 90)
    assert features.n_bad[row] == 5
    assert features.psf_chi2[row] < 2
    corner = nearest(found, 0, 150)
    assert features.n_bad[corner] == 10
    for name, values in vars(features).items():
        if name not in ("reference_distance_pix", "reference_flux_ratio", "bright_star_distance_pix"):
            assert np.isfinite(values[[row, corner]].astype(float)).all(), name


def test_no_detection_has_no_features():
    found, features = measure(np.zeros(SHAPE), noise=0.1)
    assert len(found) == 0
    assert all(len(values) == 0 for values in vars(features).values())
