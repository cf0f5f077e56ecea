"""Random telegraph noise: pixels that jump between two levels."""

from dataclasses import dataclass

import numpy as np

from rbsim.emulate.tomoe.artefacts.draws import log_uniform, pixels
from rbsim.emulate.tomoe.artefacts.expected import NoiseConfig, pixel_snr_of
from rbsim.emulate.tomoe.artefacts.spill import spilt
from rbsim.emulate.tomoe.scene import Layer, Row, Scene


@dataclass(frozen=True)
class FlickerPixelConfig:
    """See the table of this class in ``catalogs/artefacts.toml``."""

    rate_factor: float
    per_mpix: float
    step_low_e: float
    step_high_e: float
    jump_low: float
    jump_high: float


def flicker_pixels(
    scene: Scene,
    config: FlickerPixelConfig,
    noise: NoiseConfig,
    *,
    sensor_rng: np.random.Generator,
    rng: np.random.Generator,
) -> Layer:
    """Pixels whose level was different at the two samples of some single frames.

    Correlated double sampling subtracts a sample after the reset from one after the exposure. A trap
    that changed in between adds or takes its step, one that did not adds nothing: three levels, symmetric
    about zero (the 3-Gaussian model of tomoe-facts, section 1).

    Parameters
    ----------
    scene : Scene
    config : FlickerPixelConfig
        ``jump_low``, ``jump_high``: between these lies a pixel's probability of a jump per frame.
    noise : NoiseConfig
    sensor_rng : numpy.random.Generator
        The same stream for every exposure of a sensor: which pixels, their steps and probabilities.
    rng : numpy.random.Generator
        The exposure's own.

    Returns
    -------
    Layer
        Impacts of either sign in single frames. A row's strength is the sum over the stack; pixels that
        a filter for points sees below `NoiseConfig.least_snr` have none.
    """
    n = round(config.rate_factor * config.per_mpix * scene.shape[0] * scene.shape[1] / 1e6)
    y, x = pixels(scene.shape, sensor_rng, n)
    step = log_uniform(sensor_rng, config.step_low_e, config.step_high_e, n)
    probability = log_uniform(sensor_rng, config.jump_low, config.jump_high, n)
    jump = rng.choice([-1, 1], (scene.n_frames, n)) * (rng.random((scene.n_frames, n)) < probability)
    frame, pixel = np.nonzero(jump)
    charge = (jump * step)[frame, pixel]
    impacts = spilt(scene.shape, frame, y[pixel], x[pixel], charge, np.zeros(len(pixel)))
    total = (jump * step).sum(axis=0)
    seen = np.flatnonzero(np.abs(pixel_snr_of(scene, noise, total)) >= noise.least_snr)
    rows = tuple(Row("flicker_pixel", float(x[i]), float(y[i]), float(total[i])) for i in seen)
    return Layer(rows, impacts=impacts)
