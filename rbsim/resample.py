"""Bringing an image onto the pixels of another, flux conserved."""

import numpy as np
from scipy import ndimage

from rbsim.errors import InputError
from rbsim.register import Transform
from rbsim.schema import MASK

SPLINE_ORDER = 5


def resample(
    image: np.ndarray,
    variance: np.ndarray,
    mask: np.ndarray,
    transform: Transform,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bring an image onto another pixel grid, flux conserved.

    Quintic spline interpolation times the area ratio. Pixels that touch bad input are NaN.

    Parameters
    ----------
    image, variance, mask : ndarray, shape (my, mx)
        ADU, ADU squared, bits of schema.MASK_PLANES; NaN in the image where bad.
    transform : Transform
        From the wanted grid (its `from_shape`) to the pixels of `image`.

    Returns
    -------
    image, variance, mask : ndarray, shape transform.from_shape
        EDGE and BAD in the mask where there is no value; the variance is that of a pixel,
        correlations between neighbours are not described.

    Raises
    ------
    InputError
        If the pixel scales differ by more than a quarter, where interpolation would alias.
    """
    ny, nx = transform.from_shape
    grid_y, grid_x = np.mgrid[0:ny, 0:nx].astype(float)
    to_x, to_y = transform.apply(grid_x, grid_y)
    area = abs(np.linalg.det(transform.jacobian(np.array([nx / 2]), np.array([ny / 2]))[0]))
    if not 0.64 < area < 1.56:
        raise InputError(
            f"pixel areas differ by a factor {area:.2f}; resample the reference to the science scale first"
        )
    invalid = ~np.isfinite(image)
    filled = np.where(invalid, 0, image)
    spline = ndimage.spline_filter(
        filled.astype(np.float32), order=SPLINE_ORDER, output=np.float32, mode="mirror"
    )
    coordinates = [to_y, to_x]
    # Beyond 2 px the weight of a pixel in the quintic spline interpolant is a few per cent.
    grown = ndimage.binary_dilation(invalid, iterations=2).astype(np.float32)
    value = ndimage.map_coordinates(spline, coordinates, order=SPLINE_ORDER, mode="mirror", prefilter=False)
    touches = ndimage.map_coordinates(grown, coordinates, order=1, mode="constant", cval=1) > 0
    my, mx = image.shape
    edge = (to_x < 2) | (to_y < 2) | (to_x > mx - 3) | (to_y > my - 3)
    usable_variance = np.where(np.isfinite(variance), variance, 0).astype(np.float32)
    new_variance = ndimage.map_coordinates(usable_variance, coordinates, order=1, mode="nearest")
    nearest = (np.clip(np.rint(to_y), 0, my - 1).astype(int), np.clip(np.rint(to_x), 0, mx - 1).astype(int))
    new_mask = mask[nearest].copy()
    lost = touches | edge
    new_mask[lost] |= MASK["BAD"]
    new_mask[edge] |= MASK["EDGE"]
    new_image = np.where(lost, np.nan, value * area).astype(np.float32)
    return new_image, np.where(lost, np.inf, new_variance * area**2).astype(np.float32), new_mask
