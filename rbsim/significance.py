"""Significance of point sources in a difference: the matched filter and its noise."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from rbsim.convolve import convolve_varying
from rbsim.errors import InputError
from rbsim.subtract import Difference

SNR_SCALE_LIMITS = (0.3, 3.0)
"""Outside these the difference or its variance is garbage."""

PsfAt = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class MatchedFilter:
    """Maximum-likelihood flux of a point source centred on each pixel, and its S/N.

    Attributes
    ----------
    flux_adu, flux_err_adu : ndarray, shape (ny, nx), float32
        The error is inf where nothing is known.
    """

    flux_adu: np.ndarray
    flux_err_adu: np.ndarray

    @property
    def snr(self) -> np.ndarray:
        """Flux over error, 0 where nothing is known, shape (ny, nx)."""
        return self.flux_adu / self.flux_err_adu


def matched_filter(image: np.ndarray, variance: np.ndarray, psf_at: PsfAt) -> MatchedFilter:
    """Filter an image with its PSF, weighted by the inverse variance.

    ``flux = sum(P d / v) / sum(P^2 / v)`` with error ``sum(P^2 / v)^-1/2`` (e.g. Zackay & Ofek 2017,
    ApJ 836, 187, for white noise). Pixels of infinite variance take no part, so a source beside a mask
    keeps its flux and gets a larger error.

    Parameters
    ----------
    image, variance : ndarray, shape (ny, nx)
        NaN only where the variance is infinite.
    psf_at : callable
        PSFs at positions, shape (n, k, k), flux 1.

    Returns
    -------
    MatchedFilter
    """
    weight = (1 / variance).astype(np.float32)  # 0 where infinite
    values = np.where(weight > 0, np.nan_to_num(image), 0) * weight
    numerator = convolve_varying(values, lambda x, y: psf_at(x, y)[:, ::-1, ::-1])
    information = convolve_varying(weight, lambda x, y: (psf_at(x, y) ** 2)[:, ::-1, ::-1])
    # Where less than a thousandth of the usual information is left, rounding decides.
    known = information > 1e-3 * float(np.median(information[weight > 0]))
    information = np.where(known, information, 1)
    flux = np.where(known, numerator / information, 0).astype(np.float32)
    error = np.where(known, 1 / np.sqrt(information), np.inf).astype(np.float32)
    return MatchedFilter(flux, error)


def filter_difference(difference: Difference) -> MatchedFilter:
    """The matched filter of a difference, its errors scaled by the difference's noise factor."""
    filtered = matched_filter(difference.image, difference.variance, difference.psf_at)
    return replace(filtered, flux_err_adu=filtered.flux_err_adu * np.float32(difference.noise_factor))


def calibrate_noise(difference: Difference) -> tuple[Difference, float]:
    """Measure the noise factor, and return its ratio to the expected one too.

    A difference has correlated noise (resampling, convolution), so the filtered noise is not what
    the per-pixel variance says. The width of the S/N map is robust: 1.4826 times the median absolute
    deviation.

    Raises
    ------
    InputError
        If the ratio is outside 0.3 to 3: the subtraction or the variance is wrong.
    """
    filtered = filter_difference(difference)
    snr = filtered.snr[~difference.bad & np.isfinite(filtered.flux_err_adu)]
    ratio = 1.4826 * float(np.median(np.abs(snr - np.median(snr))))
    low, high = SNR_SCALE_LIMITS
    if not low < ratio < high:
        raise InputError(
            f"noise of the filtered difference is {ratio:.2g} times the expected, allowed {low} to {high};"
            " the subtraction failed or gain and noise are wrong"
        )
    return replace(difference, noise_factor=difference.noise_factor * ratio), ratio
