"""Scenes of thousands of stars with known truth, drawn fast, and the whole chain run on them.

Positions are multiples of 1/8 px, so 64 stamps serve all stars and are exact. Every frame holds the same
stars; the reference is deeper, dithered by a few pixels and has other widths and flux scales.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from _star_field import Field, write_frame
from _warped_fields import tangent_wcs
from scipy import signal

from rbsim.chain import Subtracted, subtract_frame
from rbsim.config import SubtractConfig
from rbsim.detect import Detections, detect, peak_width
from rbsim.frame import read_frame
from rbsim.reference import load_reference

SHAPE = (600, 720)
PHASES = 8
DITHER_PIX = (3.375, -2.625)
"""Position in the reference minus position in the science frame."""
BETA = 3.5
GAIN, REFERENCE_GAIN = 2.0, 50.0
SKY_ADU = 300.0
SCIENCE_FWHM, REFERENCE_FWHM = 3.2, 2.5
FLUX_RATIO = 0.8
"""Science ADU per reference ADU."""
TRANSIENT_SNR = 20.0


def scene(n_stars, *, shape=SHAPE, seed=1, flux=(400, 150_000), margin=12):
    """Stars with a power law of fluxes (in science ADU), also a little outside of the frame."""
    rng = np.random.default_rng(seed)
    ny, nx = shape
    index = -0.7
    light = rng.uniform(flux[1] ** index, flux[0] ** index, n_stars) ** (1 / index)
    x, y = rng.uniform(-margin, nx + margin, n_stars), rng.uniform(-margin, ny + margin, n_stars)
    return Field(np.round(x * PHASES) / PHASES, np.round(y * PHASES) / PHASES, light)


@lru_cache(maxsize=1024)
def _stamp(fwhm_pix, half, trail_pix, phase_x, phase_y):
    """Pixel-integrated Moffat star of flux 1, `phase` eighths of a pixel off the centre of the stamp."""
    node, weight = np.polynomial.legendre.leggauss(3)
    axis = np.arange(-half, half + 1)
    along = (axis[:, None] + node / 2).ravel()  # three points of every pixel
    core = fwhm_pix / 2 / np.sqrt(2 ** (1 / BETA) - 1)
    smears = np.linspace(-trail_pix / 2, trail_pix / 2, 21) if trail_pix else np.zeros(1)
    dy, dx = along[:, None] - phase_y / PHASES, along - phase_x / PHASES
    values = sum((1 + (dy**2 + (dx - smear) ** 2) / core**2) ** -BETA for smear in smears) / len(smears)
    values = values.reshape(len(axis), 3, len(axis), 3)
    sums = np.einsum("yaxb,a,b->yx", values, weight / 2, weight / 2)
    return sums * (BETA - 1) / (np.pi * core**2)


def point_source(fwhm_pix, *, half=20):
    """Stamp of a centred star of flux 1."""
    return _stamp(fwhm_pix, half, 0.0, 0, 0)


def draw(field, *, shape=SHAPE, fwhm_pix=SCIENCE_FWHM, half=25, trail_pix=0.0):
    """Light of the stars in ADU without noise, float64."""
    ny, nx = shape
    image = np.zeros((ny + 4 * half, nx + 4 * half))
    x, y = (np.round(a * PHASES).astype(int) for a in (field.x_pix, field.y_pix))
    near = (np.abs(x / PHASES - nx / 2) < nx / 2 + half) & (np.abs(y / PHASES - ny / 2) < ny / 2 + half)
    for i, j, light in zip(x[near], y[near], field.flux_adu[near], strict=True):
        left, low = i // PHASES + half, j // PHASES + half
        stamp = _stamp(fwhm_pix, half, trail_pix, i % PHASES, j % PHASES)
        image[low : low + 2 * half + 1, left : left + 2 * half + 1] += light * stamp
    return image[2 * half : 2 * half + ny, 2 * half : 2 * half + nx]


def expose(light, *, sky_adu=SKY_ADU, gain=GAIN, seed=2):
    """Sky and photon noise added, float32 ADU."""
    electrons = np.random.default_rng(seed).poisson(np.maximum(light + sky_adu, 0) * gain)
    return (electrons / gain).astype(np.float32)


def flux_error(fwhm_pix=SCIENCE_FWHM, sky_adu=SKY_ADU):
    """Error of an optimally measured faint star: science noise, the reference adding its own."""
    # The reference has FLUX_RATIO of the scale: its noise in science ADU, smoothed by the kernel, is small.
    psf = point_source(fwhm_pix)
    variance = sky_adu / GAIN + FLUX_RATIO**2 * SKY_ADU / REFERENCE_GAIN
    return float(np.sqrt(variance / (psf**2).sum()))


def in_reference(field):
    return Field(field.x_pix + DITHER_PIX[0], field.y_pix + DITHER_PIX[1], field.flux_adu / FLUX_RATIO)


def reference_light(field, *, shape=SHAPE, fwhm_pix=REFERENCE_FWHM, **options):
    return draw(in_reference(field), shape=shape, fwhm_pix=fwhm_pix, **options)


def wcs_cards(shape, offset=(0.0, 0.0)):
    ny, nx = shape
    return dict(tangent_wcs((nx / 2 + offset[0], ny / 2 + offset[1])).to_header().items())


def write_science(path, image, **cards):
    return write_frame(path, image, **wcs_cards(image.shape), **{"GAIN": GAIN, **cards})


def write_reference(path, image, **cards):
    cards = wcs_cards(image.shape, DITHER_PIX) | {"GAIN": REFERENCE_GAIN} | cards
    return write_frame(path, image, **cards)


def with_transients(field, n, *, shape=SHAPE, region=(0.0, 0.0, 1.0, 1.0), seed=4):
    """The stars with `n` transients after them, and the transients alone; not on stars of their brightness.

    `region` is the part of the frame (left, low, right, high) that gets them.
    """
    rng = np.random.default_rng(seed)
    low = np.array([region[0] * shape[1], region[1] * shape[0]]) + 30
    high = np.array([region[2] * shape[1], region[3] * shape[0]]) - 30
    flux = TRANSIENT_SNR * flux_error()
    bright = field.flux_adu > flux
    at = []
    while len(at) < n:
        new = np.round(rng.uniform(low, high) * PHASES) / PHASES
        away = np.hypot(field.x_pix[bright] - new[0], field.y_pix[bright] - new[1]).min(initial=np.inf)
        if away > 8 and all(np.hypot(*(new - other)) > 20 for other in at):
            at.append(new)
    x, y = np.array(at).T
    alone = Field(x, y, np.full(n, flux))
    both = (np.append(getattr(field, name), getattr(alone, name)) for name in ("x_pix", "y_pix", "flux_adu"))
    return Field(*both), alone


@dataclass(frozen=True, eq=False)
class Outcome:
    """What the chain made of a frame."""

    frame: Subtracted
    detections: Detections

    @property
    def difference(self):
        return self.frame.difference

    @property
    def quality(self):
        return self.frame.quality


def run(science_path, reference, *, config=None) -> Outcome:
    """Read, subtract, detect above 4 sigma; `reference` is a path or a loaded one."""
    loaded = reference if hasattr(reference, "frame") else load_reference(reference)
    frame = subtract_frame(read_frame(science_path), loaded, config or SubtractConfig())
    difference = frame.difference
    found = detect(frame.filtered, difference.bad, threshold_snr=4.0, psf_at=difference.psf_at)
    return Outcome(frame, found)


@dataclass(frozen=True)
class Left:
    """What is left of the stars of a scene: S/N, chi-square per pixel in 9 x 9 px, and share of the flux."""

    snr: np.ndarray
    chi2: np.ndarray
    flux_share: np.ndarray


def left_of_stars(outcome, field, *, fwhm_pix=SCIENCE_FWHM, half=4) -> Left:
    difference = outcome.difference
    ny, nx = difference.image.shape
    x, y = np.rint(field.x_pix).astype(int), np.rint(field.y_pix).astype(int)
    inside = (x >= half) & (x < nx - half) & (y >= half) & (y < ny - half)
    x, y, flux = x[inside], y[inside], field.flux_adu[inside]
    span = np.arange(-half, half + 1)
    index = (y[:, None, None] + span[:, None], x[:, None, None] + span)
    clean = ~(difference.bad | outcome.frame.science.saturated)[index].any(axis=(1, 2))
    image, variance = difference.image[index][clean], difference.variance[index][clean]
    psf = point_source(fwhm_pix, half=half)
    snr = flux[clean] * np.sqrt((psf**2 / variance).sum(axis=(1, 2)))
    return Left(snr, (image**2 / variance).mean(axis=(1, 2)), image.sum(axis=(1, 2)) / flux[clean])


def expected_noise_peaks(outcome, *, threshold_snr=4.0):
    """Peaks above and troughs below the threshold in a Gaussian random field of the good area.

    Adler (1981), eq. 6.6.6 for high levels: u exp(-u^2 / 2) / (2 pi)^1.5 per square of the field's own
    width, that of the PSF's autocorrelation.
    """
    difference = outcome.difference
    centre = [np.array([size / 2]) for size in difference.image.shape[::-1]]
    shape = difference.psf_at(*centre)
    if difference.convolved == "science":  # then the noise went through the kernel too
        shape = signal.fftconvolve(shape, difference.kernel_at(*centre), axes=(1, 2))
    width2 = peak_width(shape)[0] ** 2
    area = np.count_nonzero(~outcome.difference.bad)
    return 2 * area * threshold_snr * np.exp(-(threshold_snr**2) / 2) / (2 * np.pi) ** 1.5 / width2


def snr_of_false(outcome, transients, stars):
    """Absolute S/N of detections that are neither a transient nor within 1 % of the flux of a star there."""
    found = outcome.detections

    def from_all(field):
        return np.hypot(found.x_pix[:, None] - field.x_pix, found.y_pix[:, None] - field.y_pix)

    light = np.where(from_all(stars) < 10, stars.flux_adu, 0).max(axis=1)
    false = (from_all(transients).min(axis=1) > 6) & (np.abs(found.flux_adu) > 0.01 * light)
    return np.abs(found.snr[false])


def nearest(outcome, transients):
    """The detection nearest to each transient, and its distance in px."""
    found = outcome.detections
    distance = np.hypot(found.x_pix - transients.x_pix[:, None], found.y_pix - transients.y_pix[:, None])
    rows = distance.argmin(axis=1)
    return found.select(rows), distance[np.arange(len(rows)), rows]
