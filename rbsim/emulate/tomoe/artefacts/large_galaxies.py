"""Galaxies large enough for their nucleus or disc to stay in the difference."""

from dataclasses import dataclass

import numpy as np

from rbsim.emulate.tomoe.artefacts.expected import Expected, NoiseConfig, snr_of
from rbsim.emulate.tomoe.scene import Scene


@dataclass(frozen=True)
class LargeGalaxyConfig:
    """See the table of this class in ``catalogs/artefacts.toml``."""

    left_share: float


def large_galaxies(scene: Scene, config: LargeGalaxyConfig, noise: NoiseConfig) -> Expected:
    """Galaxies bright enough to leave something; strength is their light in the whole stack.

    What makes them: the sky and the reference: colours that change from bulge to disc, sky that
    Pan-STARRS1 took away around them, nuclei that a kernel made from stars does not fit.
    """
    left_e = config.left_share * scene.galaxy_e
    snr = snr_of(scene, noise, left_e, np.zeros_like(scene.galaxy_e))
    strength = scene.galaxy_e * scene.n_frames
    return Expected("large_galaxy", scene.galaxy_x_pix, scene.galaxy_y_pix, strength, snr)
