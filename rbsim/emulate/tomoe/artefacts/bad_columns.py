"""Segments of columns with an offset of their own."""

from dataclasses import dataclass

import numpy as np

from rbsim.emulate.tomoe.artefacts.draws import log_uniform
from rbsim.emulate.tomoe.artefacts.expected import NoiseConfig, least_wide_snr, line_snr_of
from rbsim.emulate.tomoe.scene import Impacts, Layer, Row, Scene


@dataclass(frozen=True)
class BadColumnConfig:
    """See the table of this class in ``catalogs/artefacts.toml``."""

    rate_factor: float
    per_sensor: float
    length_low_pix: float
    length_high_pix: float
    offset_low_e: float
    offset_high_e: float
    wander: float


def bad_columns(
    scene: Scene,
    config: BadColumnConfig,
    noise: NoiseConfig,
    *,
    sensor_rng: np.random.Generator,
    rng: np.random.Generator,
) -> Layer:
    """Column segments, the same all night, whose offset wanders by a share `wander` between exposures.

    Parameters
    ----------
    scene : Scene
    config : BadColumnConfig
    noise : NoiseConfig
    sensor_rng : numpy.random.Generator
        The same stream for every exposure of a sensor: where and how strong.
    rng : numpy.random.Generator
        The exposure's own.

    Returns
    -------
    Layer
        Impacts in every frame; a row's strength is the offset per pixel in the whole stack. Segments that
        are too weak to be detected anywhere (`expected.least_wide_snr`) have none.
    """
    ny, nx = scene.shape
    n = sensor_rng.poisson(config.rate_factor * config.per_sensor)
    column = sensor_rng.integers(nx, size=n)
    length = np.minimum(log_uniform(sensor_rng, config.length_low_pix, config.length_high_pix, n), ny)
    length = np.maximum(length.astype(int), 1)
    start = np.floor(sensor_rng.random(n) * (ny - length + 1)).astype(int)
    typical = log_uniform(sensor_rng, config.offset_low_e, config.offset_high_e, n)
    typical *= sensor_rng.choice([-1, 1], n)
    offset = typical * (1 + config.wander * rng.normal(size=n))
    y = np.concatenate(
        [np.arange(a, a + k) for a, k in zip(start, length, strict=True)] or [np.empty(0, int)]
    )
    impacts = Impacts(np.full(len(y), -1), y, np.repeat(column, length), np.repeat(offset, length))
    snr = np.abs(line_snr_of(scene, noise, offset * scene.n_frames))
    seen = np.flatnonzero(snr >= least_wide_snr(noise, length / scene.psf.fwhm_pix))
    rows = tuple(
        Row(
            "bad_column",
            float(column[i]),
            float(start[i] + (length[i] - 1) / 2),
            float(offset[i] * scene.n_frames),
            length_pix=float(length[i]),
            angle_deg=90.0,
        )
        for i in seen
    )
    return Layer(rows, impacts=impacts)
