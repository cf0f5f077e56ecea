r"""Choose the loss terms of the `unlabelled` recipe on a development night, by given labels only.

    rbsim emulate --night demo --seed 100 --out dev
    rbsim inject dev/science --reference dev/reference.fits --truth dev/truth.ecsv --realisations 1 \
        --seed 100 --out dev.zarr
    python benchmarks/vat_terms.py dev.zarr

The night must not be one that results are shown for. Held-out groups are scored against labels with the same
contamination as the training set: the truth plays no part.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import log_loss, roc_auc_score

from rbmodel.label_cleaning import clean_labels
from rbmodel.networks import make_network
from rbmodel.recipes.baseline import train_baseline
from rbmodel.recipes.removed import train_removed
from rbmodel.recipes.unlabelled import LossTerms, train_unlabelled
from rbmodel.splits import FRACTIONS, make_split, read_footprints, read_tiling
from rbmodel.train import TrainConfig, predict
from rbmodel.trial import load_pools, make_trial
from rbsim import label_noise
from rbsim.store import open_store

TERMS = [
    LossTerms(cross_entropy=1, auc=0.1, vat=0.0),
    LossTerms(cross_entropy=1, auc=0.1, vat=0.1, epsilon=0.2),
    LossTerms(cross_entropy=1, auc=0.1, vat=0.1, epsilon=0.5),
    LossTerms(cross_entropy=1, auc=0.1, vat=1.0, epsilon=0.1),
    LossTerms(cross_entropy=1, auc=0.1, vat=1.0, epsilon=0.2),
    LossTerms(cross_entropy=1, auc=1.0, vat=0.1, epsilon=0.2),
]


def main(path: str) -> None:
    torch.set_num_threads(2)
    store = open_store(Path(path))
    split = make_split(read_footprints(store), read_tiling(store), split_seed=0, fractions=FRACTIONS)
    pools = load_pools(store, split, normalisation="minmax")
    trial = make_trial(pools, bogus_per_real=1.0, mislabel_bogus=0.006, mislabel_real=0.010, seed=0)
    known = pools.test.label_given >= 0
    given = label_noise.contaminate(
        pools.test.label_given[known], mislabel_bogus=0.006, mislabel_real=0.010, rng=np.random.default_rng(0)
    ).label_given
    config = TrainConfig(min_steps=600)
    print(f"{len(trial.training_set)} training stamps, judged by given labels of {len(given)} held-out ones")
    cleaning = clean_labels("simple", trial.training_set, trial.validation_set, config, seed=0)

    def judge(name: str, train) -> None:
        scores = []
        for seed in (0, 1):
            network = make_network("simple", generator=torch.Generator().manual_seed(seed))
            train(network, seed)
            scores.append(predict(network, pools.test.pixels[known]))
        auc = [roc_auc_score(given, s) for s in scores]
        loss = [log_loss(given, np.clip(1 / (1 + np.exp(-s.astype(float))), 1e-4, 1 - 1e-4)) for s in scores]
        fpr = [np.mean(s[given == 0] >= np.quantile(s[given == 1], 0.1)) for s in scores]
        cells = "  ".join(f"{np.mean(v):.4f} +- {np.std(v):.4f}" for v in (auc, loss, fpr))
        print(f"{name:<62} {cells}", flush=True)

    print(f"{'recipe':<62} AUC, log loss, FPR at TPR 0.9 on given labels")
    common = (trial.training_set, trial.validation_set, config)
    judge("baseline", lambda net, seed: train_baseline(net, *common, cleaning=None, seed=seed))
    judge("removed", lambda net, seed: train_removed(net, *common, cleaning=cleaning, seed=seed))
    for terms in TERMS:
        judge(
            str(terms),
            lambda net, seed, terms=terms: train_unlabelled(
                net, *common, cleaning=cleaning, seed=seed, terms=terms
            ),
        )


if __name__ == "__main__":
    main(sys.argv[1])
