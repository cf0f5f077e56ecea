"""Where the night meets its artefacts: one place that knows how they are asked for."""

from collections.abc import Mapping

import numpy as np

from rbsim.emulate.tomoe.scene import Layer, Scene


def artefact_layers(
    scene: Scene,
    rates: Mapping[str, float],
    *,
    sensor_rng: np.random.Generator,
    rng: np.random.Generator,
) -> list[Layer]:
    """Layers of all artefact classes of an exposure.

    Parameters
    ----------
    scene : Scene
    rates : mapping
        Multipliers of the mean numbers, by class.
    sensor_rng : numpy.random.Generator
        The same stream for every exposure of a sensor.
    rng : numpy.random.Generator
        Of the exposure.
    """
    try:
        from rbsim.emulate.tomoe import artefacts
    except ImportError:
        return []
    return list(artefacts.all_layers(scene, artefacts.load_artefacts(rates), sensor_rng=sensor_rng, rng=rng))
