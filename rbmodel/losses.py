"""Losses on logits: cross-entropy and the pairwise AUC surrogate; `rbmodel.vat` has the third one.

All work in float32 whatever the autocast: differences of nearly equal logits decide the ranking.
"""

import torch
import torch.nn.functional as F  # noqa: N812 - the name that every torch reader expects
from torch import nn

from rbmodel.dataset import Batch
from rbsim import schema

AUC_MARGIN = 0.25
AUC_CAP_AS_PUBLISHED = 6.0
LARGEST_EXPONENT = 20.0


def scores_of(logits: torch.Tensor) -> torch.Tensor:
    """Score = logit(real) - logit(bogus), shape (n,); P(real) >= 0.5 where it is >= 0."""
    return logits[:, 1] - logits[:, 0]


def cross_entropy(logits: torch.Tensor, label_given: torch.Tensor) -> torch.Tensor:
    """Mean softmax cross-entropy over the labelled samples; 0 if there are none.

    Parameters
    ----------
    logits : Tensor, shape (n, 2)
    label_given : Tensor, shape (n,), integer
        1 real, 0 bogus, -1 unlabelled (ignored).
    """
    n_labelled = (label_given >= 0).sum()
    total = F.cross_entropy(
        logits.float(), label_given.long(), ignore_index=schema.LABEL_EXCLUDED, reduction="sum"
    )
    return total / n_labelled.clamp(min=1)


def absolute_error(logits: torch.Tensor, label_given: torch.Tensor) -> torch.Tensor:
    """Mean of |P(real) - label| over the labelled samples; NaN if there are none.

    A symmetric loss: labels that are wrong at random scale and shift its mean, but do not change which
    of two networks has the lower one (Ghosh, Kumar & Sastry 2017, AAAI). Cross-entropy lacks that.

    Parameters
    ----------
    logits : Tensor, shape (n, 2)
    label_given : Tensor, shape (n,), integer
        1 real, 0 bogus, -1 unlabelled (ignored).
    """
    labelled = label_given >= 0
    probability_real = torch.sigmoid(scores_of(logits.float()))[labelled]
    return (probability_real - label_given[labelled]).abs().mean()


def cross_entropy_loss(network: nn.Module, batch: Batch) -> torch.Tensor:
    """The plain loss of `rbmodel.train.fit`: cross-entropy on the given labels of a batch."""
    return cross_entropy(network(batch.stamps), batch.label_given)


def auc_hinge(
    logits: torch.Tensor, label_given: torch.Tensor, *, margin: float = AUC_MARGIN, cap: float | None = None
) -> torch.Tensor:
    """Exponential hinge on all (real, bogus) pairs of the batch, a surrogate of 1 - AUC.

    Mean of exp(h) - 1 with h = max(score_bogus - score_real + margin, 0): 0 as soon as every pair is
    in order by the margin. The authors' code caps h at 6 (`AUC_CAP_AS_PUBLISHED`), which leaves the
    worst pairs without gradient. Without a cap the exponential goes on as its tangent from h = 20:
    float32 would overflow at 88, and long before it one mislabelled pair would be the whole gradient.

    Parameters
    ----------
    logits : Tensor, shape (n, 2)
    label_given : Tensor, shape (n,), integer
        1 real, 0 bogus, -1 unlabelled (ignored).
    margin : float
        Score difference at which a pair counts as in order.
    cap : float or None
        Largest h; None as intended, 6 as published.

    Returns
    -------
    Tensor
        Scalar, float32; 0 if a class is absent.
    """
    scores = scores_of(logits.float())
    real = scores[label_given == schema.LABEL_REAL]  # (r,)
    bogus = scores[label_given == schema.LABEL_BOGUS]  # (b,)
    if not (real.numel() and bogus.numel()):
        return scores.sum() * 0.0
    hinge = (bogus[None, :] - real[:, None] + margin).clamp(min=0.0)  # (r, b)
    if cap is not None:
        return torch.expm1(hinge.clamp(max=cap)).mean()
    low = hinge.clamp(max=LARGEST_EXPONENT)
    return (torch.expm1(low) + (hinge - low) * torch.exp(low.detach())).mean()
