"""Several networks of one kind as one: the mean of their logits."""

from collections.abc import Sequence

import torch
from torch import nn

from rbmodel.networks import make_network


class Ensemble(nn.Module):
    """Networks whose logits are averaged; the score is then the mean of their scores.

    Attributes
    ----------
    members : ModuleList
    name : str
        Of the members' kind.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.name = members[0].name

    def forward(self, stamps: torch.Tensor) -> torch.Tensor:
        """Logits, shape (n, 2), float32, of normalised stamps, shape (n, 3, 29, 29)."""
        return torch.stack([member(stamps) for member in self.members]).mean(dim=0)  # (n, 2)


def make_ensemble(name: str, n_members: int, *, generator: torch.Generator) -> nn.Module:
    """Members with fresh weights, the first of them those of `make_network`; one alone is a plain network."""
    members = [make_network(name, generator=generator) for _ in range(n_members)]
    return members[0] if n_members == 1 else Ensemble(members)


def n_members_of(network: nn.Module) -> int:
    """How many networks there are in one: 1 unless it is an `Ensemble`."""
    return len(network.members) if isinstance(network, Ensemble) else 1
