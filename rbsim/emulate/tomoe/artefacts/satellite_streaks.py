"""Satellites in low orbits that cross the sensor within a second or two."""

import math
from dataclasses import dataclass

import numpy as np

from rbsim.emulate.tomoe.artefacts.draws import electrons_per_frame, log_uniform, magnitudes, places
from rbsim.emulate.tomoe.artefacts.motion import Motion, row_of, trail
from rbsim.emulate.tomoe.scene import Flash, Layer, Row, Scene


@dataclass(frozen=True)
class SatelliteStreakConfig:
    """See the table of this class in ``catalogs/artefacts.toml``."""

    rate_factor: float
    per_exposure: float
    bright_mag: float
    faint_mag: float
    slope_dex_per_mag: float
    speed_low_arcsec_per_s: float
    speed_high_arcsec_per_s: float
    depth_most: float
    period_low_s: float
    period_high_s: float


def satellite_streaks(scene: Scene, config: SatelliteStreakConfig, *, rng: np.random.Generator) -> Layer:
    """Lines as wide as the PSF, cut into single frames by the rolling shutter, pulsing as the body tumbles.

    Parameters
    ----------
    scene : Scene
    config : SatelliteStreakConfig
        ``per_exposure``: mean number on a sensor of 2000 x 1128 px in 8.5 s; it scales with the time and
        the shorter side of `scene`.
    rng : numpy.random.Generator

    Returns
    -------
    Layer
        Flashes; one row per streak and single frame, whose strength is the light per pixel of length.
    """
    minutes = scene.n_frames * scene.frame_s / 8.5
    # A line meets a convex area as often as the area's perimeter is long (Cauchy).
    n = rng.poisson(config.rate_factor * config.per_exposure * minutes * sum(scene.shape) / 3128)
    x, y = places(scene.shape, rng, n)
    time = rng.uniform(0, scene.n_frames * scene.frame_s, n)
    angle = rng.uniform(0, 2 * np.pi, n)
    speed = log_uniform(rng, config.speed_low_arcsec_per_s, config.speed_high_arcsec_per_s, n)
    speed /= scene.pixel_scale_arcsec
    mag = magnitudes(rng, config, n)
    light = electrons_per_frame(mag, scene.zero_point_e_mag) / scene.frame_s
    depth, phase = rng.uniform(0, config.depth_most, n), rng.random(n)
    period = log_uniform(rng, config.period_low_s, config.period_high_s, n)
    flashes: list[Flash] = []
    rows: list[Row] = []
    for i in range(n):
        vx, vy = speed[i] * math.cos(angle[i]), speed[i] * math.sin(angle[i])
        body = Motion(
            x[i] - vx * time[i], y[i] - vy * time[i], vx, vy, light[i], depth[i], period[i], phase[i]
        )
        drawn, parts = trail(body, scene)
        flashes += drawn
        for frame, start, end in parts:
            arrives = float(scene.throughput_at(*(np.array(at) for at in body.at((start + end) / 2))))
            strength = float(light[i] / speed[i]) * arrives
            rows.append(row_of("satellite_streak", body, start, end, strength=strength, frame=frame))
    return Layer(tuple(rows), flashes=tuple(flashes))
