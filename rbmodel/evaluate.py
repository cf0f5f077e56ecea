"""Scores and truth to figures of merit with intervals. Knows no torch and no store."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import expit
from scipy.stats import beta

CONFIDENCE = 0.95
FEW_FALSE_POSITIVES = 10
RESAMPLES_AT_ONCE_ELEMENTS = 4_000_000
FPR_AT_TPR = {"fpr_at_tpr90": 0.90, "fpr_at_tpr95": 0.95, "fpr_at_tpr99": 0.99}


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval; NaN where undefined. `interval` says how it was made."""

    value: float
    low: float
    high: float
    interval: str


@dataclass(frozen=True)
class Metrics:
    """Figures of one set of scores.

    ``accuracy``, ``precision``, ``recall``, ``f1`` and ``confusion`` (keys tn, fp, fn, tp) are at
    P(real) >= 0.5, i.e. score >= 0. Precision and accuracy depend on ``prevalence``, the share of
    reals in this set.
    """

    auc: Estimate
    fpr_at_tpr90: Estimate
    fpr_at_tpr95: Estimate
    fpr_at_tpr99: Estimate
    tpr_at_fpr1e3: float
    accuracy: float
    precision: float
    recall: float
    f1: float
    confusion: Mapping[str, int]
    prevalence: float


@dataclass(frozen=True, eq=False)
class OperatingPoints:
    """Cumulative counts at every distinct score from high to low; the first point accepts nothing.

    Attributes
    ----------
    threshold : ndarray, shape (k,)
        score >= threshold is accepted; the first is infinite.
    n_true, n_false : ndarray, shape (..., k)
        Accepted reals and bogus.
    """

    threshold: np.ndarray
    n_true: np.ndarray
    n_false: np.ndarray


def operating_points(
    scores: np.ndarray, is_real: np.ndarray, weights: np.ndarray | None = None
) -> OperatingPoints:
    """Count what each threshold accepts; equal scores are accepted together.

    Parameters
    ----------
    scores : ndarray, shape (n,)
        Finite.
    is_real : ndarray, shape (n,), bool
    weights : ndarray, shape (..., n), optional
        How often each sample counts, for resamples.
    """
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last_of_tie = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    real = is_real[order].astype(np.float32)
    ordered_weights = np.ones(len(scores), np.float32) if weights is None else weights[..., order]
    # float64: sums of float32 ones stop at 2**24.
    n_true = np.cumsum(ordered_weights * real, axis=-1, dtype=np.float64)[..., last_of_tie]
    n_all = np.cumsum(ordered_weights, axis=-1, dtype=np.float64)[..., last_of_tie]
    start = [(0, 0)] * (n_true.ndim - 1) + [(1, 0)]
    return OperatingPoints(
        np.append(np.inf, ordered[last_of_tie]), np.pad(n_true, start), np.pad(n_all - n_true, start)
    )


def area_under_curve(points: OperatingPoints) -> np.ndarray:
    """Probability that a real scores above a bogus, ties counting half; NaN without both classes.

    Returns shape (...), one per resample.
    """
    pairs = points.n_true[..., -1] * points.n_false[..., -1]
    mean_true = (points.n_true[..., 1:] + points.n_true[..., :-1]) / 2
    in_order = np.sum(np.diff(points.n_false, axis=-1) * mean_true, axis=-1)
    return np.divide(in_order, pairs, out=np.full(np.shape(pairs), np.nan), where=pairs > 0)


def _first_point_at(points: OperatingPoints, tpr: float) -> np.ndarray:
    # Half a sample of slack: 0.9 * 10 must not ask for the tenth real through rounding.
    needed = np.ceil(tpr * points.n_true[..., -1:] - 1e-9)
    return np.argmax(points.n_true >= needed, axis=-1)


def fpr_at_tpr(points: OperatingPoints, tpr: float) -> np.ndarray:
    """False-positive rate at the highest threshold whose true-positive rate is at least `tpr`.

    Thresholds are observed scores, without interpolation, and all samples that tie with the threshold
    are accepted: the rate that a survey gets which must keep the fraction `tpr` of its reals. NaN
    without both classes. Returns shape (...), one per resample.
    """
    index = _first_point_at(points, tpr)[..., None]
    n_false = np.take_along_axis(points.n_false, index, axis=-1)[..., 0]
    n_real, n_bogus = points.n_true[..., -1], points.n_false[..., -1]
    usable = (n_real > 0) & (n_bogus > 0)
    return np.divide(n_false, n_bogus, out=np.full(np.shape(n_bogus), np.nan), where=usable)


def tpr_at_fpr(points: OperatingPoints, fpr: float) -> float:
    """Largest true-positive rate at a false-positive rate of at most `fpr`; 0 if no threshold has it.

    For counts without resamples, shape (k,); NaN without both classes.
    """
    n_real, n_bogus = points.n_true[-1], points.n_false[-1]
    if n_real == 0 or n_bogus == 0:
        return float("nan")
    allowed = points.n_false <= fpr * n_bogus + 1e-9
    return float(points.n_true[allowed].max() / n_real)


def clopper_pearson(n_hits: int, n_trials: int, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Exact binomial interval (Clopper & Pearson 1934, Biometrika 26, 404)."""
    tail = (1 - confidence) / 2
    low = 0.0 if n_hits == 0 else float(beta.ppf(tail, n_hits, n_trials - n_hits + 1))
    high = 1.0 if n_hits == n_trials else float(beta.ppf(1 - tail, n_hits + 1, n_trials - n_hits))
    return low, high


def evaluate(
    scores: np.ndarray,
    label_true: np.ndarray,
    group: np.ndarray,
    *,
    n_bootstrap: int = 1000,
    rng: np.random.Generator,
) -> Metrics:
    """Figures of merit of scores against the truth.

    Intervals hold 95 % and are percentiles over resamples of whole *groups* (Efron 1979): stamps of one
    exposure and tile are not independent. Two cases have nothing to resample. At fewer than 10
    false positives the interval of the false-positive rate is Clopper-Pearson on their number at the
    threshold. With no pair out of order the interval of the AUC starts at 1 - u, with u the
    Clopper-Pearson limit for no event among the rarer class, and ends at 1.

    Parameters
    ----------
    scores : ndarray, shape (n,)
        logit(real) - logit(bogus).
    label_true : ndarray, shape (n,), integer
        1 or 0.
    group : ndarray, shape (n,), integer
    n_bootstrap : int
        Resamples; those that lack a class are left out.
    rng : numpy.random.Generator

    Returns
    -------
    Metrics

    Raises
    ------
    ValueError
        If a score is not finite, a label is neither 0 nor 1, or a class is absent.
    """
    scores, label_true = np.asarray(scores, float), np.asarray(label_true)
    if not np.all(np.isfinite(scores)):
        raise ValueError(f"{int(np.sum(~np.isfinite(scores)))} of {len(scores)} scores are not finite")
    if set(np.unique(label_true)) != {0, 1}:
        raise ValueError(
            f"true labels are {np.unique(label_true).tolist()}; both 0 and 1 are needed, nothing else"
        )
    is_real = label_true == 1
    points = operating_points(scores, is_real)
    resampled = _resample(scores, is_real, group, n_bootstrap=n_bootstrap, rng=rng)

    accepted = scores >= 0
    tp, fp = int(np.sum(accepted & is_real)), int(np.sum(accepted & ~is_real))
    fn, tn = int(np.sum(~accepted & is_real)), int(np.sum(~accepted & ~is_real))
    return Metrics(
        auc=_auc_estimate(points, resampled["auc"]),
        **{name: _fpr_estimate(points, tpr, resampled[name]) for name, tpr in FPR_AT_TPR.items()},
        tpr_at_fpr1e3=tpr_at_fpr(points, 1e-3),
        accuracy=(tp + tn) / len(scores),
        precision=tp / (tp + fp) if tp + fp else float("nan"),
        recall=tp / (tp + fn),
        f1=2 * tp / (2 * tp + fp + fn),
        confusion={"tn": tn, "fp": fp, "fn": fn, "tp": tp},
        prevalence=float(np.mean(is_real)),
    )


def _resample(
    scores: np.ndarray, is_real: np.ndarray, group: np.ndarray, *, n_bootstrap: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """AUC and false-positive rates of bootstrap resamples of groups, each of shape (n_bootstrap,)."""
    _, member = np.unique(group, return_inverse=True)
    n_groups = int(member.max()) + 1
    draws = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=n_bootstrap).astype(np.float32)
    parts: dict[str, list[np.ndarray]] = {"auc": [], **{name: [] for name in FPR_AT_TPR}}
    n_at_once = max(1, RESAMPLES_AT_ONCE_ELEMENTS // len(scores))
    for start in range(0, n_bootstrap, n_at_once):
        weights = draws[start : start + n_at_once][:, member]  # (resample, n)
        points = operating_points(scores, is_real, weights)
        parts["auc"].append(area_under_curve(points))
        for name, tpr in FPR_AT_TPR.items():
            parts[name].append(fpr_at_tpr(points, tpr))
    return {name: np.concatenate(values) if values else np.empty(0) for name, values in parts.items()}


def percentile_interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of resampled values; those that are not finite are left out, NaN if none is left."""
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def _auc_estimate(points: OperatingPoints, resampled: np.ndarray) -> Estimate:
    value = float(area_under_curve(points))
    if value == 1:
        n_rarer = int(min(points.n_true[-1], points.n_false[-1]))
        return Estimate(value, 1 - clopper_pearson(0, n_rarer)[1], 1.0, "clopper-pearson")
    return Estimate(value, *percentile_interval(resampled), "bootstrap")


def _fpr_estimate(points: OperatingPoints, tpr: float, resampled: np.ndarray) -> Estimate:
    value = float(fpr_at_tpr(points, tpr))
    n_false, n_bogus = int(points.n_false[_first_point_at(points, tpr)]), int(points.n_false[-1])
    if n_false < FEW_FALSE_POSITIVES:
        return Estimate(value, *clopper_pearson(n_false, n_bogus), "clopper-pearson")
    return Estimate(value, *percentile_interval(resampled), "bootstrap")


def cleaning_scores(
    suspect: np.ndarray, label_given: np.ndarray, label_true: np.ndarray
) -> tuple[float, float]:
    """Recall and precision of suspects as a search for wrong labels; NaN where undefined.

    All arrays have shape (n,); samples without a given or a true label do not count.
    """
    known = (label_given >= 0) & (label_true >= 0)
    wrong = known & (label_given != label_true)
    suspect = known & suspect
    n_found, n_wrong, n_suspect = int(np.sum(suspect & wrong)), int(np.sum(wrong)), int(np.sum(suspect))
    recall = n_found / n_wrong if n_wrong else float("nan")
    precision = n_found / n_suspect if n_suspect else float("nan")
    return recall, precision


def estimate_mislabelled(oof_score: np.ndarray, label_given: np.ndarray) -> float:
    """Share of wrong given labels, from out-of-fold scores alone (no truth).

    Confident learning (Northcutt et al. 2021, JAIR 70, 1373): a sample counts as wrong if the
    probability of the *other* label is at least the mean probability that the samples given that
    label have of it. Counting mere disagreement would add all hard samples.

    Parameters
    ----------
    oof_score : ndarray, shape (n,)
        logit(real) - logit(bogus) from networks that did not see the sample.
    label_given : ndarray, shape (n,), integer
        1, 0, or -1 (not counted).

    Returns
    -------
    float
        NaN without both classes.
    """
    return float(mislabelled_shares(oof_score, label_given).sum())


def mislabelled_shares(
    oof_score: np.ndarray, label_given: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """What `estimate_mislabelled` adds up: shares of all labelled samples, given (bogus, real) and wrong.

    Parameters
    ----------
    oof_score : ndarray, shape (n,)
    label_given : ndarray, shape (n,), integer
    weights : ndarray, shape (..., n), optional
        How often each sample counts, for resamples.

    Returns
    -------
    ndarray, shape (..., 2)
        NaN without both classes.
    """
    labelled = np.asarray(label_given) >= 0
    probability_real = expit(np.asarray(oof_score, float)[labelled])
    is_real = np.asarray(label_given)[labelled] == 1
    counts = np.ones(len(is_real)) if weights is None else np.asarray(weights, float)[..., labelled]
    n_real, n_all = (counts * is_real).sum(axis=-1), counts.sum(axis=-1)
    n_given = np.stack([n_all - n_real, n_real], axis=-1)  # (..., 2)
    with np.errstate(invalid="ignore", divide="ignore"):  # a class that is absent gives NaN
        least_real = (counts * is_real) @ probability_real / n_real
        least_bogus = (counts * ~is_real) @ (1 - probability_real) / (n_all - n_real)
        confident_real = probability_real >= least_real[..., None]  # (..., l)
        confident_bogus = 1 - probability_real >= least_bogus[..., None]
        # Where both hold, which needs a poor network, the likelier label counts.
        both = confident_real & confident_bogus
        confident_real &= ~both | (probability_real >= 0.5)
        confident_bogus &= ~both | (probability_real < 0.5)
        wrong = [(confident_real & ~is_real), (confident_bogus & is_real)]
        right = [(confident_bogus & ~is_real), (confident_real & is_real)]
        n_wrong, n_right = (
            np.stack([(counts * one).sum(axis=-1) for one in pair], axis=-1) for pair in (wrong, right)
        )
        n_confident = n_wrong + n_right
        share = np.divide(n_wrong, n_confident, out=np.zeros_like(n_wrong), where=n_confident > 0)
        shares = share * n_given / n_all[..., None]
    return np.where(np.all(n_given > 0, axis=-1, keepdims=True), shares, np.nan)
