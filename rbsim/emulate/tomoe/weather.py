"""How the sky and the telescope were during each exposure; the same for all sensors, as M. Richmond saw."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from rbsim.emulate.tomoe.settings import TomoeCondition

MEMORY = 0.9
"""Correlation of seeing and clouds between one exposure and the next."""


@dataclass(frozen=True)
class Weather:
    """One exposure.

    Attributes
    ----------
    fwhm_arcsec : float
        Of atmosphere and optics at the field's centre, before the pixel.
    extinction_mag : float
        Of clouds.
    sky_mag_per_arcsec2 : float
    sky_slope : tuple of float
        Relative change of the sky from the middle of a sensor to its edges, along x and y.
    temperature_k : float
        Of the sensors.
    shake_rms_pix, shake_angle_deg : float
        Motion by wind, along a line on the sky.
    drift_pix_per_s, drift_angle_deg : float
    """

    fwhm_arcsec: float
    extinction_mag: float
    sky_mag_per_arcsec2: float
    sky_slope: tuple[float, float]
    temperature_k: float
    shake_rms_pix: float
    shake_angle_deg: float
    drift_pix_per_s: float
    drift_angle_deg: float


def draw_weather(condition: TomoeCondition, n: int, *, rng: np.random.Generator) -> tuple[Weather, ...]:
    """Weather of `n` exposures in order of time; the first ones do not depend on how many follow.

    Parameters
    ----------
    condition : TomoeCondition
    n : int
    rng : numpy.random.Generator
        Of the night.
    """
    uniform = rng.random((n + 1, 12))  # (exposure, quantity); the first row is before the night
    normal = ndtri(uniform[:, :7])
    slow = normal[:, :3].copy()
    for i in range(1, n + 1):
        slow[i] = MEMORY * slow[i - 1] + math.sqrt(1 - MEMORY**2) * slow[i]
    return tuple(
        Weather(
            fwhm_arcsec=condition.fwhm_arcsec * math.exp(condition.fwhm_scatter * slow[i, 0]),
            # Exponential: chi-square of two slow normal deviates.
            extinction_mag=condition.extinction_mag
            + condition.extinction_scatter_mag * (slow[i, 1] ** 2 + slow[i, 2] ** 2) / 2,
            sky_mag_per_arcsec2=condition.sky_mag_per_arcsec2 + condition.sky_scatter_mag * normal[i, 3],
            sky_slope=(
                condition.sky_gradient * (2 * uniform[i, 7] - 1),
                condition.sky_gradient * (2 * uniform[i, 8] - 1),
            ),
            temperature_k=condition.temperature_k + condition.temperature_scatter_k * normal[i, 4],
            shake_rms_pix=condition.shake_rms_pix * abs(normal[i, 5])
            if uniform[i, 9] < condition.shake_probability
            else 0.0,
            shake_angle_deg=180 * uniform[i, 10],
            drift_pix_per_s=condition.drift_pix_per_s * abs(normal[i, 6]),
            drift_angle_deg=180 * uniform[i, 11],
        )
        for i in range(1, n + 1)
    )
