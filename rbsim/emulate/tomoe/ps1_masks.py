"""What PS1 stacks have besides light: saturated cores, spikes, ghosts, gaps, holes, an over-subtracted sky.

All sizes are in arcsec, so that a fine grid and a coarse one get the same. Which bits go with what is
published; how large the masks are is not, and is a guess.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rbsim.emulate.tomoe.ps1_light import MOFFAT_BETA, Grid, moffat_alpha
from rbsim.emulate.tomoe.ps1_settings import Ps1Settings
from rbsim.emulate.tomoe.scene import Row
from rbsim.ps1.mask_bits import BITS

SENSOR_PIXEL_ARCSEC = 1.189
CLASS_MASK, CLASS_GALAXY = "mask_in_reference", "large_galaxy"
SPIKE_WIDTH_ARCSEC = 1.5
RAY_WIDTH_ARCSEC = 0.5
SPIKE_SHARE = 0.004
"""Of the star's light, in all its spikes."""
GHOST_RADIUS_ARCSEC, GHOST_SHARE, GHOST_CHANCE = 45.0, 2e-4, 0.5
SKY_CELL_ARCSEC = 100.0
"""The PS1 sky model has cells of 400 pixels."""
MIN_OVERSUBTRACTED_ARCSEC = 4.0


@dataclass(eq=False)
class Stack:
    """An image that is being made: light, mask, and the truth of both. Changed in place by this module.

    Attributes
    ----------
    light : ndarray, shape (ny, nx), float32
        Expected counts.
    mask : ndarray, shape (ny, nx), uint16
        `rbsim.ps1.mask_bits.BITS`.
    rows : list of Row
        Positions on the grid; strength in sensor pixels (masks) or magnitudes.
    """

    light: np.ndarray
    mask: np.ndarray
    rows: list[Row]


@dataclass(frozen=True, eq=False)
class Bright:
    """Stars bright enough to leave marks; arrays of shape (n,)."""

    x_pix: np.ndarray
    y_pix: np.ndarray
    mag: np.ndarray
    counts: np.ndarray


def saturation_radius_arcsec(mag: np.ndarray, fwhm_arcsec: float, settings: Ps1Settings) -> np.ndarray:
    """Where the profile of a star falls below the saturated surface brightness; 0 if it stays below."""
    alpha, usual = moffat_alpha(fwhm_arcsec), moffat_alpha(settings.fwhm_arcsec)
    over = 10 ** (0.4 * (settings.saturation_mag - np.asarray(mag, float))) * (usual / alpha) ** 2
    return alpha * np.sqrt(np.maximum(over ** (1 / MOFFAT_BETA) - 1, 0))


def mark_stars(
    stack: Stack,
    stars: Bright,
    grid: Grid,
    settings: Ps1Settings,
    *,
    fwhm_arcsec: float,
    rng: np.random.Generator,
) -> None:
    """Saturated cores with their rings, spikes and ghosts."""
    radius = saturation_radius_arcsec(stars.mag, fwhm_arcsec, settings)
    pixel = grid.pixel_arcsec
    for index in np.flatnonzero(radius > 0):
        x, y, core = stars.x_pix[index], stars.y_pix[index], float(radius[index])
        _disc(stack.mask, x, y, (2 * core + 1) / pixel, BITS["STARCORE"])
        _disc(stack.mask, x, y, (core + 1.0) / pixel, BITS["CONV.POOR"])
        _disc(stack.mask, x, y, (core + 0.5) / pixel, BITS["CONV.BAD"])
        if _disc(stack.mask, x, y, max(core / pixel, 0.7), BITS["SAT"]):
            area = np.pi * (core + 0.5) ** 2
            stack.rows.append(Row(CLASS_MASK, float(x), float(y), area / SENSOR_PIXEL_ARCSEC**2))
    for index in np.flatnonzero(stars.mag < settings.spike_mag):
        length = 12 * 10 ** (0.15 * (settings.spike_mag - stars.mag[index]))
        angle = rng.uniform(0, 90)
        for turn in (angle, angle + 90):
            _spike(stack, stars, int(index), length, turn, pixel)
    for index in np.flatnonzero(stars.mag < settings.ghost_mag):
        if rng.uniform() < GHOST_CHANCE:
            away, turn = rng.uniform(60, 240) / pixel, rng.uniform(0, 2 * np.pi)
            x = float(stars.x_pix[index] + away * np.cos(turn))
            y = float(stars.y_pix[index] + away * np.sin(turn))
            level = stars.counts[index] * GHOST_SHARE * pixel**2 / (np.pi * GHOST_RADIUS_ARCSEC**2)
            radius_pix = GHOST_RADIUS_ARCSEC / pixel
            if _disc(stack.mask, x, y, radius_pix, BITS["GHOST"], stack.light, float(level)):
                area = np.pi * GHOST_RADIUS_ARCSEC**2
                stack.rows.append(Row(CLASS_MASK, x, y, area / SENSOR_PIXEL_ARCSEC**2))


def _spike(
    stack: Stack, stars: Bright, index: int, length_arcsec: float, angle_deg: float, pixel: float
) -> None:
    """A line through a star, its light falling exponentially from the middle."""
    x0, y0 = float(stars.x_pix[index]), float(stars.y_pix[index])
    half, width = length_arcsec / pixel, SPIKE_WIDTH_ARCSEC / pixel
    bar = _bar(stack.mask.shape, x0, y0, half, width / 2, angle_deg)
    if bar is None:
        return
    box, inside, along = bar
    stack.mask[box][inside] |= np.uint16(BITS["SPIKE"])
    # Half of SPIKE_SHARE to each of the two lines; the integral over the line is that of the exponential.
    level = stars.counts[index] * SPIKE_SHARE / 2 / (2 * (half / 3) * width)
    stack.light[box][inside] += (level * np.exp(-3 * np.abs(along) / half))[inside].astype(np.float32)
    area = 2 * length_arcsec * SPIKE_WIDTH_ARCSEC / SENSOR_PIXEL_ARCSEC**2
    angle = float((angle_deg + 90) % 180 - 90)
    stack.rows.append(Row(CLASS_MASK, x0, y0, area, length_pix=2 * half, angle_deg=angle))


def mark_flaws(stack: Stack, grid: Grid, settings: Ps1Settings, *, rng: np.random.Generator) -> None:
    """Gaps without data, clusters lost to convolution, left-over cosmic rays, each at its rate."""
    pixel = grid.pixel_arcsec
    ny, nx = grid.shape
    area_deg2 = ny * nx * (pixel / 3600) ** 2

    def several(per_deg2: float, one: Callable[[float, float], float]) -> None:
        for _ in range(int(rng.poisson(per_deg2 * area_deg2))):
            x, y = rng.uniform(-0.5, nx - 0.5), rng.uniform(-0.5, ny - 0.5)
            area_arcsec2 = one(x, y)
            stack.rows.append(Row(CLASS_MASK, float(x), float(y), area_arcsec2 / SENSOR_PIXEL_ARCSEC**2))

    def gap(x: float, y: float) -> float:
        sides = rng.uniform(3, 15), rng.uniform(15, 120)
        height, width = sides if rng.uniform() < 0.5 else sides[::-1]
        rows = slice(max(round(y - height / pixel / 2), 0), max(round(y + height / pixel / 2), 0))
        columns = slice(max(round(x - width / pixel / 2), 0), max(round(x + width / pixel / 2), 0))
        stack.mask[rows, columns] |= np.uint16(BITS["BLANK"])
        return height * width

    def hole(x: float, y: float) -> float:
        radius = rng.uniform(0.3, 1.8)
        _disc(stack.mask, x, y, radius / pixel, BITS["CONV.BAD"])
        return float(np.pi * radius**2)

    def ray(x: float, y: float) -> float:
        half, turn_deg = (rng.exponential(1.5) + 0.3) / 2, rng.uniform(0, 180)
        bar = _bar(stack.mask.shape, x, y, half / pixel, RAY_WIDTH_ARCSEC / pixel / 2, turn_deg)
        if bar is not None:
            stack.mask[bar[0]][bar[1]] |= np.uint16(BITS["CR"])
        return 2 * half * RAY_WIDTH_ARCSEC

    several(settings.gaps_per_deg2, gap)
    several(settings.holes_per_deg2, hole)
    several(settings.cosmic_rays_per_deg2, ray)


def oversubtract_sky(
    stack: Stack,
    x_pix: np.ndarray,
    y_pix: np.ndarray,
    counts: np.ndarray,
    radius_arcsec: np.ndarray,
    grid: Grid,
    settings: Ps1Settings,
) -> None:
    """Take away the part of large galaxies' light that the sky model had followed.

    The model has cells of 100", so it takes a broad Gaussian; the share grows with the galaxy's size over
    that of a cell, to `oversubtraction`. The rows have strength 2.5 log10 of the share, in magnitudes.
    """
    pixel = grid.pixel_arcsec
    sigma = SKY_CELL_ARCSEC / 2 / pixel
    share = settings.oversubtraction * (1 - np.exp(-((np.asarray(radius_arcsec) / 20.0) ** 2)))
    large = np.flatnonzero((np.asarray(radius_arcsec) > MIN_OVERSUBTRACTED_ARCSEC) & (share > 0))
    for index in large:
        x, y = float(x_pix[index]), float(y_pix[index])
        box = _box(stack.mask.shape, x, y, 3 * sigma)
        if box is None:
            continue
        along_y, along_x = np.arange(box[0].start, box[0].stop), np.arange(box[1].start, box[1].stop)
        profile_y, profile_x = (
            np.exp(-0.5 * ((at - centre) / sigma) ** 2) for at, centre in ((along_y, y), (along_x, x))
        )
        level = counts[index] * share[index] / (2 * np.pi * sigma**2)
        stack.light[box] -= (level * profile_y[:, None] * profile_x).astype(np.float32)
        if 0 <= x < stack.mask.shape[1] and 0 <= y < stack.mask.shape[0]:
            stack.rows.append(Row(CLASS_GALAXY, x, y, float(2.5 * np.log10(share[index]))))


def _box(shape: tuple[int, ...], x: float, y: float, reach: float) -> tuple[slice, slice] | None:
    """Rows and columns within `reach` of a position, on the image; None if there are none."""
    low_y, high_y = max(int(np.floor(y - reach)), 0), min(int(np.ceil(y + reach)) + 1, shape[0])
    low_x, high_x = max(int(np.floor(x - reach)), 0), min(int(np.ceil(x + reach)) + 1, shape[1])
    if low_y >= high_y or low_x >= high_x:
        return None
    return slice(low_y, high_y), slice(low_x, high_x)


def _bar(
    shape: tuple[int, ...], x: float, y: float, half_length: float, half_width: float, angle_deg: float
) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray] | None:
    """Box, pixels in it that lie on a bar, and their distance along it; None if there are none."""
    box = _box(shape, x, y, half_length + half_width)
    if box is None:
        return None
    cos, sin = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    at_y, at_x = np.ogrid[box]
    along, across = (at_x - x) * cos + (at_y - y) * sin, (at_y - y) * cos - (at_x - x) * sin
    inside = (np.abs(along) < half_length) & (np.abs(across) < half_width)
    return (box, inside, along) if inside.any() else None


def _disc(
    mask: np.ndarray,
    x: float,
    y: float,
    radius_pix: float,
    bit: int,
    light: np.ndarray | None = None,
    level: float = 0.0,
) -> bool:
    """Set a bit within a radius, and add light there; whether any pixel was met."""
    box = _box(mask.shape, x, y, radius_pix)
    if box is None:
        return False
    at_y, at_x = np.ogrid[box]
    inside = (at_y - y) ** 2 + (at_x - x) ** 2 < radius_pix**2
    mask[box][inside] |= np.uint16(bit)
    if light is not None:
        light[box][inside] += np.float32(level)
    return bool(inside.any())
