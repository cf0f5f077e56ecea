"""Peaks of pure noise through the whole of subtraction, filter and calibration, against random-field theory.

Science and reference are noise; the reference is resampled by a fraction of a pixel and either image is
convolved, so the noise of the difference is correlated. The S/N map must still have as many maxima above a
threshold as a Gaussian random field with the spectrum of that noise.
"""

import numpy as np
import pytest
from scipy import integrate
from scipy.stats import norm

from rbsim.detect import detect
from rbsim.difference import flatten
from rbsim.frame import Detector, Frame
from rbsim.kernel import Kernel, KernelFit
from rbsim.kernel_basis import GaussHermiteBasis
from rbsim.profile import BASIS
from rbsim.psf import Psf, PsfQuality
from rbsim.resample import interpolant, resample
from rbsim.significance import calibrate_noise
from rbsim.subtract import apply_kernel
from rbsim.transform import fit_transform

PSF_SIGMA_PIX = 1.1
KERNEL_SIGMA_PIX = 1.3
NOISE_ADU = {"science": 10.0, "reference": 8.0}


def kernel_of(shape):
    """A Gaussian kernel of sum 1, the same everywhere."""
    basis = GaussHermiteBasis((KERNEL_SIGMA_PIX,), (0,), 6)
    nothing = np.zeros(0)
    fit = KernelFit(40, 0, 1.0, 0.0, nothing, nothing, 10)
    coefficients = np.array([[1 / basis.images[0].sum()]])
    return Kernel(coefficients, 0, np.zeros(1), 0, shape, basis, fit)


def frame_of_noise(name, shape, rng):
    image = rng.normal(0, NOISE_ADU[name], shape).astype(np.float32)
    detector = Detector(1.0, 0.0, 0.0, np.nan, False)
    return Frame(
        name=name,
        image=image,
        sky_adu=np.zeros(shape, np.float32),
        variance=np.full(shape, NOISE_ADU[name] ** 2, np.float32),
        mask=np.zeros(shape, np.uint8),
        wcs=None,
        zero_point_mag=25.0,
        zero_point_calibrated=False,
        detector=detector,
        sensor=0,
        time_unix_s=0.0,
        variance_given=True,
        field="",
    )


def shifted(frame, shift_pix):
    """The frame on a grid that is off by a fraction of a pixel, as a registered reference is."""
    ny, nx = frame.shape
    x, y = (a.ravel() for a in np.meshgrid(np.linspace(0, nx - 1, 5), np.linspace(0, ny - 1, 5)))
    transform = fit_transform(x, y, x + shift_pix[0], y + shift_pix[1], frame.shape, 1)
    image, variance, mask = resample(interpolant(frame.image, frame.variance, frame.mask), transform)
    return Frame(**{**vars(frame), "image": image, "variance": variance, "mask": mask})


def gaussian_psf(shape):
    """The first function of the core alone: a Gaussian."""
    coefficients = np.zeros((1, BASIS.n_functions))
    coefficients[0, 0] = 1.0
    quality = PsfQuality(50, 1.0, 0.0, (0.0, 0.0, 0.0), 1.0, 0.0, is_moffat=False)
    return Psf(coefficients, 0, shape, PSF_SIGMA_PIX, 8, 2.355 * PSF_SIGMA_PIX, quality)


def density_of_maxima(threshold, power, frequency2):
    """Maxima above a height per pixel of a Gaussian random field with this power spectrum.

    Bond & Efstathiou (1987, MNRAS 226, 655), eq. A1.9.
    """
    zeroth, first, second = (np.sum(power * frequency2**j) / np.sum(power) for j in range(3))
    gamma2, theta2 = first**2 / (zeroth * second), 2 * first / second
    gamma, rest = np.sqrt(gamma2), 1 - gamma2

    def count(nu):
        x = gamma * nu
        shape = (
            (x**2 - gamma2) * norm.cdf(x / np.sqrt(rest))
            + x * rest * np.exp(-(x**2) / (2 * rest)) / np.sqrt(2 * np.pi * rest)
            + np.exp(-(x**2) / (3 - 2 * gamma2))
            / np.sqrt(3 - 2 * gamma2)
            * norm.cdf(x / np.sqrt(rest * (3 - 2 * gamma2)))
        )
        return np.exp(-(nu**2) / 2) * shape

    return integrate.quad(count, threshold, 15)[0] / ((2 * np.pi) ** 1.5 * theta2)


def expected_density(threshold, direction):
    """For filtered noise of which one part went through the kernel; resampling lost only high frequencies."""
    n = 256
    frequency = 2 * np.pi * np.fft.fftfreq(n)
    frequency2 = frequency[:, None] ** 2 + frequency[None, :] ** 2
    kernel2, psf2 = (np.exp(-frequency2 * sigma**2) for sigma in (KERNEL_SIGMA_PIX, PSF_SIGMA_PIX))
    convolved = NOISE_ADU[direction] ** 2 * kernel2
    other = NOISE_ADU["science" if direction == "reference" else "reference"] ** 2
    # The PSF of the difference is the science frame's, convolved too where the science frame is.
    power = psf2 * (kernel2 if direction == "science" else 1) * (convolved + other)
    return density_of_maxima(threshold, power, frequency2)


def counts(n_frames, size, direction, *, seed, thresholds):
    """Positive and negative peaks above each threshold, and the pixels searched."""
    rng = np.random.default_rng(seed)
    shape = (size, size)
    kernel, psf = kernel_of(shape), gaussian_psf(shape)
    found = {threshold: np.zeros(2, int) for threshold in thresholds}
    n_pixels = 0
    for _ in range(n_frames):
        science = frame_of_noise("science", shape, rng)
        reference = shifted(frame_of_noise("reference", shape, rng), rng.uniform(0, 1, 2))
        difference = flatten(apply_kernel(science, psf, reference, kernel, direction))
        difference, filtered, _ = calibrate_noise(difference)
        peaks = detect(filtered, difference.bad, threshold_snr=min(thresholds))
        n_pixels += np.count_nonzero(~difference.bad)
        for threshold in thresholds:
            high = np.abs(peaks.snr) > threshold
            found[threshold] += [np.sum(high & peaks.is_positive), np.sum(high & ~peaks.is_positive)]
    return found, n_pixels


@pytest.mark.parametrize("direction", ["reference", "science"])
def test_peaks_above_4_sigma_are_as_many_as_in_a_random_field(direction):
    found, n_pixels = counts(12, 900, direction, seed=1, thresholds=(4.0,))
    expected = expected_density(4.0, direction) * n_pixels
    assert found[4.0] == pytest.approx([expected, expected], rel=0.2)


@pytest.mark.slow
def test_peaks_above_5_sigma_are_as_many_summed_over_two_hundred_frames():
    """Noise that is wrong by 1 % changes their number by 20 % above 4.5 sigma, by 25 % above 5."""
    seen, expected = {4.5: 0, 5.0: 0}, {4.5: 0.0, 5.0: 0.0}
    for direction in ("reference", "science"):
        found, n_pixels = counts(100, 400, direction, seed=2, thresholds=tuple(seen))
        for threshold in seen:
            seen[threshold] += int(found[threshold].sum())
            expected[threshold] += 2 * expected_density(threshold, direction) * n_pixels
    assert expected[4.5] > 100  # Poisson noise of 10 %
    assert seen[4.5] == pytest.approx(expected[4.5], rel=0.2)
    assert expected[5.0] > 12
    assert abs(seen[5.0] - expected[5.0]) < 2.5 * np.sqrt(expected[5.0])
