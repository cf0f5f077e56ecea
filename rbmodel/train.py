"""The one training loop, and scoring. Knows neither stores nor what the loss means."""

import copy
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from rbmodel.dataset import Batch, TrainingSet, make_batches, make_tensor
from rbmodel.losses import absolute_error, scores_of
from rbsim.errors import InputError

log = logging.getLogger(__name__)

Loss = Callable[[nn.Module, Batch], torch.Tensor]
"""Scalar loss of a network on a batch, float32."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, steps done, and steps in all."""

PRECISIONS = {"bfloat16": torch.bfloat16, "float32": torch.float32}
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class TrainConfig:
    """How to train; the same for every recipe of a benchmark.

    The defaults were chosen on synthetic stamps by the given labels of the validation part.

    Attributes
    ----------
    n_epochs : int
        Upper limit and length of the learning-rate schedule.
    min_steps : int
        A small set gets more epochs, and as much more patience, until it has this many steps: otherwise a
        few thousand stamps would be given up long before the network has learnt them.
    batch_size : int
    learning_rate : float
        Peak, reached after `warmup` (fraction of all steps), then falling to 0 as a cosine. The complex
        network did better with half the default.
    weight_decay : float
        Of AdamW (Loshchilov & Hutter 2019).
    patience : int
        Stop after this many epochs without a lower validation loss.
    precision : str
        ``bfloat16`` (autocast; weights and logits stay float32) or ``float32``.
    device : str
        ``auto`` takes a CUDA device if there is one.
    """

    n_epochs: int = 15
    min_steps: int = 0
    batch_size: int = 128
    learning_rate: float = 1e-3
    warmup: float = 0.1
    weight_decay: float = 1e-4
    patience: int = 5
    precision: str = "bfloat16"
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("n_epochs", "batch_size", "patience"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.learning_rate > 0:
            raise InputError(f"learning_rate is {self.learning_rate}; it must be positive")
        if not 0 <= self.warmup < 1:
            raise InputError(f"warmup is {self.warmup}; it must be at least 0 and below 1")
        if self.precision not in PRECISIONS:
            raise InputError(f"precision is {self.precision!r}; choose one of {', '.join(PRECISIONS)}")
        if self.device not in DEVICES:
            raise InputError(f"device is {self.device!r}; choose one of {', '.join(DEVICES)}")

    def schedule(self, n_stamps: int) -> tuple[int, int]:
        """Epochs and patience for a training set of this size."""
        steps_per_epoch = math.ceil(n_stamps / self.batch_size)
        n_epochs = max(self.n_epochs, math.ceil(self.min_steps / steps_per_epoch))
        return n_epochs, math.ceil(self.patience * n_epochs / self.n_epochs)


@dataclass(frozen=True)
class FitResult:
    """What a fit did.

    Attributes
    ----------
    train_loss : tuple of float
        Mean of the loss over the batches of each epoch.
    validation_loss : tuple of float
        `rbmodel.losses.absolute_error` on the given validation labels after each epoch: the same
        measure whatever the loss, and one whose minimum wrong labels do not move.
    best_epoch : int
        0-based epoch whose weights the network has now.
    seconds : float
    stamps_per_second : float
        Training stamps times epochs per second, validation included.
    """

    train_loss: tuple[float, ...]
    validation_loss: tuple[float, ...]
    best_epoch: int
    seconds: float
    stamps_per_second: float

    @property
    def n_epochs(self) -> int:
        """Epochs that were run."""
        return len(self.train_loss)


def find_device(name: str) -> torch.device:
    """The device to use; ``auto`` prefers CUDA.

    Raises
    ------
    InputError
        If ``cuda`` is asked for and absent.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device is 'cuda', but torch finds none here; choose cpu or auto")
    return torch.device(name)


def fit(
    network: nn.Module,
    training_set: TrainingSet,
    validation_set: TrainingSet,
    loss: Loss,
    config: TrainConfig,
    *,
    seed: int,
    progress: Progress | None = None,
) -> FitResult:
    """Train a network in place and leave the weights of its best epoch in it.

    AdamW with warm-up and cosine schedule; stops early on the absolute error against the *given*
    validation labels. Their cross-entropy would not do: wrong labels among them punish every network
    that is sure of itself, so that training on cleaned labels stopped after three epochs.
    The same seed gives the same weights on the same machine with the same number of threads.

    Parameters
    ----------
    network : Module
        Ends in evaluation mode on the device of the training.
    training_set, validation_set : TrainingSet
        Both need both labels.
    loss : callable
        (network, batch) to a scalar. Called under autocast, inside a fork of torch's random state.
    config : TrainConfig
    seed : int
        Of batch order and dropout.
    progress : callable, optional

    Returns
    -------
    FitResult

    Raises
    ------
    InputError
        If a set lacks a class.
    FloatingPointError
        If the loss is no longer finite.
    """
    for name, data in (("training", training_set), ("validation", validation_set)):
        n_real, n_bogus = int(np.sum(data.label_given == 1)), int(np.sum(data.label_given == 0))
        if not (n_real and n_bogus):
            raise InputError(
                f"the {name} set has {n_real} stamps given real and {n_bogus} given bogus; both are needed:"
                " inject into more frames or change the split seed"
            )
    device = find_device(config.device)
    rng = np.random.default_rng(seed)
    started = time.perf_counter()
    # Dropout draws from torch's global generator and takes no other; the fork puts its state back.
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        result = _run_epochs(
            network.to(device), training_set, validation_set, loss, config, rng=rng, progress=progress
        )
    network.eval()
    train_loss, validation_loss, best_epoch = result
    seconds = time.perf_counter() - started
    rate = len(training_set) * len(train_loss) / seconds
    log.info("%d epochs in %.1f s (%.0f stamps/s), best %d", len(train_loss), seconds, rate, best_epoch)
    return FitResult(tuple(train_loss), tuple(validation_loss), best_epoch, seconds, rate)


def _run_epochs(
    network: nn.Module,
    training_set: TrainingSet,
    validation_set: TrainingSet,
    loss: Loss,
    config: TrainConfig,
    *,
    rng: np.random.Generator,
    progress: Progress | None,
) -> tuple[list[float], list[float], int]:
    device = next(network.parameters()).device
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    stamps = make_tensor(training_set.stamps).to(device)
    label_given = torch.from_numpy(training_set.label_given.astype(np.int64)).to(device)
    n_epochs, patience = config.schedule(len(training_set))
    n_steps = n_epochs * math.ceil(len(training_set) / config.batch_size)
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: _learning_rate_factor(step / n_steps, warmup=config.warmup)
    )
    train_loss: list[float] = []
    validation_loss: list[float] = []
    best_epoch, best_weights = 0, copy.deepcopy(network.state_dict())
    for epoch in range(n_epochs):
        network.train()
        losses = []
        for batch in make_batches(stamps, label_given, batch_size=config.batch_size, rng=rng):
            with _autocast(device, config.precision):
                value = loss(network, batch)
            optimiser.zero_grad(set_to_none=True)
            value.backward()
            optimiser.step()
            schedule.step()
            losses.append(value.detach())
        train_loss.append(float(torch.stack(losses).mean()))
        validation_loss.append(_validate(network, validation_set, config))
        if not (math.isfinite(train_loss[-1]) and math.isfinite(validation_loss[-1])):
            raise FloatingPointError(f"the loss is not finite in epoch {epoch}; lower the learning rate")
        if progress is not None:
            progress("epoch", epoch + 1, n_epochs)
        if epoch == 0 or validation_loss[-1] < validation_loss[best_epoch]:
            best_epoch, best_weights = epoch, copy.deepcopy(network.state_dict())
        elif epoch - best_epoch >= patience:
            break
    network.load_state_dict(best_weights)
    return train_loss, validation_loss, best_epoch


def _learning_rate_factor(done: float, *, warmup: float) -> float:
    if done < warmup:
        # Half a step ahead of zero would need the step size; 1 % is as good.
        return max(done / warmup, 0.01)
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


def _autocast(device: torch.device, precision: str) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def _logits(network: nn.Module, stamps: np.ndarray, *, precision: str, batch_size: int) -> torch.Tensor:
    """Logits on the CPU, shape (n, 2), in evaluation mode; the network's mode is put back."""
    device = next(network.parameters()).device
    training = network.training
    network.eval()
    parts = [torch.empty(0, 2)]
    try:
        with torch.inference_mode(), _autocast(device, precision):
            for start in range(0, len(stamps), batch_size):
                piece = make_tensor(stamps[start : start + batch_size]).to(device)  # (b, 3, 29, 29)
                parts.append(network(piece).float().cpu())  # (b, 2)
    finally:
        network.train(training)
    return torch.cat(parts)


def _validate(network: nn.Module, validation_set: TrainingSet, config: TrainConfig) -> float:
    logits = _logits(network, validation_set.stamps, precision=config.precision, batch_size=512)
    return float(absolute_error(logits, torch.from_numpy(validation_set.label_given)))


def predict(
    network: nn.Module, stamps: np.ndarray, *, precision: str = "bfloat16", batch_size: int = 512
) -> np.ndarray:
    """Scores of stamps.

    Parameters
    ----------
    network : Module
        Used where it is, in evaluation mode.
    stamps : ndarray, shape (n, 3, 29, 29), float32
        Normalised as in training; finite.
    precision : str
        A key of `PRECISIONS`; scores are float32 in both.
    batch_size : int

    Returns
    -------
    ndarray, shape (n,), float32
        logit(real) - logit(bogus); at least 0 where P(real) >= 0.5.
    """
    return scores_of(_logits(network, stamps, precision=precision, batch_size=batch_size)).numpy()
