"""Our own network for small stamps: a tenth of the arithmetic of the authors' complex one."""

import torch
import torch.nn.functional as F  # noqa: N812 - the name that every torch reader expects
from torch import nn

from rbmodel.dataset import N_CHANNELS
from rbmodel.layers import ByteDropout


class Compact(nn.Module):
    """Five convolutions, two of them residual, and a head that knows where in the stamp something is.

    The complex network of the authors works at full resolution for a third of its time and averages over the
    whole stamp. Here one wide kernel (5x5, the size of the PSF) sees full resolution, all others the pooled
    maps. The last maps are flattened, 3x3 of them, because a candidate is at the centre and its neighbours
    are not. Nothing normalises: a network this shallow trains without, and each norm costs as much as
    a convolution on a CPU. Channels are multiples of 16, the width of the processor's vectors.
    """

    name = "compact"

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(N_CHANNELS, 32, 5)
        self.widen1 = nn.Conv2d(32, 48, 3, padding=1)
        self.residual1 = nn.Conv2d(48, 48, 3, padding=1)
        self.widen2 = nn.Conv2d(48, 96, 3, padding=1)
        self.residual2 = nn.Conv2d(96, 96, 3, padding=1)
        self.dropout = ByteDropout(0.2)
        self.head = nn.Sequential(nn.Linear(96 * 3 * 3, 64), nn.ReLU(), nn.Linear(64, 2))

    def features(self, stamps: torch.Tensor) -> torch.Tensor:
        """What the head sees, shape (n, 864), float32; the same in training and evaluation."""
        x = F.relu_(F.max_pool2d(self.stem(stamps), 2))  # (n, 32, 12, 12)
        x = F.relu_(self.widen1(x))  # (n, 48, 12, 12)
        x = F.relu_(self.residual1(x) + x)
        x = F.relu_(self.widen2(F.max_pool2d(x, 2)))  # (n, 96, 6, 6)
        x = F.relu_(self.residual2(x) + x)
        return F.avg_pool2d(x, 2).flatten(1).to(next(self.head.parameters()).dtype)  # (n, 96, 3, 3)

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Logits, shape (n, 2), float32, of `features`."""
        with torch.autocast(features.device.type, enabled=False):
            return self.head(self.dropout(features))  # (n, 2)

    def forward(self, stamps: torch.Tensor) -> torch.Tensor:
        """Logits, shape (n, 2), float32, of normalised stamps, shape (n, 3, 29, 29)."""
        return self.classify(self.features(stamps))
