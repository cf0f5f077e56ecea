"""Reflections of bright stars between window, cover glass and corrector: soft rings of light."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from rbsim.emulate.tomoe.artefacts.draws import log_uniform
from rbsim.emulate.tomoe.artefacts.expected import (
    NoiseConfig,
    least_wide_snr,
    pixel_noise_e,
    plateau_snr_of,
)
from rbsim.emulate.tomoe.scene import Layer, Row, Scene


@dataclass(frozen=True)
class GhostConfig:
    """See the table of this class in ``catalogs/artefacts.toml``."""

    rate_factor: float
    share_low: float
    share_high: float
    radius_low_pix: float
    radius_high_pix: float
    hole: float
    magnification: float
    centre_scatter_pix: float
    halo_share: float
    halo_radius_pix: float
    edge_pix: float
    least_noise_share: float


def ghosts(
    scene: Scene, config: GhostConfig, noise: NoiseConfig, *, sensor_rng: np.random.Generator
) -> Layer:
    """One out-of-focus pupil per bright star, opposite to it, and a ring around the star itself.

    A reflection off two surfaces makes an image that is not in focus: the pupil with the hole of the
    prime focus. It lies at ``centre + magnification * (star - centre)``, with a negative magnification:
    it moves against the star. The centre of that is somewhere near the sensor, as are radius and share
    the same all night.

    Parameters
    ----------
    scene : Scene
    config : GhostConfig
        ``rate_factor`` scales both shares: every star has its ghosts.
    noise : NoiseConfig
    sensor_rng : numpy.random.Generator
        The same stream for every exposure of a sensor.

    Returns
    -------
    Layer
        Steady electrons. A row's strength is the light per pixel in the whole stack, its length the
        diameter. Ghosts fainter per pixel than `least_noise_share` of a pixel's noise are not drawn; those
        that are too faint to be detected anywhere have no row.
    """
    ny, nx = scene.shape
    centre = np.array([nx / 2, ny / 2]) + config.centre_scatter_pix * sensor_rng.normal(size=2)
    share = log_uniform(sensor_rng, config.share_low, config.share_high, 1)[0]
    radius = log_uniform(sensor_rng, config.radius_low_pix, config.radius_high_pix, 1)[0]
    steady, rows, any_drawn = np.zeros(scene.shape), [], False
    for part, size, magnification in (
        (share, radius, config.magnification),
        (config.halo_share, config.halo_radius_pix, 1.0),
    ):
        area = math.pi * size**2 * (1 - config.hole**2)
        level = config.rate_factor * part * scene.star_e / area
        least = config.least_noise_share * pixel_noise_e(scene, noise) / scene.n_frames
        n_places = np.array(area / scene.psf.fwhm_pix**2)
        seen = plateau_snr_of(scene, noise, level * scene.n_frames) >= least_wide_snr(noise, n_places)
        for i in np.flatnonzero(level > least):
            x, y = centre + magnification * (np.array([scene.star_x_pix[i], scene.star_y_pix[i]]) - centre)
            is_on = _add_ring(steady, x, y, level[i], size, config=config)
            any_drawn |= is_on
            if is_on and seen[i]:
                rows.append(
                    Row(
                        "ghost",
                        float(x),
                        float(y),
                        float(level[i]) * scene.n_frames,
                        length_pix=2 * float(size),
                    )
                )
    return Layer(tuple(rows), steady_e=steady if any_drawn else None)


def _add_ring(
    steady: np.ndarray, x: float, y: float, level: float, radius: float, *, config: GhostConfig
) -> bool:
    """Add a soft-edged ring (in place); whether any of it is on the sensor."""
    reach = math.ceil(radius + 4 * config.edge_pix)
    x0, x1 = max(math.floor(x) - reach, 0), min(math.ceil(x) + reach + 1, steady.shape[1])
    y0, y1 = max(math.floor(y) - reach, 0), min(math.ceil(y) + reach + 1, steady.shape[0])
    if x0 >= x1 or y0 >= y1:
        return False
    distance = np.hypot(np.arange(y0, y1)[:, None] - y, np.arange(x0, x1)[None, :] - x)
    ring = ((distance < radius) & (distance > config.hole * radius)).astype(float)
    steady[y0:y1, x0:x1] += level * ndimage.gaussian_filter(ring, config.edge_pix)
    return True
