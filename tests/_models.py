"""A model with fresh weights, for tests that only need one."""

import torch

from rbmodel.model import Model
from rbmodel.networks import make_network


def make_model(name="simple", **changes):
    network = make_network(name, generator=torch.Generator().manual_seed(0)).eval()
    settings = {"recipe": "baseline", "normalisation": "minmax", "precision": "float32"}
    return Model(network, **(settings | {"temperature": 1.5, "prevalence": 0.5} | changes))
