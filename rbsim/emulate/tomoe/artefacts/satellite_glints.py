"""Sunlight reflected for a moment by high satellites: a star in one single frame."""

from dataclasses import dataclass

import numpy as np

from rbsim.emulate.tomoe.artefacts.draws import electrons_per_frame, magnitudes, places
from rbsim.emulate.tomoe.artefacts.expected import NoiseConfig, snr_of
from rbsim.emulate.tomoe.scene import Flash, Layer, Row, Scene

HALF_PIX = 16


@dataclass(frozen=True)
class SatelliteGlintConfig:
    """See the table of this class in ``catalogs/artefacts.toml``."""

    rate_factor: float
    per_deg2_hour: float
    at_mag: float
    bright_mag: float
    faint_mag: float
    slope_dex_per_mag: float


def satellite_glints(
    scene: Scene, config: SatelliteGlintConfig, noise: NoiseConfig, *, rng: np.random.Generator
) -> Layer:
    """Flashes shorter than a frame, with the shape of the PSF; in the stack they are perfect stars.

    Parameters
    ----------
    scene : Scene
    config : SatelliteGlintConfig
        ``per_deg2_hour`` is the number brighter than ``at_mag`` (mean over the frame), which grows by
        ``slope_dex_per_mag``.
    noise : NoiseConfig
    rng : numpy.random.Generator

    Returns
    -------
    Layer
        Flashes; a row's strength is the light of the flash. Those of which the stack is expected to show less
        than `NoiseConfig.least_snr` have none.
    """
    area_deg2 = scene.shape[0] * scene.shape[1] * (scene.pixel_scale_arcsec / 3600) ** 2
    hours = scene.n_frames * scene.frame_s / 3600
    bright, faint = (
        10 ** (config.slope_dex_per_mag * (mag - config.at_mag))
        for mag in (config.bright_mag, config.faint_mag)
    )
    n = rng.poisson(config.rate_factor * config.per_deg2_hour * (faint - bright) * area_deg2 * hours)
    x, y = places(scene.shape, rng, n)
    frame = rng.integers(scene.n_frames, size=n)
    mag = magnitudes(rng, config, n)
    light = electrons_per_frame(mag, scene.zero_point_e_mag)
    flashes = tuple(
        point_flash(scene, float(x[i]), float(y[i]), light_e=float(light[i]), frame=int(frame[i]))
        for i in range(n)
    )
    light = light * scene.throughput_at(x, y)
    in_stack = light / scene.n_frames
    seen = np.flatnonzero(snr_of(scene, noise, in_stack, in_stack) >= noise.least_snr)
    rows = tuple(
        Row("satellite_glint", float(x[i]), float(y[i]), float(light[i]), frame=int(frame[i])) for i in seen
    )
    return Layer(rows, flashes=flashes)


def point_flash(scene: Scene, x_pix: float, y_pix: float, *, light_e: float, frame: int) -> Flash:
    """A point of light in one single frame; what falls outside the sensor is lost."""
    stamp = scene.psf.stamp(x_pix, y_pix, half_pix=HALF_PIX)
    x0, y0 = round(x_pix) - HALF_PIX, round(y_pix) - HALF_PIX
    rows = slice(max(-y0, 0), min(stamp.shape[0], scene.shape[0] - y0))
    columns = slice(max(-x0, 0), min(stamp.shape[1], scene.shape[1] - x0))
    return scene.dimmed(Flash(frame, y0 + rows.start, x0 + columns.start, light_e * stamp[rows, columns]))
