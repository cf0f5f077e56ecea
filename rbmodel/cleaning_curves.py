"""How well stage 1 finds wrong labels: curves against the threshold, and the share of wrong labels."""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from rbmodel.evaluate import (
    RESAMPLES_AT_ONCE_ELEMENTS,
    estimate_mislabelled,
    mislabelled_shares,
    percentile_interval,
)


@dataclass(frozen=True, eq=False)
class CleaningCurve:
    """Recall and precision of wrong labels, for every threshold that makes a difference.

    Attributes
    ----------
    threshold : ndarray, shape (k,)
        Least probability of the label that was not given, falling.
    recall, precision : ndarray, shape (k,)
        Share of the wrong labels that are contradicted at least so much, and share of what is contradicted
        so much that is wrong.
    average_precision : float
        Mean of the precision over the wrong labels, each at the threshold at which it is just found.
    """

    threshold: np.ndarray
    recall: np.ndarray
    precision: np.ndarray
    average_precision: float


@dataclass(frozen=True)
class MislabelEstimate:
    """Share of wrong given labels from the scores alone, with its 95 % interval; NaN where undefined."""

    value: float
    low: float
    high: float


def contradiction(oof_score: np.ndarray, label_given: np.ndarray) -> np.ndarray:
    """Probability of the label that was not given, shape (n,); NaN without a label."""
    against = np.where(label_given == 1, -1.0, 1.0) * np.asarray(oof_score, float)
    return np.where(label_given >= 0, expit(against), np.nan)


def cleaning_curve(oof_score: np.ndarray, label_given: np.ndarray, label_true: np.ndarray) -> CleaningCurve:
    """Judge stage 1 at every threshold.

    Parameters
    ----------
    oof_score : ndarray, shape (n,)
        logit(real) - logit(bogus) from networks that did not see the sample.
    label_given, label_true : ndarray, shape (n,), integer
        Samples without either do not count.

    Returns
    -------
    CleaningCurve
        Without wrong labels, or without samples, recall and average precision are NaN.
    """
    known = (np.asarray(label_given) >= 0) & (np.asarray(label_true) >= 0)
    given = np.asarray(label_given)[known]
    wrong = given != np.asarray(label_true)[known]
    # Ordered by score: probabilities near 1 are equal in floating point where the scores are not.
    against = np.where(given == 1, -1.0, 1.0) * np.asarray(oof_score, float)[known]
    order = np.argsort(-against, kind="stable")
    if not len(order):
        return CleaningCurve(np.empty(0), np.empty(0), np.empty(0), float("nan"))
    ordered = against[order]
    last_of_tie = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    n_found = np.cumsum(wrong[order])[last_of_tie]
    n_wrong = int(n_found[-1])
    precision = n_found / (last_of_tie + 1)
    recall = n_found / n_wrong if n_wrong else np.full(len(n_found), np.nan)
    gained = np.diff(recall, prepend=0.0)
    average = float(np.sum(gained * precision)) if n_wrong else float("nan")
    return CleaningCurve(expit(ordered[last_of_tie]), recall, precision, average)


def estimate_with_interval(
    oof_score: np.ndarray,
    label_given: np.ndarray,
    group: np.ndarray,
    *,
    n_bootstrap: int = 1000,
    rng: np.random.Generator,
) -> MislabelEstimate:
    """`rbmodel.evaluate.estimate_mislabelled` with an interval from resamples of whole groups.

    The interval is that of the sampling: percentiles over resamples (Efron 1979) of groups, whose stamps
    are not independent. How far the method itself is off, it does not know: out-of-fold scores are not
    trained again, and scores that are not calibrated shift estimate and interval alike.

    Parameters
    ----------
    oof_score : ndarray, shape (n,)
    label_given : ndarray, shape (n,), integer
        1, 0, or -1 (not counted).
    group : ndarray, shape (n,), integer
    n_bootstrap : int
        Resamples; those that lack a class are left out.
    rng : numpy.random.Generator

    Returns
    -------
    MislabelEstimate
        Without an interval (NaN) if there are fewer than two groups.
    """
    value = estimate_mislabelled(oof_score, label_given)
    _, member = np.unique(group, return_inverse=True)
    n_groups = int(member.max()) + 1 if len(member) else 0
    if n_groups < 2 or not np.isfinite(value):
        return MislabelEstimate(value, float("nan"), float("nan"))
    draws = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=n_bootstrap).astype(np.float32)
    n_at_once = max(1, RESAMPLES_AT_ONCE_ELEMENTS // len(member))
    parts = []
    for start in range(0, n_bootstrap, n_at_once):
        weights = draws[start : start + n_at_once][:, member]  # (resample, n)
        parts.append(mislabelled_shares(oof_score, label_given, weights).sum(axis=-1))
    values = np.concatenate(parts)
    return MislabelEstimate(value, *percentile_interval(values))
