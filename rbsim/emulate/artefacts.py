"""Light and holes that are not in the sky; every function returns them with one truth row per instance."""

import math
from dataclasses import dataclass

import galsim
import numpy as np
from scipy import ndimage

from rbsim.emulate.optics import add_profile

STRENGTHS = {
    "hot_pixel": "charge in electrons",
    "flicker_pixel": "charge in electrons, negative if the pixel jumped down",
    "cosmic_ray": "charge in electrons",
    "bad_column": "charge in electrons per pixel",
    "satellite_streak": "peak in electrons per pixel; the position is the middle of what is inside",
    "colour_residual": "flux in science over flux in reference, minus 1",
    "dipole": "shift between reference and science in pixels",
    "mask_in_reference": "number of pixels, negative where they are filled with sky instead of NaN",
}
"""Artefact classes, and what ``strength`` means for each."""
LOBE = 0.34
"""For a Moffat PSF of beta 3 on pixels; a Gaussian correlated with itself has 0.61 / sqrt(2)."""


@dataclass(frozen=True)
class ArtefactConfig:
    """How much of everything; densities are per 10^6 pixels, numbers per frame or reference."""

    hot_per_mpix: float
    hot_low_e: float
    hot_high_e: float
    crosstalk_most: float
    flicker_per_mpix: float
    flicker_low_e: float
    flicker_high_e: float
    flicker_on_fraction: float
    cosmic_ray_per_mpix: float
    cosmic_ray_low_e: float
    cosmic_ray_high_e: float
    cosmic_ray_length_pix: float
    cosmic_ray_sigma_low_pix: float
    cosmic_ray_sigma_high_pix: float
    streak_probability: float
    streak_low_e: float
    streak_high_e: float
    bad_columns: int
    bad_column_length_pix: int
    bad_column_low_e: float
    bad_column_high_e: float
    residual_sigma: float
    dead_areas: int
    dead_filled_fraction: float
    dead_radius_low_pix: float
    dead_radius_high_pix: float
    dead_on_star_fraction: float


@dataclass(frozen=True)
class Row:
    """One instance of an artefact; 0-based position in its frame, of a line that of its middle.

    `length_pix` and `angle_deg` (from +x towards +y) are those of lines, NaN for everything else.
    """

    artefact: str
    x_pix: float
    y_pix: float
    strength: float
    length_pix: float = math.nan
    angle_deg: float = math.nan


@dataclass(frozen=True, eq=False)
class Layer:
    """Charge to be added to the expected electrons of a frame, shape (ny, nx), and what it holds."""

    electrons: np.ndarray
    rows: list[Row]


def _log_uniform(rng: np.random.Generator, low: float, high: float, n: int) -> np.ndarray:
    return np.exp(rng.uniform(math.log(low), math.log(high), n))


def _pixels(shape: tuple[int, int], rng: np.random.Generator, n: int) -> np.ndarray:
    """Positions (2, n) of different pixels, as x and y."""
    flat = rng.choice(shape[0] * shape[1], size=n, replace=False)
    return np.stack([flat % shape[1], flat // shape[1]])


def _spill(electrons: np.ndarray, x: int, y: int, charge_e: float, crosstalk: float) -> None:
    """Add a charge (in place) of which each of the four neighbours gets the fraction `crosstalk`."""
    ny, nx = electrons.shape
    electrons[y, x] += charge_e * (1 - 4 * crosstalk)
    for y_next, x_next in ((y, x - 1), (y, x + 1), (y - 1, x), (y + 1, x)):
        if 0 <= y_next < ny and 0 <= x_next < nx:
            electrons[y_next, x_next] += charge_e * crosstalk


def hot_pixels(shape: tuple[int, int], *, config: ArtefactConfig, rng: np.random.Generator) -> Layer:
    """Pixels that leak the same charge in every exposure, beyond what the dark frame took away.

    Give the same `rng` stream for every frame: they belong to the detector.
    """
    n = round(config.hot_per_mpix * shape[0] * shape[1] / 1e6)
    x, y = _pixels(shape, rng, n)
    charge = _log_uniform(rng, config.hot_low_e, config.hot_high_e, n)
    crosstalk = rng.uniform(0, config.crosstalk_most, n)
    electrons = np.zeros(shape)
    for i in range(n):
        _spill(electrons, x[i], y[i], charge[i], crosstalk[i])
    rows = [Row("hot_pixel", float(x[i]), float(y[i]), float(charge[i])) for i in range(n)]
    return Layer(electrons, rows)


def flicker_pixels(
    shape: tuple[int, int],
    *,
    config: ArtefactConfig,
    detector_rng: np.random.Generator,
    rng: np.random.Generator,
) -> Layer:
    """Random telegraph noise: pixels that jump up or down by their own step in some exposures.

    Correlated double sampling turns a jump between the two samples into a positive or a negative
    step, hence three levels (tomoe-facts, section 1).

    Parameters
    ----------
    shape : tuple of int
    config : ArtefactConfig
    detector_rng : numpy.random.Generator
        The same stream for every frame: which pixels and which steps.
    rng : numpy.random.Generator
        The frame's own stream: which of them jump, and where to.
    """
    n = round(config.flicker_per_mpix * shape[0] * shape[1] / 1e6)
    x, y = _pixels(shape, detector_rng, n)
    step = _log_uniform(detector_rng, config.flicker_low_e, config.flicker_high_e, n)
    crosstalk = detector_rng.uniform(0, config.crosstalk_most, n)
    on = rng.random(n) < config.flicker_on_fraction
    charge = step * on * rng.choice([-1, 1], n)
    electrons = np.zeros(shape)
    for i in np.flatnonzero(on):
        _spill(electrons, x[i], y[i], charge[i], crosstalk[i])
    rows = [Row("flicker_pixel", float(x[i]), float(y[i]), float(charge[i])) for i in np.flatnonzero(on)]
    return Layer(electrons, rows)


def cosmic_rays(shape: tuple[int, int], *, config: ArtefactConfig, rng: np.random.Generator) -> Layer:
    """Short irregular tracks of charge, some of them spread by diffusion to almost the PSF's width."""
    ny, nx = shape
    canvas = galsim.ImageD(nx, ny, init_value=0)
    rows = []
    n = rng.poisson(config.cosmic_ray_per_mpix * nx * ny / 1e6)
    charge = _log_uniform(rng, config.cosmic_ray_low_e, config.cosmic_ray_high_e, n)
    for i in range(n):
        x, y, angle = rng.uniform(0, nx - 1), rng.uniform(0, ny - 1), rng.uniform(0, np.pi)
        length = min(rng.exponential(config.cosmic_ray_length_pix), 5.0)
        sigma = rng.uniform(config.cosmic_ray_sigma_low_pix, config.cosmic_ray_sigma_high_pix)
        along = length * np.linspace(-0.5, 0.5, math.ceil(length) + 1)
        share = rng.dirichlet(np.ones(len(along)))
        for distance, part in zip(along, share, strict=True):
            blob = galsim.Gaussian(sigma=sigma, flux=charge[i] * part)
            add_profile(
                canvas, blob, x + distance * math.cos(angle), y + distance * math.sin(angle), half_pix=6
            )
        rows.append(Row("cosmic_ray", x, y, float(charge[i])))
    return Layer(canvas.array, rows)


def bad_columns(
    shape: tuple[int, int],
    *,
    config: ArtefactConfig,
    detector_rng: np.random.Generator,
    rng: np.random.Generator,
) -> Layer:
    """Segments of columns with an offset that wanders by a fifth from frame to frame."""
    ny, nx = shape
    electrons, rows = np.zeros(shape), []
    length = min(config.bad_column_length_pix, ny)
    for _ in range(config.bad_columns):
        x, start = int(detector_rng.integers(nx)), int(detector_rng.integers(ny - length + 1))
        typical = _log_uniform(detector_rng, config.bad_column_low_e, config.bad_column_high_e, 1)[0]
        offset = float(typical * (1 + 0.2 * rng.normal()))
        electrons[start : start + length, x] += offset
        rows.append(Row("bad_column", float(x), start + (length - 1) / 2, offset, float(length), 90.0))
    return Layer(electrons, rows)


def satellite_streak(
    shape: tuple[int, int], *, fwhm_pix: float, config: ArtefactConfig, rng: np.random.Generator
) -> Layer:
    """With `streak_probability`, a line as wide as the PSF whose brightness may pulse as the body tumbles."""
    ny, nx = shape
    if rng.random() >= config.streak_probability:
        return Layer(np.zeros(shape), [])
    angle, x0, y0 = rng.uniform(0, np.pi), rng.uniform(0, nx - 1), rng.uniform(0, ny - 1)
    peak = float(_log_uniform(rng, config.streak_low_e, config.streak_high_e, 1)[0])
    depth, period, phase = rng.uniform(0, 1), rng.uniform(15, 120), rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:ny, :nx]
    along = (x - x0) * math.cos(angle) + (y - y0) * math.sin(angle)
    across = (y - y0) * math.cos(angle) - (x - x0) * math.sin(angle)
    pulse = 1 - depth * (0.5 + 0.5 * np.sin(2 * np.pi * along / period + phase))
    sigma = fwhm_pix / 2.355
    line = np.exp(-0.5 * (across / sigma) ** 2)
    inside = np.abs(across) < 0.5
    row = Row(
        "satellite_streak",
        float(x[inside].mean()),
        float(y[inside].mean()),
        peak,
        length_pix=float(np.ptp(along[inside])) + 1,
        angle_deg=math.degrees(angle),
    )
    return Layer(peak * pulse * line, [row])


def star_residuals(
    shape: tuple[int, int],
    x_pix: np.ndarray,
    y_pix: np.ndarray,
    *,
    flux_e: np.ndarray,
    flux_ratio: np.ndarray,
    shift_pix: np.ndarray,
    fwhm_pix: float,
    noise_e: float,
    config: ArtefactConfig,
) -> list[Row]:
    """Stars that differ between science and reference by more than `residual_sigma`.

    A matched filter sees a star that moved by d as a lobe of `LOBE` d / sigma_psf of its flux. The star's
    own photons count as noise.

    Parameters
    ----------
    shape : tuple of int
    x_pix, y_pix, flux_e, flux_ratio, shift_pix : ndarray, shape (n,)
        The stars in the science frame, and how they have changed.
    fwhm_pix : float
    noise_e : float
        Standard error of a faint point source's flux in electrons.
    config : ArtefactConfig
    """
    inside = (x_pix > -0.5) & (x_pix < shape[1] - 0.5) & (y_pix > -0.5) & (y_pix < shape[0] - 0.5)
    limit = config.residual_sigma * np.sqrt(noise_e**2 + flux_e)
    lobe = LOBE * shift_pix / (fwhm_pix / 2.355)
    coloured = inside & (flux_e * np.abs(flux_ratio - 1) > limit)
    moved = inside & (flux_e * lobe > limit)
    rows = [
        Row("colour_residual", float(x_pix[i]), float(y_pix[i]), float(flux_ratio[i] - 1))
        for i in np.flatnonzero(coloured)
    ]
    rows += [
        Row("dipole", float(x_pix[i]), float(y_pix[i]), float(shift_pix[i])) for i in np.flatnonzero(moved)
    ]
    return rows


def mask_in_reference(
    reference: np.ndarray,
    x_star_pix: np.ndarray,
    y_star_pix: np.ndarray,
    *,
    config: ArtefactConfig,
    rng: np.random.Generator,
) -> tuple[np.ndarray, list[Row]]:
    """Holes in the reference: grown saturated cores, and dead areas, some with a star inside.

    Parameters
    ----------
    reference : ndarray, shape (ny, nx)
        NaN in saturated cores.
    x_star_pix, y_star_pix : ndarray, shape (n,)
        Stars on which a dead area may lie.
    config : ArtefactConfig
    rng : numpy.random.Generator

    Returns
    -------
    image : ndarray, shape (ny, nx)
        A copy with NaN in the holes; a part of the dead areas is filled with the sky level instead, as
        stacks often are, so that the star inside looks like a new one.
    rows : list of Row
    """
    ny, nx = reference.shape
    image = reference.copy()
    y, x = np.mgrid[:ny, :nx]
    sky = float(np.nanmedian(reference))
    saturated = ndimage.binary_dilation(np.isnan(reference), iterations=2)
    image[saturated] = np.nan
    cores, n_cores = ndimage.label(saturated)
    rows = []
    for core in range(1, n_cores + 1):
        y_core, x_core = np.nonzero(cores == core)
        rows.append(Row("mask_in_reference", float(x_core.mean()), float(y_core.mean()), float(len(x_core))))
    inside = np.flatnonzero(
        (x_star_pix > 0) & (x_star_pix < nx - 1) & (y_star_pix > 0) & (y_star_pix < ny - 1)
    )
    for _ in range(config.dead_areas):
        x0, y0 = rng.uniform(0, nx - 1), rng.uniform(0, ny - 1)
        if rng.random() < config.dead_on_star_fraction and len(inside):
            star = rng.choice(inside)
            x0, y0 = x_star_pix[star] + rng.normal(), y_star_pix[star] + rng.normal()
        radius = rng.uniform(config.dead_radius_low_pix, config.dead_radius_high_pix)
        is_filled = rng.random() < config.dead_filled_fraction
        hole = np.hypot(x - x0, y - y0) < radius
        image[hole] = sky if is_filled else np.nan
        rows.append(
            Row("mask_in_reference", float(x0), float(y0), float(hole.sum()) * (-1 if is_filled else 1))
        )
    return image, rows
