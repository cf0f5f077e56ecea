"""Bright stars that are masked in Pan-STARRS1."""

from dataclasses import dataclass

import numpy as np

from rbsim.emulate.tomoe.scene import Layer, Row, Scene


@dataclass(frozen=True)
class MaskInReferenceConfig:
    """See the table of this class in ``catalogs/artefacts.toml``."""

    bright_mag: float
    radius_pix: float
    radius_dex_per_mag: float


def mask_in_reference(scene: Scene, config: MaskInReferenceConfig) -> Layer:
    """Rows of stars whose core the reference lacks, brightest first; strength is the masked pixels.

    What makes them: the reference. Those of emulated skycells come with their own, exact rows; these are
    for a reference of which only the bright limit is known.
    """
    limit_e = 10 ** (-0.4 * (config.bright_mag - scene.zero_point_e_mag))
    bright = np.flatnonzero(scene.star_e > limit_e)
    bright = bright[np.argsort(-scene.star_e[bright])]
    over_mag = 2.5 * np.log10(scene.star_e[bright] / limit_e)
    area = np.pi * (config.radius_pix * 10 ** (config.radius_dex_per_mag * over_mag)) ** 2
    rows = tuple(
        Row("mask_in_reference", float(scene.star_x_pix[i]), float(scene.star_y_pix[i]), float(pixels))
        for i, pixels in zip(bright, area, strict=True)
    )
    return Layer(rows)
