"""Generalised cross-entropy: between cross-entropy, which learns, and absolute error, which forgives."""

import torch
import torch.nn.functional as F  # noqa: N812 - the name that every torch reader expects
from torch import nn

from rbmodel.dataset import Batch, TrainingSet
from rbmodel.label_cleaning import Cleaning
from rbmodel.train import FitResult, Loss, Progress, TrainConfig, fit
from rbsim import schema

Q = 0.7
"""Of the paper, for all its data sets and noise rates."""


def generalised_cross_entropy(logits: torch.Tensor, label_given: torch.Tensor, *, q: float) -> torch.Tensor:
    """Mean of (1 - p**q) / q over the labelled samples, p the probability of the given label; 0 if none.

    Zhang & Sabuncu (2018, NeurIPS, arXiv:1805.07836), equation 6. q to 0 gives cross-entropy, q = 1 the
    absolute error. A sample's gradient is that of cross-entropy times p**q: one that the network
    contradicts has little of it.

    Parameters
    ----------
    logits : Tensor, shape (n, 2)
    label_given : Tensor, shape (n,), integer
        1 real, 0 bogus, -1 unlabelled (ignored).
    q : float
        Above 0, at most 1.
    """
    labelled = label_given != schema.LABEL_EXCLUDED
    log_p = F.log_softmax(logits.float(), dim=1)
    log_p_given = log_p.gather(1, label_given.clamp(min=0).long()[:, None])[:, 0]  # (n,)
    loss = -torch.expm1(q * log_p_given) / q
    return torch.where(labelled, loss, 0.0).sum() / labelled.sum().clamp(min=1)


def gce_loss(*, q: float = Q) -> Loss:
    """`generalised_cross_entropy` as a loss of `fit`."""

    def loss(network: nn.Module, batch: Batch) -> torch.Tensor:
        return generalised_cross_entropy(network(batch.stamps), batch.label_given, q=q)

    return loss


def train_gce(
    network: nn.Module,
    training_set: TrainingSet,
    validation_set: TrainingSet,
    config: TrainConfig,
    *,
    cleaning: Cleaning | None,  # noqa: ARG001 - all recipes have one signature
    seed: int,
    progress: Progress | None = None,
    q: float = Q,
) -> FitResult:
    """Train in place on all labels with generalised cross-entropy; see `train_baseline`."""
    return fit(network, training_set, validation_set, gce_loss(q=q), config, seed=seed, progress=progress)
