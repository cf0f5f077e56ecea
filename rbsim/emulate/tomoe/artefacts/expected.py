"""Sources that the subtraction is expected to leave something of, and the noise that tells which."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from rbsim.emulate.tomoe.scene import Row, Scene

HALF_PIX = 12
LOBE = 0.34
"""Matched-filter peak of a star that moved by d, over its flux: ``LOBE * d / sigma_psf``. For a Moffat PSF
of beta 3 on pixels; a Gaussian correlated with itself has 0.61 / sqrt(2)."""
FWHM_PER_SIGMA = 2.3548
DETECTED_SNR = 5.0
"""Where `rbsim` detects by default."""


@dataclass(frozen=True)
class NoiseConfig:
    """What a truth row is measured against; see ``[noise]`` in ``catalogs/artefacts.toml``."""

    read_noise_e: float
    well_e: float
    least_snr: float


@dataclass(frozen=True, eq=False)
class Expected:
    """Sources and what a difference is expected to show of them; arrays of shape (n,).

    Attributes
    ----------
    artefact : str
    x_pix, y_pix : ndarray
    strength : ndarray
        In the unit of the class.
    snr : ndarray
        Of what is left in the difference, with its sign.
    """

    artefact: str
    x_pix: np.ndarray
    y_pix: np.ndarray
    strength: np.ndarray
    snr: np.ndarray

    @classmethod
    def none(cls, artefact: str) -> "Expected":
        """No source at all."""
        return cls(artefact, *(np.empty(0) for _ in range(4)))


def pixel_noise_e(scene: Scene, noise: NoiseConfig) -> float:
    """Standard deviation of an empty pixel of the whole stack, electrons summed over its frames."""
    return float(np.sqrt(scene.n_frames * (scene.background_e + noise.read_noise_e**2)))


def snr_of(scene: Scene, noise: NoiseConfig, left_e: np.ndarray, source_e: np.ndarray) -> np.ndarray:
    """S/N of a PSF-shaped residual in the stack, as the matched filter of empty sky sees it.

    Parameters
    ----------
    scene : Scene
    noise : NoiseConfig
    left_e : ndarray, shape (n,)
        Residual, electrons per single frame.
    source_e : ndarray, shape (n,)
        Light of the source in the science frame, whose photons are noise as well.
    """
    unit = central_stamp(scene)
    square, cube = float(np.sum(unit**2)), float(np.sum(unit**3))
    empty = scene.background_e + noise.read_noise_e**2
    variance = empty / square + np.maximum(source_e, 0) * cube / square**2
    return np.asarray(np.sqrt(scene.n_frames) * left_e / np.sqrt(variance))


def pixel_snr_of(scene: Scene, noise: NoiseConfig, charge_e: np.ndarray) -> np.ndarray:
    """S/N that a matched filter for points makes of charge in single pixels of the stack, shape (n,)."""
    unit = central_stamp(scene)
    return np.asarray(charge_e * unit.max() / np.sqrt(np.sum(unit**2)) / pixel_noise_e(scene, noise))


def line_snr_of(scene: Scene, noise: NoiseConfig, offset_e: np.ndarray) -> np.ndarray:
    """The same of an offset per pixel along a row or column, shape (n,)."""
    unit = central_stamp(scene)
    across = unit.sum(axis=0).max()
    return np.asarray(offset_e * across / np.sqrt(np.sum(unit**2)) / pixel_noise_e(scene, noise))


def plateau_snr_of(scene: Scene, noise: NoiseConfig, level_e: np.ndarray) -> np.ndarray:
    """The same of light per pixel that is smooth over many pixels, shape (n,)."""
    unit = central_stamp(scene)
    return np.asarray(level_e / np.sqrt(np.sum(unit**2)) / pixel_noise_e(scene, noise))


def least_wide_snr(noise: NoiseConfig, n_places: np.ndarray) -> np.ndarray:
    """S/N from which something wide is detected in one place or other as often as a point of `least_snr`.

    Noise helps a point at one place, what is wide at as many places as there are PSFs in it.

    Parameters
    ----------
    noise : NoiseConfig
    n_places : ndarray, shape (n,)
        Its length over the FWHM, or its area over the square of that; less than one counts as one.
    """
    chance = norm.sf(DETECTED_SNR - noise.least_snr) / np.maximum(n_places, 1.0)
    return np.asarray(DETECTED_SNR - norm.isf(chance))


def central_stamp(scene: Scene) -> np.ndarray:
    """PSF of unit flux at the middle of the sensor, centred on a pixel."""
    return scene.psf.stamp(scene.shape[1] // 2, scene.shape[0] // 2, half_pix=HALF_PIX)


def rows_of(expected: list[Expected], shape: tuple[int, int], *, least_snr: float) -> tuple[Row, ...]:
    """Truth rows of sources on the sensor above an S/N, strongest first, over all classes.

    The order matters: of rows at the same place the first is a detection's cause.
    """
    found = []
    for some in expected:
        inside = (some.x_pix > -0.5) & (some.x_pix < shape[1] - 0.5)
        inside &= (some.y_pix > -0.5) & (some.y_pix < shape[0] - 0.5)
        keep = np.flatnonzero(inside & (np.abs(some.snr) >= least_snr))
        found += [
            (
                -abs(float(some.snr[i])),
                Row(some.artefact, float(some.x_pix[i]), float(some.y_pix[i]), float(some.strength[i])),
            )
            for i in keep
        ]
    found.sort(key=lambda pair: pair[0])
    return tuple(row for _, row in found)
