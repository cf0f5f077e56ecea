"""Averaging frames: what a single one of them has is clipped, and remembered."""

import numpy as np
from scipy import ndimage

CLIP_SIGMA = 4.0
CLIP_FRACTION = 0.3
"""Tolerated relative deviation in clipping: seeing changes the cores of stars by tens of per cent."""


def clipped_mean(
    images: np.ndarray, variances: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean of frames without outliers from the median.

    Parameters
    ----------
    images, variances : ndarray, shape (n, ny, nx)
        Above the sky; NaN where a frame has no value.

    Returns
    -------
    mean, variance : ndarray, shape (ny, nx), float32
        NaN and inf where no frame has a value.
    count : ndarray, shape (ny, nx), int16
        Frames behind each pixel.
    one_frame : ndarray of bool, shape (ny, nx)
        Exactly one frame is an outlier, and brighter than the rest.
    """
    valid = np.isfinite(images)
    with np.errstate(invalid="ignore"):
        middle = _median(images, valid)
        noise = np.sqrt(np.where(valid, variances, 0))
        # Of the brightest neighbour: beside a core, seeing changes the flux by more than the flux.
        bright = ndimage.maximum_filter(np.abs(middle), size=3)
        off = np.abs(images - middle) > CLIP_SIGMA * noise + CLIP_FRACTION * bright
        one_frame = ((valid & off).sum(axis=0) == 1) & (valid & off & (images > middle)).any(axis=0)
    kept = valid & ~off
    # Where more than half disagree with their median it is not outliers that are seen.
    valid = np.where(kept.sum(axis=0) >= 0.5 * valid.sum(axis=0), kept, valid)
    count = valid.sum(axis=0)
    divisor = np.maximum(count, 1)
    mean = np.where(valid, images, 0).sum(axis=0) / divisor
    variance = np.where(valid, variances, 0).sum(axis=0) / divisor**2
    empty = count == 0
    return (
        np.where(empty, np.nan, mean).astype(np.float32),
        np.where(empty, np.inf, variance).astype(np.float32),
        count.astype(np.int16),
        one_frame,
    )


def _median(images: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Median over the first axis, NaN ignored; 0 where nothing is valid."""
    ordered = np.sort(np.where(valid, images, np.inf), axis=0)
    count = valid.sum(axis=0)
    low = np.take_along_axis(ordered, np.maximum((count - 1) // 2, 0)[None], axis=0)[0]
    high = np.take_along_axis(ordered, np.minimum(count // 2, len(images) - 1)[None], axis=0)[0]
    return np.where(count > 0, (low + high) / 2, 0)
