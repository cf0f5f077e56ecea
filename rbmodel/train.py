"""The one training loop, and scoring. Knows neither stores nor what the loss means."""

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rbmodel.dataset import Batch, TrainingSet, make_batches, make_tensor, turned
from rbmodel.interrupted import TrainingState, identity_of, read_state, write_state
from rbmodel.losses import absolute_error, cross_entropy, scores_of
from rbmodel.stream import StampStream
from rbmodel.train_config import PRECISIONS, TrainConfig, autocast, choose_precision, find_device
from rbsim import seeding
from rbsim.errors import InputError

__all__ = ["PRECISIONS", "FitResult", "Loss", "Progress", "TrainConfig", "find_device", "fit", "predict"]

log = logging.getLogger(__name__)

Loss = Callable[[nn.Module, Batch], torch.Tensor]
"""Scalar loss of a network on a batch, float32."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, steps done, and steps in all."""

SCORING_BATCH = 256
"""Maps of 256 stamps are below 32 MB, the size from which glibc gives memory back to the kernel after every
use and has it cleared again before the next: twice the time at 512."""


@dataclass(frozen=True)
class FitResult:
    """What a fit did.

    Attributes
    ----------
    train_loss : tuple of float
        Mean of the loss over the batches of each epoch.
    validation_loss : tuple of float
        `TrainConfig.stop_measure` on the given validation labels after each epoch: the same whatever the
        loss.
    best_epoch : int
        0-based epoch whose weights the network has now.
    seconds : float
        Of all runs of an interrupted training together.
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


def fit(
    network: nn.Module,
    training_set: TrainingSet | StampStream,
    validation_set: TrainingSet | StampStream,
    loss: Loss,
    config: TrainConfig,
    *,
    seed: int,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
    generators: Sequence[torch.Generator] = (),
) -> FitResult:
    """Train a network in place and leave the weights of its best epoch in it.

    By default AdamW with warm-up and cosine schedule; stops early on the absolute error against the *given*
    validation labels. Their cross-entropy would not do: wrong labels among them punish every network
    that is sure of itself, so that training on cleaned labels stopped after three epochs.
    The same seed gives the same weights on the same machine with the same number of threads.

    Parameters
    ----------
    network : Module
        Ends in evaluation mode on the device of the training.
    training_set, validation_set : TrainingSet or StampStream
        Both need both labels. A stream never has more than its buffer in memory; its batches have the size
        of its own configuration.
    loss : callable
        (network, batch) to a scalar. Called under autocast, inside a fork of torch's random state.
    config : TrainConfig
    seed : int
        Of batch order, orientations and dropout.
    progress : callable, optional
    checkpoint : Path, optional
        File for the state after each epoch. If it is there, the training goes on from it and ends with the
        same bits as one without a break. It stays
        when the training is done; calling again then costs nothing.
    generators : sequence of torch.Generator
        What the loss draws from, if it does: kept with the state.

    Returns
    -------
    FitResult

    Raises
    ------
    InputError
        If a set lacks a class, or `checkpoint` is damaged or belongs to another training.
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
    # Dropout draws from torch's global generator and takes no other; the fork puts its state back.
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        state = _run_epochs(
            network.to(device), training_set, validation_set, loss, config,
            seed=seed, progress=progress, checkpoint=checkpoint, generators=generators,
        )  # fmt: skip
    network.eval()
    n_epochs = len(state.train_loss)
    rate = len(training_set) * n_epochs / state.seconds
    log.info("%d epochs in %.1f s (%.0f stamps/s), best %d", n_epochs, state.seconds, rate, state.best_epoch)
    return FitResult(
        tuple(state.train_loss), tuple(state.validation_loss), state.best_epoch, state.seconds, rate
    )


def _run_epochs(
    network: nn.Module,
    training_set: TrainingSet | StampStream,
    validation_set: TrainingSet | StampStream,
    loss: Loss,
    config: TrainConfig,
    *,
    seed: int,
    progress: Progress | None,
    checkpoint: Path | None,
    generators: Sequence[torch.Generator],
) -> TrainingState:
    started = time.perf_counter()
    device = next(network.parameters()).device
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    epoch_of = _batch_source(training_set, config, device, seed=seed)
    n_epochs, patience = config.schedule(len(training_set))
    # A stream has a few more batches than this, one part-filled in every buffer: the rate then stays at zero.
    n_steps = n_epochs * math.ceil(len(training_set) / config.batch_size)
    optimiser = _make_optimiser(network, config)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: config.rate_factor(min(step / n_steps, 1.0))
    )
    # float16 has no room for small gradients; the scaler does nothing in the other precisions.
    scaler = torch.amp.GradScaler(
        device.type, enabled=choose_precision(config.precision, device) == "float16"
    )
    state = TrainingState([], [], 0, copy.deepcopy(network.state_dict()))
    identity = ""
    if checkpoint is not None:
        first = training_set.stamps[:8] if isinstance(training_set, TrainingSet) else training_set.rows
        identity = identity_of(network, training_set.label_given, first, config, seed=seed)
        if checkpoint.exists():
            state, extras = read_state(
                checkpoint, network, optimiser, identity=identity, generators=generators
            )
            schedule.load_state_dict(extras["schedule"])
            scaler.load_state_dict(extras["scaler"])
            log.info("%s: goes on after %d epochs", checkpoint, len(state.train_loss))
    before = state.seconds
    for epoch in range(len(state.train_loss), n_epochs):
        if epoch and epoch - 1 - state.best_epoch >= patience:
            break
        network.train()
        losses = []
        for batch in epoch_of(epoch):
            with autocast(device, config.precision):
                value = loss(network, batch)
            optimiser.zero_grad(set_to_none=True)
            scaler.scale(value).backward()
            scaler.step(optimiser)
            scaler.update()
            schedule.step()
            losses.append(value.detach())
        state.train_loss.append(float(torch.stack(losses).mean()))
        state.validation_loss.append(_validate(network, validation_set, config))
        if not (math.isfinite(state.train_loss[-1]) and math.isfinite(state.validation_loss[-1])):
            raise FloatingPointError(f"the loss is not finite in epoch {epoch}; lower the learning rate")
        if epoch == 0 or state.validation_loss[-1] < state.validation_loss[state.best_epoch]:
            state.best_epoch, state.best_weights = epoch, copy.deepcopy(network.state_dict())
        state.seconds = before + time.perf_counter() - started
        if checkpoint is not None:
            extras = {"schedule": schedule.state_dict(), "scaler": scaler.state_dict()}
            write_state(
                checkpoint, state, network, optimiser,
                identity=identity, extras=extras, generators=generators,
            )  # fmt: skip
        if progress is not None:
            progress("epoch", epoch + 1, n_epochs)
    network.load_state_dict(state.best_weights)
    return state


def _make_optimiser(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    weights, rate = network.parameters(), config.learning_rate
    if config.optimiser == "sgd":
        return torch.optim.SGD(weights, lr=rate)
    if config.optimiser == "adadelta":
        # Constants of Keras, with which the authors trained.
        return torch.optim.Adadelta(weights, lr=rate, rho=0.95, eps=1e-7)
    # One fused pass over each weight: a tenth of the time of the default on a CPU.
    return torch.optim.AdamW(weights, lr=rate, weight_decay=config.weight_decay, fused=True)


def _batch_source(
    data: TrainingSet | StampStream, config: TrainConfig, device: torch.device, *, seed: int
) -> Callable[[int], Iterator[Batch]]:
    """The batches of an epoch by its number; what is in them depends on nothing else."""
    if isinstance(data, TrainingSet):
        stamps = make_tensor(data.stamps).to(device)
        label_given = torch.from_numpy(data.label_given.astype(np.int64)).to(device)

    def epoch_of(number: int) -> Iterator[Batch]:
        order, orientation = (seeding.stream(seed, "train", number, part) for part in (0, 1))
        if isinstance(data, TrainingSet):
            batches = make_batches(stamps, label_given, batch_size=config.batch_size, rng=order)
        else:
            batches = data.epoch(number)
        for batch in batches:
            here = Batch(batch.stamps.to(device), batch.label_given.to(device))
            yield turned(here, rng=orientation) if config.augment else here

    return epoch_of


def _logits(network: nn.Module, stamps: np.ndarray, *, precision: str, batch_size: int) -> torch.Tensor:
    """Logits on the CPU, shape (n, 2), in evaluation mode; the network's mode is put back."""
    device = next(network.parameters()).device
    training = network.training
    network.eval()
    parts = [torch.empty(0, 2)]
    try:
        with torch.inference_mode(), autocast(device, precision):
            for start in range(0, len(stamps), batch_size):
                piece = make_tensor(stamps[start : start + batch_size]).to(device)  # (b, 3, 29, 29)
                parts.append(network(piece).float().cpu())  # (b, 2)
    finally:
        network.train(training)
    return torch.cat(parts)


def _validate(network: nn.Module, validation_set: TrainingSet | StampStream, config: TrainConfig) -> float:
    options: dict[str, Any] = {"precision": config.precision, "batch_size": SCORING_BATCH}
    if isinstance(validation_set, TrainingSet):
        logits = _logits(network, validation_set.stamps, **options)
        label_given = torch.from_numpy(validation_set.label_given)
    else:
        # Logits are 8 bytes a stamp; the stamps themselves come and go with the buffer.
        pieces = [
            (_logits(network, batch.stamps.numpy(), **options), batch.label_given)
            for batch in validation_set.epoch(0)
        ]
        logits, label_given = (torch.cat(part) for part in zip(*pieces, strict=True))
    measure = cross_entropy if config.stop_measure == "cross_entropy" else absolute_error
    return float(measure(logits, label_given))


def predict(
    network: nn.Module, stamps: np.ndarray, *, precision: str = "auto", batch_size: int = SCORING_BATCH
) -> np.ndarray:
    """Scores of stamps.

    Parameters
    ----------
    network : Module
        Used where it is, in evaluation mode.
    stamps : ndarray, shape (n, 3, 29, 29), float32
        Normalised as in training; finite.
    precision : str
        See `TrainConfig`; scores are float32 in all.
    batch_size : int

    Returns
    -------
    ndarray, shape (n,), float32
        logit(real) - logit(bogus); at least 0 where P(real) >= 0.5.
    """
    return scores_of(_logits(network, stamps, precision=precision, batch_size=batch_size)).numpy()
