"""Random numbers that several artefacts need: how many, how strong, how bright, where."""

import math
from typing import Protocol

import numpy as np


def log_uniform(rng: np.random.Generator, low: float, high: float, n: int) -> np.ndarray:
    """Positive numbers whose logarithm is uniform between those of `low` and `high`, shape (n,)."""
    return np.exp(rng.uniform(math.log(low), math.log(high), n))


class Brightnesses(Protocol):
    """The part of a class's config that says how bright its instances are."""

    @property
    def bright_mag(self) -> float:
        """Of the brightest."""

    @property
    def faint_mag(self) -> float:
        """Of the faintest."""

    @property
    def slope_dex_per_mag(self) -> float:
        """Growth of their cumulative number."""


def magnitudes(rng: np.random.Generator, config: Brightnesses, n: int) -> np.ndarray:
    """Magnitudes whose cumulative number grows as ``10 ** (slope * mag)`` between two limits, shape (n,)."""
    slope = config.slope_dex_per_mag
    low, high = 1.0, 10 ** (slope * (config.faint_mag - config.bright_mag))
    return config.bright_mag + np.log10(rng.uniform(low, high, n)) / slope


def electrons_per_frame(mag: np.ndarray, zero_point_e_mag: float) -> np.ndarray:
    """Electrons of a single frame, shape (n,)."""
    return np.asarray(10 ** (-0.4 * (mag - zero_point_e_mag)))


def pixels(shape: tuple[int, int], rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of `n` different pixels."""
    flat = rng.choice(shape[0] * shape[1], size=n, replace=False)
    return flat // shape[1], flat % shape[1]


def places(shape: tuple[int, int], rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions x, y of `n` points anywhere on the sensor, 0-based, shape (n,) each."""
    return rng.uniform(-0.5, shape[1] - 0.5, n), rng.uniform(-0.5, shape[0] - 0.5, n)
