"""Wrong labels on purpose: contaminations with exact counts, the truth kept beside them."""

from dataclasses import dataclass

import numpy as np

from rbsim import schema
from rbsim.errors import InputError

REASON_CODES = {"unchanged": 0, "real_given_bogus": 1, "bogus_given_real": 2}


@dataclass(frozen=True, eq=False)
class NoisyLabels:
    """Labels as a survey would have them, and why.

    Attributes
    ----------
    label_given : ndarray, shape (n,), int8
    reason : ndarray, shape (n,), int8
        Code of `REASON_CODES` per sample.
    """

    label_given: np.ndarray
    reason: np.ndarray


def count_flips(n_real: int, n_bogus: int, *, mislabel_bogus: float, mislabel_real: float) -> tuple[int, int]:
    """Solve for the numbers of flips that give the contaminations asked for.

    With ``a`` true reals given bogus and ``b`` true bogus given real, the contaminations are
    ``a / (n_bogus - b + a)`` and ``b / (n_real - a + b)``: two linear equations.

    Parameters
    ----------
    n_real, n_bogus : int
        True counts.
    mislabel_bogus, mislabel_real : float
        Fraction of the samples *given* bogus (real) whose truth is real (bogus); in [0, 0.5).

    Returns
    -------
    real_to_bogus, bogus_to_real : int
        Rounded to the nearest integer.

    Raises
    ------
    InputError
        If a fraction is out of range or the counts cannot give it.
    """
    for name, value in (("mislabel-bogus", mislabel_bogus), ("mislabel-real", mislabel_real)):
        if not 0 <= value < 0.5:
            raise InputError(f"{name} is {value}; a contamination must be at least 0 and below 0.5")
    # a (1 - cb) + b cb = cb n_bogus;  a cr + b (1 - cr) = cr n_real
    matrix = np.array([[1 - mislabel_bogus, mislabel_bogus], [mislabel_real, 1 - mislabel_real]])
    flips = np.linalg.solve(matrix, [mislabel_bogus * n_bogus, mislabel_real * n_real])
    real_to_bogus, bogus_to_real = (round(float(flip)) for flip in flips)
    if not (0 <= real_to_bogus <= n_real and 0 <= bogus_to_real <= n_bogus):
        raise InputError(
            f"contaminations {mislabel_bogus} and {mislabel_real} are impossible with"
            f" {n_real} real and {n_bogus} bogus samples; balance the classes or lower them"
        )
    return real_to_bogus, bogus_to_real


def contaminate(
    label_true: np.ndarray, *, mislabel_bogus: float, mislabel_real: float, rng: np.random.Generator
) -> NoisyLabels:
    """Class-conditional label noise with exact counts.

    Parameters
    ----------
    label_true : ndarray, shape (n,), integer
        1 real, 0 bogus; others are left alone.
    mislabel_bogus, mislabel_real : float
        Contaminations of the given classes, see `count_flips`.
    rng : numpy.random.Generator

    Returns
    -------
    NoisyLabels

    Raises
    ------
    InputError
        See `count_flips`.
    """
    label_true = np.asarray(label_true)
    real = np.flatnonzero(label_true == schema.LABEL_REAL)
    bogus = np.flatnonzero(label_true == schema.LABEL_BOGUS)
    real_to_bogus, bogus_to_real = count_flips(
        len(real), len(bogus), mislabel_bogus=mislabel_bogus, mislabel_real=mislabel_real
    )
    label_given = label_true.astype(np.int8)
    reason = np.zeros(len(label_true), np.int8)
    for members, count, label, why in (
        (real, real_to_bogus, schema.LABEL_BOGUS, "real_given_bogus"),
        (bogus, bogus_to_real, schema.LABEL_REAL, "bogus_given_real"),
    ):
        chosen = rng.permutation(members)[:count]
        label_given[chosen] = label
        reason[chosen] = REASON_CODES[why]
    return NoisyLabels(label_given, reason)
