"""Misregistration: stars that the registration left beside those of the reference."""

from dataclasses import dataclass

import numpy as np

from rbsim.emulate.tomoe.artefacts.expected import FWHM_PER_SIGMA, LOBE, Expected, NoiseConfig, snr_of
from rbsim.emulate.tomoe.scene import Scene


@dataclass(frozen=True)
class DipoleConfig:
    """See the table of this class in ``catalogs/artefacts.toml``."""

    left_pix: float


def dipoles(scene: Scene, config: DipoleConfig, noise: NoiseConfig) -> Expected:
    """Stars bright enough to show what the registration leaves; strength is that shift in pixels.

    What makes them: the error of the header's WCS, coherent over a sensor, and the seeing's own shifts of
    the stars, which the optics draw. A registration takes out all but a few hundredths of a pixel.
    """
    sigma = scene.psf.fwhm_pix / FWHM_PER_SIGMA
    left_e = LOBE * config.left_pix / sigma * scene.star_e
    strength = np.full(len(left_e), config.left_pix)
    snr = snr_of(scene, noise, left_e, scene.star_e)
    return Expected("dipole", scene.star_x_pix, scene.star_y_pix, strength, snr)
