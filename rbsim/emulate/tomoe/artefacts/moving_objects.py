"""Near-Earth objects that trail during an exposure."""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from rbsim.emulate.tomoe.artefacts.draws import electrons_per_frame, log_uniform, magnitudes, places
from rbsim.emulate.tomoe.artefacts.motion import Motion, row_of, trail
from rbsim.emulate.tomoe.scene import Flash, Layer, Row, Scene


@dataclass(frozen=True)
class MovingObjectConfig:
    """See the table of this class in ``catalogs/artefacts.toml``."""

    rate_factor: float
    per_deg2: float
    bright_mag: float
    faint_mag: float
    slope_dex_per_mag: float
    speed_low_arcsec_per_s: float
    speed_high_arcsec_per_s: float


def moving_objects(scene: Scene, config: MovingObjectConfig, *, rng: np.random.Generator) -> Layer:
    """Trails of the length speed times exposure, absent in every reference.

    Their light is real: they are in the truth table as well (`rbsim.emulate.tomoe.truth.trail_rows`). Slower
    ones look like points and are among the night's other transients.

    Parameters
    ----------
    scene : Scene
    config : MovingObjectConfig
    rng : numpy.random.Generator

    Returns
    -------
    Layer
        Flashes in every frame; one row per object, whose strength is the light of the whole stack that
        falls on the sensor.
    """
    area_deg2 = scene.shape[0] * scene.shape[1] * (scene.pixel_scale_arcsec / 3600) ** 2
    n = rng.poisson(config.rate_factor * config.per_deg2 * area_deg2)
    x, y = places(scene.shape, rng, n)
    angle = rng.uniform(0, 2 * np.pi, n)
    speed = log_uniform(rng, config.speed_low_arcsec_per_s, config.speed_high_arcsec_per_s, n)
    speed /= scene.pixel_scale_arcsec
    mag = magnitudes(rng, config, n)
    light = electrons_per_frame(mag, scene.zero_point_e_mag)
    middle_s = scene.n_frames * scene.frame_s / 2
    flashes: list[Flash] = []
    rows: list[Row] = []
    for i in range(n):
        vx, vy = speed[i] * math.cos(angle[i]), speed[i] * math.sin(angle[i])
        body = Motion(x[i] - vx * middle_s, y[i] - vy * middle_s, vx, vy, light[i] / scene.frame_s)
        drawn, parts = trail(body, scene)
        flashes += drawn
        if parts:
            row = row_of("moving_object", body, parts[0][1], parts[-1][2], strength=body.e_per_s, frame=-1)
            seconds = sum(end - start for _, start, end in parts)
            arrives = float(scene.throughput_at(np.array(row.x_pix), np.array(row.y_pix)))
            rows.append(dataclasses.replace(row, strength=row.strength * seconds * arrives))
    return Layer(tuple(rows), flashes=tuple(flashes))
