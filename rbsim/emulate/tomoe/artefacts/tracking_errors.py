"""Wind and tracking: all stars of a sensor stretched along one line."""

from dataclasses import dataclass

import numpy as np

from rbsim.emulate.tomoe.artefacts.expected import HALF_PIX, Expected, NoiseConfig, central_stamp, snr_of
from rbsim.emulate.tomoe.scene import Scene


@dataclass(frozen=True)
class TrackingConfig:
    """See the table of this class in ``catalogs/artefacts.toml``."""

    least_ellipticity: float
    share_per_ellipticity: float


def tracking_errors(scene: Scene, config: TrackingConfig, noise: NoiseConfig) -> Expected:
    """Stars that show it where the PSF is longer than wide; strength is its ellipticity.

    What makes them: drift and shake of the telescope, which the optics draw into the PSF of an exposure.
    The residual is the same on every star: a kernel from a round PSF to a stretched one is sharper than
    its basis across the line. Its share of the star's flux is taken as proportional to the ellipticity.
    """
    e = ellipticity(central_stamp(scene))
    if e < config.least_ellipticity:
        return Expected.none("tracking_error")
    left_e = config.share_per_ellipticity * e * scene.star_e
    snr = snr_of(scene, noise, left_e, scene.star_e)
    return Expected("tracking_error", scene.star_x_pix, scene.star_y_pix, np.full(len(snr), e), snr)


def ellipticity(stamp: np.ndarray) -> float:
    """``(a - b) / (a + b)`` of the axes of a PSF, from second moments within its core.

    Parameters
    ----------
    stamp : ndarray, shape (k, k)
        Centred on its middle pixel.
    """
    step = np.arange(stamp.shape[0]) - HALF_PIX
    x, y = step[None, :], step[:, None]
    # A Gaussian window keeps the wings out; it makes the moments rounder, and is taken out again.
    peak = stamp / stamp.max()
    width2 = max(float(np.sum(peak > 0.5)) / np.pi * 2, 1.0)
    weight = stamp * np.exp(-(x**2 + y**2) / (2 * width2))
    xx, yy, xy = (float(np.sum(weight * m) / np.sum(weight)) for m in (x * x, y * y, x * y))
    inverse = np.linalg.inv([[xx, xy], [xy, yy]]) - np.eye(2) / width2
    b, a = np.sort(1 / np.sqrt(np.maximum(np.linalg.eigvalsh(inverse), 1e-6)))
    return float((a - b) / (a + b))
