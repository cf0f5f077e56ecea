"""Cross-entropy on the labels as they are given."""

from torch import nn

from rbmodel.dataset import TrainingSet
from rbmodel.label_cleaning import Cleaning
from rbmodel.losses import cross_entropy_loss
from rbmodel.train import FitResult, Progress, TrainConfig, fit


def train_baseline(
    network: nn.Module,
    training_set: TrainingSet,
    validation_set: TrainingSet,
    config: TrainConfig,
    *,
    cleaning: Cleaning | None,  # noqa: ARG001 - all recipes have one signature
    seed: int,
    progress: Progress | None = None,
) -> FitResult:
    """Train in place, trusting every label.

    Parameters
    ----------
    network : Module
    training_set, validation_set : TrainingSet
    config : TrainConfig
    cleaning : Cleaning or None
        Result of stage 1 for `training_set`; not used by this recipe.
    seed : int
    progress : callable, optional

    Returns
    -------
    FitResult
    """
    return fit(
        network, training_set, validation_set, cross_entropy_loss, config, seed=seed, progress=progress
    )
