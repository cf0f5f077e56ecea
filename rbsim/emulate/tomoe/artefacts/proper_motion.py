"""Stars that have moved since the epoch of Pan-STARRS1."""

from dataclasses import dataclass

import numpy as np

from rbsim.emulate.tomoe.artefacts.expected import FWHM_PER_SIGMA, LOBE, Expected, NoiseConfig, snr_of
from rbsim.emulate.tomoe.scene import Scene


@dataclass(frozen=True)
class ProperMotionConfig:
    """See the table of this class in ``catalogs/artefacts.toml``."""

    rate_factor: float


def proper_motion(scene: Scene, noise: NoiseConfig) -> Expected:
    """Stars whose displacement shows as a dipole, or as two stars; strength is the displacement in pixels.

    What makes them: the sky, with positions at the epoch of the images (2010 to 2014) in the reference. A
    Tomo-e reference is too young to have them. ``rate_factor`` has scaled the motions of the sky already.
    """
    shift = scene.star_pm_pix
    share = np.minimum(LOBE * np.abs(shift) / (scene.psf.fwhm_pix / FWHM_PER_SIGMA), 1.0)
    snr = snr_of(scene, noise, share * scene.star_e, scene.star_e)
    return Expected("proper_motion", scene.star_x_pix, scene.star_y_pix, shift, snr)
