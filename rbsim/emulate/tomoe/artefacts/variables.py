"""Stars that are fainter than when the reference was made."""

import numpy as np

from rbsim.emulate.tomoe.artefacts.expected import Expected, NoiseConfig, snr_of
from rbsim.emulate.tomoe.scene import Scene


def variables(scene: Scene, noise: NoiseConfig) -> Expected:
    """Variable stars below their mean; strength is the change in the whole stack, which is negative.

    What makes them: the sky. Above their mean they are light that the reference lacks, and the truth table
    has them as such; below it they leave a hole, which these rows explain.
    """
    if scene.star_change_e is None:
        return Expected.none("variable")
    fainter = np.flatnonzero(scene.star_change_e < 0)
    change_e = scene.star_change_e[fainter]
    snr = snr_of(scene, noise, change_e, scene.star_e[fainter] + change_e)
    return Expected(
        "variable",
        scene.star_x_pix[fainter],
        scene.star_y_pix[fainter],
        change_e * scene.n_frames,
        snr,
    )
