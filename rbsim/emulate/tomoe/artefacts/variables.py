"""Stars that are brighter or fainter than when the reference was made."""

import numpy as np

from rbsim.emulate.tomoe.artefacts.expected import Expected, NoiseConfig, rows_of, snr_of
from rbsim.emulate.tomoe.scene import Layer, Scene


def variables(scene: Scene, noise: NoiseConfig, *, change_e: np.ndarray) -> Layer:
    """Rows of variable stars that a difference shows; strength is the change in the whole stack.

    What makes them: the sky. Their light is real, and the truth table may claim them as such; where it
    does not, these rows say what they are.

    Parameters
    ----------
    scene : Scene
    noise : NoiseConfig
    change_e : ndarray, shape (n,)
        Of every star of the scene: its light now minus that in the reference, electrons per single frame.
    """
    snr = snr_of(scene, noise, change_e, scene.star_e)
    found = Expected("variable", scene.star_x_pix, scene.star_y_pix, change_e * scene.n_frames, snr)
    return Layer(rows_of([found], scene.shape, least_snr=noise.least_snr))
