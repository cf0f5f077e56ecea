"""Can a small network tell two kinds of stamps apart? Held-out scores, and their AUC per S/N bin.

A classifier two-sample test (Lopez-Paz & Oquab 2017, ICLR): an AUC of 0.5 on stars that the network has never
seen means that it found no difference between real and injected stars.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from rbmodel.evaluate import area_under_curve, operating_points
from rbsim.seeding import stream

log = logging.getLogger(__name__)

CONFIDENCE = 0.95
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class TwoSampleConfig:
    """How the network is trained; the same for the test and for its control.

    Attributes
    ----------
    n_epochs, batch_size : int
    learning_rate : float
        Peak; falls to 0 as a cosine after a warm-up of a tenth of all steps.
    weight_decay, dropout : float
        Strong, for the same few hundred stars recur in every frame and would be memorised.
    n_bootstrap : int
    min_stars : int
        A bin with fewer stars is not measured.
    min_stamps : int
        With fewer of both kinds together nothing is trained.
    """

    n_epochs: int = 8
    batch_size: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    dropout: float = 0.2
    n_bootstrap: int = 1000
    min_stars: int = 20
    min_stamps: int = 500


class TellApart(nn.Module):
    """Two convolutions and two dense layers; positions in the stamp matter, so nothing is averaged away."""

    def __init__(self, n_channels: int, size: int, dropout: float) -> None:
        super().__init__()
        pooled = math.ceil(size / 2)
        self.layers = nn.Sequential(
            nn.Conv2d(n_channels, 16, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Conv2d(16, 24, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Dropout(dropout),
            nn.Linear(24 * pooled**2, 32), nn.ReLU(), nn.Linear(32, 1),
        )  # fmt: skip

    def forward(self, stamps: torch.Tensor) -> torch.Tensor:
        """Logit of being real, shape (n,), of stamps (n, channel, y, x)."""
        return self.layers(stamps)[:, 0]


def held_out_scores(
    stamps: np.ndarray,
    is_real: np.ndarray,
    fold: np.ndarray,
    *,
    seed: int,
    config: TwoSampleConfig | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """Score every stamp by a network that was trained on the other folds.

    Parameters
    ----------
    stamps : ndarray, shape (n, channel, size, size), float32
        Finite.
    is_real : ndarray of bool, shape (n,)
    fold : ndarray of int, shape (n,)
        Of the star's piece of sky.
    seed : int
    config : TwoSampleConfig, optional
    progress : callable, optional
        Called with (description, done, total).

    Returns
    -------
    ndarray, shape (n,)
        Logits; high is real.
    """
    config, tell = config or TwoSampleConfig(), progress or (lambda *_: None)
    scores = np.full(len(stamps), np.nan)
    folds = np.unique(fold)
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in one order: the same bits on every machine of a kind
    try:
        for done, number in enumerate(folds):
            tell("telling apart", done, len(folds))
            out = fold == number
            # One stream for the weights, the batches and the dropout of a fold.
            state = int(stream(seed, "train", int(number)).integers(2**31))
            network = _train(stamps[~out], is_real[~out], config, seed=state)
            scores[out] = _score(network, stamps[out])
        tell("telling apart", len(folds), len(folds))
    finally:
        torch.set_num_threads(n_threads)
    return scores


def _train(stamps: np.ndarray, is_real: np.ndarray, config: TwoSampleConfig, *, seed: int) -> nn.Module:
    x = torch.from_numpy(np.ascontiguousarray(stamps))
    y = torch.from_numpy(is_real.astype(np.float32))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = TellApart(stamps.shape[1], stamps.shape[-1], config.dropout)
        optimiser = torch.optim.AdamW(
            network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        n_steps = config.n_epochs * math.ceil(len(x) / config.batch_size)
        warm = max(n_steps // 10, 1)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser,
            lambda step: min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * step / n_steps))),
        )
        network.train()
        for _ in range(config.n_epochs):
            for rows in torch.randperm(len(x)).split(config.batch_size):
                logits = network(x[rows])
                loss = nn.functional.binary_cross_entropy_with_logits(logits, y[rows])
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                schedule.step()
    return network.eval()


@torch.no_grad()
def _score(network: nn.Module, stamps: np.ndarray) -> np.ndarray:
    parts = torch.from_numpy(np.ascontiguousarray(stamps)).split(2048)
    return torch.cat([network(part) for part in parts]).numpy().astype(float)


def tell_apart(
    stamps: np.ndarray,
    is_real: np.ndarray,
    star: np.ndarray,
    fold: np.ndarray,
    snr_bin: np.ndarray,
    n_bins: int,
    *,
    seed: int,
    config: TwoSampleConfig | None = None,
    progress: Progress | None = None,
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Train, score the held-out stamps, and measure the AUC of each S/N bin.

    Parameters
    ----------
    stamps : ndarray, shape (n, channel, size, size), float32
    is_real : ndarray of bool, shape (n,)
    star, fold, snr_bin : ndarray of int, shape (n,)
        Of an injected star those of its partner.
    n_bins : int
    seed : int
    config : TwoSampleConfig, optional
    progress : callable, optional

    Returns
    -------
    scores : ndarray, shape (n,)
        NaN where too few stamps were there to train on.
    rows : list of dict
        One per bin, see `auc_with_interval`.
    """
    config = config or TwoSampleConfig()
    enough = len(stamps) >= config.min_stamps and len(np.unique(fold)) > 1
    if enough:
        scores = held_out_scores(stamps, is_real, fold, seed=seed, config=config, progress=progress)
    else:
        scores = np.full(len(stamps), np.nan)
    rows = []
    for number in range(n_bins):
        here = snr_bin == number
        part = (scores[here], is_real[here], fold[here], star[here])
        row = auc_with_interval(*part, rng=stream(seed, "split", number), config=config)
        if not enough:
            few = f"{len(stamps)} stamps to learn from; {config.min_stamps} are needed"
            row |= {"auc": None, "auc_low": None, "auc_high": None, "reason": few}
        rows.append(row)
    return scores, rows


def auc_within_folds(
    scores: np.ndarray, is_real: np.ndarray, fold: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """Probability that a real stamp scores above an injected one of the same fold, ties counting half.

    Scores of different networks have different zero points, so pairs across folds say nothing.

    Parameters
    ----------
    scores, is_real, fold : ndarray, shape (n,)
    weights : ndarray, shape (..., n), optional
        How often each stamp counts, for resamples.

    Returns
    -------
    ndarray, shape (...)
        NaN without a pair.
    """
    in_order, pairs = np.zeros(()), np.zeros(())
    for number in np.unique(fold):
        rows = fold == number
        points = operating_points(
            scores[rows], is_real[rows], None if weights is None else weights[..., rows]
        )
        n_pairs = points.n_true[..., -1] * points.n_false[..., -1]
        in_order = in_order + np.nan_to_num(area_under_curve(points)) * n_pairs
        pairs = pairs + n_pairs
    return np.divide(in_order, pairs, out=np.full(np.shape(pairs), np.nan), where=pairs > 0)


def auc_with_interval(
    scores: np.ndarray,
    is_real: np.ndarray,
    fold: np.ndarray,
    star: np.ndarray,
    *,
    rng: np.random.Generator,
    config: TwoSampleConfig | None = None,
) -> dict[str, Any]:
    """AUC with its 95 % interval by a bootstrap over stars.

    A star is drawn with all its stamps and its injected partners, for they share sky, PSF and flux.

    Parameters
    ----------
    scores, is_real, fold, star : ndarray, shape (n,)
    rng : numpy.random.Generator

    Returns
    -------
    dict
        ``auc``, ``auc_low``, ``auc_high`` (None if not measured), ``n_stars``, ``n_real``, ``n_injected``,
        ``reason`` (empty if measured).
    """
    config = config or TwoSampleConfig()
    names, member = np.unique(star, return_inverse=True)
    n_stars = len(names)
    row: dict[str, Any] = {"auc": None, "auc_low": None, "auc_high": None}
    row |= {"n_stars": n_stars, "n_real": int(is_real.sum()), "n_injected": int((~is_real).sum())}
    if not n_stars or n_stars < config.min_stars or not np.all(np.isfinite(scores)):
        return row | {"reason": f"{n_stars} stars; {config.min_stars} are needed"}
    draws = rng.multinomial(n_stars, np.full(n_stars, 1 / n_stars), size=config.n_bootstrap)
    parts = np.array_split(draws.astype(np.float32), max(1, config.n_bootstrap // 50))
    resampled = [auc_within_folds(scores, is_real, fold, some[:, member]) for some in parts]
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.nanpercentile(np.concatenate(resampled), [tail, 100 - tail])
    value = float(auc_within_folds(scores, is_real, fold))
    return row | {"auc": value, "auc_low": float(low), "auc_high": float(high), "reason": ""}
