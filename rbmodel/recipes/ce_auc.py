"""Cross-entropy and AUC hinge on the labels as they are given: stage 2 without cleaning and smoothness."""

import torch
from torch import nn

from rbmodel.dataset import TrainingSet
from rbmodel.label_cleaning import Cleaning
from rbmodel.recipes.unlabelled import LossTerms, semi_supervised_loss
from rbmodel.train import FitResult, Progress, TrainConfig, fit

TERMS = LossTerms(vat=0.0)
"""The other weights are those of `unlabelled`, so that the two differ in cleaning and smoothness only."""


def train_ce_auc(
    network: nn.Module,
    training_set: TrainingSet,
    validation_set: TrainingSet,
    config: TrainConfig,
    *,
    cleaning: Cleaning | None,  # noqa: ARG001 - all recipes have one signature
    seed: int,
    progress: Progress | None = None,
) -> FitResult:
    """Train in place, trusting every label; see `train_baseline`."""
    loss = semi_supervised_loss(TERMS, generator=torch.Generator().manual_seed(seed))
    return fit(network, training_set, validation_set, loss, config, seed=seed, progress=progress)
