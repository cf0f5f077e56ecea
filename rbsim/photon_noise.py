"""The photon noise of the light above the sky."""

import numpy as np

LIGHT_SIGMA, BRIGHT_E = 3.0, 300.0
BLOCK_ROWS = 64


def add_source_noise(variance: np.ndarray, image: np.ndarray, gain_e_per_adu: float) -> np.ndarray:
    """Variance plus the Poisson noise of the light above the sky.

    Bright pixels count with their own value, others with the mean over 3 x 3 pixels where that is 3 sigma
    above the sky. With a pixel's own value every upward fluctuation lowers its own weight, which makes a
    weighted mean low by one electron a pixel: nothing for a bright one, some per cent of a faint star.

    Parameters
    ----------
    variance : ndarray, shape (ny, nx)
        Of the sky, ADU squared.
    image : ndarray, shape (ny, nx)
        ADU above the sky; NaN counts as 0.
    gain_e_per_adu : float

    Returns
    -------
    ndarray, shape (ny, nx)
    """
    gain = np.float32(gain_e_per_adu)
    ny = len(image)
    out = np.empty(image.shape, np.float32)
    for top in range(0, ny, BLOCK_ROWS):  # what is used between the steps stays in the cache
        bottom = min(top + BLOCK_ROWS, ny)
        first, last = max(top - 1, 0), min(bottom + 1, ny)
        own = np.nan_to_num(image[first:last])
        margin = ((int(top == first), int(bottom == last)), (1, 1))
        light = _mean_of_nine(np.pad(own, margin, mode="edge"))
        own, sky = own[top - first : bottom - first], variance[top:bottom]
        light[light < LIGHT_SIGMA / 3 * np.sqrt(sky)] = 0
        np.copyto(light, own, where=own > BRIGHT_E / gain)
        light /= gain
        np.add(light, sky, out=out[top:bottom])
    return out


def _mean_of_nine(wide: np.ndarray) -> np.ndarray:
    """Mean over 3 x 3 pixels, one pixel smaller on each side; ndimage's running sum is three times slower."""
    rows = wide[:-2] + wide[1:-1]
    rows += wide[2:]
    mean = rows[:, :-2] + rows[:, 1:-1]
    mean += rows[:, 2:]
    mean *= np.float32(1 / 9)
    return mean


def neighbours(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Numbers of pixels and those around them, row by row; beyond the border it is repeated.

    Shape (3, 3, n): y, x, pixel.
    """
    ny, nx = shape
    y = pixels // nx
    x = pixels - y * nx
    lines = np.stack([np.maximum(y - 1, 0), y, np.minimum(y + 1, ny - 1)]) * nx
    columns = np.stack([np.maximum(x - 1, 0), x, np.minimum(x + 1, nx - 1)])
    return np.asarray(lines[:, None] + columns)


def source_noise_at(near: np.ndarray, variance: np.ndarray, gain_e_per_adu: float) -> np.ndarray:
    """What `add_source_noise` adds, at some pixels only: the same sums in the same order.

    Parameters
    ----------
    near : ndarray, shape (3, 3, n), float32
        The image at `neighbours`; NaN counts as 0.
    variance : ndarray, shape (n,)
    gain_e_per_adu : float

    Returns
    -------
    ndarray, shape (n,), float32
    """
    gain = np.float32(gain_e_per_adu)
    unknown = np.isnan(near)
    if unknown.any():
        near = np.where(unknown, np.float32(0), near)
    rows = near[0] + near[1]
    rows += near[2]
    light = rows[0] + rows[1]
    light += rows[2]
    light *= np.float32(1 / 9)
    light *= light >= LIGHT_SIGMA / 3 * np.sqrt(variance)
    own = near[1, 1]
    np.copyto(light, own, where=own > BRIGHT_E / gain)
    light /= gain
    return light
