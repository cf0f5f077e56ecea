"""What the telescope does to the sky: projection, a PSF that varies over the chip, drawing with it."""

import math
from dataclasses import dataclass

import galsim
import numpy as np
from astropy.wcs import WCS

CELL_PIX = 100
"""One PSF image per cell of this size; across half a cell the PSF changes by less than 0.5 %."""
OVERSAMPLING = 3
LARGEST_HALF_PIX = 32
BULGE_SERSIC_INDEX = 2.0
"""Steeper bulges cost ten times the time to draw and look the same behind this PSF."""
FAINTEST_DRAWN_E = 0.2
"""Stamps reach out to where the wings fall below this, well under the noise of any frame."""


@dataclass(frozen=True)
class OpticsConfig:
    """Telescope and atmosphere; typical values and their scatter between exposures.

    ``*_scatter`` are standard deviations between exposures, ``*_change`` are largest changes between
    centre and edge of the chip.
    """

    pixel_scale_arcsec: float
    fwhm_pix: float
    fwhm_scatter: float
    fwhm_change: float
    moffat_beta: float
    shear_scatter: float
    shear_change: float
    extinction_scatter_mag: float
    sky_scatter: float
    sky_gradient: float
    dither_pix: float
    wcs_error_low_pix: float
    wcs_error_high_pix: float
    reference_fwhm_pix: float
    reference_moffat_beta: float
    reference_rotation_deg: float


@dataclass(frozen=True)
class Projection:
    """A tangential projection of the sky on a chip, north up for zero rotation.

    Attributes
    ----------
    ra_deg, dec_deg : float
        Tangent point.
    x0_pix, y0_pix : float
        0-based pixel position of the tangent point.
    rotation_deg : float
    scale_arcsec : float
        Pixel scale.
    """

    ra_deg: float
    dec_deg: float
    x0_pix: float
    y0_pix: float
    rotation_deg: float
    scale_arcsec: float

    def _matrix(self) -> np.ndarray:
        """From pixels to (east, north) in pixels; a reflection, hence its own inverse."""
        cos, sin = math.cos(math.radians(self.rotation_deg)), math.sin(math.radians(self.rotation_deg))
        return np.array([[-cos, sin], [sin, cos]])

    def to_pix(self, east_arcsec: np.ndarray, north_arcsec: np.ndarray) -> np.ndarray:
        """0-based pixel positions, shape (2, n), of points on the tangent plane."""
        plane = np.stack([np.asarray(east_arcsec), np.asarray(north_arcsec)]) / self.scale_arcsec
        return self._matrix() @ plane + np.array([[self.x0_pix], [self.y0_pix]])

    def to_wcs(self) -> WCS:
        """Return the same projection as FITS WCS (TAN)."""
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
        wcs.wcs.cunit = ["deg", "deg"]
        wcs.wcs.crval = [self.ra_deg, self.dec_deg]
        wcs.wcs.crpix = [self.x0_pix + 1, self.y0_pix + 1]
        wcs.wcs.cd = self._matrix() * self.scale_arcsec / 3600
        wcs.wcs.radesys = "ICRS"
        wcs.wcs.set()
        return wcs


@dataclass(frozen=True)
class PsfField:
    """The true PSF of one exposure: a sheared Moffat profile that varies smoothly over the chip.

    Attributes
    ----------
    shape : tuple of int
        (ny, nx) of the chip.
    fwhm_pix, beta : float
        FWHM at the centre, and exponent of the Moffat profile.
    fwhm_terms : tuple of float
        Relative change of the FWHM with u, v and u^2 + v^2, where u and v run from -1 to 1.
    shear : tuple of float
        g1 and g2 at the centre.
    shear_terms : tuple of float
        Change of g1 with u and v, then of g2 with u and v.
    """

    shape: tuple[int, int]
    fwhm_pix: float
    beta: float
    fwhm_terms: tuple[float, float, float] = (0.0, 0.0, 0.0)
    shear: tuple[float, float] = (0.0, 0.0)
    shear_terms: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)

    def at(self, x_pix: float, y_pix: float) -> galsim.GSObject:
        """Profile of unit flux at a 0-based position, in pixels, before the pixel's own response."""
        ny, nx = self.shape
        u, v = 2 * x_pix / (nx - 1) - 1, 2 * y_pix / (ny - 1) - 1
        fwhm = self.fwhm_pix * (1 + float(np.dot(self.fwhm_terms, (u, v, u * u + v * v))))
        g1 = self.shear[0] + self.shear_terms[0] * u + self.shear_terms[1] * v
        g2 = self.shear[1] + self.shear_terms[2] * u + self.shear_terms[3] * v
        return galsim.Moffat(beta=self.beta, fwhm=fwhm).shear(g1=g1, g2=g2)

    @property
    def noise_area_pix(self) -> float:
        """Pixels over which the matched filter sums the noise, 1 / sum(psf^2), for the round profile."""
        return math.pi * self._radius_pix**2 * (2 * self.beta - 1) / (self.beta - 1) ** 2

    @property
    def _radius_pix(self) -> float:
        return self.fwhm_pix / (2 * math.sqrt(2 ** (1 / self.beta) - 1))

    def half_size_pix(self, flux_e: float) -> int:
        """Half width of the stamp beyond which a star of this flux is fainter than `FAINTEST_DRAWN_E`."""
        peak = abs(flux_e) * (self.beta - 1) / (math.pi * self._radius_pix**2)
        radius = self._radius_pix * (max(peak, FAINTEST_DRAWN_E) / FAINTEST_DRAWN_E) ** (1 / (2 * self.beta))
        return int(np.clip(math.ceil(radius), 8, LARGEST_HALF_PIX))


def draw_psf_field(
    shape: tuple[int, int], *, fwhm_pix: float, beta: float, config: OpticsConfig, rng: np.random.Generator
) -> PsfField:
    """Draw how the PSF of one exposure varies over the chip."""
    fwhm_terms = config.fwhm_change * rng.uniform(-0.5, 0.5, 3)
    shear = rng.normal(0, config.shear_scatter, 2)
    shear_terms = config.shear_change * rng.uniform(-0.5, 0.5, 4)
    return PsfField(shape, fwhm_pix, beta, tuple(fwhm_terms), tuple(shear), tuple(shear_terms))


def draw_points(
    shape: tuple[int, int], x_pix: np.ndarray, y_pix: np.ndarray, flux_e: np.ndarray, *, psf: PsfField
) -> np.ndarray:
    """Draw point sources without noise.

    Parameters
    ----------
    shape : tuple of int
        (ny, nx) of the image.
    x_pix, y_pix : ndarray, shape (n,)
        0-based positions; sources outside may reach in.
    flux_e : ndarray, shape (n,)
        Total flux of each in electrons.
    psf : PsfField

    Returns
    -------
    ndarray, shape (ny, nx), float64
        Expected electrons.

    Notes
    -----
    Each cell's PSF is drawn once with the pixel's response, oversampled, and interpolated from there
    (quintic). Within a cell that is closer than 0.1 % of the peak to `draw_points_exactly`.
    """
    canvas = galsim.ImageD(shape[1], shape[0], init_value=0)
    last = (shape[1] - 1) // CELL_PIX, (shape[0] - 1) // CELL_PIX
    cell_x = np.clip(np.floor_divide(x_pix, CELL_PIX), 0, last[0]).astype(int)
    cell_y = np.clip(np.floor_divide(y_pix, CELL_PIX), 0, last[1]).astype(int)
    for column, row in sorted(set(zip(cell_x.tolist(), cell_y.tolist(), strict=True))):
        profile = _pixelised(psf.at((column + 0.5) * CELL_PIX, (row + 0.5) * CELL_PIX))
        for i in np.flatnonzero((cell_x == column) & (cell_y == row)):
            half = psf.half_size_pix(flux_e[i])
            add_profile(canvas, profile * flux_e[i], x_pix[i], y_pix[i], half_pix=half, method="no_pixel")
    return canvas.array


def draw_points_exactly(
    shape: tuple[int, int], x_pix: np.ndarray, y_pix: np.ndarray, flux_e: np.ndarray, *, psf: PsfField
) -> np.ndarray:
    """Draw as `draw_points` does, but each source with the PSF of its own place and its own FFT: slow."""
    canvas = galsim.ImageD(shape[1], shape[0], init_value=0)
    for x, y, flux in zip(x_pix, y_pix, flux_e, strict=True):
        add_profile(canvas, psf.at(x, y) * flux, x, y, half_pix=psf.half_size_pix(flux))
    return canvas.array


def unit_stamp(psf: PsfField, x_pix: float, y_pix: float, *, half_pix: int) -> np.ndarray:
    """PSF at a 0-based position with unit flux, on the pixels within `half_pix` of the nearest one."""
    size = 2 * half_pix + 1
    canvas = galsim.ImageD(size, size, init_value=0)
    x_stamp, y_stamp = x_pix - round(x_pix) + half_pix, y_pix - round(y_pix) + half_pix
    add_profile(canvas, psf.at(x_pix, y_pix), x_stamp, y_stamp, half_pix=half_pix)
    return canvas.array


def draw_galaxies(
    shape: tuple[int, int],
    x_pix: np.ndarray,
    y_pix: np.ndarray,
    flux_e: np.ndarray,
    *,
    radius_pix: np.ndarray,
    bulge_fraction: np.ndarray,
    shear: np.ndarray,
    psf: PsfField,
) -> np.ndarray:
    """Draw galaxies without noise: an exponential disc and a rounder bulge of a third of its radius.

    Parameters
    ----------
    shape : tuple of int
        (ny, nx) of the image.
    x_pix, y_pix, flux_e : ndarray, shape (n,)
        0-based positions and total fluxes.
    radius_pix : ndarray, shape (n,)
        Half-light radii of the discs.
    bulge_fraction : ndarray, shape (n,)
    shear : ndarray, shape (2, n)
        g1 and g2 of the discs; the bulges have a third of it.
    psf : PsfField

    Returns
    -------
    ndarray, shape (ny, nx), float64
        Expected electrons.
    """
    canvas = galsim.ImageD(shape[1], shape[0], init_value=0)
    for i in range(len(x_pix)):
        half = int(np.clip(math.ceil(6 * radius_pix[i]), 12, 2 * LARGEST_HALF_PIX))
        if not (-half < x_pix[i] < shape[1] + half and -half < y_pix[i] < shape[0] + half):
            continue
        disc = galsim.Exponential(half_light_radius=radius_pix[i]).shear(g1=shear[0, i], g2=shear[1, i])
        bulge = galsim.Sersic(BULGE_SERSIC_INDEX, half_light_radius=radius_pix[i] / 3)
        bulge = bulge.shear(g1=shear[0, i] / 3, g2=shear[1, i] / 3)
        galaxy = (1 - bulge_fraction[i]) * disc + bulge_fraction[i] * bulge
        profile = galsim.Convolve(galaxy * flux_e[i], psf.at(x_pix[i], y_pix[i]))
        add_profile(canvas, profile, x_pix[i], y_pix[i], half_pix=half)
    return canvas.array


def _pixelised(profile: galsim.GSObject) -> galsim.GSObject:
    size = OVERSAMPLING * (2 * LARGEST_HALF_PIX + 1)
    fine = galsim.Convolve(profile, galsim.Pixel(1.0)).drawImage(
        nx=size, ny=size, scale=1 / OVERSAMPLING, method="no_pixel", dtype=float
    )
    return galsim.InterpolatedImage(
        fine, x_interpolant="quintic", flux=1.0, calculate_maxk=False, calculate_stepk=False
    )


def add_profile(
    canvas: galsim.ImageD,
    profile: galsim.GSObject,
    x_pix: float,
    y_pix: float,
    *,
    half_pix: int,
    method: str = "auto",
) -> None:
    """Add a profile to `canvas` (in place) at a 0-based position.

    The only place of the emulator where GalSim's pixel 1 meets our pixel 0.
    """
    x_galsim, y_galsim = x_pix + 1, y_pix + 1
    column, row = round(x_galsim), round(y_galsim)
    box = galsim.BoundsI(column - half_pix, column + half_pix, row - half_pix, row + half_pix) & canvas.bounds
    if box.isDefined():
        center = galsim.PositionD(x_galsim, y_galsim)
        profile.drawImage(image=canvas[box], center=center, method=method, scale=1.0, add_to_image=True)
