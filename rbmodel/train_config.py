"""How to train: one frozen value, and what a device makes of it."""

import math
from dataclasses import dataclass

import torch

from rbsim.errors import InputError

PRECISIONS = ("auto", "bfloat16", "float16", "float32")
TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
DEVICES = ("auto", "cpu", "cuda")
OPTIMISERS = ("adamw", "sgd", "adadelta")
STOP_MEASURES = ("absolute_error", "cross_entropy")


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
    warmup : float
    constant_rate : bool
        Neither warm-up nor cosine.
    weight_decay : float
        Of AdamW (Loshchilov & Hutter 2019); the other optimisers have none.
    optimiser : str
        ``adamw``; ``sgd`` (without momentum) and ``adadelta`` are the authors'.
    patience : int
        Stop after this many epochs without a lower validation loss.
    stop_measure : str
        What is measured on the given validation labels: ``absolute_error``, whose minimum wrong labels do
        not move, or the authors' ``cross_entropy``.
    augment : bool
        Show each stamp in one of the eight orientations of the sky, drawn anew in every epoch.
    precision : str
        Of the maps, by autocast; weights and logits are always float32. ``auto`` is what the device computes
        fastest, see `choose_precision`; or ``bfloat16``, ``float32``, and on a GPU ``float16``.
    device : str
        ``auto`` takes a CUDA device if there is one.
    """

    n_epochs: int = 15
    min_steps: int = 0
    batch_size: int = 128
    learning_rate: float = 1e-3
    warmup: float = 0.1
    constant_rate: bool = False
    weight_decay: float = 1e-4
    optimiser: str = "adamw"
    patience: int = 5
    stop_measure: str = "absolute_error"
    augment: bool = False
    precision: str = "auto"
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("n_epochs", "batch_size", "patience"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.learning_rate > 0:
            raise InputError(f"learning_rate is {self.learning_rate}; it must be positive")
        if not 0 <= self.warmup < 1:
            raise InputError(f"warmup is {self.warmup}; it must be at least 0 and below 1")
        for name, allowed in (
            ("optimiser", OPTIMISERS),
            ("stop_measure", STOP_MEASURES),
            ("precision", PRECISIONS),
            ("device", DEVICES),
        ):
            if getattr(self, name) not in allowed:
                raise InputError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(allowed)}")

    def schedule(self, n_stamps: int) -> tuple[int, int]:
        """Epochs and patience for a training set of this size."""
        steps_per_epoch = math.ceil(n_stamps / self.batch_size)
        n_epochs = max(self.n_epochs, math.ceil(self.min_steps / steps_per_epoch))
        return n_epochs, math.ceil(self.patience * n_epochs / self.n_epochs)

    def rate_factor(self, done: float) -> float:
        """Share of the peak learning rate when this share of all steps is done."""
        if self.constant_rate:
            return 1.0
        if done < self.warmup:
            # Half a step ahead of zero would need the step size; 1 % is as good.
            return max(done / self.warmup, 0.01)
        return 0.5 * (1 + math.cos(math.pi * (done - self.warmup) / (1 - self.warmup)))


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


def choose_precision(name: str, device: torch.device) -> str:
    """The precision to compute in: one of `PRECISIONS` other than ``auto``.

    ``auto`` looks at what the device can do, never at a clock: the same machine always gets the same bits.
    On a GPU it is bfloat16 where that is native, else float16. On a CPU it is bfloat16 where there are units
    for its matrices (AMX), else float32: without them bfloat16 is the slower one (170 against 300 GFLOP/s on
    two cores with AVX-512 BF16).

    Raises
    ------
    InputError
        If the name is unknown, or float16 is asked for on a CPU.
    """
    if name == "auto":
        if device.type == "cuda":
            return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
        return "bfloat16" if has_matrix_units() else "float32"
    if name not in TYPES:
        raise InputError(f"precision is {name!r}; choose one of {', '.join(PRECISIONS)}")
    if name == "float16" and device.type == "cpu":
        raise InputError("precision is 'float16', which needs a GPU; choose auto, bfloat16 or float32")
    return name


def has_matrix_units() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware (AMX)."""
    # In torch since 2.11; an older one says nothing, and float32 is right everywhere.
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16", False))


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context of a forward pass; `precision` as in `TrainConfig`."""
    chosen = choose_precision(precision, device)
    return torch.autocast(device.type, dtype=TYPES[chosen], enabled=chosen != "float32")
