"""Stars whose PSF the kernel cannot reach: rings and cores of opposite sign."""

from dataclasses import dataclass

import numpy as np
from scipy import signal

from rbsim.emulate.tomoe.artefacts.expected import HALF_PIX, Expected, NoiseConfig, snr_of
from rbsim.emulate.tomoe.scene import Scene

GRID = (5, 7)
"""Rows and columns of places at which the PSF is looked at."""


@dataclass(frozen=True)
class PsfMismatchConfig:
    """See the table of this class in ``catalogs/artefacts.toml``."""

    kernel_order: int
    least_share: float
    wing_share: float


def psf_mismatch(scene: Scene, config: PsfMismatchConfig, noise: NoiseConfig) -> Expected:
    """Stars bright enough to show it; strength is the highest matched-filter residual over the star's flux.

    What makes them: the PSF's own variation over the sensor. A kernel that varies as a polynomial of
    `kernel_order` turns one PSF field into another only as far as such a polynomial follows each pixel of
    the PSF; what it misses is measured on a grid of places. `least_share` is left everywhere: basis
    functions that do not fit, and the noise of the fit. Of the wings, which are those of another atmosphere
    where the kernel ends, a filter for points sees `wing_share` of the star's flux, against empty sky.
    """
    ny, nx = scene.shape
    y, x = (np.linspace(0, size - 1, n) for size, n in zip(scene.shape, GRID, strict=True))
    grid_y, grid_x = (a.ravel() for a in np.meshgrid(y, x, indexing="ij"))
    # At the nearest pixel, so that the star's place in its pixel is no difference.
    stamps = np.stack(
        [
            scene.psf.stamp(float(round(b)), float(round(a)), half_pix=HALF_PIX)
            for a, b in zip(grid_y, grid_x, strict=True)
        ]
    )
    u, v = 2 * grid_x / max(nx - 1, 1) - 1, 2 * grid_y / max(ny - 1, 1) - 1
    order = config.kernel_order
    terms = np.stack([u**i * v**j for i in range(order + 1) for j in range(order + 1 - i)], axis=1)
    flat = stamps.reshape(len(stamps), -1)
    left = (flat - terms @ np.linalg.lstsq(terms, flat, rcond=None)[0]).reshape(stamps.shape)
    # Correlation with the PSF itself, at every shift: what a matched filter makes of the residual.
    answer = signal.fftconvolve(left, stamps[:, ::-1, ::-1], mode="same", axes=(1, 2))
    share = np.abs(answer).max(axis=(1, 2)) / np.sum(stamps**2, axis=(1, 2))
    share = np.hypot(share, config.least_share)
    column = np.clip(np.rint(scene.star_x_pix / max(nx - 1, 1) * (GRID[1] - 1)), 0, GRID[1] - 1).astype(int)
    row = np.clip(np.rint(scene.star_y_pix / max(ny - 1, 1) * (GRID[0] - 1)), 0, GRID[0] - 1).astype(int)
    at_star = share.reshape(GRID)[row, column]
    core = snr_of(scene, noise, at_star * scene.star_e, scene.star_e)
    wings = snr_of(scene, noise, config.wing_share * scene.star_e, np.zeros_like(scene.star_e))
    snr = np.maximum(core, wings)
    return Expected("psf_mismatch", scene.star_x_pix, scene.star_y_pix, at_star, snr)
