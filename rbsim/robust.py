"""The width of a distribution whose tails are not to be trusted."""

import numpy as np


def robust_width(values: np.ndarray) -> float:
    """1.4826 times the median absolute deviation: the standard deviation of normally distributed values.

    Parameters
    ----------
    values : ndarray, shape (n,)
        At least one, all finite.
    """
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))
