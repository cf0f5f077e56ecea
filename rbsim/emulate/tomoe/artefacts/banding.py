"""What the removal of the bias pattern leaves: noise of whole rows and columns, and rows that jump."""

from dataclasses import dataclass

import numpy as np

from rbsim.emulate.tomoe.artefacts.draws import log_uniform
from rbsim.emulate.tomoe.artefacts.expected import NoiseConfig, least_wide_snr, line_snr_of
from rbsim.emulate.tomoe.scene import Layer, Row, Scene


@dataclass(frozen=True)
class BandingConfig:
    """See the table of this class in ``catalogs/artefacts.toml``."""

    rate_factor: float
    row_low_e: float
    row_high_e: float
    column_low_e: float
    column_high_e: float
    jumps_per_exposure: float
    jump_low_e: float
    jump_high_e: float
    jump_length_low_pix: float


def banding(scene: Scene, config: BandingConfig, noise: NoiseConfig, *, rng: np.random.Generator) -> Layer:
    """Offsets of rows and columns that the reference pixels did not know, of either sign.

    Their width is drawn per exposure. In some exposures the offset of a few rows is wrong by much more,
    over a part of their length.

    Parameters
    ----------
    scene : Scene
    config : BandingConfig
        Electrons per single frame, the same in all frames of a stack: what averages out does no harm.
    noise : NoiseConfig
    rng : numpy.random.Generator

    Returns
    -------
    Layer
        Steady electrons of either sign. Only jumps have rows, as lines; their strength is the offset per
        pixel in the whole stack. Jumps that are too weak to be detected anywhere have none.
    """
    ny, nx = scene.shape
    row_sigma, column_sigma = (
        log_uniform(rng, low, high, 1)[0]
        for low, high in (
            (config.row_low_e, config.row_high_e),
            (config.column_low_e, config.column_high_e),
        )
    )
    steady = np.add.outer(row_sigma * rng.normal(size=ny), column_sigma * rng.normal(size=nx))
    rows = []
    for _ in range(rng.poisson(config.rate_factor * config.jumps_per_exposure)):
        y = int(rng.integers(ny))
        length = round(log_uniform(rng, min(config.jump_length_low_pix, nx), nx, 1)[0])
        start = int(rng.integers(nx - length + 1))
        offset = float(log_uniform(rng, config.jump_low_e, config.jump_high_e, 1)[0] * rng.choice([-1, 1]))
        steady[y, start : start + length] += offset
        snr = abs(line_snr_of(scene, noise, np.array(offset * scene.n_frames)))
        if snr < least_wide_snr(noise, np.array(length / scene.psf.fwhm_pix)):
            continue
        rows.append(
            Row(
                "banding",
                start + (length - 1) / 2,
                float(y),
                offset * scene.n_frames,
                length_pix=float(length),
                angle_deg=0.0,
            )
        )
    return Layer(tuple(rows), steady_e=steady)
