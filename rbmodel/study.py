"""The benchmark: every method on the same splits and the same wrong labels, scored against the truth."""

import dataclasses
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch

import rbsim
from rbmodel import results
from rbmodel.checkpoint import save_checkpoint
from rbmodel.dataset import NORMALISATIONS
from rbmodel.label_cleaning import N_FOLDS, Cleaning, clean_labels
from rbmodel.networks import NETWORKS, make_network
from rbmodel.recipes.baseline import train_baseline
from rbmodel.recipes.removed import train_removed
from rbmodel.recipes.unlabelled import train_unlabelled
from rbmodel.scorecard import cleaning_fields, figures_on_test
from rbmodel.splits import FRACTIONS, Split, make_split, read_footprints, read_tiling
from rbmodel.train import Progress, TrainConfig, predict
from rbmodel.trial import Pools, Stamps, Trial, load_pools, make_trial, positives
from rbsim import seeding
from rbsim.errors import InputError
from rbsim.label_sets import LabelSet, read_labels
from rbsim.store import Store, open_store

log = logging.getLogger(__name__)

METHODS = ("baseline", "oracle", "removed", "unlabelled")
NEED_CLEANING = ("removed", "unlabelled")
VERSIONS = {
    "rbsim": rbsim.__version__,
    "torch": str(torch.__version__),
    "numpy": np.__version__,
    "scikit-learn": sklearn.__version__,
}


@dataclass(frozen=True)
class BenchmarkConfig:
    """What to compare, and how.

    Attributes
    ----------
    methods : tuple of str
        Of `METHODS`.
    network : str
        One for all methods, so that they differ in nothing else.
    mislabel_bogus, mislabel_real : float
        Contaminations of the given classes; the defaults are those found at Tomo-e Gozen. 0 with `labels`.
    labels : str or None
        Name of a label setting of the store (`rbsim relabel`) to train on.
    bogus_per_real : float or None
        Class ratio of training and validation; None keeps the store's.
    normalisation : str
        See `rbmodel.dataset.normalise`.
    n_seeds, seed : int
        Runs ``seed``, ``seed + 1``, ...: other wrong labels, weights and batches on the same split.
    split_seed : int
    split_fractions : tuple of float
        See `rbmodel.splits.make_split`.
    n_folds : int
        Of stage 1.
    n_bootstrap : int
    train : TrainConfig
    """

    methods: tuple[str, ...] = METHODS
    network: str = "simple"
    mislabel_bogus: float = 0.006
    mislabel_real: float = 0.010
    labels: str | None = None
    bogus_per_real: float | None = 1.0
    normalisation: str = "minmax"
    n_seeds: int = 1
    seed: int = 0
    split_seed: int = 0
    split_fractions: tuple[float, float, float] = FRACTIONS
    n_folds: int = N_FOLDS
    n_bootstrap: int = 1000
    train: TrainConfig = field(default_factory=lambda: TrainConfig(min_steps=600))

    def __post_init__(self) -> None:
        unknown = [method for method in self.methods if method not in METHODS]
        if unknown or not self.methods or len(set(self.methods)) < len(self.methods):
            raise InputError(
                f"methods are {', '.join(self.methods) or 'none'}; choose each once of {', '.join(METHODS)}"
            )
        for name, allowed in (("network", NETWORKS), ("normalisation", NORMALISATIONS)):
            if getattr(self, name) not in allowed:
                raise InputError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(allowed)}")
        for name, least in (
            ("n_seeds", 1),
            ("seed", 0),
            ("split_seed", 0),
            ("n_folds", 2),
            ("n_bootstrap", 1),
        ):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        for name in ("mislabel_bogus", "mislabel_real"):
            if not 0 <= getattr(self, name) < 0.5:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 0 and below 0.5")
        if self.labels is not None and (self.mislabel_bogus or self.mislabel_real):
            raise InputError(
                f"the label setting {self.labels} has its wrong labels already; mislabel_bogus and"
                " mislabel_real must be 0 or not given"
            )
        if self.bogus_per_real is not None and not self.bogus_per_real > 0:
            raise InputError(
                f"bogus_per_real is {self.bogus_per_real}; it must be positive, or None to keep all"
            )


def run_benchmark(
    store_path: Path,
    out: Path,
    config: BenchmarkConfig,
    *,
    progress: Progress | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> list[dict[str, Any]]:
    """Run all methods and seeds and write rows, scores and networks; see `rbmodel.results`.

    Parameters
    ----------
    store_path : Path
        A finished store.
    out : Path
        Folder of the results: ``study.json``, ``results.jsonl``, and in ``runs/`` per run its scores
        (``.npz``) and network (``.safetensors`` with ``.json``).
    config : BenchmarkConfig
    progress : callable, optional
    resume : bool
        Continue: runs with a row that says ``ok`` are not repeated.
    overwrite : bool
        Replace the results of an earlier benchmark in `out`.

    Returns
    -------
    list of dict
        All rows of the benchmark. A method that failed has ``status`` failed and a ``reason``.

    Raises
    ------
    InputError
        If the store cannot be split or used, if `out` exists and neither `resume` nor `overwrite` allows
        it, or if the benchmark to resume had another configuration or store.
    """
    store = open_store(store_path)
    split = make_split(
        read_footprints(store),
        read_tiling(store),
        split_seed=config.split_seed,
        fractions=config.split_fractions,
    )
    label_set = None if config.labels is None else read_labels(store, config.labels)
    pools = load_pools(store, split, normalisation=config.normalisation, label_set=label_set)
    results.prepare_folder(
        out, _describe(store, split, pools, config, label_set), resume=resume, overwrite=overwrite
    )
    rows = [row for row in results.read_rows(out) if row["status"] == "ok"]
    results.replace_rows(out, rows)
    finished = {row["run_id"] for row in rows}
    for seed in range(config.seed, config.seed + config.n_seeds):
        todo = [method for method in config.methods if _run_id(method, config, seed) not in finished]
        if not todo:
            continue
        trial = make_trial(
            pools,
            bogus_per_real=config.bogus_per_real,
            mislabel_bogus=config.mislabel_bogus,
            mislabel_real=config.mislabel_real,
            seed=seed,
        )
        cleaning: Cleaning | None = None
        for method in todo:
            row = _common_fields(
                method, seed, store=store, split=split, pools=pools, trial=trial, config=config
            )
            report = None if progress is None else _named(progress, f"{method}, seed {seed}")
            try:
                if method in NEED_CLEANING and cleaning is None:
                    cleaning = clean_labels(
                        config.network, trial.training_set, trial.validation_set, config.train,
                        seed=seed, n_folds=config.n_folds, progress=report,
                    )  # fmt: skip
                row |= _run_method(
                    method, trial, pools.test, config, cleaning=cleaning, seed=seed, out=out, progress=report
                )
            except InputError as error:
                row |= {"status": "failed", "reason": str(error)}
            except Exception as error:  # one method must not take the others' results with it
                log.exception("%s failed", row["run_id"])
                row |= {"status": "failed", "reason": f"{type(error).__name__}: {error}".splitlines()[0]}
            rows.append(results.complete_row(row))
            results.append_row(out, rows[-1])
    return rows


def _run_method(
    method: str,
    trial: Trial,
    test: Stamps,
    config: BenchmarkConfig,
    *,
    cleaning: Cleaning | None,
    seed: int,
    out: Path,
    progress: Progress | None,
) -> dict[str, Any]:
    """Train, score, write the run's files; return the row's fields."""
    # Same first weights and batch order for all methods of a seed: the comparison is paired.
    fit_seed = int(seeding.stream(seed, "train", 0).integers(2**31))
    network = make_network(config.network, generator=torch.Generator().manual_seed(fit_seed))
    training_set, validation_set = trial.training_set, trial.validation_set
    if method == "oracle":
        training_set = training_set.with_labels(trial.training_true)
        validation_set = validation_set.with_labels(trial.validation_true)
    match method:
        case "baseline" | "oracle":
            recipe: Any = train_baseline
        case "removed":
            recipe = train_removed
        case "unlabelled":
            recipe = train_unlabelled
        case _:
            raise ValueError(f"no recipe for {method}")
    result = recipe(
        network,
        training_set,
        validation_set,
        config.train,
        cleaning=cleaning,
        seed=fit_seed,
        progress=progress,
    )
    scores = predict(network, test.pixels, precision=config.train.precision)
    arrays = {
        "test_row": test.row,
        "test_score": scores,
        "test_label_true": test.label_true,
        "test_kind": test.kind,
        "test_group": test.group,
        "history_train_loss": np.array(result.train_loss),
        "history_validation_loss": np.array(result.validation_loss),
    }
    fields: dict[str, Any] = {
        "status": "ok",
        "n_epochs": result.n_epochs,
        "train_seconds": result.seconds,
        "samples_per_second": result.stamps_per_second,
    } | figures_on_test(scores, test, n_bootstrap=config.n_bootstrap, seed=seed)
    if method in NEED_CLEANING and cleaning is not None:
        fields |= cleaning_fields(cleaning, trial)
        fields["train_seconds"] += cleaning.seconds
        arrays |= {
            "train_row": trial.training_row,
            "train_oof_score": cleaning.oof_score,
            "train_label_given": trial.training_set.label_given,
            "train_label_true": trial.training_true,
            "train_suspect": cleaning.suspect,
        }
    run_id = _run_id(method, config, seed)
    results.write_run(out, run_id, arrays)
    details = {"run_id": run_id, "train": dataclasses.asdict(config.train), "versions": VERSIONS}
    save_checkpoint(
        out / "runs" / f"{run_id}.safetensors", network, normalisation=config.normalisation, details=details
    )
    return fields


def _common_fields(
    method: str, seed: int, *, store: Store, split: Split, pools: Pools, trial: Trial, config: BenchmarkConfig
) -> dict[str, Any]:
    emulated, injected, headline = positives(pools.test.kind, pools.test.label_true)
    store_config = store.attributes.get("config", {})
    given = trial.training_set.label_given
    noise: dict[str, Any] = {
        "label_noise": "class_conditional" if config.mislabel_bogus or config.mislabel_real else "none",
        "mislabel_bogus": config.mislabel_bogus,
        "mislabel_real": config.mislabel_real,
    }
    if pools.label_noise:
        got = trial.contamination
        noise = {
            "label_noise": pools.label_noise,
            "mislabel_bogus": got.mislabel_bogus,
            "mislabel_real": got.mislabel_real,
        }
    return {
        "run_id": _run_id(method, config, seed),
        "reason": "",
        "method": method,
        "network": config.network,
        **noise,
        "condition": store_config.get("condition", "as observed"),
        "reference": store_config.get("reference_name", "stack"),
        "normalisation": config.normalisation,
        "bogus_per_real": config.bogus_per_real,
        "seed": seed,
        "n_train": len(trial.training_set),
        "n_train_real": int(np.sum(given == 1)),
        "n_train_bogus": int(np.sum(given == 0)),
        "n_validation": len(trial.validation_set),
        "n_unused_by_split": split.n_unused,
        "n_test_real": int(np.sum(emulated if headline == "emulated" else injected)),
        "n_test_bogus": int(np.sum(pools.test.label_true == 0)),
        "n_test_injected": int(np.sum(injected)),
        "n_test_emulated": int(np.sum(emulated)),
        "test_positives": headline,
        "versions": VERSIONS,
    }


def _run_id(method: str, config: BenchmarkConfig, seed: int) -> str:
    noise = f"b{config.mislabel_bogus:g}_r{config.mislabel_real:g}"
    if config.labels is not None:
        noise = f"labels-{config.labels}"
    return f"{method}_{config.network}_{noise}_seed{seed}"


def _named(progress: Progress, name: str) -> Progress:
    return lambda what, done, total: progress(f"{name}: {what}", done, total)


def _describe(
    store: Store, split: Split, pools: Pools, config: BenchmarkConfig, label_set: LabelSet | None
) -> dict[str, Any]:
    """Contents of ``study.json``."""
    return {
        "version": results.RESULTS_VERSION,
        "config": dataclasses.asdict(config),
        "store": {"path": str(store.path.resolve()), "name": store.path.name, "n_stamps": store.n_stamps},
        "counts": {
            "train": len(pools.training),
            "validation": len(pools.validation),
            "test": len(pools.test),
            "unused_by_split": split.n_unused,
        },
        "labels": None if label_set is None else dict(label_set.attributes),
        "block_roles": {str(block): role for block, role in split.block_roles.items()},
        "tile_roles": {str(tile): role for tile, role in split.tile_roles.items()},
        "versions": VERSIONS,
    }
