"""What spoils a Tomo-e exposure, one class per file; see docs/artefacts.md."""

import numpy as np

from rbsim.emulate.tomoe.artefacts.bad_columns import bad_columns
from rbsim.emulate.tomoe.artefacts.banding import banding
from rbsim.emulate.tomoe.artefacts.clouds import clouds
from rbsim.emulate.tomoe.artefacts.colour_residuals import colour_residuals
from rbsim.emulate.tomoe.artefacts.cosmic_rays import cosmic_rays
from rbsim.emulate.tomoe.artefacts.crosstalk import crosstalk
from rbsim.emulate.tomoe.artefacts.dipoles import dipoles
from rbsim.emulate.tomoe.artefacts.expected import rows_of
from rbsim.emulate.tomoe.artefacts.flicker_pixels import flicker_pixels
from rbsim.emulate.tomoe.artefacts.ghosts import ghosts
from rbsim.emulate.tomoe.artefacts.hot_pixels import hot_pixels
from rbsim.emulate.tomoe.artefacts.image_edges import image_edges
from rbsim.emulate.tomoe.artefacts.large_galaxies import large_galaxies
from rbsim.emulate.tomoe.artefacts.low_snr import low_snr
from rbsim.emulate.tomoe.artefacts.mask_in_reference import mask_in_reference
from rbsim.emulate.tomoe.artefacts.mask_in_subtraction import mask_in_subtraction
from rbsim.emulate.tomoe.artefacts.moving_objects import moving_objects
from rbsim.emulate.tomoe.artefacts.proper_motion import proper_motion
from rbsim.emulate.tomoe.artefacts.psf_mismatch import psf_mismatch
from rbsim.emulate.tomoe.artefacts.satellite_glints import satellite_glints
from rbsim.emulate.tomoe.artefacts.satellite_streaks import satellite_streaks
from rbsim.emulate.tomoe.artefacts.saturated_cores import saturated_cores
from rbsim.emulate.tomoe.artefacts.settings import Artefacts, load_artefacts, with_rates
from rbsim.emulate.tomoe.artefacts.tracking_errors import tracking_errors
from rbsim.emulate.tomoe.artefacts.variables import variables
from rbsim.emulate.tomoe.scene import Layer, Scene

__all__ = [
    "STRENGTHS",
    "Artefacts",
    "all_layers",
    "load_artefacts",
    "mask_in_reference",
    "with_rates",
]

STRENGTHS = {
    "hot_pixel": "charge left in the whole stack, electrons",
    "flicker_pixel": "sum of the jumps over the whole stack, electrons",
    "bad_column": "offset per pixel in the whole stack, electrons",
    "banding": "offset per pixel of a row in the whole stack, electrons",
    "crosstalk": "charge of the echo in the whole stack, electrons",
    "cosmic_ray": "charge, electrons",
    "satellite_glint": "light of the flash, electrons",
    "satellite_streak": "light per pixel of length in its single frame, electrons",
    "moving_object": "light on the sensor in the whole stack, electrons",
    "ghost": "light per pixel in the whole stack, electrons; the length is the diameter",
    "clouds": "error of the flux scale at the star",
    "saturated_core": "number of saturated pixels",
    "mask_in_subtraction": "pixels that the core's kernel reaches",
    "mask_in_reference": "number of pixels, negative where they are filled instead of NaN",
    "psf_mismatch": "matched-filter residual over the star's flux",
    "colour_residual": "flux over that expected from the reference, minus 1",
    "proper_motion": "displacement since the reference, pixels",
    "variable": "light below the mean of the star in the whole stack, electrons; negative",
    "dipole": "shift between reference and science, pixels",
    "tracking_error": "ellipticity of the PSF, (a - b) / (a + b)",
    "large_galaxy": "light in the whole stack, electrons",
    "low_snr": "S/N above which noise makes no peaks",
    "image_edge": "offset per pixel at the border in the whole stack, electrons",
}
"""Artefact classes, and what ``strength`` means for each."""

# Children of the two generators: a class draws the same numbers whatever the other classes draw.
_FIXED = ("hot_pixel", "flicker_pixel", "bad_column", "ghost", "crosstalk", "image_edge")
_OWN = (
    "hot_pixel",
    "flicker_pixel",
    "bad_column",
    "banding",
    "cosmic_ray",
    "satellite_glint",
    "satellite_streak",
    "moving_object",
    "clouds",
    "image_edge",
)


def all_layers(
    scene: Scene, config: Artefacts, *, sensor_rng: np.random.Generator, rng: np.random.Generator
) -> list[Layer]:
    """Everything that spoils one exposure.

    Parameters
    ----------
    scene : Scene
    config : Artefacts
        From `load_artefacts`.
    sensor_rng : numpy.random.Generator
        A new one of the same seed for every exposure of a sensor, also in earlier epochs: what belongs to
        the detector and the optics stays where it is.
    rng : numpy.random.Generator
        Of this exposure and sensor.

    Returns
    -------
    list of Layer
        Their rows in this order: of rows equally near to a detection the first is its cause. Stars that
        the subtraction cannot remove are in one layer, most conspicuous first. Masks of the reference are
        not among them: they are rows of the reference itself.
    """
    fixed = dict(zip(_FIXED, sensor_rng.spawn(len(_FIXED)), strict=True))
    own = dict(zip(_OWN, rng.spawn(len(_OWN)), strict=True))
    noise = config.noise
    transparency, cloudy = clouds(scene, config.clouds, noise, rng=own["clouds"])
    scene = scene.behind(transparency)
    cores = saturated_cores(scene, config.saturated_core, noise)
    sources = [
        psf_mismatch(scene, config.psf_mismatch, noise),
        colour_residuals(scene, noise),
        proper_motion(scene, noise),
        dipoles(scene, config.dipole, noise),
        tracking_errors(scene, config.tracking_error, noise),
        cloudy,
        large_galaxies(scene, config.large_galaxy, noise),
        variables(scene, noise),
    ]
    return [
        satellite_glints(scene, config.satellite_glint, noise, rng=own["satellite_glint"]),
        satellite_streaks(scene, config.satellite_streak, rng=own["satellite_streak"]),
        moving_objects(scene, config.moving_object, rng=own["moving_object"]),
        cosmic_rays(scene, config.cosmic_ray, rng=own["cosmic_ray"]),
        hot_pixels(scene, config.hot_pixel, noise, sensor_rng=fixed["hot_pixel"], rng=own["hot_pixel"]),
        flicker_pixels(
            scene, config.flicker_pixel, noise, sensor_rng=fixed["flicker_pixel"], rng=own["flicker_pixel"]
        ),
        bad_columns(scene, config.bad_column, noise, sensor_rng=fixed["bad_column"], rng=own["bad_column"]),
        banding(scene, config.banding, noise, rng=own["banding"]),
        cores,
        Layer(rows_of(sources, scene.shape, least_snr=noise.least_snr), transparency=transparency),
        mask_in_subtraction(cores, config.mask_in_subtraction),
        crosstalk(scene, config.crosstalk, noise, sensor_rng=fixed["crosstalk"]),
        ghosts(scene, config.ghost, noise, sensor_rng=fixed["ghost"]),
        image_edges(scene, config.image_edge, noise, sensor_rng=fixed["image_edge"], rng=own["image_edge"]),
        low_snr(scene, config.low_snr),
    ]
