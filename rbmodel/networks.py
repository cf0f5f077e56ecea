"""The two networks of Takahashi et al. (2022, PASJ 74, 946): normalised stamps in, two logits out.

Layers and weight counts follow the authors' description. Unlike theirs, the scaling of the stamps is
not part of the network (`rbmodel.dataset` does it), so that a perturbation of the input means the
same for every stamp. The dense layers at the end run in float32 even under autocast: rounding logits
to bfloat16 would tie scores that have an order.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - the name that every torch reader expects
from torch import nn

from rbmodel.dataset import N_CHANNELS
from rbsim.errors import InputError

N_CLASSES = 2
"""Logit 0 is bogus, logit 1 is real."""


class FilterResponseNorm(nn.Module):
    """Filter response normalisation with thresholded linear unit, as the authors coded it.

    After Singh & Krishnan (2020, CVPR), but x is divided by the root of the *sum* of its squares over
    the map, not of their mean; learning rate and depth were tuned with that.
    """

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        shape = (1, n_channels, 1, 1)
        self.gamma = nn.Parameter(torch.ones(shape))
        self.beta = nn.Parameter(torch.zeros(shape))
        self.tau = nn.Parameter(torch.zeros(shape))
        self.e = nn.Parameter(torch.zeros(shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise each map of x, shape (n, c, h, w)."""
        # float32: a sum of some hundred squares loses its small terms in bfloat16.
        power = x.to(self.gamma.dtype).square().sum(dim=(2, 3), keepdim=True)  # (n, c, 1, 1)
        scale = self.gamma * torch.rsqrt(power + 1e-6 + F.softplus(self.e))  # (n, c, 1, 1)
        # max(y, tau) = relu(y - tau) + tau: the gradient of `maximum` takes several passes more.
        above = torch.addcmul((self.beta - self.tau).to(x.dtype), x, scale.to(x.dtype))
        return F.relu(above) + self.tau.to(x.dtype)


class SqueezeExcitation(nn.Module):
    """Spatial plus channel attention (scSE; Roy et al. 2018, MICCAI)."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.where = nn.Conv2d(n_channels, 1, 1)
        self.squeeze = nn.Linear(n_channels, n_channels // 2)
        self.excite = nn.Linear(n_channels // 2, n_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Weight x, shape (n, c, h, w), by position and by channel; the sum of both."""
        by_position = torch.sigmoid(self.where(x))  # (n, 1, h, w)
        pooled = x.mean(dim=(2, 3))  # (n, c)
        by_channel = torch.sigmoid(self.excite(F.relu(self.squeeze(pooled))))  # (n, c)
        return x * (by_position + by_channel[:, :, None, None])


class ResidualBlock(nn.Module):
    """Two normalised 3x3 convolutions and attention, beside a 1x1 convolution as the shortcut.

    The authors' shortcut is always a convolution, also where the identity would fit; kept for the
    weight count.
    """

    def __init__(self, n_in: int, n_out: int, *, stride: int = 1) -> None:
        super().__init__()
        self.norm1 = FilterResponseNorm(n_in)
        self.conv1 = nn.Conv2d(n_in, n_in, 3, stride=stride, padding=1)
        self.norm2 = FilterResponseNorm(n_in)
        self.conv2 = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.attention = SqueezeExcitation(n_out)
        self.shortcut = nn.Conv2d(n_in, n_out, 1, stride=stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape (n, n_in, h, w) to (n, n_out, h / stride, w / stride)."""
        inner = self.conv2(self.norm2(self.conv1(self.norm1(x))))
        return self.attention(inner) + self.shortcut(x)


class ByteDropout(nn.Module):
    """Dropout that draws a byte per value, not a float: a tenth of the time of `torch.nn.Dropout`.

    Parameters
    ----------
    probability : float
        Rounded to a multiple of 1/256; what is kept is scaled by exactly that, so the mean is unbiased.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.n_dropped_of_256 = round(256 * probability)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Zero some values of x in training mode, from torch's global generator."""
        if not self.training:
            return x
        # Whole words from the generator; `None` as the upper end means all 64 bits.
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device).random_(-(2**63), None)
        kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= self.n_dropped_of_256
        return x * (kept.to(x.dtype) * (256 / (256 - self.n_dropped_of_256)))


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
    """

    name = "complex"

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(N_CHANNELS, 32, 5, padding=2), nn.ReLU(inplace=True)]  # 29
        for _ in range(4):
            layers += [nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(inplace=True)]
        for n_in, n_out in ((32, 64), (64, 128)):  # 29 -> 15 -> 8
            layers += [nn.MaxPool2d(2, ceil_mode=True), nn.Conv2d(n_in, n_out, 3, padding=1)]
            layers += [nn.ReLU(inplace=True), ResidualBlock(n_out, n_out)]
        layers += [ResidualBlock(128, 256, stride=2), ResidualBlock(256, 256)]  # 8 -> 4
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


NETWORKS: dict[str, Callable[[], nn.Module]] = {Simple.name: Simple, Complex.name: Complex}


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
