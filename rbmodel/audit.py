"""Which stamps a person should inspect to learn how many labels are wrong, and what verdicts tell. No torch.

A stratified random sample. Scores of networks that did not see a stamp say where wrong labels are likely; the
estimate holds however wrong the scores are, only its interval is the shorter the better they are.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq, minimize
from scipy.special import expit, rel_entr
from scipy.stats import chi2

from rbmodel.evaluate import CONFIDENCE
from rbmodel.temperature import fit_temperature
from rbsim import schema
from rbsim.errors import InputError

MOST_FLIPPED = 0.5
STRATUM_EDGES = (0.05, 0.5)
"""In probability of a wrong label: right, doubtful, suspect. More strata make longer intervals, not shorter:
each in which nothing is found must be allowed its own share of what may have been missed."""

LEAST_PER_STRATUM = 5
LEAST_SAMPLE = 50
LEAST_PROBABILITY = 0.002
"""No stamp is surely right: a mistake that hangs together with the image is learnt, and no score shows it."""


@dataclass(frozen=True, eq=False)
class Strata:
    """A population of labelled stamps, cut by given label and by how probably the label is wrong.

    Attributes
    ----------
    of_stamp : ndarray, shape (n_stamps,), int64
        Stratum of each; -1 where there is no given label.
    label : ndarray, shape (k,), int8
        Given label of each stratum.
    n_population : ndarray, shape (k,), int64
    weight : ndarray, shape (k,)
        Sum of the expected standard deviations of the stamps.
    predicted : ndarray, shape (k,)
        Share of wrong labels that the scores make one expect.
    """

    of_stamp: np.ndarray
    label: np.ndarray
    n_population: np.ndarray
    weight: np.ndarray
    predicted: np.ndarray


@dataclass(frozen=True)
class MislabelRate:
    """Share of wrong labels with its 95 % interval; the stamps it is for, and how many of them were seen."""

    value: float
    low: float
    high: float
    n_population: int
    n_inspected: int
    n_wrong: int


def make_strata(oof_score: np.ndarray, label_given: np.ndarray) -> Strata:
    """Cut a population into right, doubtful and suspect labels, given real and given bogus apart.

    Parameters
    ----------
    oof_score : ndarray, shape (n_stamps,)
        logit(real) - logit(bogus) of networks that did not see the stamp; finite where there is a label.
    label_given : ndarray, shape (n_stamps,), integer
        1 real, 0 bogus; others are no part of the population.

    Raises
    ------
    InputError
        If a class is absent.
    """
    label = np.asarray(label_given)
    probability = np.maximum(probability_wrong(oof_score, label), LEAST_PROBABILITY)
    spread = np.sqrt(probability * (1 - probability))
    of_stamp = np.full(len(label), -1)
    labels: list[int] = []
    for value in (schema.LABEL_BOGUS, schema.LABEL_REAL):
        members = np.flatnonzero(label == value)
        number = np.searchsorted(STRATUM_EDGES, probability[members], side="right")
        for k in np.unique(number):
            of_stamp[members[number == k]] = len(labels)
            labels.append(value)
    used = of_stamp >= 0
    n_population = np.bincount(of_stamp[used], minlength=len(labels))
    weight, total = (
        np.bincount(of_stamp[used], weights=values[used], minlength=len(labels))
        for values in (spread, probability)
    )
    return Strata(of_stamp, np.array(labels, np.int8), n_population, weight, total / n_population)


def draw_sample(strata: Strata, n: int, *, rng: np.random.Generator) -> np.ndarray:
    """Stamps to inspect, shape (n,), int64: indices of the population.

    Each stratum gets a share in proportion to its population times its expected standard deviation (Neyman
    1934, JRSS 97, 558), at least 5 stamps and at most all. They come in random order: whoever stops early has
    inspected a random part of every stratum.

    Parameters
    ----------
    strata : Strata
    n : int
        All stamps if there are fewer.
    rng : numpy.random.Generator

    Raises
    ------
    InputError
        If `n` is too small.
    """
    if n < LEAST_SAMPLE:
        raise InputError(f"{n} stamps are too few for an audit; give at least {LEAST_SAMPLE}, better 300")
    n_sample = _allocate(strata.weight, strata.n_population, n)
    chosen = [
        rng.choice(np.flatnonzero(strata.of_stamp == k), n_k, replace=False) for k, n_k in enumerate(n_sample)
    ]
    return rng.permutation(np.concatenate(chosen))


def probability_wrong(score: np.ndarray, label_given: np.ndarray) -> np.ndarray:
    """Probability that each given label is wrong, from scores and given labels alone, shape (n_stamps,).

    A network that is right with the odds exp(score / T), whose answer is then flipped with one probability
    for each true class: T and both probabilities are the likeliest for the given labels (the noise layer of
    Sukhbaatar et al. 2015, ICLR workshop, fitted afterwards). A label that a sure network contradicts is
    probably wrong, one that it half contradicts is probably that of a hard stamp.

    Parameters
    ----------
    score : ndarray, shape (n_stamps,)
    label_given : ndarray, shape (n_stamps,), integer
        1 real, 0 bogus; NaN for others.

    Raises
    ------
    InputError
        If a class is absent.
    """
    label = np.asarray(label_given)
    out = np.full(len(label), np.nan)
    used = (label == schema.LABEL_REAL) | (label == schema.LABEL_BOGUS)
    scores, real = np.asarray(score, float)[used], label[used] == schema.LABEL_REAL

    def joint(parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """P(given label, label right) and P(given label, label wrong)."""
        right_real = expit(scores / np.exp(parameters[0]))
        of_real, of_bogus = MOST_FLIPPED * expit(parameters[1:])
        right = np.where(real, right_real * (1 - of_real), (1 - right_real) * (1 - of_bogus))
        wrong = np.where(real, (1 - right_real) * of_bogus, right_real * of_real)
        return right, wrong

    start = np.array([np.log(fit_temperature(scores, label[used])), -3.0, -3.0])
    found = minimize(lambda p: -np.log(np.maximum(sum(joint(p)), 1e-300)).mean(), start, method="Nelder-Mead")
    right, wrong = joint(found.x)
    out[used] = wrong / np.maximum(right + wrong, 1e-300)
    return out


def _allocate(weight: np.ndarray, n_population: np.ndarray, n: int) -> np.ndarray:
    """Whole numbers in proportion to `weight` that sum to `n`, none above the population, few below 5."""
    if n >= n_population.sum():
        return n_population
    low = np.minimum(LEAST_PER_STRATUM, n_population)

    def wanted(log_factor: float) -> np.ndarray:
        return np.clip(weight * np.exp(log_factor), low, n_population)

    # Their sum rises with the factor, from no more than n to the whole population.
    edges = np.log(1e-9 / weight.max()), np.log(2 * n_population.max() / weight.min())
    exact = wanted(brentq(lambda log_factor: float(wanted(log_factor).sum()) - n, *edges))
    whole = np.floor(exact + 1e-6).astype(np.int64)
    whole[np.argsort(whole - exact, kind="stable")[: n - int(whole.sum())]] += 1
    return whole


def estimate_rate(n_population: np.ndarray, n_inspected: np.ndarray, n_wrong: np.ndarray) -> MislabelRate:
    """Share of wrong labels in all strata together.

    The estimate weighs the shares of the strata by their populations (it is unbiased, and that of Horvitz &
    Thompson 1952). The interval is that of the profile likelihood of the weighted sum of binomial shares,
    with the sample of each stratum enlarged for its finite population: unlike the estimate plus or minus its
    standard error it has no width of 0 where no wrong labels were found.

    Parameters
    ----------
    n_population, n_inspected, n_wrong : ndarray, shape (k,), integer
        Of each stratum; one without stamps is left out.

    Returns
    -------
    MislabelRate
        NaN without strata.

    Raises
    ------
    InputError
        If nothing of a stratum was inspected.
    """
    used = n_population > 0
    n_population, n_inspected, n_wrong = n_population[used], n_inspected[used], n_wrong[used]
    if np.any(n_inspected == 0):
        raise InputError(
            f"nothing was inspected of {int(np.sum(n_inspected == 0))} of {len(n_population)} strata, which"
            " stand for stamps that no other stands for; give verdicts on more stamps"
        )
    if not len(n_population):
        return MislabelRate(np.nan, np.nan, np.nan, 0, 0, 0)
    weight, share = n_population / n_population.sum(), n_wrong / n_inspected
    value = float(np.sum(weight * share))
    complete = n_inspected == n_population
    known = float(np.sum(weight[complete] * share[complete]))
    low, high = _interval(
        weight[~complete],
        (n_inspected * (n_population - 1) / np.maximum(n_population - n_inspected, 1))[~complete],
        share[~complete],
    )
    return MislabelRate(
        value, known + low, known + high, *(int(x.sum()) for x in (n_population, n_inspected, n_wrong))
    )


def _interval(weight: np.ndarray, n: np.ndarray, share: np.ndarray) -> tuple[float, float]:
    """Profile-likelihood interval of sum(weight * p) for `n` (not only whole) trials with `share` hits."""
    limit = chi2.ppf(CONFIDENCE, 1)

    def shares(multiplier: float) -> np.ndarray:
        """The likeliest p of a shifted sum: n (share / p - (1 - share) / (1 - p)) = multiplier * weight."""
        pull = multiplier * weight
        b = n + pull
        root = np.sqrt(np.maximum(b**2 - 4 * pull * n * share, 0))
        # Two forms of one root; the other one loses all its digits, or divides by 0.
        with np.errstate(divide="ignore", invalid="ignore"):
            p = np.where(b > 0, 2 * n * share / (b + root), (b - root) / (2 * pull))
        return np.clip(p, 0, 1)

    def excess(multiplier: float) -> float:
        p = shares(multiplier)
        loss = rel_entr(share, p) + rel_entr(1 - share, 1 - p)
        return float(2 * np.sum(n * loss)) - limit

    bounds = []
    for sign, extreme in ((1.0, 0.0), (-1.0, 1.0)):
        nothing_left = np.all(share == extreme)
        if not len(weight) or nothing_left:
            bounds.append(float(np.sum(weight * extreme)))
            continue
        scale = float(np.max(n / weight))
        far = 1e-3 * scale
        while excess(sign * far) < 0:
            far *= 2
        near = 1e-9 * scale
        bounds.append(
            float(np.sum(weight * shares(sign * brentq(lambda m, s=sign: excess(s * m), near, far))))
        )
    return bounds[0], bounds[1]
