"""Significance of point sources in a difference: the matched filter and its noise."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from rbsim import spatial
from rbsim.convolve import convolve_tiled, tile_centres
from rbsim.difference import Difference
from rbsim.errors import InputError
from rbsim.robust import robust_width

SNR_SCALE_LIMITS = (0.3, 3.0)
"""Outside these the difference or its variance is garbage."""
NOISE_BOX_PIX = 200
MIN_BOX_VALUES = 300
WING_SHARE = 3e-4

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
    weight = (1 / variance).astype(np.float32, copy=False)  # 0 where infinite
    values = np.where(weight > 0, image, np.float32(0)) * weight
    turned = _core(psf_at(*tile_centres(image.shape)))[:, ::-1, ::-1].astype(np.float32)
    numerator = convolve_tiled(values, turned)
    information = convolve_tiled(weight, turned**2)
    # Where less than a thousandth of the usual information is left, rounding decides.
    thin = information[::4, ::4][weight[::4, ::4] > 0]
    known = information > 1e-3 * (float(np.median(thin)) if thin.size else np.inf)
    information[~known] = 1
    flux = np.where(known, numerator / information, np.float32(0))
    error = np.where(known, 1 / np.sqrt(information), np.float32(np.inf))
    return MatchedFilter(flux, error)


def _core(psfs: np.ndarray) -> np.ndarray:
    """The smallest central part of PSFs that holds all but `WING_SHARE` of their squared sum.

    A filter that ends there is as unbiased, since it is divided by its own sum, and much faster.
    """
    squares = (psfs**2).mean(axis=0)
    middle = len(squares) // 2
    for half in range(1, middle):
        box = slice(middle - half, middle + half + 1)
        if squares[box, box].sum() >= (1 - WING_SHARE) * squares.sum():
            return psfs[:, box, box]
    return psfs


def filter_difference(difference: Difference) -> MatchedFilter:
    """The matched filter of a difference, its errors scaled by the difference's noise factor."""
    filtered = matched_filter(difference.image, difference.variance, difference.psf_at)
    return replace(filtered, flux_err_adu=filtered.flux_err_adu * difference.noise_factor)


def calibrate_noise(difference: Difference) -> tuple[Difference, MatchedFilter, float]:
    """Measure the noise of the filtered difference, and set the noise factor to it.

    The kernel says how it correlates the noise, and the noise factor starts with that. What it does not
    know (banding of the detector, unresolved stars, resampling) is measured: the width of the S/N map,
    1.4826 times the median absolute deviation, in boxes of about `NOISE_BOX_PIX`, and through the boxes a
    low-order polynomial. Rare values do not count in a median, so neither stars nor their residuals do; and
    the boxes' own scatter must not enter the map, where 1 % changes the number of 5 sigma peaks by a quarter.

    Returns
    -------
    Difference
        With the measured noise factor.
    MatchedFilter
        Of that difference.
    float
        Measured over expected noise, the median over the boxes: 1 where all noise is understood.

    Raises
    ------
    InputError
        If the ratio is outside 0.3 to 3: the subtraction or the variance is wrong.
    """
    filtered = filter_difference(difference)
    ny, nx = difference.image.shape
    known = ~difference.bad & np.isfinite(filtered.flux_err_adu)
    if not known.any():
        raise InputError("the difference has no pixel with a known error; check masks and overlap")
    widths, centre_x, centre_y = _box_widths(filtered.snr, known)
    ratio = float(np.median(widths))
    low, high = SNR_SCALE_LIMITS
    if not low < ratio < high:
        remedy = (
            "the frame may be the reference, or part of it"
            if ratio <= low
            else "the subtraction failed or gain and noise are wrong"
        )
        raise InputError(
            f"noise of the filtered difference is {ratio:.2g} times the expected, allowed {low} to {high};"
            f" {remedy}"
        )
    order = 2 if len(widths) >= 24 else 1 if len(widths) >= 9 else 0
    position_terms = spatial.terms(centre_x, centre_y, (ny, nx), order)
    keep = np.abs(widths - ratio) <= 4 * max(robust_width(widths), 0.02 * ratio)
    coefficients, *_ = np.linalg.lstsq(position_terms[keep], widths[keep], rcond=None)
    measured = np.clip(spatial.on_grid(coefficients, (ny, nx), order), ratio / 2, ratio * 2)
    return (
        replace(difference, noise_factor=difference.noise_factor * measured),
        replace(filtered, flux_err_adu=filtered.flux_err_adu * measured),
        ratio,
    )


def _box_widths(snr: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Robust width of the S/N map in boxes, and the boxes' centres x, y; the whole map's if all are empty.

    Every third pixel along each axis is enough: neighbours are correlated by the filter.
    """
    ny, nx = snr.shape
    rows, columns = max(1, round(ny / NOISE_BOX_PIX)), max(1, round(nx / NOISE_BOX_PIX))
    y_edges, x_edges = np.linspace(0, ny, rows + 1), np.linspace(0, nx, columns + 1)
    found = []
    for low_y, high_y in pairwise(y_edges):
        for low_x, high_x in pairwise(x_edges):
            box = (slice(int(low_y), int(high_y), 3), slice(int(low_x), int(high_x), 3))
            values = snr[box][known[box]]
            if len(values) >= MIN_BOX_VALUES:
                found.append((robust_width(values), (low_x + high_x - 1) / 2, (low_y + high_y - 1) / 2))
    if not found:
        found = [(robust_width(snr[known]), (nx - 1) / 2, (ny - 1) / 2)]
    widths, x, y = np.array(found).T
    return widths, x, y
