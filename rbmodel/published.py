"""What the authors' published code does otherwise than their paper says, switch by switch.

Takahashi et al. (2022, PASJ 74, 946) trained with a code whose slips shaped its numbers. Each field of
`Published` switches one of them on; the rest of rbsim does what the paper says. The data come with the
normalisation that `input_of` names.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from rbmodel.dataset import TrainingSet
from rbmodel.losses import AUC_CAP_AS_PUBLISHED
from rbmodel.networks import make_network
from rbmodel.recipes.unlabelled import LossTerms, semi_supervised_loss
from rbmodel.train import FitResult, Progress, TrainConfig, fit
from rbsim.errors import InputError


@dataclass(frozen=True)
class Published:
    """Slips of the published code; all on by default.

    Attributes
    ----------
    shifted_weights : bool
        The weight of VAT is stored in the place of that of the AUC loss: AUC gets the weight meant for VAT,
        VAT gets 1.
    validation_leak : bool
        The training part is in the validation set: stopping and the choice of the best epoch look at what was
        trained on.
    frn_sum : bool
        Filter response normalisation by the sum of squares, not by their mean; only in ``complex``.
    raw_perturbation : bool
        The scaling is inside the network, so VAT perturbs in raw units.
    capped_auc : bool
        Pairs in the worst order, beyond 6, have no gradient.
    plain_training : bool
        SGD without momentum at a constant 1e-3, batches of 256, stopped by the cross-entropy of the
        validation labels with patience 10.
    """

    shifted_weights: bool = True
    validation_leak: bool = True
    frn_sum: bool = True
    raw_perturbation: bool = True
    capped_auc: bool = True
    plain_training: bool = True


AS_PUBLISHED = Published()
AS_INTENDED = Published(
    shifted_weights=False,
    validation_leak=False,
    frn_sum=False,
    raw_perturbation=False,
    capped_auc=False,
    plain_training=False,
)

PUBLISHED_TERMS = LossTerms(cross_entropy=0.1, auc=1.0, vat=0.1, epsilon=0.1, xi=1.0)
"""The weights that the authors configure."""


def input_of(published: Published) -> str:
    """The normalisation that the stamps must have."""
    return "raw" if published.raw_perturbation else "minmax"


def network_name(published: Published, network: str) -> str:
    """The key of `rbmodel.networks.NETWORKS` for ``simple`` or ``complex``.

    Raises
    ------
    InputError
        If the network is another one, or the combination was never published.
    """
    if network not in ("simple", "complex"):
        raise InputError(f"network is {network!r}; the authors published simple and complex")
    if network == "complex" and not published.frn_sum:
        if published.raw_perturbation:
            raise InputError("frn_sum is off and raw_perturbation on; there is no such network: switch one")
        return "complex-mean"
    return f"{network}-raw" if published.raw_perturbation else network


def terms_of(published: Published, terms: LossTerms = PUBLISHED_TERMS) -> LossTerms:
    """The terms that are computed where `terms` are configured."""
    cap = AUC_CAP_AS_PUBLISHED if published.capped_auc else None
    if published.shifted_weights and terms.vat and terms.auc:
        return replace(terms, auc=terms.vat, vat=1.0, auc_cap=cap)
    return replace(terms, auc_cap=cap)


def config_of(published: Published, config: TrainConfig) -> TrainConfig:
    """How training runs where `config` is asked for; number of epochs, precision and device are kept."""
    if not published.plain_training:
        return config
    return replace(
        config,
        batch_size=256,
        learning_rate=1e-3,
        constant_rate=True,
        optimiser="sgd",
        patience=10,
        stop_measure="cross_entropy",
    )


def validation_of(
    published: Published, training_set: TrainingSet, validation_set: TrainingSet
) -> TrainingSet:
    """What stopping looks at."""
    if not published.validation_leak:
        return validation_set
    pairs = ((getattr(part, name) for part in (training_set, validation_set)) for name in _FIELDS)
    return TrainingSet(*(np.concatenate(list(pair)) for pair in pairs))


_FIELDS = ("stamps", "label_given", "group")


def train_published(
    network: str,
    training_set: TrainingSet,
    validation_set: TrainingSet,
    config: TrainConfig,
    *,
    published: Published = AS_PUBLISHED,
    terms: LossTerms = PUBLISHED_TERMS,
    seed: int,
    progress: Progress | None = None,
) -> tuple[nn.Module, FitResult]:
    """The second stage of the authors, suspects already without label, with the slips that are on.

    Parameters
    ----------
    network : str
        ``simple`` or ``complex``.
    training_set, validation_set : TrainingSet
        Stamps of the normalisation `input_of`.
    config : TrainConfig
        See `config_of`.
    published : Published
    terms : LossTerms
        As configured; see `terms_of`.
    seed : int
    progress : callable, optional

    Returns
    -------
    network : Module
        In evaluation mode.
    result : FitResult
    """
    made = make_network(network_name(published, network), generator=torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed)
    result = fit(
        made,
        training_set,
        validation_of(published, training_set, validation_set),
        semi_supervised_loss(terms_of(published, terms), generator=generator),
        config_of(published, config),
        seed=seed,
        progress=progress,
        generators=[generator],
    )
    return made, result
