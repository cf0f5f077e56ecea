"""A public case of wrong labels: handwritten digits of which some are flipped, and a network for them."""

from functools import cache

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from rbmodel.dataset import TrainingSet
from rbmodel.label_cleaning import clean_labels
from rbmodel.recipes.table import RECIPES
from rbmodel.train import TrainConfig, predict

FLIPPED = 0.3
SEEDS = (0, 1)
DIGITS = TrainConfig(n_epochs=15, batch_size=64, learning_rate=6e-3, patience=15, precision="float32")


class Small(nn.Module):
    """A network for images of 8 x 8 pixels."""

    name = "small"

    def __init__(self):
        super().__init__()
        self.maps = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 2))

    def features(self, stamps):
        return self.maps(stamps)

    def classify(self, features):
        return self.head(features)

    def forward(self, stamps):
        return self.classify(self.features(stamps))


def digits(seed, *, flipped=FLIPPED):
    """Training, validation, test pixels and true labels of test and training: is there a hole in the digit?

    The classes stay what they are under rotations and mirrors, as on the sky: 6 may turn into 9, 2 into 5.
    The four, with a hole in some hands and without in others, is left out.
    """
    images = load_digits()
    kept = images.target != 4
    true = np.isin(images.target[kept], [0, 6, 8, 9]).astype(np.int8)
    stamps = np.repeat((images.images[kept] / 16).astype(np.float32)[:, None], 3, axis=1)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(true))
    stamps, true = stamps[order], true[order]
    given = np.where(rng.random(len(true)) < flipped, 1 - true, true).astype(np.int8)
    group = np.arange(len(true)) % 20
    a, b = int(0.6 * len(true)), int(0.75 * len(true))
    parts = [TrainingSet(stamps[i:j], given[i:j], group[i:j]) for i, j in ((0, a), (a, b))]
    return *parts, stamps[b:], true[b:], true[:a]


@cache
def _cleaned(seed, flipped):
    training_set, validation_set, *_ = digits(seed, flipped=flipped)
    return clean_labels("small", training_set, validation_set, DIGITS, seed=seed, n_folds=3)


@cache
def error_on_digits(method, *, flipped=FLIPPED, seeds=SEEDS):
    """Mean share of test digits that are classified wrongly, over the seeds."""
    errors = []
    for seed in seeds:
        training_set, validation_set, stamps, true, training_true = digits(seed, flipped=flipped)
        if method == "oracle":
            training_set = training_set.with_labels(training_true)
        recipe = RECIPES["baseline" if method == "oracle" else method]
        network = recipe.make_network("small", generator=torch.Generator().manual_seed(seed))
        cleaning = _cleaned(seed, flipped) if recipe.needs_cleaning else None
        recipe.train(network, training_set, validation_set, DIGITS, cleaning=cleaning, seed=seed)
        errors.append(np.mean((predict(network, stamps, precision="float32") >= 0) != true))
    return float(np.mean(errors))
