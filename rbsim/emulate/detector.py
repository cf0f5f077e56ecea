"""What the sensor does to the light: noise, the full well, whole ADU; and the ideal deep reference."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class DetectorConfig:
    """One sensor, its exposures, and how much deeper the reference is."""

    nx_pix: int
    ny_pix: int
    det_id: int
    exposure_s: float
    dead_time_s: float
    zero_point_e_per_s_mag: float
    sky_mag_per_arcsec2: float
    gain_e_per_adu: float
    read_noise_e: float
    well_e: float
    saturate_adu: int
    dark_e_per_s: float
    reference_depth: float
    reference_sky: float
    reference_zero_point_mag: float
    reference_well_e: float

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx)."""
        return self.ny_pix, self.nx_pix

    @property
    def zero_point_e_mag(self) -> float:
        """Magnitude of one electron per exposure in a clear sky."""
        return self.zero_point_e_per_s_mag + 2.5 * math.log10(self.exposure_s)

    @property
    def zero_point_adu_mag(self) -> float:
        """Magnitude of one ADU per exposure in a clear sky."""
        return self.zero_point_e_mag - 2.5 * math.log10(self.gain_e_per_adu)

    @property
    def dark_e(self) -> float:
        """Dark electrons per pixel and exposure."""
        return self.dark_e_per_s * self.exposure_s

    @property
    def well_adu(self) -> int:
        """Value of a pixel whose well is full."""
        return math.floor(self.well_e / self.gain_e_per_adu)

    @property
    def reference_gain_e_per_adu(self) -> float:
        """Electrons of the long reference exposure per unit of the reference image."""
        return self.reference_depth * 10 ** (0.4 * (self.zero_point_e_mag - self.reference_zero_point_mag))

    def sky_e(self, pixel_scale_arcsec: float) -> float:
        """Sky electrons per pixel and exposure in a clear sky."""
        mag = self.sky_mag_per_arcsec2 - 5 * math.log10(pixel_scale_arcsec)
        return float(flux_e(mag, self.zero_point_e_mag))


def flux_e(mag: np.ndarray | float, zero_point_mag: float) -> np.ndarray | float:
    """Electrons per exposure of a source of magnitude `mag`."""
    return 10 ** (-0.4 * (mag - zero_point_mag))


def expose(expected_e: np.ndarray, *, config: DetectorConfig, rng: np.random.Generator) -> np.ndarray:
    """Read out one exposure.

    Parameters
    ----------
    expected_e : ndarray, shape (ny, nx)
        Expected electrons of everything that collects in the pixels, sky and dark current included;
        a negative sum (a telegraph-noise pixel that jumped down) carries no Poisson noise.
    config : DetectorConfig
    rng : numpy.random.Generator

    Returns
    -------
    ndarray, shape (ny, nx), int16
        Whole ADU, bias subtracted; never above `DetectorConfig.well_adu`.
    """
    # Far above the well the count does not matter, and numpy's Poisson has an upper limit.
    bounded = np.clip(expected_e, 0, 100 * config.well_e)
    collected = rng.poisson(bounded) + np.minimum(expected_e, 0)
    read = np.minimum(collected, config.well_e) + rng.normal(0, config.read_noise_e, expected_e.shape)
    adu = np.rint(read / config.gain_e_per_adu)
    return np.clip(adu, -config.well_adu, config.well_adu).astype(np.int16)


def expose_reference(
    source_e: np.ndarray, sky_e: float, *, config: DetectorConfig, rng: np.random.Generator
) -> np.ndarray:
    """Make the deep reference: as if exposed `reference_depth` times as long under a darker sky.

    Parameters
    ----------
    source_e : ndarray, shape (ny, nx)
        Expected electrons of the sources in one science exposure.
    sky_e : float
        Sky electrons per pixel of one science exposure.

    Returns
    -------
    ndarray, shape (ny, nx), float32
        In units of `reference_zero_point_mag`, sky included; NaN where the well was full.
    """
    collected = rng.poisson(config.reference_depth * (source_e + config.reference_sky * sky_e)).astype(float)
    collected[collected > config.reference_well_e * config.reference_depth] = np.nan
    return (collected / config.reference_gain_e_per_adu).astype(np.float32)
