"""The two-stage method of Takahashi et al. (2022, PASJ 74, 946): suspects stay, without their labels."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from rbmodel.dataset import Batch, TrainingSet
from rbmodel.label_cleaning import Cleaning, labels_without_suspects
from rbmodel.losses import auc_hinge, cross_entropy
from rbmodel.train import FitResult, Loss, Progress, TrainConfig, fit
from rbmodel.vat import predict_twice, smoothness_loss
from rbsim.errors import InputError


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
    power_steps : int
        See `rbmodel.vat`.
    auc_cap : float or None
        See `rbmodel.losses.auc_hinge`.
    vat_fraction : float
        Share of each batch that the smoothness term sees; a fair sample, batches being in random order.
    """

    cross_entropy: float = 1.0
    auc: float = 0.1
    vat: float = 0.1
    epsilon: float = 0.5
    xi: float = 0.5
    power_steps: int = 1
    vat_fraction: float = 1.0
    auc_cap: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.vat_fraction <= 1:
            raise InputError(f"vat_fraction is {self.vat_fraction}; it must be above 0 and at most 1")


def semi_supervised_loss(terms: LossTerms, *, generator: torch.Generator) -> Loss:
    """Cross-entropy and AUC hinge on the labelled, smoothness on all samples of a batch."""

    def supervised(logits: torch.Tensor, label_given: torch.Tensor) -> torch.Tensor:
        value = terms.cross_entropy * cross_entropy(logits, label_given)
        return value + terms.auc * auc_hinge(logits, label_given, cap=terms.auc_cap)

    def loss(network: nn.Module, batch: Batch) -> torch.Tensor:
        if terms.vat == 0:  # spares two passes
            return supervised(network(batch.stamps), batch.label_given)
        logits, log_p = predict_twice(network, batch.stamps)  # (b, 2), (b, 2)
        n_smooth = math.ceil(terms.vat_fraction * len(log_p))
        smoothness = smoothness_loss(
            network,
            batch.stamps[:n_smooth],
            epsilon=terms.epsilon,
            xi=terms.xi,
            power_steps=terms.power_steps,
            generator=generator,
            log_p=log_p[:n_smooth],
        )
        return supervised(logits, batch.label_given) + terms.vat * smoothness

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
