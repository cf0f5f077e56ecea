"""Expected light of stars and galaxies on a finely sampled grid of pixels, all in one convolution.

Every source becomes points: a star one, a galaxy as many as its light needs to look smooth. Points are
spread by cubic B-splines, and the convolution with the PSF takes the spline out again (gridding, as in
interferometry), so positions are exact to far below a pixel while the cost does not grow with the PSF.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from astropy.wcs import WCS
from scipy import fft, special

from rbsim.emulate.tomoe.scene import Galaxies

MOFFAT_BETA = 3.0
PAD_PIX = 64
"""Border that is drawn too: sources there shine into the image, and the FFT wraps round in it."""
FAINTEST_POINT_MAG = 26.0
MIN_POINTS, MAX_POINTS = 48, 200_000
_GOLDEN_ANGLE = np.pi * (3 - np.sqrt(5))
_CHUNK = 200_000
_ROWS = 256


@dataclass(frozen=True, eq=False)
class Grid:
    """Pixels of an image, each divided into `n_sub` x `n_sub` that are drawn.

    Attributes
    ----------
    wcs : astropy.wcs.WCS
        Of the image.
    image_shape : (ny, nx)
    n_sub : int
    """

    wcs: WCS
    image_shape: tuple[int, int]
    n_sub: int = 1

    @property
    def shape(self) -> tuple[int, int]:
        """Of what is drawn."""
        return self.image_shape[0] * self.n_sub, self.image_shape[1] * self.n_sub

    def place(self, ra_deg: np.ndarray, dec_deg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions x, y on the grid; NaN where the projection does not reach."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            x, y = self.wcs.world_to_pixel_values(ra_deg, dec_deg)
        return (np.asarray(x) + 0.5) * self.n_sub - 0.5, (np.asarray(y) + 0.5) * self.n_sub - 0.5

    def pixels_per_arcsec(self) -> np.ndarray:
        """Grid pixels (x, y) per arcsec to the (east, north), shape (2, 2), at the middle."""
        ny, nx = self.image_shape
        ra, dec = (float(v) for v in self.wcs.pixel_to_world_values((nx - 1) / 2, (ny - 1) / 2))
        step = 1 / 3600
        x, y = self.place(
            ra + np.array([0.0, step / np.cos(np.radians(dec)), 0.0]), dec + np.array([0.0, 0.0, step])
        )
        return np.array([[x[1] - x[0], x[2] - x[0]], [y[1] - y[0], y[2] - y[0]]])

    @property
    def pixel_arcsec(self) -> float:
        """Side of a grid pixel."""
        return float(1 / np.sqrt(abs(np.linalg.det(self.pixels_per_arcsec()))))


@dataclass(frozen=True, eq=False)
class Points:
    """Points of light on a grid; arrays of shape (n,)."""

    x_pix: np.ndarray
    y_pix: np.ndarray
    counts: np.ndarray

    def near(self, shape: tuple[int, int]) -> "Points":
        """Those that lie on an image or its border of `PAD_PIX`."""
        ny, nx = shape
        inside = (self.x_pix > -PAD_PIX) & (self.x_pix < nx - 1 + PAD_PIX)
        inside &= (self.y_pix > -PAD_PIX) & (self.y_pix < ny - 1 + PAD_PIX)
        return Points(self.x_pix[inside], self.y_pix[inside], self.counts[inside])


def galaxy_points(galaxies: Galaxies, counts: np.ndarray, mag: np.ndarray, grid: Grid) -> Points:
    """Points of equal light for each galaxy: quantiles of its profiles, in a sunflower pattern.

    Parameters
    ----------
    galaxies : Galaxies
    counts, mag : ndarray, shape (n,)
        In the band that is drawn.
    grid : Grid
    """
    x, y = grid.place(galaxies.ra_deg, galaxies.dec_deg)
    ny, nx = grid.shape
    to_pixels = grid.pixels_per_arcsec()
    reach = PAD_PIX + 8 * galaxies.radius_arcsec / grid.pixel_arcsec
    near = (x > -reach) & (x < nx + reach) & (y > -reach) & (y < ny + reach)
    parts = []
    for index in np.flatnonzero(near):
        bulge = float(galaxies.bulge_fraction[index])
        shapes = (
            (1 - bulge, float(galaxies.radius_arcsec[index]), 1.0),
            (bulge, float(galaxies.bulge_radius_arcsec[index]), float(galaxies.bulge_sersic_n[index])),
        )
        for share, radius_arcsec, sersic_n in shapes:
            if share <= 0:
                continue
            faint = 10 ** (0.4 * (FAINTEST_POINT_MAG - mag[index])) * share
            wide = 2 * (radius_arcsec / grid.pixel_arcsec) ** 2
            n = int(np.clip(max(faint, wide), MIN_POINTS, MAX_POINTS))
            east, north = _sunflower(n, radius_arcsec, sersic_n)
            g1, g2 = float(galaxies.shear1[index]), float(galaxies.shear2[index])
            norm = np.sqrt(max(1 - g1**2 - g2**2, 1e-3))
            east, north = ((1 + g1) * east + g2 * north) / norm, (g2 * east + (1 - g1) * north) / norm
            parts.append(
                Points(
                    x[index] + to_pixels[0, 0] * east + to_pixels[0, 1] * north,
                    y[index] + to_pixels[1, 0] * east + to_pixels[1, 1] * north,
                    np.full(n, counts[index] * share / n),
                ).near(grid.shape)
            )
    if not parts:
        return Points(np.empty(0), np.empty(0), np.empty(0))
    columns = [np.concatenate([getattr(p, name) for p in parts]) for name in ("x_pix", "y_pix", "counts")]
    return Points(*columns)


def _sunflower(n: int, half_light_arcsec: float, sersic_n: float) -> tuple[np.ndarray, np.ndarray]:
    """Points whose radii are the quantiles of a Sersic profile's light."""
    scale = special.gammaincinv(2 * sersic_n, 0.5)
    quantiles = np.linspace(0, 1, min(n, 400) + 1)[:-1] + 0.5 / min(n, 400)
    radii = half_light_arcsec * (special.gammaincinv(2 * sersic_n, quantiles) / scale) ** sersic_n
    radius = radii if n <= 400 else np.interp((np.arange(n) + 0.5) / n, quantiles, radii)
    angle = _GOLDEN_ANGLE * np.arange(n)
    return radius * np.cos(angle), radius * np.sin(angle)


def draw(points: Points, grid: Grid, *, fwhm_arcsec: float) -> np.ndarray:
    """Points seen through a Moffat PSF, shape grid.shape, float32.

    Parameters
    ----------
    points : Points
        Those beyond the border are lost.
    grid : Grid
        Its pixels should be a third of the FWHM or finer.
    fwhm_arcsec : float
        Of the PSF, the response of the pixels included.
    """
    ny, nx = grid.shape
    size = fft.next_fast_len(ny + 2 * PAD_PIX, real=True), fft.next_fast_len(nx + 2 * PAD_PIX, real=True)
    image = _spread(points.near(grid.shape), size)
    spectrum = fft.rfft2(image)
    along_y, along_x = fft.fftfreq(size[0]), fft.rfftfreq(size[1])
    spline_x, spline_y = np.sinc(along_x) ** -4, np.sinc(along_y) ** -4
    alpha_pix = moffat_alpha(fwhm_arcsec) / grid.pixel_arcsec
    nodes = np.linspace(0, 2 * np.pi * alpha_pix * np.sqrt(0.5), 4000)
    transfer = _moffat_transfer(nodes)
    for first in range(0, size[0], _ROWS):
        rows = slice(first, min(first + _ROWS, size[0]))
        radius = 2 * np.pi * alpha_pix * np.hypot(along_y[rows, None], along_x)
        factor = np.interp(radius, nodes, transfer) * spline_y[rows, None] * spline_x
        spectrum[rows] *= factor.astype(np.float32)
    drawn = fft.irfft2(spectrum, s=size)
    return np.ascontiguousarray(drawn[PAD_PIX : PAD_PIX + ny, PAD_PIX : PAD_PIX + nx])


def moffat_alpha(fwhm_arcsec: float) -> float:
    """Scale of the Moffat profile, arcsec."""
    return float(fwhm_arcsec / (2 * np.sqrt(2 ** (1 / MOFFAT_BETA) - 1)))


def _moffat_transfer(scaled: np.ndarray) -> np.ndarray:
    """Fourier transform of the Moffat of beta 3, of 2 pi f alpha: z^2 K_2(z) / 2."""
    z = np.maximum(scaled, 1e-6)
    return np.where(scaled < 1e-3, 1.0, z**2 * special.kn(2, z) / 2)


def _spread(points: Points, size: tuple[int, int]) -> np.ndarray:
    """Cubic B-splines at the points, on the padded grid; float32."""
    image = np.zeros(size, np.float32)
    flat = image.ravel()
    for first in range(0, len(points.x_pix), _CHUNK):
        some = slice(first, first + _CHUNK)
        column, weight_x = _spline(points.x_pix[some] + PAD_PIX)
        row, weight_y = _spline(points.y_pix[some] + PAD_PIX)
        index = (row % size[0])[:, :, None] * size[1] + (column % size[1])[:, None, :]
        value = points.counts[some][:, None, None] * weight_y[:, :, None] * weight_x[:, None, :]
        np.add.at(flat, index.ravel(), value.astype(np.float32).ravel())
    return image


def _spline(position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The four pixels that a cubic B-spline at a position touches, and its values there; shape (n, 4)."""
    first = np.floor(position).astype(np.int64)
    f = (position - first)[:, None]
    values = np.concatenate(
        [(1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3], axis=1
    )
    return first[:, None] + np.arange(-1, 3), values / 6
