"""Gain from the frames themselves: the photon-transfer method."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from rbsim.errors import InputError
from rbsim.frame import Frame
from rbsim.sources import grow

log = logging.getLogger(__name__)

TILE_PIX = 128
MIN_SIGNIFICANCE = 3.0


@dataclass(frozen=True)
class GainEstimate:
    """Gain with its standard error, electrons per ADU, and the number of points of the fit."""

    gain_e_per_adu: float
    gain_err_e_per_adu: float
    n_points: int


def estimate_gain(frames: Iterable[Frame], *, rng: np.random.Generator) -> GainEstimate:
    """Fit noise variance against sky level over tiles of differences of consecutive frames.

    The difference of two frames of one sensor cancels fixed patterns; its variance in a star-free
    tile is ``2 (level / gain + constant)``, the constant holding bias, read noise and digitisation
    (Janesick 2007, *Photon Transfer*). So a fit needs sky levels that differ between frames or across
    the field, and no knowledge of the bias.

    Parameters
    ----------
    frames : iterable of Frame
        At least two of the same shape, in order of time; of an iterator two at a time are in memory.
    rng : numpy.random.Generator
        For the bootstrap over pairs, which gives the error.

    Raises
    ------
    InputError
        If the slope is not significant (3 sigma): then the gain must be given.
    """
    n_frames = 1
    points = []
    for a, b in pairwise(frames):
        n_frames += 1
        if _comparable(a, b):
            points.append(_pair_points(a, b))
    points = [pair for pair in points if len(pair)]
    remedy = "give --gain (electrons per ADU)"
    if len(points) < 2:
        raise InputError(
            f"no gain in the headers and {len(points)} usable pairs of frames to estimate it; {remedy}"
        )
    slope = _slope(np.concatenate(points))
    picks = rng.integers(0, len(points), (200, len(points)))
    error = float(np.std([_slope(np.concatenate([points[i] for i in pick])) for pick in picks]))
    n_points = sum(len(pair) for pair in points)
    if not slope > MIN_SIGNIFICANCE * error:
        raise InputError(
            f"no gain in the headers, and the noise does not follow the sky level clearly enough"
            f" to estimate it (slope {slope:.3g} +- {error:.2g} ADU); {remedy}"
        )
    estimate = GainEstimate(1 / slope, error / slope**2, n_points)
    log.warning(
        "no gain in the headers: photon transfer over %d frames gives %.3g +- %.2g e-/ADU;"
        " --gain overrides it",
        n_frames,
        estimate.gain_e_per_adu,
        estimate.gain_err_e_per_adu,
    )
    return estimate


def _comparable(a: Frame, b: Frame) -> bool:
    return a.shape == b.shape and a.sensor == b.sensor


def _slope(points: np.ndarray) -> float:
    """Slope of column 1 against column 0, by least squares with one round of clipping."""
    level, variance = points.T
    for _ in range(2):
        coefficients = np.polyfit(level, variance, 1)
        residual = variance - np.polyval(coefficients, level)
        keep = np.abs(residual) <= 4 * max(1.4826 * float(np.median(np.abs(residual))), 1e-12)
        level, variance = level[keep], variance[keep]
    return float(coefficients[0])


def _pair_points(a: Frame, b: Frame) -> np.ndarray:
    """Mean sky level and noise variance of one frame, per tile, shape (n, 2)."""
    stars = np.zeros(a.shape, bool)
    for frame in (a, b):
        noise = np.sqrt(np.where(np.isfinite(frame.variance), frame.variance, 0))
        stars |= frame.bad | grow(np.nan_to_num(frame.image) > 4 * noise, 3)
    difference = (a.image + a.sky_adu - b.image - b.sky_adu) / np.sqrt(2)
    level = (a.sky_adu + b.sky_adu) / 2
    ny, nx = a.shape
    points = []
    for y in range(0, ny, TILE_PIX):
        for x in range(0, nx, TILE_PIX):
            tile = (slice(y, y + TILE_PIX), slice(x, x + TILE_PIX))
            values = difference[tile][~stars[tile]]
            if len(values) < 1000:
                continue
            for _ in range(5):
                values = values[np.abs(values - values.mean()) < 4 * values.std()]
            points.append((float(np.mean(level[tile][~stars[tile]])), float(values.var())))
    return np.array(points).reshape(-1, 2)
