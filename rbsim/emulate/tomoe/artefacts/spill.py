"""Charge of a pixel that reaches its four neighbours."""

import numpy as np

from rbsim.emulate.tomoe.scene import Impacts

STEPS = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))
"""The pixel itself, then its neighbours: rows and columns."""


def spilt(
    shape: tuple[int, int],
    frame: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    electrons: np.ndarray,
    share: np.ndarray,
) -> Impacts:
    """Impacts of pixels of which each of the four neighbours gets `share`; what leaves the sensor is lost.

    Parameters
    ----------
    shape : (ny, nx)
    frame, y, x : ndarray of int, shape (n,)
    electrons, share : ndarray, shape (n,)
    """
    part = np.concatenate([1 - 4 * share, *(share,) * 4]) * np.tile(electrons, 5)
    rows = np.concatenate([y + step for step, _ in STEPS])
    columns = np.concatenate([x + step for _, step in STEPS])
    keep = (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1]) & (part != 0)
    return Impacts(np.tile(frame, 5)[keep], rows[keep], columns[keep], part[keep])
