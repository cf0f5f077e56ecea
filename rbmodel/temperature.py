"""From scores to calibrated probabilities: one temperature, and how far they are from the truth. No torch."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

from rbmodel.evaluate import clopper_pearson
from rbsim.errors import InputError

TEMPERATURE_LIMITS = (0.05, 20.0)
"""Where every stamp is on its right side the best would be 0, and no probability could be trusted."""

N_BINS = 15


@dataclass(frozen=True, eq=False)
class Reliability:
    """Probabilities beside frequencies, in bins of probability that hold at least one stamp.

    Attributes
    ----------
    low, high : ndarray, shape (k,)
        Borders of each bin.
    n : ndarray, shape (k,), int64
        Stamps in it.
    probability, frequency : ndarray, shape (k,)
        Mean of P(real), and share of stamps labelled real.
    frequency_low, frequency_high : ndarray, shape (k,)
        95 % interval of the share (Clopper-Pearson).
    """

    low: np.ndarray
    high: np.ndarray
    n: np.ndarray
    probability: np.ndarray
    frequency: np.ndarray
    frequency_low: np.ndarray
    frequency_high: np.ndarray

    @property
    def calibration_error(self) -> float:
        """Expected calibration error: mean distance over the stamps (Guo et al. 2017, ICML, eq. 5)."""
        return float(np.average(np.abs(self.probability - self.frequency), weights=self.n))


def fit_temperature(score: np.ndarray, label_given: np.ndarray) -> float:
    """The temperature T at which sigmoid(score / T) has the lowest cross-entropy (Guo et al. 2017, ICML).

    It changes no ranking. Wrong labels among the given ones make it larger, so that probabilities stay
    further from 0 and 1 than the truth would allow: 1 % of them is felt only in the tails.

    Parameters
    ----------
    score : ndarray, shape (n,)
        logit(real) - logit(bogus) of stamps that the network did not learn from; finite.
    label_given : ndarray, shape (n,), integer
        1 real, 0 bogus, -1 unlabelled (not used).

    Returns
    -------
    float
        Within `TEMPERATURE_LIMITS`.

    Raises
    ------
    InputError
        If a class is absent.
    """
    labelled = np.asarray(label_given) >= 0
    scores, real = np.asarray(score, float)[labelled], np.asarray(label_given)[labelled] == 1
    if not (real.any() and (~real).any()):
        raise InputError(
            f"probabilities cannot be calibrated with {int(real.sum())} stamps given real and"
            f" {int((~real).sum())} given bogus; both are needed"
        )
    against = np.where(real, -scores, scores)

    def cross_entropy(log_temperature: float) -> float:
        return float(np.logaddexp(0, against * np.exp(-log_temperature)).mean())

    # Convex in 1/T, so that there is one minimum in log T as well.
    limits = (np.log(TEMPERATURE_LIMITS[0]), np.log(TEMPERATURE_LIMITS[1]))
    found = minimize_scalar(cross_entropy, bounds=limits, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def probability_of(
    score: np.ndarray, *, temperature: float, prevalence: float, prevalence_wanted: float | None = None
) -> np.ndarray:
    """P(real) of scores, shape (n,), float64; NaN where the score is NaN.

    Parameters
    ----------
    score : ndarray, shape (n,)
    temperature : float
    prevalence : float
        Share of reals among the stamps that the temperature was fitted to.
    prevalence_wanted : float, optional
        Share of reals where the probability is to hold, if it is another one: Bayes' rule shifts the log odds
        by the difference of both (Saerens et al. 2002, Neural Computation 14, 21). It assumes that reals
        look alike in both places, and bogus too.

    Raises
    ------
    InputError
        If a prevalence is not between 0 and 1.
    """
    for value in (prevalence, prevalence if prevalence_wanted is None else prevalence_wanted):
        if not 0 < value < 1:
            raise InputError(f"prevalence is {value:g}; it must lie between 0 and 1, e.g. 0.01")
    log_odds = np.asarray(score, float) / temperature
    if prevalence_wanted is not None:
        log_odds = log_odds + logit(prevalence_wanted) - logit(prevalence)
    return expit(log_odds)


def reliability(probability: np.ndarray, label: np.ndarray, *, n_bins: int = N_BINS) -> Reliability:
    """Sort probabilities into bins of equal width and compare them with labels.

    Parameters
    ----------
    probability : ndarray, shape (n,)
        P(real), finite.
    label : ndarray, shape (n,), integer
        1 real, 0 bogus; others are not used.
    n_bins : int

    Raises
    ------
    InputError
        If no stamp has a label.
    """
    used = np.isin(label, (0, 1))
    if not used.any():
        raise InputError("probabilities cannot be compared with labels: no stamp has one")
    probability, real = np.asarray(probability, float)[used], np.asarray(label)[used] == 1
    number = np.minimum((probability * n_bins).astype(int), n_bins - 1)
    n = np.bincount(number, minlength=n_bins)
    n_real = np.bincount(number, weights=real, minlength=n_bins)
    total = np.bincount(number, weights=probability, minlength=n_bins)
    filled = np.flatnonzero(n)
    intervals = np.array([clopper_pearson(int(n_real[b]), int(n[b])) for b in filled])  # (k, 2)
    return Reliability(
        low=filled / n_bins,
        high=(filled + 1) / n_bins,
        n=n[filled],
        probability=total[filled] / n[filled],
        frequency=n_real[filled] / n[filled],
        frequency_low=intervals[:, 0],
        frequency_high=intervals[:, 1],
    )
