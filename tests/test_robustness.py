"""Hard frames through the whole chain, read to detection: sensible differences, nothing NaN, known losses."""

import numpy as np
import pytest
from _star_field import Field, draw_field, write_frame
from _survey_scene import (
    DITHER_PIX,
    FLUX_RATIO,
    GAIN,
    REFERENCE_GAIN,
    SHAPE,
    SKY_ADU,
    TRANSIENT_SNR,
    draw,
    expected_noise_peaks,
    expose,
    left_of_stars,
    nearest,
    reference_light,
    run,
    scene,
    snr_of_false,
    wcs_cards,
    with_transients,
    write_reference,
    write_science,
)
from astropy.io import fits
from scipy import ndimage

from rbsim.errors import InputError
from rbsim.reference import load_reference
from rbsim.schema import MASK

REACH_PIX = 10
"""A bad pixel, or the border of an image, may cost this much around it: the kernel and the spline."""


@pytest.fixture(scope="module")
def stars():
    return scene(300)


@pytest.fixture(scope="module")
def reference_image(stars):
    return expose(reference_light(stars), gain=REFERENCE_GAIN, seed=3)


@pytest.fixture(scope="module")
def reference(reference_image, tmp_path_factory):
    return load_reference(write_reference(tmp_path_factory.mktemp("reference") / "r.fits", reference_image))


@pytest.fixture(scope="module")
def transients(stars):
    return with_transients(stars, 12)


@pytest.fixture(scope="module")
def science_image(transients):
    return expose(draw(transients[0]))


def assert_nothing_is_nan(outcome):
    """Values where there are any, and marks where there are none; never half of it."""
    difference = outcome.difference
    good = ~difference.bad
    assert good.any()
    assert np.isfinite(difference.image[good]).all()
    assert (np.isfinite(difference.variance[good]) & (difference.variance[good] > 0)).all()
    assert np.isinf(difference.variance[~good]).all()
    assert np.isfinite(outcome.frame.filtered.snr).all()
    for name, values in vars(outcome.detections).items():
        assert np.isfinite(values).all(), name
    for name, value in outcome.quality.as_dict().items():
        assert np.isfinite(value), name


def assert_lost_only_around(outcome, masked):
    """All masked pixels have no value, and no others beyond the reach of a kernel."""
    bad = outcome.difference.bad
    assert bad[masked].all()
    # Beyond its border the reference has no pixels either.
    far = ~ndimage.binary_dilation(np.pad(masked, 1, constant_values=True), np.ones((2 * REACH_PIX + 1,) * 2))
    assert far.sum() > 0
    assert not bad[far[1:-1, 1:-1]].any()


def assert_stars_vanish(outcome, stars, *, max_residual=0.03, **options):
    """The issue's limits: chi-square per pixel below 1.3 at S/N 50-300, at most 1 % of brighter ones."""
    left = left_of_stars(outcome, stars, **options)
    middle = (left.snr > 50) & (left.snr < 300)
    assert middle.sum() >= 5
    assert np.median(left.chi2[middle]) < 1.3
    assert np.median(left.chi2[middle]) > 0.7
    bright = left.snr > 300
    if bright.any():
        assert np.median(np.abs(left.flux_share[bright])) < 0.01
    assert outcome.quality.star_residual < max_residual
    assert outcome.quality.stars_missing == 0


def assert_noise_is_understood(outcome):
    """Whitened noise of width 1 in pixels and after the filter, which is before it is set to 1."""
    assert outcome.quality.pixel_noise_ratio == pytest.approx(1, abs=0.05)
    assert outcome.quality.snr_scale == pytest.approx(1, abs=0.08)


def assert_few_false(outcome, transients, stars, *, n_5_sigma=2):
    """As many peaks above 4 sigma as a Gaussian random field has, and next to none above 5."""
    false = snr_of_false(outcome, transients, stars)
    expected = expected_noise_peaks(outcome)
    assert abs(len(false) - expected) < 4 * np.sqrt(expected)
    assert np.count_nonzero(false > 5) <= n_5_sigma


def assert_recovered(outcome, transients, *, snr=TRANSIENT_SNR, flux=0.05):
    """Every transient at its place, with its flux and about the S/N that theory gives it."""
    found, distance = nearest(outcome, transients)
    assert found.is_positive.all()
    assert (distance < 4 * found.position_err_pix).all()
    ratio = found.flux_adu / transients.flux_adu
    assert np.mean(ratio) == pytest.approx(1, abs=flux)
    assert (np.abs(ratio - 1) < 4.5 * found.flux_err_adu / transients.flux_adu).all()
    # Their own photons take a tenth.
    assert 0.8 * snr < np.median(found.snr) < 1.1 * snr


def assert_good(outcome, stars, transients, *, allowed=None, **options):
    assert_nothing_is_nan(outcome)
    assert_stars_vanish(outcome, stars)
    assert_noise_is_understood(outcome)
    assert outcome.quality.flux_scale == pytest.approx(FLUX_RATIO, rel=0.03)
    assert_few_false(outcome, transients, stars)
    assert_recovered(outcome, transients if allowed is None else inside(transients, allowed), **options)


def in_frame(masked_in_reference):
    """A mask of the reference on the pixels of the frame, to the nearest pixel."""
    x, y = (round(shift) for shift in DITHER_PIX)
    ny, nx = masked_in_reference.shape
    padded = np.pad(masked_in_reference, 8, constant_values=True)
    return padded[8 + y : 8 + y + ny, 8 + x : 8 + x + nx]


def inside(field, allowed, *, margin=2 * REACH_PIX):
    """The sources whose surroundings are allowed."""
    safe = ndimage.binary_erosion(allowed, np.ones((2 * margin + 1,) * 2))
    rows = safe[np.rint(field.y_pix).astype(int), np.rint(field.x_pix).astype(int)]
    return Field(field.x_pix[rows], field.y_pix[rows], field.flux_adu[rows])


def test_plain_frame(tmp_path, stars, reference, transients, science_image):
    outcome = run(write_science(tmp_path / "s.fits", science_image), reference)
    assert_good(outcome, stars, transients[1])
    assert_lost_only_around(outcome, in_frame(np.zeros(SHAPE, bool)))
    assert np.mean(outcome.difference.bad) < 0.05
    assert outcome.difference.convolved == "reference"


def test_the_fast_drawer_draws_what_galsim_does(stars):
    few = Field(*(getattr(stars, name)[:25] for name in ("x_pix", "y_pix", "flux_adu")))
    slow = draw_field(few, shape=SHAPE, fwhm_pix=3.2, sky_adu=0.0, gain=1e8, seed=1)
    fast = draw(few)
    assert np.abs(slow - fast).max() < 2e-3 * fast.max()
    assert slow.sum() == pytest.approx(fast.sum(), rel=2e-3)


def test_nan_borders(tmp_path, stars, reference_image, transients, science_image):
    image, other = science_image.copy(), reference_image.copy()
    image[:40] = image[:, -25:] = np.nan
    other[-30:] = other[:, :15] = np.nan
    outcome = run(write_science(tmp_path / "s.fits", image), write_reference(tmp_path / "r.fits", other))
    masked = np.isnan(image) | in_frame(np.isnan(other))
    assert_lost_only_around(outcome, masked)
    assert_good(outcome, stars, transients[1], allowed=~masked)
    # NaN borders cost their own area, and a rim of the kernel's reach on the reference's side.
    assert np.mean(masked) < np.mean(outcome.difference.bad) < np.mean(masked) + 0.04


@pytest.mark.parametrize("whose", ["science", "science by MASK", "reference"])
def test_half_masked(tmp_path, stars, reference, reference_image, transients, science_image, whose):
    image, other = science_image.copy(), reference_image.copy()
    masked = np.zeros(SHAPE, bool)
    masked[:, :360] = True
    science = tmp_path / "s.fits"
    if whose == "science":
        image[masked] = np.nan
    elif whose == "reference":
        other[masked] = np.nan
        reference = write_reference(tmp_path / "r.fits", other)
    write_science(science, image)
    if whose == "science by MASK":
        fits.append(science, masked.astype(np.uint8), fits.Header({"EXTNAME": "MASK"}))
    outcome = run(science, reference)
    masked |= in_frame(masked) if whose == "reference" else in_frame(np.zeros(SHAPE, bool))
    assert_lost_only_around(outcome, masked)
    assert_good(outcome, stars, transients[1], allowed=~masked)
    lost = np.mean(outcome.difference.bad)
    assert 0.5 < lost < 0.545
    assert outcome.quality.overlap == pytest.approx(
        (1 - lost) / (0.5 if whose.startswith("science") else 1), abs=0.01
    )


def test_scattered_dead_pixels_of_the_frame_cost_only_themselves(
    tmp_path, stars, reference, transients, science_image
):
    image = science_image.copy()
    dead = np.random.default_rng(1).uniform(size=SHAPE) < 0.05
    image[dead] = np.nan
    outcome = run(write_science(tmp_path / "s.fits", image), reference)
    inner = np.s_[15:-15, 15:-15]
    np.testing.assert_array_equal(outcome.difference.bad[inner], dead[inner])
    assert_nothing_is_nan(outcome)
    assert_noise_is_understood(outcome)
    assert outcome.quality.n_stamps > 60
    assert outcome.quality.star_residual < 0.03
    assert outcome.quality.flux_scale == pytest.approx(FLUX_RATIO, rel=0.03)
    # No detection lies on a dead pixel: a transient whose peak is dead is found beside it.
    near = ndimage.uniform_filter(dead.astype(float), 5) > 0
    # Two are left, with an error of 4 % in their mean.
    assert_recovered(outcome, inside(transients[1], ~near, margin=0), flux=0.12)
    assert nearest(outcome, transients[1])[1].max() < 1.2
    # Holes make the S/N map rougher, so it has about twice the maxima of a field without; and a bright star
    # with a dead pixel in its core may leave something.
    false = snr_of_false(outcome, transients[1], stars)
    assert len(false) < 3 * expected_noise_peaks(outcome)
    assert np.count_nonzero(false > 5) <= 3


@pytest.mark.parametrize("how", ["NaN in the file", "a smaller file"])
def test_reference_covers_60_per_cent(tmp_path, stars, reference_image, transients, science_image, how):
    other = reference_image.copy()
    other[:, 432:] = np.nan
    masked = in_frame(np.isnan(other))
    path = tmp_path / "r.fits"
    if how == "a smaller file":
        write_frame(path, other[:, :432], **wcs_cards(SHAPE, DITHER_PIX) | {"GAIN": REFERENCE_GAIN})
    else:
        write_reference(path, other)
    outcome = run(write_science(tmp_path / "s.fits", science_image), path)
    assert_lost_only_around(outcome, masked)
    assert_good(outcome, stars, transients[1], allowed=~masked)
    assert 0.55 < outcome.quality.overlap < 0.6


@pytest.mark.parametrize("cards", [wcs_cards(SHAPE), {}], ids=["with WCS", "without"])
def test_fifteen_stars(tmp_path, cards):
    few = scene(15, seed=5, flux=(3000, 150_000), margin=-30)
    everything, transients = with_transients(few, 12)
    other = expose(reference_light(few), gain=REFERENCE_GAIN, seed=3)
    outcome = run(
        write_frame(tmp_path / "s.fits", expose(draw(everything)), GAIN=GAIN, **cards),
        write_reference(tmp_path / "r.fits", other),
    )
    assert outcome.frame.transform.rms_pix < 0.1
    assert_good(outcome, few, transients)


def test_four_stars_are_refused(tmp_path):
    few = scene(4, seed=5, flux=(3000, 150_000), margin=-30)
    other = expose(reference_light(few), gain=REFERENCE_GAIN, seed=3)
    science = write_science(tmp_path / "s.fits", expose(draw(few)))
    with pytest.raises(InputError, match=r"only \d stars found on it; registration needs 5"):
        run(science, write_reference(tmp_path / "r.fits", other))


def test_crowded_field_of_20000_stars(tmp_path):
    shape = (1128, 2000)
    crowd = scene(20_000, shape=shape, flux=(300, 150_000))
    everything, transients = with_transients(crowd, 40, shape=shape)
    outcome = run(
        write_science(tmp_path / "s.fits", expose(draw(everything, shape=shape))),
        write_reference(
            tmp_path / "r.fits", expose(reference_light(crowd, shape=shape), gain=REFERENCE_GAIN, seed=3)
        ),
    )
    left = left_of_stars(outcome, crowd)
    assert np.count_nonzero((left.snr > 50) & (left.snr < 300)) > 1000
    assert_good(outcome, crowd, transients)


@pytest.mark.parametrize("light_adu", [1e7, 1e8])
def test_one_very_bright_star(tmp_path, stars, transients, light_adu):
    """Saturated over 7 and 12 px; its wings reach through the whole frame."""
    bright = Field(np.array([360.0]), np.array([300.0]), np.array([light_adu]))
    full = 60_000
    image = np.minimum(expose(draw(transients[0]) + draw(bright, half=250)), full)
    light = reference_light(stars) + reference_light(bright, half=250)
    other = np.minimum(expose(light, gain=REFERENCE_GAIN, seed=3), full)
    outcome = run(
        write_science(tmp_path / "s.fits", image, SATURATE=full),
        write_reference(tmp_path / "r.fits", other, SATURATE=full),
    )
    assert_nothing_is_nan(outcome)
    assert_noise_is_understood(outcome)
    assert outcome.quality.flux_scale == pytest.approx(FLUX_RATIO, rel=0.03)
    # Its core is marked as saturated in both images, and the kernel does not rest on it.
    core = outcome.frame.science.image > 0.9 * (full - SKY_ADU)
    assert core.sum() > 30
    assert (outcome.difference.mask[core] & MASK["SATURATED"] != 0).all()
    assert (outcome.difference.mask[core] & MASK["SATURATED_REFERENCE"] != 0).all()
    fit = outcome.difference.fit
    assert np.hypot(fit.stamp_x_pix - 360, fit.stamp_y_pix - 300).min() > 5
    # Around its saturated core it may leave a residual, in the rest of the frame nothing.
    near = 40
    away = np.hypot(stars.x_pix - 360, stars.y_pix - 300) > near
    assert_stars_vanish(outcome, Field(stars.x_pix[away], stars.y_pix[away], stars.flux_adu[away]))
    ring = np.hypot(transients[1].x_pix - 360, transients[1].y_pix - 300) > near
    assert_recovered(outcome, Field(*(values[ring] for values in vars(transients[1]).values())))
    found = outcome.detections
    far = np.hypot(found.x_pix - 360, found.y_pix - 300) > near
    assert np.count_nonzero(far & (np.abs(found.snr) > 5)) - ring.sum() <= 2
    assert np.count_nonzero(~far) <= 4


def test_strong_gradient(tmp_path, stars, reference, transients):
    """From 100 to 2,500 ADU across 720 px: 3.3 ADU a pixel, where the noise is 7 to 35 ADU."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    sky = 100 + 1900 * x / SHAPE[1] + 500 * (y / SHAPE[0]) ** 2
    image = expose(draw(transients[0]), sky_adu=sky)
    science = write_science(tmp_path / "s.fits", image)
    outcome = run(science, reference)
    assert np.abs(outcome.frame.science.sky_adu - sky).max() < 5
    assert np.std(outcome.frame.science.sky_adu - sky) < 1.5
    assert_nothing_is_nan(outcome)
    assert_stars_vanish(outcome, stars)
    assert_noise_is_understood(outcome)
    assert outcome.quality.flux_scale == pytest.approx(FLUX_RATIO, rel=0.03)
    assert_few_false(outcome, transients[1], stars)
    # The S/N follows the sky under each of them.
    error = np.sqrt(np.interp(transients[1].x_pix, x[0], sky[300]) / SKY_ADU)
    found, distance = nearest(outcome, transients[1])
    assert (distance < 4 * found.position_err_pix).all()
    np.testing.assert_allclose(found.snr * error / TRANSIENT_SNR, 0.95, atol=0.35)
    assert np.mean(found.flux_adu / transients[1].flux_adu) == pytest.approx(1, abs=0.07)


def test_identical_frames_are_recognised(tmp_path, reference_image, reference):
    same = write_reference(tmp_path / "s.fits", reference_image)
    text = (
        r"noise of the filtered difference is .* times the expected, allowed 0\.3 to 3\.0;"
        " the frame may be the reference, or part of it"
    )
    with pytest.raises(InputError, match=text):
        run(same, reference)


def test_science_sharper_than_reference(tmp_path, stars, transients):
    blurred = expose(reference_light(stars, fwhm_pix=3.6), gain=REFERENCE_GAIN, seed=3)
    sharp = expose(draw(transients[0], fwhm_pix=2.4))
    outcome = run(write_science(tmp_path / "s.fits", sharp), write_reference(tmp_path / "r.fits", blurred))
    assert outcome.difference.convolved == "science"
    assert_nothing_is_nan(outcome)
    assert_stars_vanish(outcome, stars, fwhm_pix=2.4)
    assert_noise_is_understood(outcome)
    assert outcome.quality.flux_scale == pytest.approx(FLUX_RATIO, rel=0.03)
    assert_few_false(outcome, transients[1], stars)
    # Sharper stars have a higher S/N. The convolution costs some: a filter with the PSF alone is not the
    # best one in correlated noise; of Gaussians 2 s f / (s^2 + f^2) is kept, f the filter and both kernels.
    star2, filter2 = 2.4**2, 2 * 3.6**2 - 2.4**2
    share = 2 * np.sqrt(star2 * filter2) / (star2 + filter2)
    assert_recovered(outcome, transients[1], snr=TRANSIENT_SNR * 3.2 / 2.4 * share)


@pytest.mark.parametrize("offset_adu", [-SKY_ADU, -1000.0])
def test_negative_sky(tmp_path, stars, reference, transients, science_image, offset_adu):
    outcome = run(write_science(tmp_path / "s.fits", science_image + np.float32(offset_adu)), reference)
    assert np.median(outcome.frame.science.sky_adu) == pytest.approx(SKY_ADU + offset_adu, abs=1)
    assert_good(outcome, stars, transients[1])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, -1e30, 1e10, -1e10])
@pytest.mark.parametrize("whose", ["science", "reference"])
def test_wild_values_do_not_spread(
    tmp_path, reference, reference_image, transients, science_image, value, whose
):
    """Three wild pixels change the difference nowhere but around themselves."""
    image, other = science_image.copy(), reference_image.copy()
    wild = image if whose == "science" else other
    wild[[100, 300, 301], [500, 60, 60]] = value
    if whose == "reference":
        reference = write_reference(tmp_path / "r.fits", other)
    outcome = run(write_science(tmp_path / "s.fits", image), reference)
    assert_nothing_is_nan(outcome)
    assert_noise_is_understood(outcome)
    away = np.ones(SHAPE, bool)
    for x, y in ((500, 100), (60, 300)):
        away[y - 40 : y + 41, x - 40 : x + 41] = False
    assert np.abs(outcome.frame.filtered.snr[away & ~outcome.difference.bad]).max() < 30
    found = outcome.detections
    at = np.minimum(
        np.hypot(found.x_pix - 500, found.y_pix - 100), np.hypot(found.x_pix - 60, found.y_pix - 300)
    )
    assert np.count_nonzero((at > 25) & (np.abs(found.snr) > 5)) <= len(transients[1].x_pix) + 2
