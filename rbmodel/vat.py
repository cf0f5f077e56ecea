"""Virtual adversarial training: smoothness of the prediction where it changes most, without labels."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F  # noqa: N812 - the name that every torch reader expects
from torch import nn


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
    noise = torch.randn(stamps.shape, generator=generator, dtype=stamps.dtype)
    direction = unit_direction(noise.to(stamps.device))
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

    Returns
    -------
    Tensor
        Scalar, differentiable in the parameters.
    """
    with evaluation_mode(network):
        with torch.no_grad():
            log_p = F.log_softmax(network(stamps), dim=1)  # (n, 2)
        perturbation = adversarial_perturbation(
            network, stamps, log_p, epsilon=epsilon, xi=xi, power_steps=power_steps, generator=generator
        )
        return divergence(log_p, network(stamps + perturbation))
