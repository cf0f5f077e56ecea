"""Several baselines from other weights and batches; the mean of their scores."""

import numpy as np
from torch import nn

from rbmodel.dataset import TrainingSet
from rbmodel.ensemble import Ensemble
from rbmodel.label_cleaning import Cleaning
from rbmodel.losses import cross_entropy_loss
from rbmodel.train import FitResult, Progress, TrainConfig, fit
from rbsim import seeding

N_MEMBERS = 5
"""After Lakshminarayanan et al. (2017, NeurIPS), whose gain is nearly complete at five."""


def train_ensemble(
    network: nn.Module,
    training_set: TrainingSet,
    validation_set: TrainingSet,
    config: TrainConfig,
    *,
    cleaning: Cleaning | None,  # noqa: ARG001 - all recipes have one signature
    seed: int,
    progress: Progress | None = None,
) -> FitResult:
    """Train the members of an `Ensemble` one after the other; see `train_baseline`.

    The first member is the baseline of the same seed, bit for bit. Histories of the result are those of the
    members, one behind the other; ``best_epoch`` is that of the first.
    """
    if not isinstance(network, Ensemble):
        raise TypeError(f"an ensemble is trained, not a {type(network).__name__}; make it with make_ensemble")
    n_members = len(network.members)
    results = [
        fit(
            member,
            training_set,
            validation_set,
            cross_entropy_loss,
            config,
            seed=seed if i == 0 else int(seeding.stream(seed, "train", i).integers(2**31)),
            progress=None if progress is None else _of_member(progress, i, n_members),
        )
        for i, member in enumerate(network.members)
    ]
    network.eval()
    seconds = sum(result.seconds for result in results)
    histories = zip(*((result.train_loss, result.validation_loss) for result in results), strict=True)
    train_loss, validation_loss = (tuple(np.concatenate(parts).tolist()) for parts in histories)
    rate = len(training_set) * len(train_loss) / seconds
    return FitResult(train_loss, validation_loss, results[0].best_epoch, seconds, rate)


def _of_member(progress: Progress, member: int, n_members: int) -> Progress:
    return lambda what, done, total: progress(what, member * total + done, n_members * total)
