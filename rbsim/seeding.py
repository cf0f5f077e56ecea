"""Random streams that depend on what is drawn, never on who draws it or when."""

import zlib

import numpy as np

STEPS = {
    "place": 1,
    "flux": 2,
    "noise": 3,
    "thin": 4,
    "emulate": 5,
    "label": 6,
    "split": 7,
    "train": 8,
    "gain": 9,
    "condition": 10,
    "population": 11,
    "blind": 12,
}


def key_of_name(name: str) -> int:
    """A stable 32-bit integer for a name; unlike `hash` the same in every process."""
    return zlib.crc32(name.encode())


def stream(seed: int, step: str, *key: int) -> np.random.Generator:
    """The generator of one step of one thing.

    Parameters
    ----------
    seed : int
        The run's seed, not negative.
    step : str
        A key of `STEPS`; steps of the same thing get independent streams.
    *key : int
        What it is drawn for, e.g. frame key and realisation.

    Returns
    -------
    numpy.random.Generator
        The same stream for the same arguments, independent of workers, order and resumption.

    Raises
    ------
    ValueError
        If the seed or a key is negative.
    """
    if seed < 0 or any(part < 0 for part in key):
        raise ValueError(f"seed and keys must not be negative, got seed={seed}, key={key}")
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(STEPS[step], *key)))
