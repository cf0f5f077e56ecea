"""A trained network on disk: weights as safetensors, everything else in a JSON file beside them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from rbmodel.ensemble import make_ensemble, n_members_of
from rbmodel.networks import NETWORKS
from rbsim import schema
from rbsim.errors import InputError

CHECKPOINT_VERSION = 1


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A loaded network, in evaluation mode, and what was saved with it.

    Attributes
    ----------
    network : Module
    normalisation : str
    weights_sha256 : str
        Checksum of the file of weights.
    details : mapping
    """

    network: nn.Module
    normalisation: str
    weights_sha256: str
    details: Mapping[str, Any]


def _sidecar(path: Path) -> Path:
    return path.with_suffix(".json")


def save_checkpoint(
    path: Path, network: nn.Module, *, normalisation: str, details: Mapping[str, Any] | None = None
) -> None:
    """Write ``path`` (``.safetensors``) and its ``.json``; the latter last, so that a pair is whole.

    Parameters
    ----------
    path : Path
    network : Module
        One of `rbmodel.networks.NETWORKS`, or an ensemble of one.
    normalisation : str
        How stamps must be scaled before the network sees them.
    details : mapping, optional
        Anything else worth keeping; must be JSON.

    Raises
    ------
    InputError
        If the files cannot be written.
    """
    weights = weights_bytes(network)
    sidecar = {
        "version": CHECKPOINT_VERSION,
        "network": network.name,
        "n_members": n_members_of(network),
        "normalisation": normalisation,
        "channels": list(schema.CHANNELS),
        "stamp_size_pix": schema.STAMP_SIZE_PIX,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "details": dict(details or {}),
    }
    try:
        _sidecar(path).unlink(missing_ok=True)
        # Not save_file, which makes files that only their owner can read.
        path.write_bytes(weights)
        _sidecar(path).write_text(json.dumps(sidecar, indent=1))
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another place") from error


def weights_bytes(network: nn.Module) -> bytes:
    """The weights of a network as a safetensors file."""
    weights = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
    return save(weights, metadata={"network": str(network.name)})


def load_checkpoint(path: Path, *, network: str | None = None) -> Checkpoint:
    """Read a network back.

    Parameters
    ----------
    path : Path
        The ``.safetensors`` file.
    network : str, optional
        Refuse any other network than this.

    Raises
    ------
    InputError
        If a file is missing, unreadable or not as it was written, if its network is another or unknown, or if
        the weights do not belong to it.
    """
    try:
        sidecar = json.loads(_sidecar(path).read_text())
        name, normalisation = sidecar["network"], sidecar["normalisation"]
        n_members = int(sidecar.get("n_members", 1))
        content = path.read_bytes()
        weights = load(content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise InputError(
            f"{path}: is not a readable checkpoint with its .json beside it ({error})"
        ) from error
    if sidecar.get("version") != CHECKPOINT_VERSION:
        raise InputError(
            f"{path}: has checkpoint version {sidecar.get('version')},"
            f" this rbsim reads {CHECKPOINT_VERSION}; train again"
        )
    if (
        sidecar.get("channels") != list(schema.CHANNELS)
        or sidecar.get("stamp_size_pix") != schema.STAMP_SIZE_PIX
    ):
        raise InputError(f"{path}: was trained on other channels or stamp sizes; train again")
    if name not in NETWORKS or network not in (None, name):
        raise InputError(
            f"{path}: holds the network {name!r}, not {network or ' or '.join(NETWORKS)}; give another"
        )
    # Flipped bits within the numbers would be read as other weights. Older checkpoints have no checksum.
    found = hashlib.sha256(content).hexdigest()
    if sidecar.get("weights_sha256", found) != found:
        raise InputError(
            f"{path}: is not as it was written (its checksum differs); copy it again or train again"
        )
    fresh = make_ensemble(name, n_members, generator=torch.Generator())
    try:
        fresh.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(f"{path}: its weights are not those of the network {name!r}; train again") from error
    return Checkpoint(fresh.eval(), normalisation, found, sidecar["details"])
