"""Every recipe by its name: how it trains, what it needs, what a step of it costs."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from rbmodel.ensemble import make_ensemble
from rbmodel.recipes.baseline import train_baseline
from rbmodel.recipes.ce_auc import train_ce_auc
from rbmodel.recipes.confident import train_confident
from rbmodel.recipes.coteaching import train_coteaching
from rbmodel.recipes.ensemble import N_MEMBERS, train_ensemble
from rbmodel.recipes.fixmatch import train_fixmatch
from rbmodel.recipes.gce import train_gce
from rbmodel.recipes.removed import train_removed
from rbmodel.recipes.unlabelled import train_unlabelled
from rbmodel.train import FitResult

Train = Callable[..., FitResult]
"""What all recipes look like: `rbmodel.recipes.baseline.train_baseline`."""


@dataclass(frozen=True)
class Recipe:
    """A recipe and what it costs.

    Attributes
    ----------
    train : callable
    needs_cleaning : bool
        Whether it is given the result of stage 1.
    forward, backward : float
        Passes through one network per stamp of a training step; a test counts them.
    n_members : int
        Networks whose mean makes the score.
    """

    train: Train
    needs_cleaning: bool = False
    forward: float = 1
    backward: float = 1
    n_members: int = 1

    def make_network(self, name: str, *, generator: torch.Generator) -> nn.Module:
        """What the recipe trains, with fresh weights; the first member has those of a network alone."""
        return make_ensemble(name, self.n_members, generator=generator)


RECIPES = {
    "baseline": Recipe(train_baseline),
    "ce_auc": Recipe(train_ce_auc),
    "removed": Recipe(train_removed, needs_cleaning=True),
    # One step to the perturbation and the perturbed prediction, beside the supervised pass.
    "unlabelled": Recipe(train_unlabelled, needs_cleaning=True, forward=3, backward=3),
    "confident": Recipe(train_confident, needs_cleaning=True),
    "gce": Recipe(train_gce),
    "coteaching": Recipe(train_coteaching, needs_cleaning=True, forward=2, backward=2),
    "fixmatch": Recipe(train_fixmatch, needs_cleaning=True, forward=3, backward=2),
    # A step is one of one member: the number of steps is that of all.
    "ensemble": Recipe(train_ensemble, n_members=N_MEMBERS),
}
