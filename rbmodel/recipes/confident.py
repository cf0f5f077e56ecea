"""Confident learning: cleanlab picks the labels that go, the rest is weighted for what is gone."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that every torch reader expects
from scipy.special import expit
from torch import nn

from rbmodel.dataset import Batch, TrainingSet
from rbmodel.label_cleaning import Cleaning, labels_without_suspects
from rbmodel.train import FitResult, Loss, Progress, TrainConfig, fit
from rbsim.errors import InputError


@dataclass(frozen=True, eq=False)
class Pruning:
    """What confident learning makes of given labels and out-of-fold scores.

    Attributes
    ----------
    wrong : ndarray, shape (n,), bool
    class_weight : ndarray, shape (2,)
        One over the share of the samples of each true class that have its label.
    """

    wrong: np.ndarray
    class_weight: np.ndarray


def find_wrong_labels(label_given: np.ndarray, oof_score: np.ndarray) -> Pruning:
    """Estimate how many labels of each class are wrong, and name those that are most contradicted.

    Prune by noise rate with the confident joint, and the weights for training on what is left: Northcutt,
    Jiang & Chuang (2021, JAIR 70, 1373), sections 3.1 to 3.3, as cleanlab does it.

    Parameters
    ----------
    label_given : ndarray, shape (n,), integer
        1, 0, or -1 (not looked at, never wrong).
    oof_score : ndarray, shape (n,)
        logit(real) - logit(bogus) from networks that did not see the sample.

    Raises
    ------
    InputError
        If cleanlab is not installed, or a class is absent.
    """
    try:
        from cleanlab.count import estimate_joint
        from cleanlab.filter import find_label_issues
    except ImportError as error:
        raise InputError(
            "the method confident needs cleanlab; run: pip install 'rbsim[confident]', or leave it out"
        ) from error
    labelled = np.asarray(label_given) >= 0
    given = np.asarray(label_given)[labelled].astype(int)
    if set(np.unique(given)) != {0, 1}:
        raise InputError(
            "confident learning needs stamps given real and stamps given bogus; there is one class"
        )
    probability_real = expit(np.asarray(oof_score, float)[labelled])
    probabilities = np.stack([1 - probability_real, probability_real], axis=1)  # (l, 2)
    wrong = np.zeros(len(labelled), bool)
    # One process: its own pool would fork a process that has threads of torch.
    wrong[labelled] = find_label_issues(
        given, probabilities, filter_by="prune_by_noise_rate", n_jobs=1, min_examples_per_class=0
    )
    joint = estimate_joint(given, probabilities)  # (given, true)
    right = np.diag(joint) / joint.sum(axis=0)
    return Pruning(wrong, 1 / np.maximum(right, 0.5))


def weighted_cross_entropy_loss(class_weight: np.ndarray) -> Loss:
    """Cross-entropy of the labelled samples of a batch, each times the weight of its class."""
    weight = torch.from_numpy(np.asarray(class_weight, np.float32))  # (2,)

    def loss(network: nn.Module, batch: Batch) -> torch.Tensor:
        logits = network(batch.stamps).float()
        n_labelled = (batch.label_given >= 0).sum().clamp(min=1)
        total = F.cross_entropy(
            logits, batch.label_given, weight=weight.to(logits.device), ignore_index=-1, reduction="sum"
        )
        return total / n_labelled

    return loss


def train_confident(
    network: nn.Module,
    training_set: TrainingSet,
    validation_set: TrainingSet,
    config: TrainConfig,
    *,
    cleaning: Cleaning,
    seed: int,
    progress: Progress | None = None,
) -> FitResult:
    """Train in place without the labels that confident learning takes for wrong; see `train_baseline`."""
    pruning = find_wrong_labels(training_set.label_given, cleaning.oof_score)
    labels_without_suspects(training_set, pruning.wrong)  # refuses what leaves one class
    kept = training_set.subset(~pruning.wrong)
    loss = weighted_cross_entropy_loss(pruning.class_weight)
    return fit(network, kept, validation_set, loss, config, seed=seed, progress=progress)
