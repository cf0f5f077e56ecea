"""Two views of one star field with a known map between them, drawn fast; shared by the registration tests."""

from dataclasses import dataclass

import numpy as np
from astropy.wcs import WCS
from scipy.special import erf

from rbsim.sources import Sources, find_sources

SKY_NOISE_ADU = 10.0


def draw_gaussians(x_pix, y_pix, flux_adu, shape, fwhm_pix, *, half=9):
    """Pixel-integrated Gaussian stars without noise, float64; stars near the border are cut off."""
    ny, nx = shape
    sigma = fwhm_pix / 2.3548
    image = np.zeros((ny + 2 * half, nx + 2 * half))
    cx, cy = np.rint(x_pix).astype(int), np.rint(y_pix).astype(int)
    keep = (cx >= 0) & (cx < nx) & (cy >= 0) & (cy < ny)
    cx, cy, x, y, flux = (a[keep] for a in (cx, cy, x_pix, y_pix, flux_adu))
    edges = np.arange(-half, half + 2) - 0.5
    step = np.sqrt(2) * sigma
    along_x = np.diff(erf((edges + (cx - x)[:, None]) / step), axis=1) / 2
    along_y = np.diff(erf((edges + (cy - y)[:, None]) / step), axis=1) / 2
    stamps = flux[:, None, None] * along_y[:, :, None] * along_x[:, None, :]
    rows = cy[:, None, None] + np.arange(2 * half + 1)[:, None]
    columns = cx[:, None, None] + np.arange(2 * half + 1)
    np.add.at(image, (rows, columns), stamps)
    return image[half:-half, half:-half]


def sources_in(image, *, seed):
    noisy = image + np.random.default_rng(seed).normal(0, SKY_NOISE_ADU, image.shape)
    return find_sources(noisy, np.full(image.shape, SKY_NOISE_ADU), np.zeros(image.shape, bool))


@dataclass(frozen=True)
class TrueMap:
    """From the science frame to the reference: turn, scale and radial + quadratic distortion, then shift."""

    shape: tuple[int, int]
    angle_rad: float = 0.0
    scale: float = 1.0
    distortion_pix: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)

    def __call__(self, x, y):
        ny, nx = self.shape
        half = np.hypot(nx, ny) / 2
        u, v = (x - nx / 2) / half, (y - ny / 2) / half
        c, s = np.cos(self.angle_rad) * self.scale, np.sin(self.angle_rad) * self.scale
        cubic = self.distortion_pix * (u**2 + v**2)
        quadratic = self.distortion_pix * u * v
        return (
            nx / 2 + half * (c * u - s * v) + cubic * u + quadratic + self.shift[0],
            ny / 2 + half * (s * u + c * v) + cubic * v - quadratic + self.shift[1],
        )


def stars(n, shape, *, seed, margin=60, flux=(300, 60_000)):
    """Positions in and around the science frame, and fluxes (power law as of star counts)."""
    rng = np.random.default_rng(seed)
    ny, nx = shape
    index = -0.7
    share = rng.uniform(flux[1] ** index, flux[0] ** index, n) ** (1 / index)
    return rng.uniform(-margin, nx + margin, n), rng.uniform(-margin, ny + margin, n), share


def views(true_map, n_stars, *, fwhm_pix=(2.5, 2.0), seed=1, depth=5.0, **kinds) -> tuple[Sources, Sources]:
    """Sources of a science frame and of a reference that is `depth` times brighter in units of the noise."""
    x, y, flux = stars(n_stars, true_map.shape, seed=seed, **kinds)
    science = draw_gaussians(x, y, flux, true_map.shape, fwhm_pix[0])
    x_ref, y_ref = true_map(x, y)
    reference = draw_gaussians(x_ref, y_ref, depth * flux, true_map.shape, fwhm_pix[1])
    return sources_in(science, seed=seed + 100), sources_in(reference, seed=seed + 200)


def true_error_pix(transform, true_map, *, where=None):
    """Rms error per axis of a registration over the overlap of the frames (or on a mask of grid points)."""
    ny, nx = true_map.shape
    x, y = (a.ravel() for a in np.meshgrid(np.linspace(0, nx - 1, 41), np.linspace(0, ny - 1, 31)))
    x_ref, y_ref = true_map(x, y)
    inside = (x_ref > 0) & (x_ref < nx) & (y_ref > 0) & (y_ref < ny)
    if where is not None:
        inside &= where(x, y)
    got_x, got_y = transform.apply(x, y)
    return float(np.sqrt(np.mean(((got_x - x_ref) ** 2 + (got_y - y_ref) ** 2)[inside]) / 2))


def tangent_wcs(crpix, *, angle_rad=0.0, scale_deg=3e-4):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.0, 10.0]
    wcs.wcs.crpix = [crpix[0] + 1, crpix[1] + 1]
    c, s = np.cos(angle_rad) * scale_deg, np.sin(angle_rad) * scale_deg
    wcs.wcs.cd = [[-c, s], [s, c]]
    wcs.wcs.set()
    return wcs


def wcs_pair(true_map, *, error_pix=(0.0, 0.0)):
    """WCS of both frames; that of the science frame knows turn and shift, but no distortion or scale."""
    ny, nx = true_map.shape
    reference = tangent_wcs((nx / 2, ny / 2))
    # The map turns by +angle; on the sky of a reference with inverted x this is the other way round.
    c, s = np.cos(true_map.angle_rad), np.sin(true_map.angle_rad)
    science = tangent_wcs((0.0, 0.0))
    matrix = reference.wcs.cd @ np.array([[c, -s], [s, c]])
    science.wcs.cd = matrix
    centre = np.linalg.solve(np.array([[c, -s], [s, c]]), np.array(true_map.shift))
    science.wcs.crpix = [nx / 2 + 1 - centre[0] + error_pix[0], ny / 2 + 1 - centre[1] + error_pix[1]]
    science.wcs.set()
    return science, reference
