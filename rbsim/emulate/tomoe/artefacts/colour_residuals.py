"""Stars of another colour than the mean, in a wide band against one band of Pan-STARRS1."""

from dataclasses import dataclass

from rbsim.emulate.tomoe.artefacts.expected import Expected, NoiseConfig, snr_of
from rbsim.emulate.tomoe.scene import Scene


@dataclass(frozen=True)
class ColourConfig:
    """See the table of this class in ``catalogs/artefacts.toml``."""

    rate_factor: float


def colour_residuals(scene: Scene, config: ColourConfig, noise: NoiseConfig) -> Expected:
    """Stars whose colour leaves light of either sign; strength is their flux over the expected, minus 1.

    What makes them: the sky's colours and the reference's band. They have exactly the shape of the PSF.
    A Tomo-e reference has none. ``rate_factor`` scales the colour, as the sky may.
    """
    ratio = 10 ** (-0.4 * config.rate_factor * scene.star_colour_mag)
    snr = snr_of(scene, noise, scene.star_e * (1 - 1 / ratio), scene.star_e)
    return Expected("colour_residual", scene.star_x_pix, scene.star_y_pix, ratio - 1, snr)
