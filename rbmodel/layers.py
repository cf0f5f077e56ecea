"""Layers of the networks: normalisation, attention, residual block, dropout, scaling of the input."""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name that every torch reader expects
from torch import nn


class FilterResponseNorm(nn.Module):
    """Filter response normalisation with thresholded linear unit (Singh & Krishnan 2020, CVPR).

    The authors divide x by the root of the *sum* of its squares over the map, not of their mean; learning
    rate and depth were tuned with that.

    Parameters
    ----------
    n_channels : int
    mean : bool
        Divide by the root of the mean, as Singh & Krishnan do.
    """

    def __init__(self, n_channels: int, *, mean: bool = False) -> None:
        super().__init__()
        self.mean = mean
        shape = (1, n_channels, 1, 1)
        self.gamma = nn.Parameter(torch.ones(shape))
        self.beta = nn.Parameter(torch.zeros(shape))
        self.tau = nn.Parameter(torch.zeros(shape))
        self.e = nn.Parameter(torch.zeros(shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise each map of x, shape (n, c, h, w)."""
        # float32: a sum of some hundred squares loses its small terms in bfloat16.
        power = x.to(self.gamma.dtype).square().sum(dim=(2, 3), keepdim=True)  # (n, c, 1, 1)
        if self.mean:
            power = power / (x.shape[2] * x.shape[3])
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

    Parameters
    ----------
    n_in, n_out, stride : int
    mean : bool
        See `FilterResponseNorm`.
    """

    def __init__(self, n_in: int, n_out: int, *, stride: int = 1, mean: bool = False) -> None:
        super().__init__()
        self.norm1 = FilterResponseNorm(n_in, mean=mean)
        self.conv1 = nn.Conv2d(n_in, n_in, 3, stride=stride, padding=1)
        self.norm2 = FilterResponseNorm(n_in, mean=mean)
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


class ScaledInside(nn.Module):
    """A network that gets raw stamps and scales each channel to [0, 1] itself, as the authors' networks do.

    What perturbs its input, VAT, then works in raw units: a perturbation of some length is large for a faint
    stamp and nothing for a bright one. A constant channel becomes 0; the authors divide by zero.

    Parameters
    ----------
    network : Module
        Has a `name`, `features` and `classify`.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network: Any = network
        self.name = f"{network.name}-raw"

    def features(self, stamps: torch.Tensor) -> torch.Tensor:
        """Those of the network at the scaled stamps."""
        low = stamps.amin(dim=(2, 3), keepdim=True)  # (n, c, 1, 1)
        spread = stamps.amax(dim=(2, 3), keepdim=True) - low
        return self.network.features((stamps - low) / torch.where(spread > 0, spread, 1.0))

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Logits, shape (n, 2), float32, of `features`."""
        return self.network.classify(features)

    def forward(self, stamps: torch.Tensor) -> torch.Tensor:
        """Logits, shape (n, 2), float32, of raw stamps, shape (n, 3, 29, 29)."""
        return self.classify(self.features(stamps))
