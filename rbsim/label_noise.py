"""Wrong labels on purpose: contaminations with exact counts, the truth kept beside them."""

from dataclasses import dataclass

import numpy as np

from rbsim import schema
from rbsim.errors import InputError

REASON_CODES = {
    "unchanged": 0,
    "real_given_bogus": 1,
    "bogus_given_real": 2,
    "score_real_given_bogus": 3,
    "score_bogus_given_real": 4,
    "transient_left": 5,
    "known_left": 6,
    "variable_left": 7,
    "moving_left": 8,
    "flare_left": 9,
    "lost_on_mask": 10,
    "lost_in_core": 11,
    "lost_in_noise": 12,
}
"""Why a label is wrong: at random (1, 2), at random within a bin of score (3, 4), real light that the survey
left among its bogus (5 to 9), injected stars that were lost and still are called real (10 to 12)."""

MAX_CONTAMINATION = 0.5


@dataclass(frozen=True, eq=False)
class NoisyLabels:
    """Labels as a survey would have them, and why.

    Attributes
    ----------
    label_given : ndarray, shape (n,), int8
    reason : ndarray, shape (n,), int8
        Code of `REASON_CODES` per sample.
    flip_probability : ndarray, shape (n,), float32
        How probable it was, before the draw, that this sample got a wrong label.
    """

    label_given: np.ndarray
    reason: np.ndarray
    flip_probability: np.ndarray


@dataclass(frozen=True)
class Contamination:
    """What share of the given labels is wrong.

    Attributes
    ----------
    n_given_bogus, n_given_real : int
    n_wrong_bogus, n_wrong_real : int
        Of these, real and bogus in truth.
    """

    n_given_bogus: int
    n_given_real: int
    n_wrong_bogus: int
    n_wrong_real: int

    @property
    def mislabel_bogus(self) -> float:
        """Fraction of the given bogus that are real; 0 without any."""
        return self.n_wrong_bogus / max(self.n_given_bogus, 1)

    @property
    def mislabel_real(self) -> float:
        """Fraction of the given real that are bogus; 0 without any."""
        return self.n_wrong_real / max(self.n_given_real, 1)


def contamination_of(label_given: np.ndarray, is_wrong: np.ndarray) -> Contamination:
    """Count given and wrong labels of both classes; arrays of shape (n,)."""
    bogus, real = label_given == schema.LABEL_BOGUS, label_given == schema.LABEL_REAL
    return Contamination(
        *(int(np.count_nonzero(rows)) for rows in (bogus, real, bogus & is_wrong, real & is_wrong))
    )


def check_contaminations(mislabel_bogus: float, mislabel_real: float) -> None:
    """Refuse what is no contamination.

    Raises
    ------
    InputError
        If one is not at least 0 and below 0.5.
    """
    for name, value in (("mislabel-bogus", mislabel_bogus), ("mislabel-real", mislabel_real)):
        if not 0 <= value < MAX_CONTAMINATION:
            raise InputError(f"{name} is {value}; a contamination must be at least 0 and below 0.5")


def exact_flips(
    n_real: int, n_bogus: int, *, mislabel_bogus: float, mislabel_real: float
) -> tuple[float, float] | None:
    """Numbers of flips that give two contaminations whose sum is below 1; None if there are none.

    With ``a`` true reals given bogus and ``b`` true bogus given real, the contaminations are
    ``a / (n_bogus - b + a)`` and ``b / (n_real - a + b)``: two linear equations.
    """
    # a (1 - cb) + b cb = cb n_bogus;  a cr + b (1 - cr) = cr n_real
    matrix = np.array([[1 - mislabel_bogus, mislabel_bogus], [mislabel_real, 1 - mislabel_real]])
    a, b = np.linalg.solve(matrix, [mislabel_bogus * n_bogus, mislabel_real * n_real])
    if not (0 <= round(a) <= n_real and 0 <= round(b) <= n_bogus):
        return None
    return float(a), float(b)


def count_flips(n_real: int, n_bogus: int, *, mislabel_bogus: float, mislabel_real: float) -> tuple[int, int]:
    """Solve for the numbers of flips that give the contaminations asked for, see `exact_flips`.

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
    check_contaminations(mislabel_bogus, mislabel_real)
    flips = exact_flips(n_real, n_bogus, mislabel_bogus=mislabel_bogus, mislabel_real=mislabel_real)
    if flips is None:
        raise InputError(
            f"contaminations {mislabel_bogus} and {mislabel_real} are impossible with"
            f" {n_real} real and {n_bogus} bogus samples; balance the classes or lower them"
        )
    return round(flips[0]), round(flips[1])


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
    noisy = unchanged(label_true)
    flip(noisy, real, real_to_bogus, schema.LABEL_BOGUS, "real_given_bogus", rng=rng)
    flip(noisy, bogus, bogus_to_real, schema.LABEL_REAL, "bogus_given_real", rng=rng)
    return noisy


def unchanged(label_given: np.ndarray) -> NoisyLabels:
    """Copies of labels before any of them is changed."""
    n = len(label_given)
    return NoisyLabels(np.array(label_given, np.int8), np.zeros(n, np.int8), np.zeros(n, np.float32))


def flip(
    noisy: NoisyLabels,
    members: np.ndarray,
    count: int,
    label: int,
    reason: str | np.ndarray,
    *,
    rng: np.random.Generator,
) -> None:
    """Give `count` of the members a label, in place, and all of them the probability of that.

    Parameters
    ----------
    noisy : NoisyLabels
        Changed in place.
    members : ndarray of int
        Samples to draw from; those that have been flipped before do not take part in the draw.
    count : int
    label : int
    reason : str, or ndarray of shape (n,)
        Name in `REASON_CODES` for all; or the code of each sample of `noisy`.
    rng : numpy.random.Generator
    """
    right = members[noisy.reason[members] == 0]
    chosen = rng.permutation(right)[:count]
    noisy.label_given[chosen] = label
    noisy.reason[chosen] = REASON_CODES[reason] if isinstance(reason, str) else reason[chosen]
    # Any member might have been flipped before, or else be drawn now.
    noisy.flip_probability[members] += (1 - noisy.flip_probability[members]) * (count / max(len(right), 1))
