"""What the noise of a sky is made of: photons and read noise, faint stars, bands of the readout."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter1d
from scipy.special import ndtr, ndtri

from rbsim import blur
from rbsim.psf import Psf
from rbsim.robust import robust_width
from rbsim.sources import grow

LIGHT_SIGMA, LIGHT_GROW_PIX = 3.0, 3
"""Pixels above this many sigma and those around them are no sky, as for `rbsim.sources`."""
MIN_SKY_SHARE = 0.3
BAND_PIX, MIN_BAND_PIX, MIN_TRUST = 64, 8, 0.5
MAX_STRUCTURE = 0.9
"""At least a tenth of the variance is taken for white noise."""
MAX_CALM = 1.1
"""Nor is the variance ever much more than was measured with clipping."""
LAGS = ((0, 1), (0, 2), *((dy, dx) for dy in (1, 2) for dx in range(-2, 3)))
"""Half of the neighbours up to 2 px away; the other half has the same covariance."""


@dataclass(frozen=True, eq=False)
class SkyNoise:
    """Parts of the noise of the sky, in ADU.

    Attributes
    ----------
    white_variance : ndarray, shape (ny, nx), float32
        Of photons and read noise: independent from pixel to pixel.
    faint_variance : float
        Of light that came through the PSF but is too faint to be a source.
    bands_adu : ndarray, shape (ny, nx), float32
        Offsets of rows and columns.
    bands_variance : float
        Without the white noise that they were measured with.
    white_in_bands, white_taken : float
        Shares of that noise that they hold, and that a frame lacks once they are taken out.
    """

    white_variance: np.ndarray
    faint_variance: float
    bands_adu: np.ndarray
    bands_variance: float
    white_in_bands: float
    white_taken: float


def without_digits(
    light: np.ndarray, sky_adu: np.ndarray, sigma: np.ndarray, share: np.ndarray
) -> np.ndarray:
    """Values as they may have been before they were rounded to whole ADU.

    The fraction is drawn from the normal distribution of the sky, cut to the pixel's digit: then the values
    have that distribution, without the variance of rounding. Where the pixel is more than 4 sigma off (a
    source), it keeps its value.

    Parameters
    ----------
    light, sky_adu : ndarray, shape (ny, nx)
        ADU above the sky, finite, and the sky; their sum is whole.
    sigma : ndarray, shape (ny, nx)
        Noise of the sky without rounding, ADU.
    share : ndarray, shape (ny, nx)
        Quantiles to take, evenly distributed from 0 to 1.

    Returns
    -------
    ndarray, shape (ny, nx), float32
    """
    raw = np.rint(light + sky_adu)
    near = np.abs(raw - sky_adu) < 4 * sigma
    raw, middle, width = raw[near], sky_adu[near], sigma[near]
    low, high = ndtr((raw - 0.5 - middle) / width), ndtr((raw + 0.5 - middle) / width)
    drawn = middle + width * ndtri(low + share[near] * (high - low))
    out = light.astype(np.float32)
    out[near] = np.clip(drawn, raw - 0.5, raw + 0.5) - middle
    return out


def measure_sky_noise(light: np.ndarray, sky_variance: np.ndarray, out: np.ndarray, psf: Psf) -> SkyNoise:
    """Take the noise of the sky apart.

    Only photons and read noise are noise of *this* exposure. Faint stars are dimmed by clouds and smoothed by
    seeing as bright ones are; bands are of the detector, and neither happens to them.

    Parameters
    ----------
    light, sky_variance : ndarray, shape (ny, nx)
        Background-subtracted ADU, finite, without digits (`without_digits`), and ADU squared without the
        photon noise of sources.
    out : ndarray of bool, shape (ny, nx)
        Pixels that do not count (bad, saturated).
    psf : Psf

    Returns
    -------
    SkyNoise
    """
    sigma = np.sqrt(sky_variance)
    bright = np.abs(light) > LIGHT_SIGMA * sigma
    sky = ~(grow(bright, LIGHT_GROW_PIX) | out)
    if np.count_nonzero(sky) < MIN_SKY_SHARE * sky.size:
        sky = ~(bright | out)
    bands, bands_variance, taken, held = _bands(light, sky)
    value = (light - bands) / sigma
    share = _faint_share(value, sky, psf)
    # Wings of stars weigh in a clipped rms, the more the more crowded the field; hardly in a median.
    # Nor does a median fall short on normal noise, as the clipped rms does by 1 to 2 %.
    calm = min(robust_width(value[sky]) ** 2 / (1 - taken), MAX_CALM) if sky.any() else 1.0
    white = max(calm - share, 1 - MAX_STRUCTURE)
    return SkyNoise(
        (np.float32(white) * sky_variance).astype(np.float32, copy=False),
        (calm - white) * float(np.median(sky_variance)),
        bands,
        bands_variance,
        held,
        taken,
    )


def _bands(light: np.ndarray, sky: np.ndarray) -> tuple[np.ndarray, float, float, float]:
    """Offsets along rows and columns, even and odd pixels apart (two channels), and their true variance.

    Running means over `BAND_PIX` pixels of the sky, shrunk by the share of their variance that is not the
    noise of a mean; where that is most of it, there are no bands. Last, the shares of the white noise that
    the frame loses without them, and that they hold: the first is larger, as the shrinking leaves the rest
    correlated with them.
    """
    bands = np.zeros_like(light)
    total = taken = held = 0.0
    for axis in (1, 0):
        for parity in (0, 1):
            part = (slice(None), slice(parity, None, 2)) if axis else (slice(parity, None, 2), slice(None))
            here = sky[part].astype(np.float32)
            left = (light[part] - bands[part]) * here
            n, sums, squares = (
                uniform_filter1d(plane, BAND_PIX // 2, axis=axis, mode="nearest") * (BAND_PIX // 2)
                for plane in (here, left, left**2)
            )
            enough = n > MIN_BAND_PIX
            if not enough.any():
                continue
            n = np.maximum(n, 1)
            mean = np.where(enough, sums / n, 0)
            measured, own = float(np.mean(mean[enough] ** 2)), float(np.mean((squares / n**2)[enough]))
            excess = max(measured - own, 0.0)
            trust = excess / measured if measured > 0 else 0.0
            if trust < MIN_TRUST:
                continue
            bands[part] += np.float32(trust) * mean
            total += excess / 2
            noise = float(np.mean(1 / n[enough])) / 2
            taken += (2 - trust) * trust * noise
            held += trust**2 * noise
    return bands, total, taken, held


def _faint_share(value: np.ndarray, sky: np.ndarray, psf: Psf) -> float:
    """Share of light that has come through the PSF in the variance of the sky, 0 to `MAX_STRUCTURE`.

    Photons of the sky are independent from pixel to pixel. Neighbours are alike only through the PSF, by its
    autocorrelation, which is fitted to their covariance.
    """
    value = np.where(sky, value, 0)
    ny, nx = value.shape
    star = blur.blurred_psf(psf, (), oversample=1)
    covariance: list[float] = []
    of_star: list[float] = []
    for dy, dx in LAGS:
        first = (slice(0, ny - dy), slice(max(-dx, 0), nx - max(dx, 0)))
        second = (slice(dy, ny), slice(max(dx, 0), nx - max(-dx, 0)))
        n_pairs = np.count_nonzero(sky[first] & sky[second])
        covariance.append(float(np.vdot(value[first], value[second]) / max(int(n_pairs), 1)))
        of_star.append(float((star * np.roll(star, (dy, dx), axis=(0, 1))).sum()))
    shape = np.array(of_star) / float(np.vdot(star, star))
    return float(np.clip(np.dot(covariance, shape) / np.dot(shape, shape), 0, MAX_STRUCTURE))
