"""Clouds with a structure of their own within the field of a sensor."""

from dataclasses import dataclass

import numpy as np

from rbsim.emulate.tomoe.artefacts.draws import log_uniform
from rbsim.emulate.tomoe.artefacts.expected import Expected, NoiseConfig, snr_of
from rbsim.emulate.tomoe.scene import Scene

N_WAVES = 12
GRID_PIX = 32


@dataclass(frozen=True)
class CloudConfig:
    """See the table of this class in ``catalogs/artefacts.toml``."""

    rate_factor: float
    probability: float
    rms_low_mag: float
    rms_high_mag: float
    scale_low_pix: float
    scale_high_pix: float
    kernel_order: int


def clouds(
    scene: Scene, config: CloudConfig, noise: NoiseConfig, *, rng: np.random.Generator
) -> tuple[np.ndarray | None, Expected]:
    """Transparency over the sensor, of mean 1, and the stars that the kernel's scale cannot follow.

    The mean loss is the exposure's, not the artefact's. Waves of random directions and lengths pass
    over the field; a subtraction whose scale is a polynomial of `kernel_order` follows the long ones.

    Parameters
    ----------
    scene : Scene
    config : CloudConfig
    noise : NoiseConfig
    rng : numpy.random.Generator

    Returns
    -------
    transparency : ndarray, shape (ny, nx), or None
        Factor on the light of the sources; None in an exposure without.
    expected : Expected
        Stars with what is left; strength is the error of the scale.
    """
    if rng.random() >= min(config.rate_factor * config.probability, 1.0):
        return None, Expected.none("clouds")
    ny, nx = scene.shape
    rms = log_uniform(rng, config.rms_low_mag, config.rms_high_mag, 1)[0]
    waves = log_uniform(rng, config.scale_low_pix, config.scale_high_pix, N_WAVES)
    angle, phase = rng.uniform(0, 2 * np.pi, (2, N_WAVES))
    # Long waves are the strong ones, as in any turbulent flow.
    height = rng.normal(size=N_WAVES) * waves
    height *= rms * np.sqrt(2) / np.sqrt(np.sum(height**2))

    def loss_mag(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        along = np.multiply.outer(np.cos(angle) / waves, x) + np.multiply.outer(np.sin(angle) / waves, y)
        return np.asarray(
            np.tensordot(height, np.sin(2 * np.pi * along + phase.reshape(-1, *[1] * x.ndim)), 1)
        )

    # sin(a + b) = sin a cos b + cos a sin b: the waves are sums of products of rows and columns.
    across = np.exp(2j * np.pi * np.outer(np.cos(angle) / waves, np.arange(nx)) + 1j * phase[:, None])
    up = np.exp(2j * np.pi * np.outer(np.sin(angle) / waves, np.arange(ny)))
    loss = (height[:, None] * up).T @ across
    transparency = 10 ** (-0.4 * loss.imag)
    mean = float(transparency.mean())
    grid_y, grid_x = (a.ravel().astype(float) for a in np.mgrid[0:ny:GRID_PIX, 0:nx:GRID_PIX])
    factor = 10 ** (-0.4 * loss_mag(grid_x, grid_y)) / mean
    fit = np.linalg.lstsq(_powers(grid_x, grid_y, scene.shape, config.kernel_order), factor, rcond=None)[0]
    x, y = scene.star_x_pix, scene.star_y_pix
    left = 10 ** (-0.4 * loss_mag(x, y)) / mean
    left = left - _powers(x, y, scene.shape, config.kernel_order) @ fit
    snr = snr_of(scene, noise, scene.star_e * left, scene.star_e)
    return transparency / mean, Expected("clouds", x, y, left, snr)


def _powers(x: np.ndarray, y: np.ndarray, shape: tuple[int, int], order: int) -> np.ndarray:
    """Terms of a polynomial in the position, shape (n, n_terms)."""
    u, v = 2 * x / shape[1] - 1, 2 * y / shape[0] - 1
    return np.stack([u**i * v**j for i in range(order + 1) for j in range(order + 1 - i)], axis=1)
