"""What a star meets where it is injected: the S/N to expect of its detection, the light of its host."""

from dataclasses import dataclass

import numpy as np
from scipy import signal

from rbsim import psf as psf_model
from rbsim.asked import AskedStars
from rbsim.difference import Difference
from rbsim.frame import Frame
from rbsim.psf import Psf

MIN_HOST_SNR = 3.0
PEAK_FREEDOM = 2
"""Coordinates over which a detection maximises its S/N."""


@dataclass(frozen=True, eq=False)
class Sites:
    """Figures of every place, all arrays of shape (n,).

    Attributes
    ----------
    snr_expected : see `expected_snr`.
    host_sb_mag_per_pix2 : see `surface_brightness`.
    """

    snr_expected: np.ndarray
    host_sb_mag_per_pix2: np.ndarray


def measure_sites(
    science: Frame, psf: Psf, difference: Difference, reference: Frame, asked: AskedStars
) -> Sites:
    """Expected S/N and host light of every place.

    Parameters
    ----------
    science : Frame
        Before injection, with known gain.
    psf : Psf
    difference : Difference
        Of `science`, before injection.
    reference : Frame
        On the pixels of `science`.
    asked : AskedStars
        Only points that shine all the time in the science frame alone have an expected S/N: what a filter
        for points makes of a trail, or a stack of a light in single frames, is not computed.
    """
    x, y = asked.x_pix, asked.y_pix
    flux = np.where(asked.is_plain, asked.flux_adu, 0)
    return Sites(
        expected_snr(psf, difference, x, y, flux, gain_e_per_adu=science.detector.gain_e_per_adu),
        surface_brightness(
            reference, psf, x, y, scale=difference.flux_scale, zero_point_mag=science.zero_point_mag
        ),
    )


def expected_snr(
    psf: Psf,
    difference: Difference,
    x_pix: np.ndarray,
    y_pix: np.ndarray,
    flux_adu: np.ndarray,
    *,
    gain_e_per_adu: float,
) -> np.ndarray:
    """S/N that the detection of a star has on average, noise of its own photons included.

    With the PSF ``P`` of the difference at the star's position, the variance ``v`` without the star and
    ``u`` of the star's photons, the matched filter there has on average
    ``s = F sqrt(sum P^2 / (v + u)) / noise factor``. A detection is the maximum over two coordinates,
    which adds their two degrees of freedom in square: ``sqrt(s^2 + 2)`` (cf. Vanderlinde et al. 2010,
    ApJ 722, 1180, section 2.3, with three). So half of the stars are found where this S/N is the
    threshold, and S/N is that of the detections, not that of the star before its noise.

    Parameters
    ----------
    psf : Psf
        Of the science frame.
    difference : Difference
        Before injection.
    x_pix, y_pix : ndarray, shape (n,)
        0-based; NaN or outside gives NaN.
    flux_adu : ndarray, shape (n,)
        Expected flux; the result is NaN where it is not positive.
    gain_e_per_adu : float

    Returns
    -------
    ndarray, shape (n,)
    """
    out = np.full(len(x_pix), np.nan)
    rows, column, line = _inside(x_pix, y_pix, difference.image.shape)
    rows_lit = flux_adu[rows] > 0
    rows, column, line = rows[rows_lit], column[rows_lit], line[rows_lit]
    if not rows.size:
        return out
    x, y, flux = x_pix[rows], y_pix[rows], flux_adu[rows, None, None]
    profile = psf_model.sample(psf, x, y, dx_pix=x - column, dy_pix=y - line)
    photons = np.maximum(profile, 0) * flux / gain_e_per_adu
    if difference.convolved == "science":
        kernel = difference.kernel_at(x, y)
        scale = difference.kernel_sum[line, column][:, None, None]
        profile = signal.fftconvolve(profile, kernel, mode="same", axes=(1, 2)) / scale
        photons = signal.fftconvolve(photons, kernel**2, mode="same", axes=(1, 2)) / scale**2
    variance = _cut(difference.variance, column, line, profile.shape[1], outside=np.inf)
    information = (profile**2 / (variance + np.maximum(photons, 0))).sum(axis=(1, 2))
    snr = flux[:, 0, 0] * np.sqrt(information) / difference.noise_factor[line, column]
    out[rows] = np.where(snr > 0, np.sqrt(snr**2 + PEAK_FREEDOM), np.nan)
    return out


def surface_brightness(
    reference: Frame,
    psf: Psf,
    x_pix: np.ndarray,
    y_pix: np.ndarray,
    *,
    scale: float,
    zero_point_mag: float,
) -> np.ndarray:
    """Surface brightness of the reference at positions, averaged with the PSF of the science frame.

    Everything that shines in the reference counts, stars too.

    Parameters
    ----------
    reference : Frame
        Background-subtracted, on the pixels of the science frame; NaN pixels take no part.
    psf : Psf
    x_pix, y_pix : ndarray, shape (n,)
        0-based; NaN or outside gives NaN.
    scale : float
        Science ADU per reference ADU.
    zero_point_mag : float
        Of the science frame.

    Returns
    -------
    ndarray, shape (n,)
        Magnitudes per square pixel; NaN where the light is below 3 sigma of the reference's noise, or
        less than half of the PSF lies on valid pixels.
    """
    out = np.full(len(x_pix), np.nan)
    rows, column, line = _inside(x_pix, y_pix, reference.shape)
    if not rows.size:
        return out
    x, y = x_pix[rows], y_pix[rows]
    weight = np.maximum(psf_model.sample(psf, x, y, dx_pix=x - column, dy_pix=y - line), 0)
    light = _cut(reference.image, column, line, weight.shape[1], outside=np.nan)
    variance = _cut(reference.variance, column, line, weight.shape[1], outside=np.inf)
    valid = np.isfinite(light) & np.isfinite(variance)
    total = weight.sum(axis=(1, 2))
    weight = np.where(valid, weight, 0)
    covered = weight.sum(axis=(1, 2))
    norm = np.where(covered > 0, covered, 1)
    mean = (weight * np.where(valid, light, 0)).sum(axis=(1, 2)) / norm
    error = np.sqrt((weight**2 * np.where(valid, variance, 0)).sum(axis=(1, 2))) / norm
    known = (covered > 0.5 * total) & (mean > MIN_HOST_SNR * error) & (mean > 0)
    out[rows[known]] = zero_point_mag - 2.5 * np.log10(scale * mean[known])
    return out


def _inside(
    x_pix: np.ndarray, y_pix: np.ndarray, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the positions on the image, and the column and line of their pixels."""
    ny, nx = shape
    on = (x_pix > -0.5) & (x_pix < nx - 0.5) & (y_pix > -0.5) & (y_pix < ny - 0.5)  # False for NaN
    rows = np.flatnonzero(on)
    return rows, np.rint(x_pix[rows]).astype(int), np.rint(y_pix[rows]).astype(int)


def _cut(image: np.ndarray, column: np.ndarray, line: np.ndarray, size: int, *, outside: float) -> np.ndarray:
    """Squares of the image around pixels, shape (n, size, size)."""
    half = size // 2
    ny, nx = image.shape
    along = np.arange(-half, half + 1)
    y, x = line[:, None, None] + along[:, None], column[:, None, None] + along
    on = (x >= 0) & (x < nx) & (y >= 0) & (y < ny)
    values = image[np.clip(y, 0, ny - 1), np.clip(x, 0, nx - 1)]
    return np.where(on, values, outside)
