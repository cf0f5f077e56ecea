"""What is sharper than the PSF allows: hot pixels, cosmic rays, bad columns. The atmosphere never saw it."""

import numpy as np

from rbsim import psf as psf_model
from rbsim.psf import Psf

THRESHOLD_SIGMA = 5.0
MODEL_MARGIN = 0.15
"""The PSF may be this much sharper than its model before its stars count as artefacts."""
N_ROUNDS = 3
"""Neighbours of an artefact that are artefacts too show themselves only when the first is gone."""
PAIRS = ((0, 1), (1, 0), (1, 1), (1, -1))
RING = ((0, 1), (1, 0), (1, 1), (1, -1), (0, -1), (-1, 0), (-1, -1), (-1, 1))


def sharpest_ratios(psf: Psf) -> np.ndarray:
    """Highest ratios that a star can have of a pixel to the mean of neighbours, shape (5,).

    Of the two neighbours along each of `PAIRS`, and of all eight. A sum of stars has no higher one. Largest
    over the frame and the star's position within the pixel.
    """
    ny, nx = psf.frame_shape
    y, x, dy, dx = (
        axis.ravel()
        for axis in np.meshgrid(
            np.linspace(0, ny - 1, 5),
            np.linspace(0, nx - 1, 5),
            (-0.3, 0.0, 0.3),
            (-0.3, 0.0, 0.3),
            indexing="ij",
        )
    )
    stars = psf_model.sample(psf, x, y, dx_pix=dx, dy_pix=dy)
    middle = psf.half_pix
    core = np.maximum(stars[:, middle - 1 : middle + 2, middle - 1 : middle + 2], 0)
    of_pairs = [(core[:, 1 + a, 1 + b] + core[:, 1 - a, 1 - b]) / 2 for a, b in PAIRS]
    of_ring = (core.sum(axis=(1, 2)) - core[:, 1, 1]) / 8
    means = np.stack([*of_pairs, of_ring], axis=1)
    return np.asarray((core[:, 1, 1, None] / np.maximum(means, 1e-3 * core[:, 1, 1, None])).max(axis=0))


def find_sharp(
    image: np.ndarray, variance: np.ndarray, sky_variance: np.ndarray, exempt: np.ndarray, psf: Psf
) -> np.ndarray:
    """Pixels that are brighter than light through the PSF can be, or darker than the sky.

    A pixel is compared with its neighbours along four lines and around it: it must not exceed the highest
    ratio that any star has there. Lines catch tracks and columns, whose neighbours along them are bright.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        Background-subtracted ADU, finite.
    variance, sky_variance : ndarray, shape (ny, nx)
        ADU squared, with and without the photon noise of the sources.
    exempt : ndarray of bool, shape (ny, nx)
        Pixels that do not count, nor serve as neighbours in judging others (bad, saturated).
    psf : Psf

    Returns
    -------
    ndarray of bool, shape (ny, nx)
    """
    ratios = sharpest_ratios(psf) * (1 + MODEL_MARGIN)
    sharp = (image < -THRESHOLD_SIGMA * np.sqrt(sky_variance)) & ~exempt
    # A pixel can only be too bright if it is bright: the others need no look at their neighbours.
    y, x = np.nonzero((image > THRESHOLD_SIGMA * np.sqrt(variance)) & ~exempt)
    neighbours: tuple[tuple[tuple[int, int], ...], ...] = (*(((a, b), (-a, -b)) for a, b in PAIRS), RING)
    known = np.pad(~(exempt | sharp), 1)
    value, noise = np.pad(image, 1), np.pad(variance, 1)
    for _ in range(N_ROUNDS):
        new = np.zeros(len(y), bool)
        for steps, ratio in zip(neighbours, ratios, strict=True):
            dy, dx = np.array(steps).T[:, :, None]
            around = (y + 1 + dy, x + 1 + dx)
            weight = known[around]
            count = weight.sum(axis=0)
            # One neighbour of two says too little: the star may lie on the other side.
            enough = (count >= len(steps) / 2) & (count > 1)
            count = np.maximum(count, 1)
            mean = np.maximum((weight * value[around]).sum(axis=0) / count, 0)
            error2 = variance[y, x] + ratio**2 * (weight * noise[around]).sum(axis=0) / count**2
            new |= enough & (image[y, x] - ratio * mean > THRESHOLD_SIGMA * np.sqrt(error2))
        if not new.any():
            break
        sharp[y[new], x[new]] = True
        known[y[new] + 1, x[new] + 1] = False
        y, x = y[~new], x[~new]
    return sharp
