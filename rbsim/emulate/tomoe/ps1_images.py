"""PS1 stacks of an emulated field: skycells as the archive has them, or the warped reference at once.

The skycells are noisy images of 0.25" pixels with masks, to be written by `ps1_files` and warped by
`rbsim.ps1`. `draw_warped` makes what comes out of that, on the grid of a sensor, several times faster; a
test holds that both agree in flux, noise, correlation of the noise and masked area.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from astropy.wcs import WCS
from scipy import ndimage

from rbsim.emulate.tomoe.ps1_light import (
    MOFFAT_BETA,
    Grid,
    Points,
    draw,
    galaxy_points,
    moffat_alpha,
)
from rbsim.emulate.tomoe.ps1_masks import Bright, Stack, mark_flaws, mark_stars, oversubtract_sky
from rbsim.emulate.tomoe.ps1_settings import Ps1Settings
from rbsim.emulate.tomoe.scene import Galaxies, Row, Stars
from rbsim.ps1.mask_bits import BAD, BITS
from rbsim.ps1.tessellation import Rings, skycells_of
from rbsim.schema import MASK

SUB_PIXELS = 3
"""Per sensor pixel and axis in the fast mode: 0.4", a third of the seeing."""
SKYCELL_PIXEL_ARCSEC = 0.25
_MARGIN_PIX = 40


@dataclass(frozen=True, eq=False)
class SkycellPart:
    """A skycell, or the rectangle of it that is needed.

    Attributes
    ----------
    name : str
        ``skycell.1405.053``.
    wcs : astropy.wcs.WCS
        Of the part.
    shape : (ny, nx)
    """

    name: str
    wcs: WCS
    shape: tuple[int, int]


@dataclass(frozen=True, eq=False)
class EmulatedSkycell:
    """One emulated stack; arrays of shape part.shape.

    Attributes
    ----------
    part : SkycellPart
    counts : ndarray, float32
        Linear; NaN in saturated cores and gaps.
    variance : ndarray, float32
        Of single pixels, as the stacks' wt images: it does not know that their noise is correlated.
    mask : ndarray, uint16
        `rbsim.ps1.mask_bits.BITS`.
    n_inputs : ndarray, uint16
    exposure_s, fwhm_arcsec, epoch_yr : float
    rows : tuple of Row
        Truth of the masks and of the sky, in pixels of the part; strength of masks in sensor pixels.
    """

    part: SkycellPart
    counts: np.ndarray
    variance: np.ndarray
    mask: np.ndarray
    n_inputs: np.ndarray
    exposure_s: float
    fwhm_arcsec: float
    epoch_yr: float
    rows: tuple[Row, ...]


class WarpedImage(NamedTuple):
    """A PS1 reference on the pixels of a sensor.

    Attributes
    ----------
    image : ndarray, shape (ny, nx), float32
        Counts; NaN where BAD.
    variance : ndarray, shape (ny, nx), float32
        inf where BAD.
    mask : ndarray, shape (ny, nx), uint8
        schema.MASK_PLANES.
    zero_point : float
        AB magnitude of one count, in PS1's r band.
    rows : tuple of Row
        Truth of its masks and sky, in sensor pixels.
    """

    image: np.ndarray
    variance: np.ndarray
    mask: np.ndarray
    zero_point: float
    rows: tuple[Row, ...]


def skycell_parts(
    frames: Sequence[tuple[WCS, tuple[int, int]]], rings: Rings | None = None
) -> tuple[SkycellPart, ...]:
    """The parts of skycells that some frames need, each skycell once.

    Parameters
    ----------
    frames : sequence of (WCS, (ny, nx))
    rings : Rings, optional
        Of the tessellation.

    Raises
    ------
    InputError
        If a frame reaches south of the sky of PS1.
    """
    cells = {cell.name: cell for wcs, shape in frames for cell in skycells_of(wcs, shape, rings)}
    parts = []
    for name, cell in sorted(cells.items()):
        wcs, (ny, nx) = cell.wcs(), cell.shape
        x, y = (np.concatenate(c) for c in zip(*(_outline(wcs, *frame) for frame in frames), strict=True))
        near = (x > -nx) & (x < 2 * nx) & (y > -ny) & (y < 2 * ny)
        low_x, high_x = _span(x[near], nx)
        low_y, high_y = _span(y[near], ny)
        own = wcs.slice((slice(low_y, None), slice(low_x, None)))
        parts.append(SkycellPart(name, own, (high_y - low_y, high_x - low_x)))
    return tuple(parts)


def _outline(cell: WCS, wcs: WCS, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Points all over a frame, in pixels of a skycell."""
    ny, nx = shape
    x, y = np.meshgrid(np.linspace(-0.5, nx - 0.5, 25), np.linspace(-0.5, ny - 0.5, 25))
    with np.errstate(all="ignore"):
        at = cell.world_to_pixel_values(*wcs.pixel_to_world_values(x.ravel(), y.ravel()))
    return np.nan_to_num(at[0], nan=np.inf), np.nan_to_num(at[1], nan=np.inf)


def _span(positions: np.ndarray, size: int) -> tuple[int, int]:
    low = int(np.clip(np.floor(positions.min()) - _MARGIN_PIX, 0, size - 1))
    return low, int(np.clip(np.ceil(positions.max()) + _MARGIN_PIX + 1, low + 1, size))


def emulate_skycells(
    stars: Stars,
    galaxies: Galaxies,
    parts: Sequence[SkycellPart],
    *,
    rng: np.random.Generator,
    epoch_yr: float,
    settings: Ps1Settings | None = None,
) -> Iterator[EmulatedSkycell]:
    """Stacks of the skycells of a field, one after the other: one holds half a gigabyte.

    Each has its own stream of random numbers, so that it does not depend on those before it.

    Parameters
    ----------
    stars, galaxies
        Of the field; those outside a skycell are left out.
    parts : sequence of SkycellPart
    rng : numpy.random.Generator
    epoch_yr : float
        To which the positions of the stars belong; they move back to the time of PS1.
    settings : Ps1Settings, optional
    """
    settings = settings or Ps1Settings()
    for part, own_rng in zip(parts, rng.spawn(len(parts)), strict=True):
        yield _emulate(stars, galaxies, part, settings, rng=own_rng, epoch_yr=epoch_yr)


def _emulate(
    stars: Stars,
    galaxies: Galaxies,
    part: SkycellPart,
    settings: Ps1Settings,
    *,
    rng: np.random.Generator,
    epoch_yr: float,
) -> EmulatedSkycell:
    grid = Grid(part.wcs, part.shape)
    fwhm, ps1_epoch = _conditions(settings, rng)
    stack = _expected(stars, galaxies, grid, settings, fwhm, epoch_yr - ps1_epoch, rng=rng)
    sky = sky_noise(settings) * grid.pixel_arcsec / SKYCELL_PIXEL_ARCSEC
    # A gain in place of a division, and in float32: these are the largest arrays there are.
    sigma = np.sqrt(np.maximum(stack.light, 0) / np.float32(settings.gain_e_per_count) + np.float32(sky**2))
    noise = rng.standard_normal(part.shape, np.float32)
    kernel = _noise_kernel(settings)
    for axis in (0, 1):
        noise = ndimage.correlate1d(noise, kernel, axis=axis, mode="reflect")
    noise *= sigma
    counts = stack.light + noise
    variance = sigma**2 * np.float32(np.sum(kernel**2) ** 2)
    gap = (stack.mask & BITS["BLANK"]) != 0
    counts[(stack.mask & (BITS["SAT"] | BITS["BLANK"])) != 0] = np.nan
    variance[gap] = np.nan
    n_inputs = np.where(gap, 0, settings.n_inputs).astype(np.uint16)
    return EmulatedSkycell(
        part, counts, variance, stack.mask, n_inputs, settings.exposure_s, fwhm, ps1_epoch, tuple(stack.rows)
    )


def draw_warped(
    stars: Stars,
    galaxies: Galaxies,
    wcs: WCS,
    shape: tuple[int, int],
    *,
    rng: np.random.Generator,
    epoch_yr: float,
    settings: Ps1Settings | None = None,
) -> WarpedImage:
    """What warping emulated skycells to a sensor gives, drawn on its pixels at once.

    The sensor's pixels are divided into 3 x 3 (`SUB_PIXELS`), drawn, smoothed and summed as the warp does it
    with those of PS1. One seeing holds for the whole image.

    Parameters
    ----------
    stars, galaxies
    wcs : astropy.wcs.WCS
    shape : (ny, nx)
        Of the sensor.
    rng : numpy.random.Generator
    epoch_yr : float
        As of `emulate_skycells`.
    settings : Ps1Settings, optional
    """
    settings = settings or Ps1Settings()
    grid = Grid(wcs, shape, SUB_PIXELS)
    fwhm, ps1_epoch = _conditions(settings, rng)
    stack = _expected(stars, galaxies, grid, settings, fwhm, epoch_yr - ps1_epoch, rng=rng)
    sky = sky_noise(settings) * grid.pixel_arcsec / SKYCELL_PIXEL_ARCSEC
    variance = np.maximum(stack.light, 0) / np.float32(settings.gain_e_per_count) + np.float32(sky**2)
    image = stack.light + np.sqrt(variance) * rng.standard_normal(grid.shape, np.float32)
    # The pixels of the skycells are squares of 0.25" that the warp lays down: they blur a little, too.
    side = SKYCELL_PIXEL_ARCSEC / (grid.pixel_arcsec * SUB_PIXELS)
    sigma = SUB_PIXELS * np.hypot(settings.smoothing_fwhm_pix / 2.3548, side / np.sqrt(12))
    image, bad = _smooth(image, (stack.mask & BAD) != 0, sigma, settings.min_kernel_share)
    image[bad] = 0
    bad_share = _binned(bad.astype(np.float32), shape) / SUB_PIXELS**2
    good = np.maximum(1 - bad_share, 1e-3)
    lost = bad_share > settings.max_bad_share
    mask = np.zeros(shape, np.uint8)
    mask[_binned(((stack.mask & BITS["SAT"]) != 0).astype(np.float32), shape) > 0] |= MASK["SATURATED"]
    mask[lost] |= MASK["BAD"]
    of_pixels = np.float32(np.sum(_noise_kernel(settings) ** 2) ** 2)  # what the wt images say of it
    return WarpedImage(
        image=np.where(lost, np.nan, _binned(image, shape) / good).astype(np.float32),
        variance=np.where(lost, np.inf, _binned(variance, shape) * of_pixels / good).astype(np.float32),
        mask=mask,
        zero_point=zero_point_mag(settings),
        rows=tuple(_in_image(row, SUB_PIXELS) for row in stack.rows),
    )


def zero_point_mag(settings: Ps1Settings) -> float:
    """AB magnitude of one count of a stack."""
    return float(25 + 2.5 * np.log10(settings.exposure_s))


def sky_noise(settings: Ps1Settings) -> float:
    """Counts per pixel of 0.25", at low spatial frequency, that give the depth at the median seeing.

    The noise of a PSF-weighted flux is sigma over the root of the summed squares of the PSF; for a Moffat
    of beta that sum is (beta - 1)^2 / (pi alpha^2 (2 beta - 1)) per unit area.
    """
    alpha, beta = moffat_alpha(settings.fwhm_arcsec) / SKYCELL_PIXEL_ARCSEC, MOFFAT_BETA
    squares = (beta - 1) ** 2 / (np.pi * alpha**2 * (2 * beta - 1))
    faintest = 10 ** (0.4 * (zero_point_mag(settings) - settings.depth_mag))
    return float(faintest / 5 * np.sqrt(squares))


def _noise_kernel(settings: Ps1Settings) -> np.ndarray:
    """Weights of a pixel and its two neighbours, of sum 1: the noise at low frequency is kept."""
    c = settings.noise_correlation
    return np.array([c, 1 - 2 * c, c], np.float32)


def _conditions(settings: Ps1Settings, rng: np.random.Generator) -> tuple[float, float]:
    """Seeing and epoch of a stack."""
    fwhm = settings.fwhm_arcsec * np.exp(settings.fwhm_scatter * rng.standard_normal())
    return float(fwhm), float(settings.epoch_yr + settings.epoch_scatter_yr * rng.standard_normal())


def _expected(
    stars: Stars,
    galaxies: Galaxies,
    grid: Grid,
    settings: Ps1Settings,
    fwhm_arcsec: float,
    years: float,
    *,
    rng: np.random.Generator,
) -> Stack:
    """Light and masks of a stack, before the noise."""
    zero_point = zero_point_mag(settings)
    star_mag, galaxy_mag = stars.mag - stars.colour_mag, galaxies.mag - galaxies.colour_mag
    star_counts, galaxy_counts = (10 ** (0.4 * (zero_point - m)) for m in (star_mag, galaxy_mag))
    per_year = 1 / 3.6e6  # mas to degrees
    ra = stars.ra_deg - years * stars.pm_ra_mas_per_yr * per_year / np.cos(np.radians(stars.dec_deg))
    x, y = grid.place(ra, stars.dec_deg - years * stars.pm_dec_mas_per_yr * per_year)
    seen = np.isfinite(x) & np.isfinite(y)
    near = Points(x[seen], y[seen], star_counts[seen])
    extended = galaxy_points(galaxies, galaxy_counts, galaxy_mag, grid)
    points = Points(
        *(np.concatenate([getattr(p, n) for p in (near, extended)]) for n in ("x_pix", "y_pix", "counts"))
    )
    stack = Stack(draw(points, grid, fwhm_arcsec=fwhm_arcsec), np.zeros(grid.shape, np.uint16), [])
    galaxy_x, galaxy_y = grid.place(galaxies.ra_deg, galaxies.dec_deg)
    oversubtract_sky(stack, galaxy_x, galaxy_y, galaxy_counts, galaxies.radius_arcsec, grid, settings)
    reach = 300 / grid.pixel_arcsec
    ny, nx = grid.shape
    close = seen & (x > -reach) & (x < nx + reach) & (y > -reach) & (y < ny + reach)
    close &= star_mag < settings.saturation_mag + 1
    bright = Bright(x[close], y[close], star_mag[close], star_counts[close])
    mark_stars(stack, bright, grid, settings, fwhm_arcsec=fwhm_arcsec, rng=rng)
    mark_flaws(stack, grid, settings, rng=rng)
    return stack


def _smooth(
    image: np.ndarray, bad: np.ndarray, sigma_pix: float, min_share: float
) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian smoothing in which bad pixels take no part; where they are too many there is no value."""
    smoothed = ndimage.gaussian_filter(np.where(bad, np.float32(0), image), sigma_pix, truncate=3.5)
    share = ndimage.gaussian_filter((~bad).astype(np.float32), sigma_pix, truncate=3.5)
    return smoothed / np.maximum(share, np.float32(0.1)), share < min_share


def _binned(plane: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Sums over the sub-pixels of each pixel."""
    summed: np.ndarray = plane.reshape(shape[0], SUB_PIXELS, shape[1], SUB_PIXELS).sum(axis=(1, 3))
    return summed


def _in_image(row: Row, n_sub: int) -> Row:
    """A row on the grid, in pixels of the image."""
    return replace(
        row,
        x_pix=(row.x_pix + 0.5) / n_sub - 0.5,
        y_pix=(row.y_pix + 0.5) / n_sub - 0.5,
        length_pix=row.length_pix / n_sub,
    )
