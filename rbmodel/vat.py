"""Virtual adversarial training: smoothness of the prediction where it changes most, without labels."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F  # noqa: N812 - the name that every torch reader expects
from torch import nn


@runtime_checkable
class HasFeatures(Protocol):
    """A network that computes the same `features` in training and in evaluation."""

    def features(self, stamps: torch.Tensor) -> torch.Tensor:
        """What `classify` needs."""

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Logits; dropout is here."""


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Dropout off and statistics frozen inside; every module's own mode back afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def unit_direction(direction: torch.Tensor) -> torch.Tensor:
    """Each sample of `direction`, shape (n, c, y, x), divided by its L2 norm; zero stays zero."""
    # First by the largest value: the squares of a tiny gradient would underflow to a norm of zero.
    largest = direction.abs().amax(dim=(1, 2, 3), keepdim=True)  # (n, 1, 1, 1)
    scaled = direction / largest.clamp(min=torch.finfo(torch.float32).tiny)
    norm = torch.linalg.vector_norm(scaled, dim=(1, 2, 3), keepdim=True)  # (n, 1, 1, 1)
    return scaled / norm.clamp(min=1e-12)


def random_direction(stamps: torch.Tensor, *, generator: torch.Generator) -> torch.Tensor:
    """A random unit direction per stamp, of the shape, type and device of `stamps`; channels last.

    Components are uniform random bytes about zero: no direction is preferred to second order, which is all
    that the power iteration needs of its start, and they take a sixth of the time of normal ones.
    """
    n = stamps.numel()
    words = torch.empty(-(-n // 8), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    n_stamps, n_channels, n_y, n_x = stamps.shape
    random_bytes = words.view(torch.uint8)[:n].view(n_stamps, n_y, n_x, n_channels).permute(0, 3, 1, 2)
    return unit_direction(random_bytes.to(stamps.device, stamps.dtype) - 127.5)


def predict_twice(network: nn.Module, stamps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits in the network's mode, and the constant log-probabilities in evaluation mode.

    Networks of `rbmodel.networks` compute the maps once for both, because only what comes after
    `features` differs in training; any other module makes two passes.

    Parameters
    ----------
    network : Module
    stamps : Tensor, shape (n, c, y, x)

    Returns
    -------
    logits : Tensor, shape (n, 2)
    log_p : Tensor, shape (n, 2)
        Without gradient: the `log_p` of `smoothness_loss`.
    """
    if isinstance(network, HasFeatures):
        features = network.features(stamps)
        logits = network.classify(features)
        with evaluation_mode(network), torch.no_grad():
            clean = network.classify(features.detach())
    else:
        logits = network(stamps)
        with evaluation_mode(network), torch.no_grad():
            clean = network(stamps)
    return logits, F.log_softmax(clean, dim=1)


def divergence(log_p: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Mean over the batch of KL(p || softmax(logits)); both arguments have shape (n, 2)."""
    return F.kl_div(F.log_softmax(logits, dim=1), log_p, reduction="batchmean", log_target=True)


def adversarial_perturbation(
    network: nn.Module,
    stamps: torch.Tensor,
    log_p: torch.Tensor,
    *,
    epsilon: float,
    xi: float,
    power_steps: int,
    generator: torch.Generator,
) -> torch.Tensor:
    """Perturbation of length `epsilon` that changes the prediction most, to second order.

    Power iteration on the Hessian of the divergence at the stamps, with finite differences of length
    `xi` (Miyato et al. 2019, TPAMI 41, 1979, algorithm 1). The network must be in evaluation mode.

    Parameters
    ----------
    network : Module
        Returns float32 logits also under autocast. Gradients of its parameters are left alone.
    stamps : Tensor, shape (n, c, y, x)
        Normalised; `epsilon` and `xi` are L2 norms over a whole stamp in these units.
    log_p : Tensor, shape (n, 2)
        Log-probabilities predicted at `stamps`.
    epsilon, xi : float
    power_steps : int
        0 gives a random direction.
    generator : torch.Generator
        On the CPU, so that a seed means the same on every device.

    Returns
    -------
    Tensor, shape (n, c, y, x)
        Detached. A stamp at which the prediction does not change at all gets a zero perturbation.
    """
    direction = random_direction(stamps, generator=generator)
    for _ in range(power_steps):
        with torch.enable_grad():
            direction.requires_grad_(True)
            change = divergence(log_p, network(stamps + xi * direction))
            (gradient,) = torch.autograd.grad(change, direction)
        direction = unit_direction(gradient.detach())
    return epsilon * direction


def smoothness_loss(
    network: nn.Module,
    stamps: torch.Tensor,
    *,
    epsilon: float,
    xi: float,
    power_steps: int = 1,
    generator: torch.Generator,
    log_p: torch.Tensor | None = None,
) -> torch.Tensor:
    """Local distributional smoothness: divergence between the predictions at x and at x + r.

    Both passes run without dropout and with frozen statistics, so that only the perturbation makes a
    difference; the prediction at x is a constant, its gradient does not flow.

    Parameters
    ----------
    network : Module
    stamps : Tensor, shape (n, c, y, x)
        Normalised, labelled or not; no NaN.
    epsilon, xi, power_steps, generator
        See `adversarial_perturbation`.
    log_p : Tensor, shape (n, 2), optional
        Log-probabilities at `stamps` in evaluation mode, if they are known: saves a pass.

    Returns
    -------
    Tensor
        Scalar, differentiable in the parameters.
    """
    with evaluation_mode(network):
        if log_p is None:
            with torch.no_grad():
                log_p = F.log_softmax(network(stamps), dim=1)  # (n, 2)
        perturbation = adversarial_perturbation(
            network, stamps, log_p, epsilon=epsilon, xi=xi, power_steps=power_steps, generator=generator
        )
        return divergence(log_p, network(stamps + perturbation))
