"""Stars of another colour than the mean, in a wide band against one band of Pan-STARRS1."""

from dataclasses import dataclass

import numpy as np

from rbsim.emulate.tomoe.artefacts.expected import Expected, NoiseConfig, central_stamp, snr_of
from rbsim.emulate.tomoe.scene import Scene

SCALE_STARS = 20
"""So many of the brightest count alike."""


@dataclass(frozen=True)
class ColourConfig:
    """See the table of this class in ``catalogs/artefacts.toml``."""

    rate_factor: float


def colour_residuals(scene: Scene, noise: NoiseConfig) -> Expected:
    """Stars whose colour leaves light of either sign; strength is their flux over the expected, minus 1.

    What makes them: the sky's colours and the reference's band. They have exactly the shape of the PSF.
    A Tomo-e reference has none. ``rate_factor`` has scaled the colours of the sky already.

    The flux scale of a subtraction is that of the stars that make its kernel, the brightest ones that are
    not saturated: colours count from their mean, weighted by their light. Bright stars are bluer than
    faint ones, so that faint red ones are over-subtracted.
    """
    colour = scene.star_colour_mag
    peak = float(central_stamp(scene).max())
    weight = np.where(scene.star_e * peak < noise.well_e, scene.star_e, 0)
    # Not even the brightest star makes the scale alone.
    weight = np.minimum(weight, np.sort(weight[weight > 0])[-SCALE_STARS:].min(initial=np.inf))
    if weight.sum() > 0:
        colour = colour - np.average(colour, weights=weight)
    ratio = 10 ** (-0.4 * colour)
    snr = snr_of(scene, noise, scene.star_e * (1 - 1 / ratio), scene.star_e)
    return Expected("colour_residual", scene.star_x_pix, scene.star_y_pix, ratio - 1, snr)
