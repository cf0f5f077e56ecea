"""The borders of the sensor: lines next to them whose level the calibration does not bring back."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from rbsim.emulate.tomoe.artefacts.draws import log_uniform
from rbsim.emulate.tomoe.artefacts.expected import NoiseConfig, least_wide_snr, plateau_snr_of
from rbsim.emulate.tomoe.scene import Layer, Row, Scene

REACH_DECAYS = 6.0
"""So many decay lengths inside nothing is left."""


@dataclass(frozen=True)
class ImageEdgeConfig:
    """See the table of this class in ``catalogs/artefacts.toml``."""

    rate_factor: float
    strip_pix: float
    offset_low_e: float
    offset_high_e: float
    decay_low_pix: float
    decay_high_pix: float
    lump_pix: float
    lump_rms: float
    wander: float
    seen_from_pix: float


def image_edges(
    scene: Scene,
    config: ImageEdgeConfig,
    noise: NoiseConfig,
    *,
    sensor_rng: np.random.Generator,
    rng: np.random.Generator,
) -> Layer:
    """Offsets of either sign that fall off from each border, lumpy along it, nearly the same all night.

    Readout circuits glow, and the first lines settle; the dark frame takes away what there was at another
    temperature.

    Parameters
    ----------
    scene : Scene
    config : ImageEdgeConfig
        ``rate_factor`` scales the offset.
    noise : NoiseConfig
    sensor_rng : numpy.random.Generator
        The same stream for every exposure of a sensor: how strong, how wide, where the lumps are.
    rng : numpy.random.Generator
        The exposure's own: by how much the offset differs from that of the night.

    Returns
    -------
    Layer
        Steady electrons of either sign. Rows are lines along the borders, half a strip inside; their strength
        is the offset per pixel at the border itself in the whole stack. Borders that are too weak to be
        detected `seen_from_pix` inside, where differences begin to have values, have none.
    """
    ny, nx = scene.shape
    offset = config.rate_factor * log_uniform(sensor_rng, config.offset_low_e, config.offset_high_e, 4)
    offset *= sensor_rng.choice([-1, 1], 4) * (1 + config.wander * rng.normal(size=4))
    decay = log_uniform(sensor_rng, config.decay_low_pix, config.decay_high_pix, 4)
    steady, rows = np.zeros(scene.shape), []
    inset = config.strip_pix / 2
    for side, (length, depth, x, y, angle) in enumerate(
        (
            (nx, ny, (nx - 1) / 2, inset, 0.0),
            (nx, ny, (nx - 1) / 2, ny - 1 - inset, 0.0),
            (ny, nx, inset, (ny - 1) / 2, 90.0),
            (ny, nx, nx - 1 - inset, (ny - 1) / 2, 90.0),
        )
    ):
        lumps = ndimage.gaussian_filter1d(sensor_rng.normal(size=length), config.lump_pix, mode="nearest")
        lumps *= config.lump_rms * np.sqrt(2 * np.sqrt(np.pi) * config.lump_pix)
        n_lines = min(int(np.ceil(REACH_DECAYS * decay[side])), depth)
        fall = np.exp(-np.arange(n_lines) / decay[side])
        strip = offset[side] * np.multiply.outer(fall, 1 + lumps)
        if side == 0:
            steady[:n_lines] += strip
        elif side == 1:
            steady[ny - n_lines :] += strip[::-1]
        elif side == 2:
            steady[:, :n_lines] += strip.T
        else:
            steady[:, nx - n_lines :] += strip[::-1].T
        left_e = offset[side] * np.exp(-config.seen_from_pix / decay[side]) * scene.n_frames
        snr = np.abs(plateau_snr_of(scene, noise, np.array(left_e)))
        if snr >= least_wide_snr(noise, np.array(length / scene.psf.fwhm_pix)):
            strength = float(offset[side]) * scene.n_frames
            rows.append(Row("image_edge", x, y, strength, length_pix=float(length), angle_deg=angle))
    return Layer(tuple(rows), steady_e=steady)
