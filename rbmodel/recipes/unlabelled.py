"""The two-stage method of Takahashi et al. (2022, PASJ 74, 946): suspects stay, without their labels."""

from dataclasses import dataclass

import torch
from torch import nn

from rbmodel.dataset import Batch, TrainingSet
from rbmodel.label_cleaning import Cleaning, labels_without_suspects
from rbmodel.losses import auc_hinge, cross_entropy
from rbmodel.train import FitResult, Loss, Progress, TrainConfig, fit
from rbmodel.vat import smoothness_loss


@dataclass(frozen=True)
class LossTerms:
    """Weights of the terms and the size of the perturbation.

    Chosen with ``benchmarks/vat_terms.py`` on an emulated development night, by the log loss against *given*
    labels of held-out groups: 0.179 with these, 0.202 and 0.203 for vat, epsilon = 1, 0.1 and 0.1, 0.2,
    0.215 without the smoothness term. In AUC the settings were equal (0.983 to 0.984), and no better than
    plain cross-entropy on all labels (0.985): at 1 % wrong labels expect little.

    Attributes
    ----------
    cross_entropy, auc, vat : float
    epsilon, xi : float
        L2 norms over a stamp in units of the *normalised* input, see `rbmodel.vat`.
    """

    cross_entropy: float = 1.0
    auc: float = 0.1
    vat: float = 0.1
    epsilon: float = 0.5
    xi: float = 0.5


def semi_supervised_loss(terms: LossTerms, *, generator: torch.Generator) -> Loss:
    """Cross-entropy and AUC hinge on the labelled, smoothness on all samples of a batch."""

    def loss(network: nn.Module, batch: Batch) -> torch.Tensor:
        logits = network(batch.stamps)  # (b, 2)
        supervised = terms.cross_entropy * cross_entropy(logits, batch.label_given)
        supervised = supervised + terms.auc * auc_hinge(logits, batch.label_given)
        if terms.vat == 0:  # spares three passes
            return supervised
        smoothness = smoothness_loss(
            network, batch.stamps, epsilon=terms.epsilon, xi=terms.xi, generator=generator
        )
        return supervised + terms.vat * smoothness

    return loss


def train_unlabelled(
    network: nn.Module,
    training_set: TrainingSet,
    validation_set: TrainingSet,
    config: TrainConfig,
    *,
    cleaning: Cleaning,
    seed: int,
    progress: Progress | None = None,
    terms: LossTerms = LossTerms(),
) -> FitResult:
    """Train in place on all samples, the suspects unlabelled; see `train_baseline`."""
    label_given = labels_without_suspects(training_set, cleaning.suspect)
    loss = semi_supervised_loss(terms, generator=torch.Generator().manual_seed(seed))
    return fit(
        network,
        training_set.with_labels(label_given),
        validation_set,
        loss,
        config,
        seed=seed,
        progress=progress,
    )
