"""Co-teaching: two networks, each learning from the samples that the other finds easy."""

import math

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that every torch reader expects
from torch import nn

from rbmodel.dataset import Batch, TrainingSet
from rbmodel.evaluate import estimate_mislabelled
from rbmodel.label_cleaning import Cleaning
from rbmodel.networks import make_network
from rbmodel.train import FitResult, Progress, TrainConfig, fit
from rbsim import seeding

RAMP = 0.2
"""Share of the steps over which the forgotten share grows to its full value.

The paper: 10 of 200 epochs. Our schedules have 15 or so, and a tenth of them is warm-up.
"""


class Pair(nn.Module):
    """A network and its peer; the prediction is the first one's. No weight is common to both."""

    def __init__(self, network: nn.Module, peer: nn.Module) -> None:
        super().__init__()
        self.network, self.peer = network, peer

    def forward(self, stamps: torch.Tensor) -> torch.Tensor:
        """Logits of the first network, shape (n, 2)."""
        return self.network(stamps)


class CoteachingLoss:
    """Loss of a `Pair`: each network's cross-entropy on what has the smallest loss in the other.

    Han et al. (2018, NeurIPS, arXiv:1804.06872), algorithm 1. Networks memorise wrong labels late, so that
    a small loss means a label that is likely right, and two networks err on different samples.

    Attributes
    ----------
    forget_rate : float
        Share of the labelled samples of a batch that is left out in the end.
    n_ramp : int
        Steps over which the share grows to that.
    step : int
        Steps done.
    """

    def __init__(self, *, forget_rate: float, n_ramp: int) -> None:
        self.forget_rate, self.n_ramp, self.step = forget_rate, n_ramp, 0

    def __call__(self, pair: nn.Module, batch: Batch) -> torch.Tensor:
        """Sum of the losses of both networks on a batch."""
        forgotten = self.forget_rate * (self.step / self.n_ramp if self.step < self.n_ramp else 1)
        self.step += 1
        labelled = batch.label_given >= 0
        label = batch.label_given[labelled]
        both = [
            F.cross_entropy(
                pair.get_submodule(one)(batch.stamps).float()[labelled], label, reduction="none"
            )  # (l,)
            for one in ("network", "peer")
        ]
        n_kept = math.ceil((1 - forgotten) * len(label))
        easy = [losses.detach().argsort(stable=True)[:n_kept] for losses in both]
        # max: a batch without labels has no loss, not NaN.
        return (both[0][easy[1]].sum() + both[1][easy[0]].sum()) / max(n_kept, 1)


def train_coteaching(
    network: nn.Module,
    training_set: TrainingSet,
    validation_set: TrainingSet,
    config: TrainConfig,
    *,
    cleaning: Cleaning,
    seed: int,
    progress: Progress | None = None,
    forget_rate: float | None = None,
) -> FitResult:
    """Train in place together with a peer that is then let go; see `train_baseline`.

    Parameters
    ----------
    network, training_set, validation_set, config, seed, progress
        See `train_baseline`.
    cleaning : Cleaning
        Only its estimate of the share of wrong labels is used: the paper takes that share as known.
    forget_rate : float, optional
        Instead of the estimate.
    """
    if forget_rate is None:
        forget_rate = estimate_mislabelled(cleaning.oof_score, training_set.label_given)
        forget_rate = forget_rate if np.isfinite(forget_rate) else 0.0
    generator = torch.Generator().manual_seed(int(seeding.stream(seed, "train", 1).integers(2**31)))
    peer = make_network(str(network.name), generator=generator)
    n_epochs, _ = config.schedule(len(training_set))
    n_steps = n_epochs * math.ceil(len(training_set) / config.batch_size)
    loss = CoteachingLoss(forget_rate=forget_rate, n_ramp=round(RAMP * n_steps))
    return fit(Pair(network, peer), training_set, validation_set, loss, config, seed=seed, progress=progress)
