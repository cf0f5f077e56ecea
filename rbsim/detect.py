"""Detection on the S/N map of a difference: peaks of both signs, deblended, positions with errors."""

from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage
from scipy.spatial import cKDTree

from rbsim.convolve import TILE_PIX
from rbsim.significance import MatchedFilter, PsfAt

SEARCH_SHARE = 0.7
"""A peak between pixels shows up to 30 % less on them (FWHM 1.5 px): search lower, cut when interpolated."""

PROMINENCE_SNR = 2.0
PROMINENCE_SHARE = 0.2
"""A peak of its own rises by 2 sigma and by a fifth of the saddle above the saddle to a higher one."""

DEBLEND_REACH_PIX = 24.0
"""Peaks farther apart are compared through those between them."""

POSITION_FLOOR_PIX = 0.005
PHASE_ERROR_PIX = 0.015
"""Systematic errors per axis: what the centre of a PSF model is uncertain by, and what the position of a
star in its pixel does to an undersampled peak: `PHASE_ERROR_PIX` over the cube of the peak's width in
pixels, as measured on Gaussians and Moffats of 1.4 to 3.5 px FWHM (0.013 px rms at 1.8 px)."""

REACH_TAPS = 4
"""Pixels on each side that the interpolation of noise between pixels looks at: degree 8 per axis."""

BLEND_SNR = 10.0
"""S/N at which a peak is interpolated as half a star, half noise."""


@dataclass(frozen=True, eq=False)
class Detections:
    """Peaks of the S/N map, all arrays of shape (n,); positions 0-based.

    Attributes
    ----------
    x_pix, y_pix : position of the interpolated peak.
    snr : S/N there, negative for a negative source.
    flux_adu, flux_err_adu : matched-filter flux there, of the same sign, and its error.
    position_err_pix : standard error per axis, see `position_error`; NaN if no PSF was given.
    is_positive : sign of the source.
    """

    x_pix: np.ndarray
    y_pix: np.ndarray
    snr: np.ndarray
    flux_adu: np.ndarray
    flux_err_adu: np.ndarray
    position_err_pix: np.ndarray
    is_positive: np.ndarray

    def __len__(self) -> int:
        """Number of detections."""
        return len(self.x_pix)

    def select(self, rows: np.ndarray) -> "Detections":
        """The detections of a boolean mask or an index array."""
        return Detections(**{name: values[rows] for name, values in vars(self).items()})


def detect(
    filtered: MatchedFilter,
    bad: np.ndarray,
    *,
    threshold_snr: float = 5.0,
    psf_at: PsfAt | None = None,
    negatives: bool = True,
) -> Detections:
    """Peaks of the S/N map above the threshold, and troughs below its negative, deblended.

    A local maximum (of 8 neighbours) counts as a source if the S/N falls by `PROMINENCE_SNR` and by
    `PROMINENCE_SHARE` of the saddle on the way to any higher maximum nearby. So two stars 2 FWHM apart
    are two, while noise and model errors on the wings of a bright star, or along the rim of a badly
    subtracted one, stay part of it.

    Parameters
    ----------
    filtered : MatchedFilter
    bad : ndarray of bool, shape (ny, nx)
        No detection has its peak here.
    threshold_snr : float
        For the absolute value.
    psf_at : callable, optional
        PSFs at positions, (x, y) -> (n, k, k): for the position errors.
    negatives : bool
        Look for negative sources too.

    Returns
    -------
    Detections
        Ordered by row and column; empty if there is nothing. Positions and values are those of the
        interpolated peak of the S/N map.
    """
    snr = np.where(bad, 0, filtered.snr).astype(np.float32)
    found = [_peaks(snr, threshold_snr)]
    if negatives:
        found.append(_peaks(-1 * snr, threshold_snr))
    x, y, offset_x, offset_y, height = (np.concatenate(values) for values in zip(*found, strict=True))
    order = np.lexsort((x, y))
    is_positive = order < len(found[0][0])
    x, y, offset_x, offset_y, height = (values[order] for values in (x, y, offset_x, offset_y, height))
    at_x, at_y = x + offset_x, y + offset_y
    error = filtered.flux_err_adu[y, x]
    signed = np.where(is_positive, height, -height)
    position_err = np.full(len(x), np.nan)
    if psf_at is not None and len(x):
        psfs, tile = psfs_by_tile(psf_at, at_x, at_y)
        position_err = position_error(height, peak_width(psfs)[tile])
    return Detections(
        x_pix=at_x,
        y_pix=at_y,
        snr=signed,
        flux_adu=signed * error,
        flux_err_adu=error,
        position_err_pix=position_err,
        is_positive=is_positive,
    )


def psfs_by_tile(psf_at: PsfAt, x_pix: np.ndarray, y_pix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """PSFs at the centres of the convolution's tiles that hold a position, and the row of each position.

    Parameters
    ----------
    psf_at : callable
    x_pix, y_pix : ndarray, shape (n,)

    Returns
    -------
    psfs : ndarray, shape (n_tiles, k, k)
        Within a tile the matched filter has one PSF too.
    row : ndarray of int, shape (n,)
    """
    cells = np.floor(np.column_stack([x_pix, y_pix]) / TILE_PIX)
    centres, row = np.unique(cells, axis=0, return_inverse=True)
    centres = (centres + 0.5) * TILE_PIX
    return psf_at(centres[:, 0], centres[:, 1]), row.reshape(-1)


def peak_width(psf: np.ndarray) -> np.ndarray:
    """Width of the S/N peak of a point source: ``sqrt(sum P^2 / sum (dP/dx)^2)``, mean of the two axes, px.

    The inverse square root of the curvature of the PSF's autocorrelation; sqrt(2) sigma for a Gaussian.

    Parameters
    ----------
    psf : ndarray, shape (n, k, k)

    Returns
    -------
    ndarray, shape (n,)
    """
    k = psf.shape[-1]
    # Derivatives by Fourier transform: differences of pixels fall short for undersampled PSFs.
    power = np.abs(fft.fft2(psf)) ** 2
    frequency2 = (2 * np.pi * fft.fftfreq(k)) ** 2
    total = power.sum(axis=(1, 2))
    along_x, along_y = power.sum(axis=1) @ frequency2, power.sum(axis=2) @ frequency2
    return np.asarray((total**2 / (along_x * along_y)) ** 0.25)


def position_error(snr: np.ndarray, width_pix: np.ndarray) -> np.ndarray:
    """Standard error per axis of a position found at the peak of a matched filter, px.

    ``width / S/N``: the Cramer-Rao bound for a point source in white noise (e.g. Lindegren 1978, in
    IAU Coll. 48, 197), with `POSITION_FLOOR_PIX` and `PHASE_ERROR_PIX` in quadrature. The mean square of
    a peak exceeds that of the source by 3, the number of fitted parameters; it is taken off. Where the
    noise is correlated (a convolved difference) the true error is at most this.

    Parameters
    ----------
    snr : ndarray, shape (n,)
        Absolute S/N at the peak; not above 2 counts as 2.
    width_pix : ndarray, shape (n,)
        From `peak_width`.

    Returns
    -------
    ndarray, shape (n,)
    """
    source2 = np.maximum(np.abs(snr), 2.0) ** 2 - 3
    width = np.asarray(width_pix)
    return np.asarray(np.sqrt(width**2 / source2 + POSITION_FLOOR_PIX**2 + (PHASE_ERROR_PIX / width**3) ** 2))


def _peaks(
    snr: np.ndarray, threshold_snr: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pixels x, y of the maxima above the threshold, the offsets of the peak from them, and its S/N."""
    ny, nx = snr.shape
    padded = np.zeros((ny + 2, nx + 2), np.float32)
    padded[1:-1, 1:-1] = snr
    values = padded.ravel()
    at = np.flatnonzero(values > SEARCH_SHARE * threshold_snr)
    here = values[at]
    is_peak = np.ones(len(at), bool)
    for step in (1, nx + 1, nx + 2, nx + 3):
        # Strict on one side only: of two equal neighbours one is the maximum.
        is_peak &= (here > values[at + step]) & (here >= values[at - step])
    at = at[is_peak]
    offset_x, offset_y, height = _interpolate(values, at, nx + 2)
    keep = height >= threshold_snr
    at, offset_x, offset_y, height = at[keep], offset_x[keep], offset_y[keep], height[keep]
    x, y = at % (nx + 2) - 1, at // (nx + 2) - 1
    alone = _stands_alone(snr, x, y, height)
    return x[alone], y[alone], offset_x[alone], offset_y[alone], height[alone]


def _stands_alone(snr: np.ndarray, x: np.ndarray, y: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Which peaks are sources of their own; the saddle is the lowest S/N on the straight line between two."""
    alone = np.ones(len(x), bool)
    if len(x) < 2:
        return alone
    pairs = cKDTree(np.column_stack([x, y])).query_pairs(DEBLEND_REACH_PIX, output_type="ndarray")
    if not len(pairs):
        return alone
    swap = height[pairs[:, 0]] > height[pairs[:, 1]]
    low, high = np.where(swap, pairs[:, 1], pairs[:, 0]), np.where(swap, pairs[:, 0], pairs[:, 1])
    along = np.linspace(0, 1, int(DEBLEND_REACH_PIX) + 1)[None, :]
    line_x = x[low, None] + along * (x[high] - x[low])[:, None]
    line_y = y[low, None] + along * (y[high] - y[low])[:, None]
    saddle = ndimage.map_coordinates(snr, [line_y, line_x], order=1).min(axis=1)
    needed = np.maximum(PROMINENCE_SNR, PROMINENCE_SHARE * saddle)
    alone[low[height[low] - saddle < needed]] = False
    return alone


def _interpolate(
    values: np.ndarray, at: np.ndarray, row_length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Offsets x, y of the peaks from their pixels, and the values there.

    A Gaussian through three pixels per axis is right for the peak of a star, also of an undersampled one.
    For noise it overshoots: in an undersampled map it finds twice the peaks that a Gaussian random field
    has. The polynomial through many pixels is right for any band-limited field, but a star on pixels is
    not quite band-limited: below a FWHM of 2 px it loses some per cent. So the one takes over from the
    other as the star rises above the noise.
    """
    x, y, height = _band_limited(values, at, row_length)
    star_x, gain_x = _gaussian(values[at], values[at - 1], values[at + 1])
    star_y, gain_y = _gaussian(values[at], values[at - row_length], values[at + row_length])
    star_height = np.exp(gain_x + gain_y) * values[at]
    star = height**2 / (height**2 + BLEND_SNR**2)
    return x + star * (star_x - x), y + star * (star_y - y), height + star * (star_height - height)


def _gaussian(here: np.ndarray, before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Offset of a maximum along one axis and the gain in log(S/N) there: a Gaussian through three pixels."""
    # A neighbour at or below zero has no logarithm; a tenth of the peak is as good as nothing here.
    log_before, log_after = np.log(np.maximum(before / here, 0.1)), np.log(np.maximum(after / here, 0.1))
    curvature = log_before + log_after
    offset = np.divide(
        log_before - log_after, 2 * curvature, out=np.zeros(len(here), here.dtype), where=curvature < 0
    )
    offset = np.clip(offset, -0.5, 0.5)
    return offset, -0.25 * (log_before - log_after) * offset


def _band_limited(
    values: np.ndarray, at: np.ndarray, row_length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Peak of the polynomial through the pixels around each maximum, by Newton steps."""
    taps = np.arange(-REACH_TAPS, REACH_TAPS + 1)
    index = at[:, None, None] + taps[None, :, None] * row_length + taps[None, None, :]
    windows = values[np.clip(index, 0, len(values) - 1)].astype(float)
    x, y = np.zeros(len(at)), np.zeros(len(at))
    step = np.array([-0.1, 0.0, 0.1])
    for _ in range(4):
        grid = _weights(y, step) @ windows @ _weights(x, step).transpose(0, 2, 1)
        slope_x, slope_y = (grid[:, 1, 2] - grid[:, 1, 0]) / 0.2, (grid[:, 2, 1] - grid[:, 0, 1]) / 0.2
        bend_x = (grid[:, 1, 2] - 2 * grid[:, 1, 1] + grid[:, 1, 0]) / 0.01
        bend_y = (grid[:, 2, 1] - 2 * grid[:, 1, 1] + grid[:, 0, 1]) / 0.01
        twist = (grid[:, 2, 2] - grid[:, 2, 0] - grid[:, 0, 2] + grid[:, 0, 0]) / 0.04
        determinant = bend_x * bend_y - twist**2
        peaked = (bend_x < 0) & (determinant > 0)
        safe = np.where(peaked, determinant, 1.0)
        x += np.where(peaked, np.clip((twist * slope_y - bend_y * slope_x) / safe, -0.3, 0.3), 0)
        y += np.where(peaked, np.clip((twist * slope_x - bend_x * slope_y) / safe, -0.3, 0.3), 0)
        x, y = np.clip(x, -0.6, 0.6), np.clip(y, -0.6, 0.6)
    none = np.zeros(1)
    height = (_weights(y, none) @ windows @ _weights(x, none).transpose(0, 2, 1))[:, 0, 0]
    # Beside a mask the map has a step and the interpolant rings; a peak is never below its own pixel.
    return x, y, np.clip(height, values[at], values[at] / SEARCH_SHARE)


def _weights(offset: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Weights of the taps at offset + step, shape (n, n_steps, n_taps): the polynomial through all taps."""
    taps = np.arange(-REACH_TAPS, REACH_TAPS + 1)
    away = offset[:, None, None] + step[None, :, None] - taps
    others = np.array([np.delete(taps, i) for i in range(len(taps))])
    scale = np.prod(taps[:, None] - others, axis=1)
    return np.asarray(np.prod(away[..., others + REACH_TAPS], axis=-1) / scale)
