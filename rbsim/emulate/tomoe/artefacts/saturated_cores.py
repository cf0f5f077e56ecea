"""Stars that fill the well in every single frame: a plateau with a sharp edge."""

from dataclasses import dataclass

import numpy as np

from rbsim.emulate.tomoe.artefacts.expected import NoiseConfig, central_stamp
from rbsim.emulate.tomoe.scene import Layer, Row, Scene


@dataclass(frozen=True)
class SaturatedCoreConfig:
    """See the table of this class in ``catalogs/artefacts.toml``."""

    least_share_of_well: float


def saturated_cores(scene: Scene, config: SaturatedCoreConfig, noise: NoiseConfig) -> Layer:
    """Rows of stars with saturated pixels, brightest first; strength is the number of these.

    What makes them: the detector, which clips each single frame before the frames are averaged. From
    `least_share_of_well` on a pixel counts: it is not linear there, and scintillation takes it to the full
    well in some of the frames.
    """
    unit = central_stamp(scene)
    limit = config.least_share_of_well * noise.well_e - scene.background_e
    inside = (scene.star_x_pix > -0.5) & (scene.star_x_pix < scene.shape[1] - 0.5)
    inside &= (scene.star_y_pix > -0.5) & (scene.star_y_pix < scene.shape[0] - 0.5)
    bright = np.flatnonzero(inside & (scene.star_e * unit.max() > limit))
    bright = bright[np.argsort(-scene.star_e[bright])]
    rows = tuple(
        Row(
            "saturated_core",
            float(scene.star_x_pix[i]),
            float(scene.star_y_pix[i]),
            float(np.count_nonzero(scene.star_e[i] * unit > limit)),
        )
        for i in bright
    )
    return Layer(rows)
