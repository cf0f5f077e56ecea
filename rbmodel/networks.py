"""The two networks of Takahashi et al. (2022, PASJ 74, 946): normalised stamps in, two logits out.

Layers and weight counts follow the authors' description. Unlike theirs, the scaling of the stamps is
not part of the network (`rbmodel.dataset` does it), so that a perturbation of the input means the
same for every stamp; the variants ``-raw`` have it inside. The dense layers at the end run in
float32 even under autocast: rounding logits to bfloat16 would tie scores that have an order.
"""

from collections.abc import Callable

import torch
from torch import nn

from rbmodel.compact import Compact
from rbmodel.dataset import N_CHANNELS
from rbmodel.layers import ByteDropout, ResidualBlock, ScaledInside
from rbsim.errors import InputError

N_CLASSES = 2
"""Logit 0 is bogus, logit 1 is real."""


class Simple(nn.Module):
    """The small network: two convolutions, three dense layers, 234,242 weights."""

    name = "simple"

    def __init__(self) -> None:
        super().__init__()
        # The rectifier after the pool gives the same values and gradients as before it, on a quarter of them.
        self.maps = nn.Sequential(
            nn.Conv2d(N_CHANNELS, 32, 5), nn.MaxPool2d(2), nn.ReLU(inplace=True),  # 29 -> 25 -> 12
            nn.Conv2d(32, 64, 3), nn.MaxPool2d(2), nn.ReLU(inplace=True),  # 12 -> 10 -> 5
        )  # fmt: skip
        self.dropout = ByteDropout(0.3)
        self.head = nn.Sequential(
            nn.Linear(64 * 5 * 5, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, N_CLASSES)
        )

    def features(self, stamps: torch.Tensor) -> torch.Tensor:
        """What the head sees, shape (n, 1600), float32; the same in training and evaluation."""
        return self.maps(stamps).flatten(1).to(self.head[0].weight.dtype)

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Logits, shape (n, 2), float32, of `features`."""
        with torch.autocast(features.device.type, enabled=False):
            return self.head(self.dropout(features))  # (n, 2)

    def forward(self, stamps: torch.Tensor) -> torch.Tensor:
        """Logits, shape (n, 2), float32, of normalised stamps, shape (n, 3, 29, 29)."""
        return self.classify(self.features(stamps))


class Complex(nn.Module):
    """The residual network with attention: 2,401,638 weights.

    Keras pads a strided convolution on one side only, we pad on both: the same shape and count,
    shifted by one pixel.

    Parameters
    ----------
    mean : bool
        Normalise by the mean of squares, as was intended, not by their sum; the network is then called
        ``complex-mean``.
    """

    def __init__(self, *, mean: bool = False) -> None:
        super().__init__()
        self.name = "complex-mean" if mean else "complex"
        layers: list[nn.Module] = [nn.Conv2d(N_CHANNELS, 32, 5, padding=2), nn.ReLU(inplace=True)]  # 29
        for _ in range(4):
            layers += [nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(inplace=True)]
        for n_in, n_out in ((32, 64), (64, 128)):  # 29 -> 15 -> 8
            layers += [nn.MaxPool2d(2, ceil_mode=True), nn.Conv2d(n_in, n_out, 3, padding=1)]
            layers += [nn.ReLU(inplace=True), ResidualBlock(n_out, n_out, mean=mean)]
        layers += [ResidualBlock(128, 256, stride=2, mean=mean), ResidualBlock(256, 256, mean=mean)]  # 8 -> 4
        self.maps = nn.Sequential(*layers)
        self.head = nn.Linear(256, N_CLASSES)

    def features(self, stamps: torch.Tensor) -> torch.Tensor:
        """What the head sees, shape (n, 256), float32; the same in training and evaluation."""
        return self.maps(stamps).to(self.head.weight.dtype).mean(dim=(2, 3))

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Logits, shape (n, 2), float32, of `features`."""
        with torch.autocast(features.device.type, enabled=False):
            return self.head(features)  # (n, 2)

    def forward(self, stamps: torch.Tensor) -> torch.Tensor:
        """Logits, shape (n, 2), float32, of normalised stamps, shape (n, 3, 29, 29)."""
        return self.classify(self.features(stamps))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "simple": Simple,
    "complex": Complex,
    "compact": Compact,
    "complex-mean": lambda: Complex(mean=True),
    "simple-raw": lambda: ScaledInside(Simple()),
    "complex-raw": lambda: ScaledInside(Complex()),
}
"""Those with ``-raw`` want stamps of the normalisation ``raw``."""


def make_network(name: str, *, generator: torch.Generator) -> nn.Module:
    """A network with fresh weights.

    Parameters
    ----------
    name : str
        A key of `NETWORKS`.
    generator : torch.Generator
        Source of the initial weights; torch's global generator is left alone.

    Returns
    -------
    torch.nn.Module
        In training mode, float32, on the CPU. Kernels are Glorot-uniform (Glorot & Bengio 2010) and
        biases zero, the defaults of Keras, with which the authors trained.

    Raises
    ------
    InputError
        If the name is not known.
    """
    if name not in NETWORKS:
        raise InputError(f"network is {name!r}; choose one of {', '.join(NETWORKS)}")
    # Constructors of torch layers draw from the global generator; we overwrite what they draw.
    with torch.random.fork_rng(devices=[]):
        network = NETWORKS[name]()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network


def count_weights(network: nn.Module) -> int:
    """Number of trainable values."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
