"""FixMatch: suspects lose their labels and get those that the network is sure of, seen another way up."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that every torch reader expects
from torch import nn

from rbmodel.dataset import Batch, TrainingSet, turned
from rbmodel.label_cleaning import Cleaning, labels_without_suspects
from rbmodel.losses import cross_entropy
from rbmodel.train import FitResult, Loss, Progress, TrainConfig, fit
from rbmodel.vat import evaluation_mode


@dataclass(frozen=True)
class FixmatchTerms:
    """Of the paper: weight of the pseudo-labels and the probability from which a prediction is one."""

    weight: float = 1.0
    threshold: float = 0.95


def fixmatch_loss(terms: FixmatchTerms, *, generator: torch.Generator) -> Loss:
    """Cross-entropy on the labelled, and on all samples of a batch towards confident predictions.

    Sohn et al. (2020, NeurIPS, arXiv:2001.07685), equations 3 and 4, with the symmetries of the sky as both
    augmentations: the label is predicted without dropout in one orientation and learnt in another. Their
    strong augmentations (colour, shear, cut-out) would change what is real.
    """

    def loss(network: nn.Module, batch: Batch) -> torch.Tensor:
        seed = int(torch.randint(2**62, (1,), generator=generator))
        rng = np.random.default_rng(seed)
        weak, strong = (turned(batch, rng=rng).stamps for _ in range(2))
        with evaluation_mode(network), torch.no_grad():
            probability, pseudo = F.softmax(network(weak), dim=1).max(dim=1)  # (n,), (n,)
        supervised = cross_entropy(network(batch.stamps), batch.label_given)
        towards = F.cross_entropy(network(strong).float(), pseudo, reduction="none")  # (n,)
        return supervised + terms.weight * (towards * (probability >= terms.threshold)).mean()

    return loss


def train_fixmatch(
    network: nn.Module,
    training_set: TrainingSet,
    validation_set: TrainingSet,
    config: TrainConfig,
    *,
    cleaning: Cleaning,
    seed: int,
    progress: Progress | None = None,
    terms: FixmatchTerms = FixmatchTerms(),
) -> FitResult:
    """Train in place on all samples, the suspects without their labels; see `train_baseline`."""
    unlabelled = training_set.with_labels(labels_without_suspects(training_set, cleaning.suspect))
    loss = fixmatch_loss(terms, generator=torch.Generator().manual_seed(seed))
    return fit(network, unlabelled, validation_set, loss, config, seed=seed, progress=progress)
