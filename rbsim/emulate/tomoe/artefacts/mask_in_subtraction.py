"""Pixels without a difference around saturated cores, and the steps at their rims."""

import dataclasses
import math
from dataclasses import dataclass

from rbsim.emulate.tomoe.scene import Layer, Row


@dataclass(frozen=True)
class MaskInSubtractionConfig:
    """See the table of this class in ``catalogs/artefacts.toml``."""

    kernel_half_pix: float


def mask_in_subtraction(cores: Layer, config: MaskInSubtractionConfig) -> Layer:
    """Rows of the discs in which a saturated core spoils the difference; strength is their pixels.

    What makes them: the subtraction. A convolution spreads every pixel without a value over its kernel,
    so that the difference has a hole, or a filled one, larger than the core, and what is left of the
    star's wings ends in a step.

    Parameters
    ----------
    cores : Layer
        From `saturated_cores`.
    config : MaskInSubtractionConfig
    """
    rows: list[Row] = []
    for core in cores.rows:
        radius = math.sqrt(core.strength / math.pi) + config.kernel_half_pix
        rows.append(dataclasses.replace(core, artefact="mask_in_subtraction", strength=math.pi * radius**2))
    return Layer(tuple(rows))
