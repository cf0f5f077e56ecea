"""Peaks of the noise itself."""

import math
from dataclasses import dataclass

import numpy as np

from rbsim.emulate.tomoe.artefacts.expected import FWHM_PER_SIGMA
from rbsim.emulate.tomoe.scene import Layer, Row, Scene


@dataclass(frozen=True)
class LowSnrConfig:
    """See the table of this class in ``catalogs/artefacts.toml``."""

    rarest_per_exposure: float
    tail_factor: float


def low_snr(scene: Scene, config: LowSnrConfig) -> Layer:
    """One row for the whole sensor; its strength is the S/N above which noise makes no peaks.

    What makes them: photons and read-out. A detection below that S/N with no other cause is noise.
    Above it a Gaussian field has fewer than `rarest_per_exposure` peaks; `tail_factor` widens the noise
    for what is not Gaussian or not calibrated (resampling, telegraph pixels below the rows' limit).
    """
    ny, nx = scene.shape
    limits = np.linspace(2, 12, 1001)
    peaks = noise_peaks(limits / config.tail_factor, ny * nx, fwhm_pix=scene.psf.fwhm_pix)
    limit = float(limits[np.argmax(peaks < config.rarest_per_exposure)])
    return Layer((Row("low_snr", (nx - 1) / 2, (ny - 1) / 2, limit),))


def noise_peaks(snr: np.ndarray, n_pix: int, *, fwhm_pix: float) -> np.ndarray:
    """Expected maxima above an S/N of white noise filtered with a Gaussian PSF, shape (n,).

    ``A |Lambda|^(1/2) (2 pi)^(-3/2) u exp(-u^2 / 2)`` for high u (Adler 1981, The Geometry of Random
    Fields); noise seen through a PSF of width sigma has ``|Lambda|^(1/2) = 1 / (2 sigma^2)``.

    Parameters
    ----------
    snr : ndarray, shape (n,)
        Above about 3.
    n_pix : int
    fwhm_pix : float
    """
    sigma = fwhm_pix / FWHM_PER_SIGMA
    density = snr * np.exp(-0.5 * snr**2) / (2 * sigma**2 * math.pow(2 * math.pi, 1.5))
    return np.asarray(n_pix * density)
