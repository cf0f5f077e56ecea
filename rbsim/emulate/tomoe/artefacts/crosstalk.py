"""Electrical echoes of bright stars in the other readout channels."""

from dataclasses import dataclass

import numpy as np

from rbsim.emulate.tomoe.artefacts.draws import log_uniform
from rbsim.emulate.tomoe.artefacts.expected import NoiseConfig, pixel_noise_e
from rbsim.emulate.tomoe.scene import Impacts, Layer, Row, Scene

HALF_PIX = 10


@dataclass(frozen=True)
class CrosstalkConfig:
    """See the table of this class in ``catalogs/artefacts.toml``."""

    rate_factor: float
    channels: int
    share_low: float
    share_high: float
    bright_mag: float
    least_noise_share: float


def crosstalk(
    scene: Scene, config: CrosstalkConfig, noise: NoiseConfig, *, sensor_rng: np.random.Generator
) -> Layer:
    """Copies of stars in blocks of columns that are read at the same time, of either sign.

    Each pair of channels has its own share of the signal, which the well limits: the echo of a saturated
    star is flat-topped.

    Parameters
    ----------
    scene : Scene
    config : CrosstalkConfig
        ``rate_factor`` scales the shares. Only stars brighter than ``bright_mag``.
    noise : NoiseConfig
    sensor_rng : numpy.random.Generator
        The same stream for every exposure of a sensor.

    Returns
    -------
    Layer
        Impacts in every frame; a row's strength is the charge of the echo in the whole stack. Echoes whose
        highest pixel is below `least_noise_share` of the noise are not drawn, and those that a filter for
        points sees below `NoiseConfig.least_snr` have no row.
    """
    ny, nx = scene.shape
    width = nx // config.channels
    share = log_uniform(sensor_rng, config.share_low, config.share_high, config.channels**2)
    share *= config.rate_factor * sensor_rng.choice([-1, 1], len(share))
    share = share.reshape(config.channels, config.channels)
    bright = scene.star_e > 10 ** (-0.4 * (config.bright_mag - scene.zero_point_e_mag))
    on = (scene.star_x_pix > -0.5) & (scene.star_x_pix < config.channels * width - 0.5)
    on &= (scene.star_y_pix > -0.5) & (scene.star_y_pix < ny - 0.5)
    step = np.arange(-HALF_PIX, HALF_PIX + 1)
    noise_e = pixel_noise_e(scene, noise) / scene.n_frames
    least = config.least_noise_share * noise_e
    parts, rows = [], []
    for i in np.flatnonzero(bright & on):
        stamp = scene.psf.stamp(float(scene.star_x_pix[i]), float(scene.star_y_pix[i]), half_pix=HALF_PIX)
        signal = np.minimum(scene.star_e[i] * stamp, noise.well_e)
        row, column = round(scene.star_y_pix[i]), round(scene.star_x_pix[i])
        own = column // width
        for other in range(config.channels):
            if other == own or abs(share[own, other]) * signal.max() < least:
                continue
            echo = share[own, other] * signal
            shift = (other - own) * width
            y, x = np.broadcast_arrays((row + step)[:, None], (column + shift + step)[None, :])
            keep = (y >= 0) & (y < ny) & (x >= other * width) & (x < (other + 1) * width)
            parts.append((y[keep], x[keep], echo[keep]))
            snr = float(np.sum(echo * stamp) / np.sqrt(np.sum(stamp**2))) / noise_e
            if abs(snr) < noise.least_snr:
                continue
            rows.append(
                Row(
                    "crosstalk",
                    float(scene.star_x_pix[i]) + shift,
                    float(scene.star_y_pix[i]),
                    float(echo.sum()) * scene.n_frames,
                )
            )
    none = np.empty(0, int), np.empty(0, int), np.empty(0)
    y, x, charge = (np.concatenate(values) for values in zip(none, *parts, strict=True))
    return Layer(tuple(rows), impacts=Impacts(np.full(len(y), -1), y, x, charge))
