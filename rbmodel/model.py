"""A trained classifier as a folder: weights, how to use them, where they come from; and reading it back."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from rbmodel.checkpoint import load_checkpoint, save_checkpoint, weights_bytes
from rbmodel.dataset import NORMALISATIONS, normalise
from rbmodel.temperature import probability_of
from rbmodel.train import PRECISIONS, find_device, predict
from rbsim.errors import InputError

WEIGHTS, FACTS, CARD = "model.safetensors", "model.json", "README.md"
"""Files of a model; the last is its card."""


@dataclass(frozen=True, eq=False)
class Model:
    """A network with all that its scores depend on.

    Attributes
    ----------
    network : Module
        In evaluation mode.
    recipe : str
        How it was trained, see `rbmodel.recipes`.
    normalisation : str
        Of the stamps, see `rbmodel.dataset.normalise`.
    precision : str
        Of the arithmetic, see `rbmodel.train.PRECISIONS`.
    temperature, prevalence : float
        From scores to P(real), see `rbmodel.temperature.probability_of`.
    """

    network: nn.Module
    recipe: str
    normalisation: str
    precision: str
    temperature: float
    prevalence: float

    @property
    def version(self) -> str:
        """Name that travels with each score: network, recipe, and a checksum of all that scores depend on."""
        use = [self.normalisation, self.precision, self.temperature, self.prevalence]
        digest = hashlib.sha256(weights_bytes(self.network) + json.dumps(use).encode()).hexdigest()
        return f"{self.network.name}-{self.recipe}-{digest[:12]}"

    def score(self, stamps: np.ndarray, *, noise_adu: np.ndarray | None = None) -> np.ndarray:
        """Scores of stamps as a store has them.

        Parameters
        ----------
        stamps : ndarray, shape (n, 3, 29, 29), float32
            Channels in the order of `rbsim.schema.CHANNELS`, ADU, background-subtracted; NaN without pixel.
        noise_adu : ndarray, shape (n,), optional
            For the normalisation asinh.

        Returns
        -------
        ndarray, shape (n,), float32
            logit(real) - logit(bogus), not calibrated.
        """
        # Channels together in memory, as convolutions want them.
        scaled = np.empty((len(stamps), *stamps.shape[2:], stamps.shape[1]), np.float32).transpose(0, 3, 1, 2)
        normalise(stamps, method=self.normalisation, noise_adu=noise_adu, out=scaled)
        return self.score_normalised(scaled)

    def score_normalised(self, stamps: np.ndarray) -> np.ndarray:
        """The same of stamps that are normalised already."""
        return predict(self.network, stamps, precision=self.precision)

    def probability(self, score: np.ndarray, *, prevalence: float | None = None) -> np.ndarray:
        """Calibrated P(real), shape (n,), float64; `prevalence` is the share of reals where it is to hold."""
        return probability_of(
            score, temperature=self.temperature, prevalence=self.prevalence, prevalence_wanted=prevalence
        )


def save_model(folder: Path, model: Model, facts: Mapping[str, Any]) -> None:
    """Write weights and facts of a model into a folder that exists.

    Parameters
    ----------
    folder : Path
    model : Model
    facts : mapping
        Whatever else is known of it, as JSON: provenance, figures.
    """
    details = {
        "version": model.version,
        "recipe": model.recipe,
        "precision": model.precision,
        "temperature": model.temperature,
        "prevalence": model.prevalence,
        **facts,
    }
    save_checkpoint(folder / WEIGHTS, model.network, normalisation=model.normalisation, details=details)


def load_model(folder: Path, *, device: str = "auto") -> Model:
    """Read a model.

    Parameters
    ----------
    folder : Path
        Made by `rbsim train`.
    device : str
        Where the network is to work, see `rbmodel.train.find_device`.

    Raises
    ------
    InputError
        If it is no model, its weights belong to another network, or a file is not as it was written.
    """
    if not (folder / FACTS).is_file():
        raise InputError(f"{folder}: is not a model (no {FACTS}); give a folder made by rbsim train")
    checkpoint = load_checkpoint(folder / WEIGHTS)
    details = checkpoint.details
    try:
        model = Model(
            checkpoint.network.to(find_device(device)),
            str(details["recipe"]),
            checkpoint.normalisation,
            details["precision"],
            float(details["temperature"]),
            float(details["prevalence"]),
        )
        version = details["version"]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{folder / FACTS}: lacks what scores depend on ({error}); give a folder made by rbsim train"
        ) from error
    usable = model.normalisation in NORMALISATIONS and model.precision in PRECISIONS
    if not usable or not (0 < model.temperature < math.inf and 0 < model.prevalence < 1):
        raise InputError(f"{folder / FACTS}: has a setting that this rbsim does not know; train again")
    if version != model.version:
        raise InputError(
            f"{folder}: says that it is {version} and is {model.version}: changed after it was written; copy"
            " it again or train again"
        )
    return model


def read_facts(folder: Path) -> dict[str, Any]:
    """All that a model says of itself: the contents of ``model.json``, flat.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    try:
        content = json.loads((folder / FACTS).read_text())
        return {name: content[name] for name in ("network", "normalisation", "channels")} | content["details"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder / FACTS}: cannot be read ({error}); give a folder made by rbsim train"
        ) from error
