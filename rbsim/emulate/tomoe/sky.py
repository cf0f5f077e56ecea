"""What a sensor sees in every exposure of a field: stars, galaxies, variable stars."""

import math
from dataclasses import dataclass, replace

import numpy as np
from astropy.wcs import WCS
from scipy.special import gammainc

from rbsim.emulate.tomoe.scene import Galaxies, Stars
from rbsim.emulate.tomoe.settings import SkySettings, TomoeCondition

GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))
BULGE_RADIUS = 0.35
"""Half-light radius of a bulge over that of its disc [guess]."""
MAS_PER_YR_AT_1PC = 1000 / 4.74
"""Proper motion of 1 km/s at 1 pc."""


@dataclass(frozen=True, eq=False)
class Variables:
    """Stars that vary about their mean magnitude as sines; arrays of shape (n,).

    Attributes
    ----------
    star : ndarray of int
        Row of `Stars`.
    amplitude_mag : ndarray
        From the mean to either extreme.
    period_s, phase : ndarray
    """

    star: np.ndarray
    amplitude_mag: np.ndarray
    period_s: np.ndarray
    phase: np.ndarray

    def change_mag(self, time_s: float) -> np.ndarray:
        """Magnitude minus the mean one at a time, shape (n,)."""
        return np.asarray(
            self.amplitude_mag * np.sin(2 * np.pi * (time_s / self.period_s + self.phase)), float
        )


@dataclass(frozen=True, eq=False)
class Glow:
    """Galaxies as points of light, dense enough to look smooth behind the PSF; arrays of shape (n,).

    Attributes
    ----------
    ra_deg, dec_deg : ndarray
    galaxy : ndarray of int
        Row of `Galaxies`.
    share : ndarray
        Of the galaxy's light; they add up to 1 per galaxy.
    """

    ra_deg: np.ndarray
    dec_deg: np.ndarray
    galaxy: np.ndarray
    share: np.ndarray


@dataclass(frozen=True, eq=False)
class Sky:
    """All that is in the sky of a sensor and stays there for years."""

    stars: Stars
    variables: Variables
    galaxies: Galaxies
    glow: Glow
    red_dwarfs: np.ndarray
    """Rows of `stars` that may flare."""


def star_counts_per_deg2(mag: np.ndarray, *, latitude_deg: float, longitude_deg: float) -> np.ndarray:
    """Stars brighter than `mag` in V, of the shape of `mag`.

    Bahcall & Soneira (1980, ApJS 44, 73), the analytic fit to their model of disc and halo in appendix B,
    within 15 % of it for latitudes from 20 deg; it knows no dust, so that below, where it is used down to
    15 deg, there are too many.
    """
    m = np.asarray(mag, float)
    b, longitude = math.radians(abs(latitude_deg)), math.radians(longitude_deg)
    mu = np.clip(0.0075 * (m - 12) + 0.03, 0.03, 0.09)
    index = np.clip(0.04 * (12 - m) + 0.36, 0.04, 0.36)
    cos_bl = math.cos(b) * math.cos(longitude)
    disc = 925 * 10 ** (0.035 * (m - 15.75)) / (1 + 10 ** (-0.132 * (m - 15.75))) ** 3
    disc = disc / (math.sin(b) * (1 - mu / math.tan(b) * math.cos(longitude))) ** (3 - 5 * index)
    halo = 1050 * 10 ** (0.087 * (m - 17.5)) / (1 + 10 ** (-0.180 * (m - 17.5))) ** 2.5
    halo = halo / (1 - cos_bl) ** (1.45 - 0.20 * cos_bl)
    return np.asarray(disc + halo)


def galaxy_counts_per_deg2(mag: np.ndarray, settings: SkySettings) -> np.ndarray:
    """Galaxies brighter than `mag`: the density of SDSS's main sample, extended as a power law."""
    return np.asarray(
        settings.galaxy_per_deg2 * 10 ** (settings.galaxy_slope_dex_per_mag * (np.asarray(mag) - 17.77))
    )


def draw_sky(
    wcs: WCS,
    shape: tuple[int, int],
    margin_pix: float,
    *,
    settings: SkySettings,
    condition: TomoeCondition,
    colours: float = 1.0,
    motions: float = 1.0,
    rng: np.random.Generator,
) -> Sky:
    """Draw the sky of a sensor.

    Parameters
    ----------
    wcs : WCS
        Of the sensor without dither.
    shape : (ny, nx)
    margin_pix : float
        Filled around the sensor, for dithers and wings.
    settings : SkySettings
    condition : TomoeCondition
    colours, motions : float
        Factors on all colours, as if the reference's band were nearer or farther, and on proper motions.
    rng : numpy.random.Generator
        Of the sensor, the same in every exposure.
    """
    settings = replace(settings, colour_slope=colours * settings.colour_slope)
    stars, red_dwarfs = _draw_stars(
        wcs, shape, margin_pix, settings=settings, condition=condition, motions=motions, rng=rng
    )
    galaxies = _draw_galaxies(wcs, shape, margin_pix, settings=settings, rng=rng)
    is_variable = rng.random(len(stars.mag)) < settings.variable_fraction
    n = int(is_variable.sum())
    low, high = math.log(settings.variable_low_mag), math.log(settings.variable_high_mag)
    variables = Variables(
        star=np.flatnonzero(is_variable),
        amplitude_mag=np.exp(rng.uniform(low, high, n)) / 2,
        period_s=86400 * 10 ** rng.uniform(-1, 2, n),
        phase=rng.random(n),
    )
    return Sky(stars, variables, galaxies, _as_points(galaxies), red_dwarfs)


def _draw_positions(
    wcs: WCS, shape: tuple[int, int], margin_pix: float, n: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    ny, nx = shape
    x = rng.uniform(-margin_pix, nx + margin_pix, n)
    y = rng.uniform(-margin_pix, ny + margin_pix, n)
    ra, dec = wcs.wcs_pix2world(x, y, 0)
    return ra, dec


def _draw_mags(counts: np.ndarray, grid: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Magnitudes whose cumulative counts follow `counts` on `grid`, between its ends."""
    logs = np.log(counts)
    return np.interp(np.log(rng.uniform(counts[0], counts[-1], n)), logs, grid)


def _area_deg2(wcs: WCS, shape: tuple[int, int], margin_pix: float) -> float:
    pixel_deg2 = abs(float(np.linalg.det(wcs.wcs.cd)))
    return (shape[0] + 2 * margin_pix) * (shape[1] + 2 * margin_pix) * pixel_deg2


def _draw_stars(
    wcs: WCS,
    shape: tuple[int, int],
    margin_pix: float,
    *,
    settings: SkySettings,
    condition: TomoeCondition,
    motions: float,
    rng: np.random.Generator,
) -> tuple[Stars, np.ndarray]:
    """Stars with two populations of colours, turn-off and red dwarfs, and motions to match; rows of dwarfs.

    g - r of halo and disc turn-off stars is about 0.45 and of M dwarfs 1.35, and faint ones are red more
    often (as in the SDSS, Chen et al. 2001; widths and shares are guesses). Distances follow from
    absolute magnitudes, motions from them and from velocities.
    """
    grid = np.arange(settings.star_bright_mag, settings.star_faint_mag + 1e-6, 0.05)
    counts = star_counts_per_deg2(
        grid,
        latitude_deg=condition.galactic_latitude_deg,
        longitude_deg=condition.galactic_longitude_deg,
    )
    n = int(rng.poisson((counts[-1] - counts[0]) * _area_deg2(wcs, shape, margin_pix)))
    ra, dec = _draw_positions(wcs, shape, margin_pix, n, rng)
    mag = _draw_mags(counts, grid, n, rng)
    is_red = rng.random(n) < np.clip(0.12 + 0.06 * (mag - 13), 0.1, 0.6)
    is_odd = rng.random(n) < 0.01  # giants and carbon stars, white dwarfs, quasars
    g_r = np.where(is_red, rng.normal(1.35, 0.12, n), rng.normal(0.5, 0.13, n))
    g_r = np.where(is_odd, rng.uniform(-0.4, 2.2, n), g_r)
    absolute = np.where(is_red, rng.normal(10.0, 1.2, n), rng.normal(4.8, 1.0, n))
    distance_pc = np.maximum(10 ** ((mag - absolute + 5) / 5), 2.0)
    # Blue stars beyond 3 kpc belong to the halo.
    velocity = np.where(~is_red & (distance_pc > 3000), 130.0, 35.0)
    pm = motions * rng.normal(size=(2, n)) * velocity * MAS_PER_YR_AT_1PC / distance_pc
    colour = settings.colour_slope * g_r
    stars = Stars(ra, dec, mag, colour - (colour.mean() if n else 0.0), pm[0], pm[1])
    return stars, np.flatnonzero(is_red & ~is_odd)


def _draw_galaxies(
    wcs: WCS, shape: tuple[int, int], margin_pix: float, *, settings: SkySettings, rng: np.random.Generator
) -> Galaxies:
    """Discs and bulges; brighter ones are larger and have more bulge [guess]."""
    grid = np.arange(settings.galaxy_bright_mag, settings.galaxy_faint_mag + 1e-6, 0.05)
    counts = galaxy_counts_per_deg2(grid, settings)
    n = int(rng.poisson((counts[-1] - counts[0]) * _area_deg2(wcs, shape, margin_pix)))
    ra, dec = _draw_positions(wcs, shape, margin_pix, n, rng)
    mag = _draw_mags(counts, grid, n, rng)
    # Constant surface brightness would give 0.2 dex per mag; faint ones are farther, not only smaller.
    radius = settings.galaxy_radius_arcsec * 10 ** (-0.13 * (mag - 17.77) + rng.normal(0, 0.15, n))
    bulge_fraction = np.clip(rng.beta(1.2, 2.5, n), 0, 0.95)
    shear = np.minimum(np.abs(rng.normal(0, 0.22, n)), 0.6)
    angle = rng.uniform(0, np.pi, n)
    colour = settings.colour_slope * rng.normal(0.75, 0.2, n)
    return Galaxies(
        ra_deg=ra,
        dec_deg=dec,
        mag=mag,
        colour_mag=colour - (colour.mean() if n else 0.0),
        radius_arcsec=radius,
        bulge_fraction=bulge_fraction,
        bulge_sersic_n=rng.uniform(2.0, 4.0, n),
        bulge_radius_arcsec=BULGE_RADIUS * radius,
        shear1=shear * np.cos(2 * angle),
        shear2=shear * np.sin(2 * angle),
    )


def _as_points(galaxies: Galaxies) -> Glow:
    """Disc and bulge of every galaxy on spirals, each point with the light of its ring."""
    ra, dec, owner, share = [], [], [], []
    for i in range(len(galaxies.mag)):
        bulge = float(galaxies.bulge_fraction[i])
        for index, radius, fraction, roundness in (
            (1.0, float(galaxies.radius_arcsec[i]), 1 - bulge, 1.0),
            (float(galaxies.bulge_sersic_n[i]), float(galaxies.bulge_radius_arcsec[i]), bulge, 0.4),
        ):
            east, north, light = sersic_points(
                index,
                radius,
                shear1=roundness * float(galaxies.shear1[i]),
                shear2=roundness * float(galaxies.shear2[i]),
            )
            ra.append(galaxies.ra_deg[i] + east / 3600 / math.cos(math.radians(galaxies.dec_deg[i])))
            dec.append(galaxies.dec_deg[i] + north / 3600)
            owner.append(np.full(len(east), i))
            share.append(light * fraction)
    if not ra:
        return Glow(np.empty(0), np.empty(0), np.empty(0, int), np.empty(0))
    return Glow(*(np.concatenate(values) for values in (ra, dec, owner, share)))


def sersic_points(
    index: float, radius_arcsec: float, *, shear1: float, shear2: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A Sersic profile of unit flux as points on a sunflower spiral that is sparser outside.

    Parameters
    ----------
    index : float
        Sersic's n; 1 is exponential.
    radius_arcsec : float
        Half-light radius.
    shear1, shear2 : float
        Reduced shear, as GalSim's g1 and g2 with x to the east.

    Returns
    -------
    east_arcsec, north_arcsec, share : ndarray, shape (n,)
        Offsets from the centre. The light of every ring is exact; 6 (disc) or 30 half-light radii hold it.
    """
    # Of n = 4 there is 7 per cent beyond 8 half-light radii, and 1 beyond 30.
    reach, power = (6.0, 0.8) if index <= 1 else (30.0, 1.2)
    # A point or more per square arcsec inside, below the pixel, and fewer where it is faint; cusps need more.
    n = int(np.clip(20 * radius_arcsec**1.5, 40, 3000)) * (1 if index <= 1 else 3)
    edges = reach * radius_arcsec * (np.arange(n + 1) / n) ** power
    b = _half_light_b(index)
    inside = gammainc(2 * index, b * (edges / radius_arcsec) ** (1 / index))
    light = np.diff(inside) / inside[-1]
    radius = (edges[1:] + edges[:-1]) / 2
    angle = GOLDEN_ANGLE * np.arange(n)
    east, north = radius * np.cos(angle), radius * np.sin(angle)
    norm = 1 / math.sqrt(1 - shear1**2 - shear2**2)
    return (
        norm * ((1 + shear1) * east + shear2 * north),
        norm * (shear2 * east + (1 - shear1) * north),
        light,
    )


def _half_light_b(index: float) -> float:
    """Solves gammainc(2n, b) = 1/2 (Ciotti & Bertin 1999, eq. 18, to 1e-4 for n above 0.5)."""
    n = index
    return 2 * n - 1 / 3 + 4 / (405 * n) + 46 / (25515 * n**2) + 131 / (1148175 * n**3)
