"""A training that can be interrupted: its whole state in one file, written after every epoch."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rbmodel.train_config import TrainConfig
from rbsim.errors import InputError
from rbsim.locations import written_whole


@dataclass
class TrainingState:
    """What changes from epoch to epoch, apart from network and optimiser.

    Attributes
    ----------
    train_loss, validation_loss : list of float
        One value per epoch that is done.
    best_epoch : int
    best_weights : dict
    seconds : float
        Spent so far, in all runs together.
    """

    train_loss: list[float]
    validation_loss: list[float]
    best_epoch: int
    best_weights: dict[str, torch.Tensor]
    seconds: float = 0.0


def identity_of(
    network: nn.Module, label_given: np.ndarray, data: np.ndarray, config: TrainConfig, *, seed: int
) -> str:
    """A digest of what a training is; `data` are some of its stamps, or its rows."""
    shapes = {name: list(value.shape) for name, value in network.state_dict().items()}
    told = json.dumps([shapes, dataclasses.asdict(config), seed, torch.__version__], sort_keys=True)
    digest = hashlib.sha256(told.encode())
    digest.update(np.ascontiguousarray(label_given, np.int8).tobytes())
    digest.update(np.ascontiguousarray(data).tobytes())
    return digest.hexdigest()


def write_state(
    path: Path,
    state: TrainingState,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    *,
    identity: str,
    extras: Mapping[str, Any],
    generators: Sequence[torch.Generator],
) -> None:
    """Write all that a training needs to go on with the same bits; whole, or the former file stays.

    Parameters
    ----------
    path : Path
    state : TrainingState
    network : Module
    optimiser : Optimizer
    identity : str
        See `identity_of`.
    extras : mapping
        State dictionaries of schedule and gradient scaler.
    generators : sequence of torch.Generator
        Those that the loss draws from.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    content = {
        "identity": identity,
        "state": vars(state),
        "network": network.state_dict(),
        "optimiser": optimiser.state_dict(),
        "extras": dict(extras),
        "random": torch.random.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "generators": [generator.get_state() for generator in generators],
    }
    with written_whole(path) as temporary:
        torch.save(content, temporary)


def read_state(
    path: Path,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    *,
    identity: str,
    generators: Sequence[torch.Generator],
) -> tuple[TrainingState, dict[str, Any]]:
    """Put network, optimiser, generators and torch's own random state where the file left them.

    Returns
    -------
    TrainingState
    dict
        The `extras` of `write_state`.

    Raises
    ------
    InputError
        If the file cannot be read or belongs to another training.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        belongs = content["identity"] == identity and len(content["generators"]) == len(generators)
    except Exception as error:  # whatever torch and its unpickler raise on damaged files
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path}: is not a readable state of a training ({reason}); remove it to start anew"
        ) from error
    if not belongs:
        raise InputError(
            f"{path}: belongs to a training with other data, network, configuration, seed or torch;"
            " remove it to start anew"
        )
    network.load_state_dict(content["network"])
    optimiser.load_state_dict(content["optimiser"])
    torch.random.set_rng_state(content["random"])
    if content["random_cuda"]:
        torch.cuda.set_rng_state_all(content["random_cuda"])
    for generator, kept in zip(generators, content["generators"], strict=True):
        generator.set_state(kept)
    return TrainingState(**content["state"]), content["extras"]
