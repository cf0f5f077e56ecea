"""Charged particles through the silicon: a short track in one single frame."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import erf

from rbsim.emulate.tomoe.artefacts.draws import log_uniform, places
from rbsim.emulate.tomoe.scene import Impacts, Layer, Row, Scene

HALF_PIX = 4
"""The charge around a point of the track is followed this far."""
POINTS_PER_PIX = 2


@dataclass(frozen=True)
class CosmicRayConfig:
    """See the table of this class in ``catalogs/artefacts.toml``."""

    rate_factor: float
    per_cm2_minute: float
    pixel_um: float
    depth_um: float
    least_cos: float
    e_per_um: float
    longest_pix: float
    diffusion_low_pix: float
    diffusion_high_pix: float
    least_row_e: float


def cosmic_rays(scene: Scene, config: CosmicRayConfig, *, rng: np.random.Generator) -> Layer:
    """Tracks of particles that come from zenith angles theta with a density of ``cos^2``.

    A track through a sensitive layer of depth d is ``d tan(theta)`` long and holds ``d / cos(theta)``
    times the charge per micrometre, unevenly (Landau tail: each part of the track has its own share).
    The charge diffuses a little on its way to the pixels.

    Parameters
    ----------
    scene : Scene
    config : CosmicRayConfig
    rng : numpy.random.Generator

    Returns
    -------
    Layer
        Impacts in one frame per track; a row's strength is its charge. Tracks below `least_row_e` have
        charge but no row.
    """
    ny, nx = scene.shape
    area_cm2 = ny * nx * (config.pixel_um * 1e-4) ** 2
    minutes = scene.n_frames * scene.frame_s / 60
    n = rng.poisson(config.rate_factor * config.per_cm2_minute * area_cm2 * minutes)
    x, y = places(scene.shape, rng, n)
    frame = rng.integers(scene.n_frames, size=n)
    # Particles through a horizontal area: cos^2 times the projected area cos times the solid angle.
    cos = np.maximum(rng.random(n) ** 0.25, config.least_cos)
    tan = np.sqrt(1 / cos**2 - 1)
    length = np.minimum(config.depth_um * tan / config.pixel_um, config.longest_pix)
    # The most probable loss, with a tail to several times as much.
    charge = config.e_per_um * config.depth_um / cos * (1 + 0.3 * rng.exponential(size=n) ** 2)
    angle = rng.uniform(0, 2 * np.pi, n)
    sigma = log_uniform(rng, config.diffusion_low_pix, config.diffusion_high_pix, n)
    parts = [
        _track(scene.shape, int(frame[i]), x[i], y[i], charge[i], length[i], angle[i], sigma[i], rng=rng)
        for i in range(n)
    ]
    none = np.empty(0, int), np.empty(0, int), np.empty(0, int), np.empty(0)
    impacts = Impacts(*(np.concatenate(values) for values in zip(none, *parts, strict=True)))
    rows = tuple(
        Row("cosmic_ray", float(x[i]), float(y[i]), float(charge[i]), frame=int(frame[i]))
        for i in np.flatnonzero(charge >= config.least_row_e)
    )
    return Layer(rows, impacts=impacts)


def _track(
    shape: tuple[int, int],
    frame: int,
    x_pix: float,
    y_pix: float,
    charge_e: float,
    length_pix: float,
    angle: float,
    sigma_pix: float,
    *,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Frame, row, column and charge of the pixels of one track, whole electrons."""
    along = length_pix * np.linspace(-0.5, 0.5, math.ceil(POINTS_PER_PIX * length_pix) + 1)
    share = rng.dirichlet(np.ones(len(along)))
    half = HALF_PIX + math.ceil(length_pix / 2)
    x0, y0 = round(x_pix) - half, round(y_pix) - half
    edges = np.arange(2 * half + 2) - 0.5
    profile_x, profile_y = (
        np.diff(erf((edges - at[:, None]) / (math.sqrt(2) * sigma_pix)), axis=1) / 2
        for at in (x_pix - x0 + along * math.cos(angle), y_pix - y0 + along * math.sin(angle))
    )
    stamp = np.rint(charge_e * np.einsum("i,ij,ik->jk", share, profile_y, profile_x))
    rows, columns = np.nonzero(stamp)
    y, x = rows + y0, columns + x0
    keep = (y >= 0) & (y < shape[0]) & (x >= 0) & (x < shape[1])
    return np.full(keep.sum(), frame), y[keep], x[keep], stamp[rows, columns][keep]
