"""The share of a star's light within an aperture: what a zero point of aperture magnitudes needs."""

import numpy as np
from scipy import interpolate, ndimage

from rbsim.psf import Psf, sample

OVERSAMPLE = 5
"""Samples per pixel of the circle; odd, so that a pixel is a whole number of samples around its centre."""

LATTICE = 7
"""Places along each side of the frame at which the PSF is looked at; in between, it varies smoothly."""


def encircled_energy(psf: Psf, x_pix: np.ndarray, y_pix: np.ndarray, *, radius_pix: float) -> np.ndarray:
    """Fraction of a star's light in a circular aperture around it, averaged over its place in the pixel.

    A pixel counts by the share of its area in the circle. The average over sub-pixel places of such sums is
    the integral of the effective PSF times the circle smeared over one pixel.

    Parameters
    ----------
    psf : Psf
    x_pix, y_pix : ndarray, shape (n,)
        0-based; NaN gives NaN, outside the frame counts as on its edge.
    radius_pix : float
        Beyond the support of the PSF model all light is inside.

    Returns
    -------
    ndarray, shape (n,)
    """
    ny, nx = psf.frame_shape
    at = np.column_stack([np.clip(y_pix, 0, ny - 1), np.clip(x_pix, 0, nx - 1)])
    axes = np.linspace(0, ny - 1, LATTICE), np.linspace(0, nx - 1, LATTICE)
    y, x = (axis.ravel() for axis in np.meshgrid(*axes, indexing="ij"))
    axis = np.arange(-psf.half_pix * OVERSAMPLE, psf.half_pix * OVERSAMPLE + 1) / OVERSAMPLE
    # The edge of the circle falls between samples: the weight goes from 1 to 0 over the width of one of them.
    inside = np.clip((radius_pix - np.hypot(axis, axis[:, None])) * OVERSAMPLE + 0.5, 0, 1)
    weight = ndimage.uniform_filter(inside, OVERSAMPLE, mode="nearest") / OVERSAMPLE**2
    energy = np.concatenate(
        [
            np.tensordot(sample(psf, x[part], y[part], oversample=OVERSAMPLE), weight, axes=2)
            for part in np.array_split(np.arange(x.size), LATTICE)
        ]
    )
    return np.asarray(interpolate.interpn(axes, energy.reshape(LATTICE, LATTICE), at, bounds_error=False))
