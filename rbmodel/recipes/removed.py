"""Cross-entropy without the suspects of stage 1."""

from torch import nn

from rbmodel.dataset import TrainingSet
from rbmodel.label_cleaning import Cleaning, labels_without_suspects
from rbmodel.losses import cross_entropy_loss
from rbmodel.train import FitResult, Progress, TrainConfig, fit


def train_removed(
    network: nn.Module,
    training_set: TrainingSet,
    validation_set: TrainingSet,
    config: TrainConfig,
    *,
    cleaning: Cleaning,
    seed: int,
    progress: Progress | None = None,
) -> FitResult:
    """Train in place on the samples that stage 1 does not contradict; see `train_baseline`."""
    labels_without_suspects(training_set, cleaning.suspect)  # refuses what leaves one class
    kept = training_set.subset(~cleaning.suspect)
    return fit(network, kept, validation_set, cross_entropy_loss, config, seed=seed, progress=progress)
