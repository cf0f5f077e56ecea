r"""Stamps per second through scoring and training, by network and recipe, beside what the machine can do.

    OMP_NUM_THREADS=2 python benchmarks/training.py [--networks simple complex] [--json]

The rates are those of `rbmodel.train.predict` and of the epochs of `rbmodel.train.fit` after its first one:
batch making, optimiser and schedule included, stamps as the optimiser consumes them. Stamps are random
numbers; validation is 32 of them. FLOPs are counted by torch (convolutions and matrix products; a
multiplication and an addition are two), for the whole step as it runs. The limit is a product of two matrices
of 2048 x 2048 in the same precision; bfloat16 is the faster one only where the processor has units for it.
Fastest of several runs: wants a machine alone. With `--threads 1` seconds are those of the process, which a
busy machine stretches by less: rates of one core.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from rbmodel.dataset import Batch, TrainingSet, make_tensor
from rbmodel.losses import cross_entropy_loss
from rbmodel.networks import NETWORKS, make_network
from rbmodel.recipes.unlabelled import LossTerms, semi_supervised_loss
from rbmodel.train import Loss, TrainConfig, fit, predict
from rbmodel.train_config import TYPES, choose_precision

N_STAMPS = {"simple": 4096, "complex": 256}
"""Of an epoch; any other network gets `OTHER_STAMPS`."""
OTHER_STAMPS = 1024
REPEATS = 3
Clock = Callable[[], float]
BATCH = 128
MATRIX = 2048
TARGETS = {
    ("simple", "score"): 35_000,
    ("simple", "train"): 10_000,
    ("simple", "stage 2"): 2_600,
    ("simple", "stage 2, half"): 4_000,
    ("complex", "score"): 1_700,
    ("complex", "train"): 470,
    ("complex", "stage 2"): 150,
    ("complex", "stage 2, half"): 220,
    ("compact", "score"): 9_000,
}
"""Stamps per second on two cores, set where float32 ran at 180 and bfloat16 at 415 GFLOP/s."""


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def make_data(n_stamps: int) -> TrainingSet:
    stamps = np.random.default_rng(0).random((n_stamps, 29, 29, 3), dtype=np.float32).transpose(0, 3, 1, 2)
    index = np.arange(n_stamps)
    return TrainingSet(stamps, (index % 2).astype(np.int8), index)


def losses() -> dict[str, Loss]:
    """The step of each recipe."""
    return {
        "train": cross_entropy_loss,
        "stage 2": semi_supervised_loss(LossTerms(vat_fraction=1.0), generator=generator()),
        "stage 2, half": semi_supervised_loss(LossTerms(vat_fraction=0.5), generator=generator()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--precision", choices=("auto", "bfloat16", "float32"), default="auto")
    parser.add_argument("--threads", type=int, default=2, help="of torch (default 2)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.threads == 1 else time.perf_counter
    precision = choose_precision(options.precision, torch.device("cpu"))
    gemm = {name: round(matrix_rate(TYPES[name], clock), 1) for name in ("float32", "bfloat16")}
    rows = [
        row
        for name in options.networks
        for row in measure(name, clock, precision=precision, limit=gemm[precision])
    ]
    result = {
        "processor": platform.processor() or platform.machine(),
        "torch": str(torch.__version__),
        "threads": options.threads,
        "precision": precision,
        "gemm_gflop_per_s": gemm,
        "batch": BATCH,
        "rows": rows,
    }
    print(json.dumps(result, indent=1) if options.json else as_text(result))


def measure(name: str, clock: Clock, *, precision: str, limit: float) -> list[dict[str, Any]]:
    """Rates of one network, scoring first."""
    data = make_data(N_STAMPS.get(name, OTHER_STAMPS))
    network = make_network(name, generator=generator())
    rates = {"score": len(data) / fastest(lambda: predict(network, data.stamps, precision=precision), clock)}
    flops = {"score": count_flops(lambda: predict(network, data.stamps[:BATCH], precision=precision)) / BATCH}
    batch = Batch(
        make_tensor(data.stamps[:BATCH]), torch.from_numpy(data.label_given[:BATCH].astype(np.int64))
    )
    for step, loss in losses().items():
        rates[step] = train_rate(name, data, loss, clock, precision=precision)
        network.train()
        flops[step] = count_flops(lambda loss=loss: loss(network, batch).backward()) / BATCH
    return [
        {
            "network": name,
            "step": step,
            "stamps_per_s": round(rate),
            "mflop_per_stamp": round(flops[step] / 1e6, 2),
            "gflop_per_s": round(rate * flops[step] / 1e9, 1),
            "share_of_limit": round(rate * flops[step] / 1e9 / limit, 3),
            "target_per_s": TARGETS.get((name, step)),
        }
        for step, rate in rates.items()
    ]


def train_rate(name: str, data: TrainingSet, loss: Loss, clock: Clock, *, precision: str) -> float:
    """Stamps per second of the fastest epoch of `fit` but its first."""
    ends: list[float] = []
    n_epochs = 1 + REPEATS
    config = TrainConfig(n_epochs=n_epochs, batch_size=BATCH, patience=n_epochs, precision=precision)
    network = make_network(name, generator=generator())
    fit(
        network,
        data,
        data.subset(np.arange(32)),
        loss,
        config,
        seed=0,
        progress=lambda *_: ends.append(clock()),
    )
    return len(data) / float(np.diff(ends).min())


def count_flops(action: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        action()
    return counter.get_total_flops()


def matrix_rate(dtype: torch.dtype, clock: Clock) -> float:
    """GFLOP/s of a matrix product."""
    a, b = (torch.randn(MATRIX, MATRIX, generator=generator()).to(dtype) for _ in range(2))
    return 2 * MATRIX**3 / fastest(lambda: a @ b, clock) / 1e9


def fastest(action: Callable[[], object], clock: Clock) -> float:
    """Seconds of the fastest of several calls, after one that is not timed."""
    action()
    seconds = []
    for _ in range(REPEATS):
        started = clock()
        action()
        seconds.append(clock() - started)
    return min(seconds)


def as_text(result: dict[str, Any]) -> str:
    gemm = result["gemm_gflop_per_s"]
    lines = [
        f"{result['processor']}, {result['threads']} threads, torch {result['torch']}",
        f"batches of {result['batch']}, networks in {result['precision']}",
        f"product of matrices: {gemm['float32']:.0f} GFLOP/s in float32, {gemm['bfloat16']:.0f} in bfloat16",
        f"{'network':10s} {'step':14s} {'stamps/s':>9} {'MFLOP':>8} {'GFLOP/s':>8} {'limit':>8} {'aim':>7}",
    ]
    lines += [
        f"{row['network']:10s} {row['step']:14s} {row['stamps_per_s']:9,d} {row['mflop_per_stamp']:8.2f}"
        f" {row['gflop_per_s']:8.1f} {row['share_of_limit']:8.1%} {row['target_per_s'] or '':>7}"
        for row in result["rows"]
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
