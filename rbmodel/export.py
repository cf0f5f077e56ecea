"""A model as ONNX: raw triplets in, probabilities out, normalisation inside; checked before it has a name."""

import importlib
import json
import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rbmodel.losses import scores_of
from rbmodel.model import Model
from rbsim import schema
from rbsim.errors import InputError
from rbsim.locations import written_whole

FORMATS = ("onnx",)
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4
"""Largest difference of a probability, and of a score per unit of it beyond 1, from that of torch."""

OPSET = 18
CHECKED_BATCHES = (1, 2, 37, 128)


@dataclass(frozen=True)
class Exported:
    """What was written, and how far it is from torch on `n_checked` stamps."""

    path: str
    version: str
    inputs: tuple[str, ...]
    n_checked: int
    largest_difference_probability: float
    largest_difference_score: float


class _MinMax(nn.Module):
    """`rbmodel.dataset.normalise` with minmax, in torch."""

    def forward(self, stamps: torch.Tensor) -> torch.Tensor:
        """Shape (n, 3, 29, 29), ADU, to the same shape within [0, 1]."""
        valid = _is_finite(stamps)
        nothing = torch.zeros_like(stamps)
        largest = torch.full_like(stamps, torch.finfo(torch.float32).max)
        low = torch.where(valid, stamps, largest).amin(dim=(2, 3), keepdim=True)  # (n, 3, 1, 1)
        high = torch.where(valid, stamps, -largest).amax(dim=(2, 3), keepdim=True)
        usable = high > low
        one = torch.ones_like(low)
        shifted = torch.where(valid, stamps, nothing) - torch.where(usable, low, one - one)
        scaled = (shifted / torch.where(usable, high - low, one)).clamp(0.0, 1.0)
        return torch.where(usable, scaled, nothing)


class _Raw(nn.Module):
    """The same with raw, where the network scales."""

    def forward(self, stamps: torch.Tensor) -> torch.Tensor:
        """Shape (n, 3, 29, 29), ADU, to the same with 0 where there is no value."""
        return torch.where(_is_finite(stamps), stamps, torch.zeros_like(stamps))


class _Asinh(nn.Module):
    """The same with asinh."""

    def forward(self, stamps: torch.Tensor, noise_adu: torch.Tensor) -> torch.Tensor:
        """Shapes (n, 3, 29, 29) and (n,), both ADU."""
        filled = torch.where(_is_finite(stamps), stamps, torch.zeros_like(stamps))
        in_noise = filled / noise_adu[:, None, None, None]
        # The definition, odd by hand: runtimes compute asinh of large negative numbers badly.
        size = in_noise.abs()
        return torch.sign(in_noise) * torch.log(size + torch.sqrt(size * size + 1))


NORMALISATIONS: dict[str, Callable[[], nn.Module]] = {"minmax": _MinMax, "asinh": _Asinh, "raw": _Raw}


def _is_finite(values: torch.Tensor) -> torch.Tensor:
    """One comparison, false for NaN: not every runtime has an operator for it."""
    return values.abs() <= torch.finfo(torch.float32).max


class _FromPixels(nn.Module):
    """Score and calibrated P(real) of raw triplets."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.needs_noise = model.normalisation == "asinh"
        self.normalisation = NORMALISATIONS[model.normalisation]()
        self.network = model.network
        self.temperature = model.temperature

    def forward(self, stamps: torch.Tensor, noise_adu: torch.Tensor | None = None) -> Any:
        """Shapes (n, 3, 29, 29) and (n,) to two of shape (n,)."""
        scaled = self.normalisation(stamps, noise_adu) if self.needs_noise else self.normalisation(stamps)
        score = scores_of(self.network(scaled))
        return score, torch.sigmoid(score / self.temperature)


def export_model(model: Model, out: Path, *, overwrite: bool = False) -> Exported:
    """Write a model as one ONNX file, and run it with onnxruntime against torch before it gets its name.

    Inputs are ``stamps``, shape (n, 3, 29, 29), float32, channels reference, science, difference, ADU,
    background-subtracted, NaN without pixel, and with the normalisation asinh ``noise_adu``, shape (n,),
    float32; n is free. Outputs are ``score`` and ``probability``, shape (n,), float32, see
    `rbmodel.temperature`. The metadata have the model's version, normalisation, temperature and the
    prevalence that it was calibrated at. Arithmetic is float32.

    Parameters
    ----------
    model : Model
    out : Path
    overwrite : bool
        Replace a file that exists.

    Raises
    ------
    InputError
        If a package is missing, `out` exists, the normalisation cannot be exported, or the file does not
        agree with torch to `TOLERANCE`.
    """
    if out.exists() and (not overwrite or out.is_dir()):
        raise InputError(f"{out}: exists already; give --overwrite to replace a file, or another --out")
    if model.normalisation not in NORMALISATIONS:
        raise InputError(
            f"the normalisation {model.normalisation!r} cannot be exported; train with one of"
            f" {', '.join(NORMALISATIONS)}"
        )
    onnx = _packages()["onnx"]
    from_pixels = _FromPixels(model).cpu().eval()
    examples = _examples(8)
    inputs = ("stamps", "noise_adu") if from_pixels.needs_noise else ("stamps",)
    content = _exported(from_pixels, tuple(torch.from_numpy(examples[name]) for name in inputs), inputs)
    proto = onnx.load_model_from_string(content)
    facts = {
        "model_version": model.version,
        "normalisation": model.normalisation,
        "channels": ",".join(schema.CHANNELS),
        "temperature": json.dumps(model.temperature),
        "prevalence": json.dumps(model.prevalence),
    }
    onnx.helper.set_model_props(proto, facts)
    onnx.checker.check_model(proto)
    content = proto.SerializeToString()
    n_checked, of_probability, of_score = _compare(from_pixels, content, inputs)
    if not (of_probability <= TOLERANCE and of_score <= TOLERANCE):  # NaN is no agreement either
        raise InputError(
            f"{out}: is not written: onnxruntime differs from torch by {of_probability:.2g} in probability"
            f" and {of_score:.2g} in score, {TOLERANCE:g} is allowed; try other versions of the extra onnx"
        )
    with written_whole(out) as temporary:
        temporary.write_bytes(content)
    return Exported(str(out), model.version, inputs, n_checked, of_probability, of_score)


def _packages() -> dict[str, Any]:
    try:
        return {name: importlib.import_module(name) for name in PACKAGES}
    except ImportError as error:
        raise InputError(
            f'export to ONNX needs {", ".join(PACKAGES)} ({error}); pip install "rbsim[onnx]"'
        ) from error


def _exported(module: nn.Module, arguments: tuple[torch.Tensor, ...], inputs: tuple[str, ...]) -> bytes:
    """The bytes of an ONNX file with a free first axis."""
    # The older exporter, by tracing, makes files of `complex` that no runtime loads.
    n = torch.export.Dim("n")
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)  # it misses torchvision, which we do not use
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about its own parts
            program = torch.onnx.export(
                module, arguments, input_names=list(inputs), output_names=["score", "probability"],
                dynamo=True, dynamic_shapes=tuple({0: n} for _ in inputs), opset_version=OPSET, verbose=False,
            )  # fmt: skip
    finally:
        quiet.setLevel(level)
    assert program is not None
    return program.model_proto.SerializeToString()


def _examples(n: int) -> dict[str, np.ndarray]:
    """Triplets from pure noise to bright stars, some with holes, an empty or a constant channel."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:29, :29] - 14
    star = np.exp(-(x**2 + y**2) / 4.5)
    noise_adu = 10 ** rng.uniform(-1, 2, n)
    flux = noise_adu * 10 ** rng.uniform(-1, 4, n) * rng.choice([-1, 1], n)
    stamps = rng.normal(size=(n, *schema.STAMP_SHAPE)) * noise_adu[:, None, None, None]
    stamps[:, 1:] += (flux[:, None, None] * star)[:, None]
    stamps[::5, :, :, :4] = np.nan
    stamps[1::11, 0] = np.nan
    stamps[2::11, 1] = 7.0
    stamps[3::11, 2, 3, 3] = np.inf
    return {"stamps": stamps.astype(np.float32), "noise_adu": noise_adu.astype(np.float32)}


def _compare(module: nn.Module, content: bytes, inputs: tuple[str, ...]) -> tuple[int, float, float]:
    """Number of stamps, and the largest differences of probability and of score over max(1, |score|)."""
    runtime: Any = _packages()["onnxruntime"]
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    of_probability, of_score = [], []
    for n in CHECKED_BATCHES:
        given: Mapping[str, np.ndarray] = {name: _examples(n)[name] for name in inputs}
        with torch.inference_mode():
            arguments = [torch.from_numpy(values) for values in given.values()]
            score, probability = (value.numpy() for value in module(*arguments))
        got_score, got_probability = session.run(["score", "probability"], given)
        of_probability.append(np.abs(got_probability - probability).max())
        of_score.append((np.abs(got_score - score) / np.maximum(1, np.abs(score))).max())
    return sum(CHECKED_BATCHES), float(np.max(of_probability)), float(np.max(of_score))
