"""Subtraction: identical frames vanish, a sharper reference vanishes to noise, bad pixels stay bad."""

import numpy as np
import pytest
from _star_field import draw_field, frame_of, make_field
from scipy.signal import fftconvolve

from rbsim.config import BACKENDS, SubtractConfig
from rbsim.convolve import convolve_varying
from rbsim.errors import InputError
from rbsim.frame import Frame
from rbsim.kernel import fit_kernel
from rbsim.psf_fit import fit_psf
from rbsim.reference import sources_of
from rbsim.significance import calibrate_noise
from rbsim.sources import is_point_like, star_radius
from rbsim.subtract import check_backend, subtract

SHAPE = (300, 320)


def psf_of(frame: Frame):
    sources = sources_of(frame)
    radius = star_radius(sources)
    return fit_psf(
        frame.image,
        frame.variance,
        frame.bad,
        sources,
        is_point_like(sources, radius),
        fwhm_guess_pix=2 * radius,
    )


@pytest.fixture(scope="module")
def field():
    return make_field(shape=SHAPE, n_stars=120)


@pytest.fixture(scope="module")
def frames(tmp_path_factory, field):
    """Science with 3.2 px, a deep reference with 2.2 px and 0.7 of the flux."""
    folder = tmp_path_factory.mktemp("frames")
    science = frame_of(folder, draw_field(field, shape=SHAPE, fwhm_pix=3.2), "s.fits")
    dim = type(field)(field.x_pix, field.y_pix, 0.7 * field.flux_adu)
    deep = draw_field(dim, shape=SHAPE, fwhm_pix=2.2, gain=200.0, seed=5)
    return science, frame_of(folder, deep, "r.fits", GAIN=200.0)


def difference_of(science, reference, **options):
    return subtract(
        science,
        psf_of(science),
        reference,
        psf_of(reference).fwhm_pix,
        sources_of(reference),
        config=SubtractConfig(**options),
    )


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request):
    """Each engine that is installed."""
    try:
        check_backend(SubtractConfig(backend=request.param))
    except InputError as error:
        pytest.skip(str(error))
    return request.param


def test_frame_minus_itself_is_zero(frames):
    science, _ = frames
    difference = difference_of(science, science)
    noise = np.sqrt(np.median(science.variance))
    inner = difference.image[15:-15, 15:-15]
    assert np.nanmax(np.abs(inner)) < 0.02 * noise
    assert difference.flux_scale == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("direction", ["reference", "science"])
def test_whitened_difference_has_unit_variance_and_flux_scale_is_found(frames, backend, direction):
    science, reference = frames
    difference = difference_of(science, reference, convolve=direction, backend=backend)
    assert difference.convolved == direction
    # About 1 % of a Moffat of 3.2 px lies beyond the kernel; what is inside is matched.
    # Sharpening the wider image is ill-conditioned on top.
    assert difference.flux_scale == pytest.approx(1 / 0.7, rel=0.03)
    if direction == "reference":  # white noise: the science frame's own
        good = ~difference.bad
        whitened = difference.image[good] / np.sqrt(difference.variance[good])
        assert np.var(whitened[np.abs(whitened) < 5]) == pytest.approx(1, abs=0.05)
        assert np.mean(np.abs(whitened) > 5) < 1e-4
    # Also where the kernel correlates the noise, the filtered noise is the expected one.
    *_, ratio = calibrate_noise(difference)
    assert ratio == pytest.approx(1, abs=0.1)


def test_automatic_direction_convolves_the_sharper_image(frames):
    science, reference = frames
    assert difference_of(science, reference).convolved == "reference"
    assert difference_of(reference, science).convolved == "science"


def test_stars_vanish(frames, backend, field):
    science, reference = frames
    difference = difference_of(science, reference, backend=backend)
    inside = (np.abs(field.x_pix - 160) < 140) & (np.abs(field.y_pix - 150) < 130)
    chi2 = []
    for x, y in zip(field.x_pix[inside], field.y_pix[inside], strict=True):
        box = (slice(round(y) - 4, round(y) + 5), slice(round(x) - 4, round(x) + 5))
        chi2.append(np.mean(difference.image[box] ** 2 / difference.variance[box]))
    assert np.median(chi2) < 1.2
    # HOTPANTS leaves more of the brightest star of this field than the others do.
    assert np.max(chi2) < (3.0 if backend == "hotpants" else 2.0)


def test_bad_pixels_stay_bad_and_do_not_spread_far(tmp_path, frames, backend):
    science, reference = frames
    holed = reference.image + reference.sky_adu
    holed[150:153, 160:163] = np.nan
    difference = difference_of(science, frame_of(tmp_path, holed, GAIN=200.0), backend=backend)
    assert np.isnan(difference.image[150:153, 160:163]).all()
    assert np.isinf(difference.variance[difference.bad]).all()
    border = 12  # the convolution loses its own reach there
    assert difference.bad[0].all()
    lost_y, lost_x = np.nonzero(difference.bad[border:-border, border:-border])
    lost_y, lost_x = lost_y + border, lost_x + border
    assert max(np.abs(lost_x - 161).max(), np.abs(lost_y - 151).max()) <= 8


def test_kernel_that_is_known_is_recovered(field):
    sharp = draw_field(field, shape=SHAPE, fwhm_pix=2.2, gain=1e6, sky_adu=0.0)
    axis = np.arange(-8, 9)
    true = np.exp(-0.5 * (axis[:, None] ** 2 + axis[None, :] ** 2) / 1.5**2)
    true *= 1.3 / true.sum()
    target = fftconvolve(sharp, true, mode="same")
    kernel = fit_kernel(
        sharp,
        target,
        np.ones(SHAPE),
        np.ones(SHAPE, bool),
        field.x_pix,
        field.y_pix,
        fwhm_from_pix=2.4,
        fwhm_to_pix=4.0,
    )
    found = kernel.at(np.array([160.0]), np.array([150.0]))[0]
    half = kernel.basis.half_pix
    np.testing.assert_allclose(found[half - 8 : half + 9, half - 8 : half + 9], true, atol=0.005 * true.max())
    assert kernel.flux_scale == pytest.approx(1.3, rel=1e-3)


def test_convolution_equals_the_direct_one_when_the_kernel_is_constant():
    rng = np.random.default_rng(3)
    image, kernel = rng.normal(size=(205, 317)), rng.normal(size=(9, 9))
    tiled = convolve_varying(image, lambda x, _: np.repeat(kernel[None], len(x), 0), tile_pix=64)
    np.testing.assert_allclose(tiled, fftconvolve(image, kernel, mode="same"), atol=1e-4)


def test_too_few_stars_and_too_small_frames_are_refused(frames):
    science, reference = frames
    psf = psf_of(science)
    none = sources_of(reference).select(np.zeros(len(sources_of(reference)), bool))
    with pytest.raises(InputError, match=r"s.fits: only 0 usable stars for the kernel"):
        subtract(science, psf, reference, 2.2, none)
    with pytest.raises(InputError, match="too small for kernel stamps"):
        fit_kernel(
            science.image[:40, :40],
            science.image[:40, :40],
            science.variance[:40, :40],
            np.ones((40, 40), bool),
            np.array([20.0]),
            np.array([20.0]),
            fwhm_from_pix=3,
            fwhm_to_pix=3,
        )
    with pytest.raises(InputError, match="convolve is 'both'; allowed: auto, reference, science"):
        SubtractConfig(convolve="both")


def test_no_overlap_is_refused(frames):
    science, reference = frames
    blank = reference.image + reference.sky_adu
    blank[:, 10:] = np.nan
    blank[:, :10] = np.random.default_rng(1).normal(200, 5, (SHAPE[0], 10))
    mostly_blank = type(reference)(**{**vars(reference), "mask": (~np.isfinite(blank)).astype(np.uint8)})
    with pytest.raises(InputError, match="overlaps the reference by"):
        subtract(science, psf_of(science), mostly_blank, 2.2, sources_of(reference))
