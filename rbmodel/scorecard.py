"""From scores to the fields of a result row: test figures, and how well stage 1 found wrong labels."""

from typing import Any

import numpy as np

from rbmodel.cleaning_curves import cleaning_curve, estimate_with_interval
from rbmodel.evaluate import FPR_AT_TPR, Estimate, Metrics, cleaning_scores, evaluate
from rbmodel.label_cleaning import Cleaning
from rbmodel.trial import Stamps, Trial, positives
from rbsim import seeding

THRESHOLD = 0.5
"""P(real) at which accuracy, precision, recall, F1 and the confusion matrix are taken."""


def figures_on_test(scores: np.ndarray, test: Stamps, *, n_bootstrap: int, seed: int) -> dict[str, Any]:
    """Figures of a run on the test stamps: headline positives in full, injected ones beside them.

    Parameters
    ----------
    scores : ndarray, shape (n,)
        logit(real) - logit(bogus) of the test stamps.
    test : Stamps
    n_bootstrap, seed : int
        Resamples, the same for every method of a seed.

    Returns
    -------
    dict
        Fields of `rbmodel.results.ROW_FIELDS`.
    """
    emulated, injected, headline = positives(test.kind, test.label_true)
    bogus = test.label_true == 0

    def metrics_with(real: np.ndarray) -> Metrics:
        used = bogus | real
        rng = seeding.stream(seed, "train", seeding.key_of_name("bootstrap"))
        return evaluate(
            scores[used], test.label_true[used], test.group[used], n_bootstrap=n_bootstrap, rng=rng
        )

    metrics = metrics_with(emulated if headline == "emulated" else injected)
    fields: dict[str, Any] = {
        "auc": metrics.auc.value,
        "auc_low": metrics.auc.low,
        "auc_high": metrics.auc.high,
    }
    for name in FPR_AT_TPR:
        estimate: Estimate = getattr(metrics, name)
        fields |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        fields[f"{name}_interval"] = estimate.interval
    for name in ("tpr_at_fpr1e3", "accuracy", "precision", "recall", "f1", "prevalence"):
        fields[name] = getattr(metrics, name)
    fields |= {"confusion": dict(metrics.confusion), "threshold": THRESHOLD}
    if np.any(injected):
        second = metrics if headline == "injected" else metrics_with(injected)
        fields |= {"auc_injected": second.auc.value, "fpr_at_tpr90_injected": second.fpr_at_tpr90.value}
    return fields


def cleaning_fields(cleaning: Cleaning, trial: Trial, *, n_bootstrap: int, seed: int) -> dict[str, Any]:
    """How well stage 1 finds wrong labels, and the mislabelled share estimated and true."""
    given, true = trial.training_set.label_given, trial.training_true
    recall, precision = cleaning_scores(cleaning.suspect, given, true)
    estimate = estimate_with_interval(
        cleaning.oof_score,
        given,
        trial.training_set.group,
        n_bootstrap=n_bootstrap,
        rng=seeding.stream(seed, "train", seeding.key_of_name("bootstrap"), 1),
    )
    known = true >= 0
    return {
        "cleaning_recall": recall,
        "cleaning_precision": precision,
        "cleaning_ap": cleaning_curve(cleaning.oof_score, given, true).average_precision,
        "mislabel_estimate": estimate.value,
        "mislabel_estimate_low": estimate.low,
        "mislabel_estimate_high": estimate.high,
        "mislabel_true": float(np.mean(given[known] != true[known])) if np.any(known) else float("nan"),
    }
