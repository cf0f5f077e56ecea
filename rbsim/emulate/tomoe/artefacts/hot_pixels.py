"""Pixels that leak more charge than the dark frame takes away."""

import math
from dataclasses import dataclass

import numpy as np

from rbsim.emulate.tomoe.artefacts.draws import log_uniform, pixels
from rbsim.emulate.tomoe.artefacts.expected import NoiseConfig, pixel_snr_of
from rbsim.emulate.tomoe.artefacts.spill import spilt
from rbsim.emulate.tomoe.scene import Layer, Row, Scene


@dataclass(frozen=True)
class HotPixelConfig:
    """See the table of this class in ``catalogs/artefacts.toml``."""

    rate_factor: float
    per_mpix: float
    leak_low_e_per_s: float
    leak_high_e_per_s: float
    leak_at_k: float
    doubling_k: float
    night_drift_k: float
    exposure_drift_k: float
    spill_most: float


def hot_pixels(
    scene: Scene,
    config: HotPixelConfig,
    noise: NoiseConfig,
    *,
    sensor_rng: np.random.Generator,
    rng: np.random.Generator,
) -> Layer:
    """Leakage at the sensor's temperature minus that at which its dark frame was taken.

    The sensor is not cooled, and the dark current doubles every 4.2 K (tomoe-facts, section 1): what the
    dark frame leaves is of one sign on all pixels of an exposure, plus the shot noise of each pixel's
    own leakage.

    Parameters
    ----------
    scene : Scene
    config : HotPixelConfig
    noise : NoiseConfig
    sensor_rng : numpy.random.Generator
        The same stream for every exposure of a sensor: which pixels, how leaky, the dark frame of the night.
    rng : numpy.random.Generator
        The exposure's own.

    Returns
    -------
    Layer
        Impacts in every frame. A row's strength is its charge in the whole stack; pixels that a
        filter for points sees below `NoiseConfig.least_snr` have none.
    """
    n = round(config.rate_factor * config.per_mpix * scene.shape[0] * scene.shape[1] / 1e6)
    y, x = pixels(scene.shape, sensor_rng, n)
    leak = log_uniform(sensor_rng, config.leak_low_e_per_s, config.leak_high_e_per_s, n)
    share = sensor_rng.uniform(0, config.spill_most, n)
    drift = config.night_drift_k * sensor_rng.normal() + config.exposure_drift_k * rng.normal()
    now, then = (
        leak * scene.frame_s * math.pow(2, (kelvin - config.leak_at_k) / config.doubling_k)
        for kelvin in (scene.temperature_k, scene.temperature_k - drift)
    )
    charge = rng.poisson(now, (scene.n_frames, n)) - then
    every = scene.n_frames
    impacts = spilt(
        scene.shape,
        np.repeat(np.arange(every), n),
        np.tile(y, every),
        np.tile(x, every),
        charge.ravel(),
        np.tile(share, every),
    )
    total = charge.sum(axis=0)
    seen = np.flatnonzero(np.abs(pixel_snr_of(scene, noise, total)) >= noise.least_snr)
    rows = tuple(Row("hot_pixel", float(x[i]), float(y[i]), float(total[i])) for i in seen)
    return Layer(rows, impacts=impacts)
