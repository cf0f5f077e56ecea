"""Noiseless stars and trails on small images, from the effective PSF of a frame.

The effective PSF holds the pixel already, so a star is the model's value at each pixel's offset from it,
exactly: there is no image to interpolate. GalSim, given an `InterpolatedImage` of the same model,
converges to this as its oversampling grows (tests/test_draw.py), at a multiple of the time.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from rbsim import psf as psf_model
from rbsim.added import Boxes
from rbsim.lights import Lights
from rbsim.psf import Psf

CHUNK_PIXELS = 100_000
"""Pixels drawn at a time: so many that the price of a call does not count, and little memory."""
NODES = 5
"""Points that stand for each FWHM of a trail, by Gauss and Legendre: exact to 1e-5 of the peak."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """Images of some lights, none of which overlap.

    Attributes
    ----------
    rows : ndarray, shape (n,), int
        Which of the lights.
    images : ndarray, shape (n, height, width), float64
        Flux 1 each, but for what lies beyond the image.
    corner_x, corner_y : ndarray, shape (n,), int
        Frame pixel of each image's first pixel; may lie outside the frame.
    """

    rows: np.ndarray
    images: np.ndarray
    corner_x: np.ndarray
    corner_y: np.ndarray

    def inside(self, shape: tuple[int, int]) -> np.ndarray | None:
        """Which pixels lie in a frame of this shape, as `images`, bool; None if all do."""
        ny, nx = shape
        _, height, width = self.images.shape
        y, x = self.corner_y[:, None] + np.arange(height), self.corner_x[:, None] + np.arange(width)
        inside_y, inside_x = (y >= 0) & (y < ny), (x >= 0) & (x < nx)
        if self.images.size and inside_y.all() and inside_x.all():
            return None
        return np.asarray(inside_y[:, :, None] & inside_x[:, None, :])

    def in_frame(self, pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Numbers in a frame, row by row, of pixels numbered through `images`."""
        _, height, width = self.images.shape
        offset = (np.arange(height)[:, None] * shape[1] + np.arange(width)).reshape(-1)
        # All of them first: that is cheaper than finding out whose each pixel is.
        numbers = (self.corner_y * shape[1] + self.corner_x)[:, None] + offset
        return np.asarray(numbers.reshape(-1)[pixels])

    def numbers_of(self, pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Numbers through `images` of pixels of the frame within the first image; inverse of `in_frame`."""
        y, x = np.divmod(pixels, shape[1])
        return np.asarray((y - self.corner_y[0]) * self.images.shape[2] + x - self.corner_x[0])

    def owner(self, pixels: np.ndarray) -> np.ndarray:
        """Which of the images pixels numbered through `images` belong to."""
        return np.asarray(pixels // (self.images.shape[1] * self.images.shape[2]))

    def select(self, some: slice) -> "Drawn":
        """Some of the images."""
        return Drawn(self.rows[some], self.images[some], self.corner_x[some], self.corner_y[some])

    def boxes(self, pixels: np.ndarray, within: np.ndarray, values: np.ndarray) -> Boxes:
        """Changes of pixels numbered through the frame and through `images`."""
        _, height, width = self.images.shape
        return Boxes(pixels, within, values, self.corner_x, self.corner_y, height, width)


def draw_stars(
    psf: Psf,
    x_pix: np.ndarray,
    y_pix: np.ndarray,
    flux: np.ndarray,
    *,
    shape_pix2: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noiseless pixel-sampled stars.

    Parameters
    ----------
    psf : Psf
    x_pix, y_pix : ndarray, shape (n,)
        0-based positions. Beyond the frame the shape is that at its border.
    flux : ndarray, shape (n,)
        Sum of the pixels.
    shape_pix2 : ndarray, shape (n, 3), optional
        How each star differs from the PSF of its place, see `rbsim.psf.draw_shapes`.

    Returns
    -------
    stars : ndarray, shape (n, size, size), float64
        size = 2 * psf.half_pix + 1.
    corner_x, corner_y : ndarray, shape (n,), int
        Frame pixel of each image's first pixel.
    """
    stars, corner_x, corner_y = _unit_stars(psf, x_pix, y_pix, shape_pix2)
    stars *= flux[:, None, None]
    return stars, corner_x, corner_y


def _unit_stars(
    psf: Psf, x_pix: np.ndarray, y_pix: np.ndarray, shape_pix2: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`draw_stars` of flux 1."""
    ny, nx = psf.frame_shape
    centre_x, centre_y = np.rint(x_pix).astype(int), np.rint(y_pix).astype(int)
    stars = psf_model.sample(
        psf,
        np.clip(x_pix, 0, nx - 1),
        np.clip(y_pix, 0, ny - 1),
        dx_pix=x_pix - centre_x,
        dy_pix=y_pix - centre_y,
        shape_pix2=shape_pix2,
    )
    return stars, centre_x - psf.half_pix, centre_y - psf.half_pix


def _chunk(psf: Psf) -> int:
    """Number of stars that are drawn at a time."""
    return max(CHUNK_PIXELS // (2 * psf.half_pix + 1) ** 2, 1)


def draw_trail(
    psf: Psf,
    x_pix: float,
    y_pix: float,
    length_pix: float,
    angle_deg: float,
    *,
    shape_pix2: np.ndarray | None = None,
) -> tuple[np.ndarray, int, int]:
    """The PSF along a uniform line: a source that moves during the exposure.

    A sum of points along the line with the weights of Gauss and Legendre, `NODES` per FWHM, each with the
    PSF of its place. Points that cannot reach the frame are left out.

    Parameters
    ----------
    psf : Psf
    x_pix, y_pix : float
        Middle of the line, 0-based.
    length_pix : float
    angle_deg : float
        From +x towards +y.
    shape_pix2 : ndarray, shape (3,), optional
        As of `draw_stars`.

    Returns
    -------
    image : ndarray, shape (height, width), float64
        Flux 1 for the whole trail; empty if none of it reaches the frame.
    corner_x, corner_y : int
        Frame pixel of the image's first pixel.
    """
    node, weight = np.polynomial.legendre.leggauss(NODES)
    n_parts = max(1, int(np.ceil(length_pix / psf.fwhm_pix)))
    along = ((np.arange(n_parts)[:, None] + (node + 1) / 2) / n_parts - 0.5).ravel() * length_pix
    share = np.tile(weight / 2, n_parts) / n_parts
    x = x_pix + along * np.cos(np.deg2rad(angle_deg))
    y = y_pix + along * np.sin(np.deg2rad(angle_deg))
    ny, nx = psf.frame_shape
    reach = psf.half_pix + 1
    near = (x > -reach) & (x < nx - 1 + reach) & (y > -reach) & (y < ny - 1 + reach)
    x, y, share = x[near], y[near], share[near]
    if not len(x):
        return np.zeros((0, 0)), 0, 0
    size = 2 * psf.half_pix + 1
    left, bottom = int(np.rint(x.min())) - psf.half_pix, int(np.rint(y.min())) - psf.half_pix
    right, top = int(np.rint(x.max())) + psf.half_pix, int(np.rint(y.max())) + psf.half_pix
    out = np.zeros((top - bottom + 1, right - left + 1))
    chunk = _chunk(psf)
    for start in range(0, len(x), chunk):
        part = slice(start, start + chunk)
        own = None if shape_pix2 is None else np.broadcast_to(shape_pix2, (len(x[part]), 3))
        images, corner_x, corner_y = draw_stars(psf, x[part], y[part], share[part], shape_pix2=own)
        for image, column, line in zip(images, corner_x - left, corner_y - bottom, strict=True):
            out[line : line + size, column : column + size] += image
    return out, left, bottom


def draw(
    psf: Psf, lights: Lights, rows: np.ndarray, *, shape_pix2: np.ndarray | None = None
) -> Iterator[Drawn]:
    """Images of lights in an order that depends on nothing else: points by `CHUNK_PIXELS`, then trails.

    Parameters
    ----------
    psf : Psf
    lights : Lights
    rows : ndarray, shape (n,), int
        Which of them, ascending.
    shape_pix2 : ndarray, shape (n_lights, 3), optional
        How each of all lights differs from the PSF of its place, see `rbsim.psf.draw_shapes`.

    Yields
    ------
    Drawn
        Lights within one overlap nowhere, so their pixels can be changed at once.
    """
    is_point = lights.trail_length_pix[rows] == 0
    points = rows[is_point]
    chunk = _chunk(psf)
    for layer in _apart(lights.x_pix[points], lights.y_pix[points], 2 * psf.half_pix + 1):
        for start in range(0, len(layer), chunk):
            some = points[layer[start : start + chunk]]
            own = None if shape_pix2 is None else shape_pix2[some]
            yield Drawn(some, *_unit_stars(psf, lights.x_pix[some], lights.y_pix[some], own))
    for row in rows[~is_point]:
        image, left, bottom = draw_trail(
            psf,
            lights.x_pix[row],
            lights.y_pix[row],
            lights.trail_length_pix[row],
            lights.trail_angle_deg[row],
            shape_pix2=None if shape_pix2 is None else shape_pix2[row],
        )
        yield Drawn(np.array([row]), image[None], np.array([left]), np.array([bottom]))


def _apart(x_pix: np.ndarray, y_pix: np.ndarray, size_pix: int) -> list[np.ndarray]:
    """Indices in groups within which no two boxes of this size overlap; one group if none do."""
    n = len(x_pix)
    xy = np.column_stack([np.rint(x_pix), np.rint(y_pix)])
    pairs = (
        cKDTree(xy).query_pairs(size_pix - 0.5, p=np.inf, output_type="ndarray")
        if n > 1
        else np.empty((0, 2))
    )
    if not len(pairs):
        return [np.arange(n)] if n else []
    group = np.zeros(n, int)
    later = pairs.max(axis=1)
    earlier = pairs.min(axis=1)
    for index in np.unique(later):
        taken = group[earlier[later == index]]
        group[index] = np.setdiff1d(np.arange(len(taken) + 1), taken)[0]
    return [np.flatnonzero(group == number) for number in range(group.max() + 1)]
