"""Galaxies large enough for their nucleus or disc to stay in the difference."""

from dataclasses import dataclass

import numpy as np

from rbsim.emulate.tomoe.artefacts.expected import Expected, NoiseConfig, snr_of
from rbsim.emulate.tomoe.scene import Scene


@dataclass(frozen=True)
class LargeGalaxyConfig:
    """See the table of this class in ``catalogs/artefacts.toml``."""

    left_share: float
    core_share: float


def large_galaxies(scene: Scene, config: LargeGalaxyConfig, noise: NoiseConfig) -> Expected:
    """Galaxies bright enough, or of a colour, to leave something; strength is their light in the whole stack.

    What makes them: the sky and the reference: colours that change from bulge to disc, sky that
    Pan-STARRS1 took away around them, nuclei that a kernel made from stars does not fit. Of a galaxy of
    another colour than the stars a matched filter sees `core_share` of the light that is left.
    """
    share = np.full(len(scene.galaxy_e), config.left_share)
    if scene.galaxy_colour_mag is not None:
        colour = np.abs(1 - 10 ** (0.4 * scene.galaxy_colour_mag))
        share = np.hypot(share, config.core_share * colour)
    left_e = share * scene.galaxy_e
    snr = snr_of(scene, noise, left_e, np.zeros_like(scene.galaxy_e))
    strength = scene.galaxy_e * scene.n_frames
    return Expected("large_galaxy", scene.galaxy_x_pix, scene.galaxy_y_pix, strength, snr)
