r"""Which network to recommend: ROC on the given labels of another night, for each input and seed.

    rbsim emulate --mode all-sky --exposures 6 --sensors ... --condition dark --epochs 0 --seed 1 --out a
    rbsim inject a/science --reference a/ps1 --truth a/truth.ecsv --out a.zarr  # the same for b, other seed
    python benchmarks/networks.py a.zarr b.zarr [--networks simple compact complex] [--seeds 0 1]
        [--normalisations minmax asinh] [--augment] [--per-class 1600] [--json]

All networks see the same stamps of the first store in the same order for the same number of epochs; complex
at half the learning rate, which did better. A fifth of its groups is held out to choose the epoch. The second
store, made with another seed, is only scored: by given labels, the truth plays no part. The nights must not
be ones that results are shown for.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from rbmodel.dataset import TrainingSet, load_stamps
from rbmodel.losses import cross_entropy_loss
from rbmodel.networks import NETWORKS, make_network
from rbmodel.train import TrainConfig, fit, predict
from rbsim import schema
from rbsim.store import Store, open_store

RATES = {"complex": 5e-4, "complex-mean": 5e-4}
LEVELS = (0.90, 0.95, 0.99)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", type=Path, help="store to train on")
    parser.add_argument("test", type=Path, help="store of another night, to score")
    parser.add_argument(
        "--networks", nargs="+", choices=list(NETWORKS), default=["simple", "compact", "complex"]
    )
    parser.add_argument("--normalisations", nargs="+", choices=("minmax", "asinh"), default=["minmax"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--augment", action="store_true", help="stamps in the eight orientations of the sky")
    parser.add_argument("--per-class", type=int, default=1600, help="training stamps of each label, at most")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    train_store, test_store = open_store(options.train), open_store(options.test)
    rows = []
    if not options.json:
        print(f"{'network':12s} {'input':7s} seed {'AUC':>8} {'FPR at TPR 0.9':>15} {'0.95':>8} {'0.99':>8}")
    for normalisation in options.normalisations:
        group = train_store.column("group")
        held_out = np.random.default_rng(0).permutation(int(group.max()) + 1)[group] % 5 == 0
        sets = {
            "training": choose(train_store, ~held_out, options.per_class, normalisation),
            "validation": choose(train_store, held_out, options.per_class, normalisation),
            "test": choose(test_store, np.ones(test_store.n_stamps, bool), None, normalisation),
        }
        for seed in options.seeds:
            for name in options.networks:
                config = TrainConfig(
                    n_epochs=options.epochs, learning_rate=RATES.get(name, 1e-3), augment=options.augment
                )
                row = judge(name, sets, config, seed=seed) | {"normalisation": normalisation}
                rows.append(row)
                if not options.json:
                    print(as_line(row), flush=True)
    if options.json:
        print(json.dumps(rows, indent=1))


def choose(store: Store, usable: np.ndarray, per_class: int | None, normalisation: str) -> TrainingSet:
    """As many stamps of each given label, drawn at random from the usable ones."""
    label, kind = store.column("label_given"), store.column("kind")
    usable = usable & (kind != schema.KIND_CODES["injected_lost"])
    usable &= (store.column("flags") & schema.CANDIDATE_FLAG["AMBIGUOUS"]) == 0
    members = [np.flatnonzero(usable & (label == each)) for each in (0, 1)]
    n_each = min(len(members[0]), len(members[1]), per_class or store.n_stamps)
    rng = np.random.default_rng(1)
    rows = np.sort(np.concatenate([rng.permutation(part)[:n_each] for part in members]))
    stamps = load_stamps(store, rows, normalisation=normalisation)
    return TrainingSet(stamps, label[rows], store.column("group")[rows])


def judge(name: str, sets: dict[str, TrainingSet], config: TrainConfig, *, seed: int) -> dict[str, Any]:
    """Train one network and score the test set."""
    network = make_network(name, generator=torch.Generator().manual_seed(seed))
    result = fit(network, sets["training"], sets["validation"], cross_entropy_loss, config, seed=seed)
    score, label = predict(network, sets["test"].stamps), sets["test"].label_given
    real, bogus = score[label == 1], score[label == 0]
    return {
        "network": name,
        "seed": seed,
        "n_train": len(sets["training"]),
        "n_test": len(label),
        "auc": float(roc_auc_score(label, score)),
        "fpr": [float(np.mean(bogus >= np.quantile(real, 1 - level))) for level in LEVELS],
        "best_epoch": result.best_epoch,
        "n_epochs": result.n_epochs,
        "stamps_per_s": round(result.stamps_per_second),
    }


def as_line(row: dict[str, Any]) -> str:
    fpr = row["fpr"]
    return (
        f"{row['network']:12s} {row['normalisation']:7s} {row['seed']:4d} {row['auc']:8.5f}"
        f" {fpr[0]:15.5f} {fpr[1]:8.5f} {fpr[2]:8.5f}"
    )


if __name__ == "__main__":
    main()
