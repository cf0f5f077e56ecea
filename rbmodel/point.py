"""One point of a benchmark's grid: one method with one seed, trained and scored. Workers can do it."""

import dataclasses
import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch

import rbsim
from rbmodel import results
from rbmodel.benchmark_config import NEED_CLEANING, ORACLE, BenchmarkConfig, recipe_of
from rbmodel.checkpoint import save_checkpoint
from rbmodel.label_cleaning import Cleaning, clean_labels
from rbmodel.scorecard import cleaning_fields, figures_on_test
from rbmodel.splits import Split, make_split, read_footprints, read_tiling
from rbmodel.train import Progress, predict
from rbmodel.trial import Pools, Stamps, Trial, load_pools, make_trial, positives
from rbsim import seeding
from rbsim.errors import InputError, OutputError
from rbsim.label_sets import LabelSet, read_labels
from rbsim.store import Store, open_store

log = logging.getLogger(__name__)

VERSIONS = {
    "rbsim": rbsim.__version__,
    "torch": str(torch.__version__),
    "numpy": np.__version__,
    "scikit-learn": sklearn.__version__,
}

STAGE_1 = ""
"""As the method of a point: what the methods that need stage 1 share, of one seed and network."""


@dataclass(frozen=True)
class Point:
    """One unit of work."""

    method: str
    network: str
    seed: int


@dataclass(frozen=True, eq=False)
class Work:
    """What all points need. The data are read where they are needed: only the fields go to workers."""

    store_path: Path
    out: Path
    config: BenchmarkConfig
    progress: Progress | None = None

    @cached_property
    def store(self) -> Store:
        """The store, open."""
        return open_store(self.store_path)

    @cached_property
    def split(self) -> Split:
        """Roles of its rows."""
        return make_split(
            read_footprints(self.store),
            read_tiling(self.store),
            split_seed=self.config.split_seed,
            fractions=self.config.split_fractions,
        )

    @cached_property
    def label_set(self) -> LabelSet | None:
        """The label setting to train on, if there is one."""
        return None if self.config.labels is None else read_labels(self.store, self.config.labels)

    @cached_property
    def pools(self) -> Pools:
        """Stamps of each role."""
        return load_pools(
            self.store,
            self.split,
            normalisation=self.config.normalisation,
            label_set=self.label_set,
            train_reference=self.config.train_reference,
            test_reference=self.config.test_reference,
        )

    def trial(self, seed: int) -> Trial:
        """The labels of one seed."""
        config = self.config
        return make_trial(
            self.pools,
            bogus_per_real=config.bogus_per_real,
            mislabel_bogus=config.mislabel_bogus,
            mislabel_real=config.mislabel_real,
            seed=seed,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Neither data nor the listener of progress."""
        return {"store_path": self.store_path, "out": self.out, "config": self.config, "progress": None}


def run_point(work: Work, point: Point) -> dict[str, Any]:
    """Train and score one point and write its files.

    Parameters
    ----------
    work : Work
    point : Point

    Returns
    -------
    dict
        Its row; ``status`` says whether it failed, and ``reason`` why. Empty for stage 1, which is only
        prepared here: what goes wrong with it is told by the points that need it.
    """
    trial = work.trial(point.seed)
    other = "" if point.network == work.config.network else f" ({point.network})"
    name = f"{point.method or 'stage 1'}{other}, seed {point.seed}"
    report = None if work.progress is None else _named(work.progress, name)
    row = _common_fields(work, trial, point)
    try:
        needed = point.method in (*NEED_CLEANING, STAGE_1)
        cleaning = _cleaning(work, trial, point, report) if needed else None
        if point.method == STAGE_1:
            return {}
        return row | _run_method(
            point, trial, work.pools.test, work.config, cleaning=cleaning, out=work.out, progress=report
        )
    except OutputError:  # no method is at fault
        raise
    except InputError as error:
        reason = str(error)
    except Exception as error:  # one method must not take the others' results with it
        log.exception("%s failed", row["run_id"])
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return {} if point.method == STAGE_1 else row | {"status": "failed", "reason": reason}


def lost_row(work: Work, point: Point, reason: str) -> dict[str, Any]:
    """The row of a point that no worker survived."""
    return _common_fields(work, work.trial(point.seed), point) | {"status": "failed", "reason": reason}


def _cleaning(work: Work, trial: Trial, point: Point, report: Progress | None) -> Cleaning:
    """Stage 1 of a seed and network: from its file if it is there, else made and written."""
    config = work.config
    name = f"stage1_seed{point.seed}" + ("" if point.network == config.network else f"_{point.network}")
    kept = results.read_stage1(work.out, name)
    if kept is not None and len(kept["suspect"]) == len(trial.training_set):
        numbers = (float(kept[field]) for field in ("seconds", "passes"))
        return Cleaning(kept["fold"], kept["oof_score"], kept["suspect"], *numbers)
    cleaning = clean_labels(
        point.network, trial.training_set, trial.validation_set, config.train, seed=point.seed,
        n_folds=config.n_folds, rounds=config.rounds, confidence=config.confidence, progress=report,
    )  # fmt: skip
    results.write_stage1(work.out, name, {key: np.asarray(value) for key, value in vars(cleaning).items()})
    return cleaning


def _run_method(
    point: Point,
    trial: Trial,
    test: Stamps,
    config: BenchmarkConfig,
    *,
    cleaning: Cleaning | None,
    out: Path,
    progress: Progress | None,
) -> dict[str, Any]:
    """Train, score, write the run's files; return the row's fields."""
    # Same first weights and batch order for all methods of a seed: the comparison is paired.
    fit_seed = int(seeding.stream(point.seed, "train", 0).integers(2**31))
    recipe = recipe_of(point.method)
    network = recipe.make_network(point.network, generator=torch.Generator().manual_seed(fit_seed))
    training_set, validation_set = trial.training_set, trial.validation_set
    if point.method == ORACLE:
        training_set = training_set.with_labels(trial.training_true)
        validation_set = validation_set.with_labels(trial.validation_true)
    result = recipe.train(
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
    # Epochs of the whole set: a recipe that drops stamps trains on fewer.
    n_epochs = round(result.stamps_per_second * result.seconds) / len(training_set)
    fields: dict[str, Any] = {
        "status": "ok",
        "n_epochs": result.n_epochs,
        "train_seconds": result.seconds,
        "samples_per_second": result.stamps_per_second,
        "forward_passes": recipe.forward * n_epochs,
        "backward_passes": recipe.backward * n_epochs,
    } | figures_on_test(scores, test, n_bootstrap=config.n_bootstrap, seed=point.seed)
    if cleaning is not None:
        fields |= cleaning_fields(cleaning, trial, n_bootstrap=config.n_bootstrap, seed=point.seed)
        fields["train_seconds"] += cleaning.seconds
        for name in ("forward_passes", "backward_passes"):
            fields[name] += cleaning.passes
        arrays |= {
            "train_row": trial.training_row,
            "train_oof_score": cleaning.oof_score,
            "train_label_given": trial.training_set.label_given,
            "train_label_true": trial.training_true,
            "train_suspect": cleaning.suspect,
        }
    run_id = run_id_of(point, config)
    results.write_run(out, run_id, arrays)
    details = {"run_id": run_id, "train": dataclasses.asdict(config.train), "versions": VERSIONS}
    save_checkpoint(
        out / "runs" / f"{run_id}.safetensors", network, normalisation=config.normalisation, details=details
    )
    return fields


def _common_fields(work: Work, trial: Trial, point: Point) -> dict[str, Any]:
    """Fields of a row that are known before the training."""
    config, pools = work.config, work.pools
    emulated, injected, headline = positives(pools.test.kind, pools.test.label_true)
    store_config = work.store.attributes.get("config", {})
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
        "run_id": run_id_of(point, config),
        "reason": "",
        "method": point.method,
        "network": point.network,
        **noise,
        "condition": store_config.get("condition", "as observed"),
        "reference": _references(config, store_config.get("reference_name", "stack")),
        "normalisation": config.normalisation,
        "bogus_per_real": config.bogus_per_real,
        "seed": point.seed,
        "n_train": len(trial.training_set),
        "n_train_real": int(np.sum(given == 1)),
        "n_train_bogus": int(np.sum(given == 0)),
        "n_validation": len(trial.validation_set),
        "n_unused_by_split": work.split.n_unused,
        "n_test_real": int(np.sum(emulated if headline == "emulated" else injected)),
        "n_test_bogus": int(np.sum(pools.test.label_true == 0)),
        "n_test_injected": int(np.sum(injected)),
        "n_test_emulated": int(np.sum(emulated)),
        "test_positives": headline,
        "versions": VERSIONS,
    }


def _references(config: BenchmarkConfig, of_store: str) -> str:
    """What a row says of references: that of the store, or which trains and which tests."""
    train, test = config.train_reference or of_store, config.test_reference or of_store
    return train if train == test else f"{train} -> {test}"


def run_id_of(point: Point, config: BenchmarkConfig) -> str:
    """Name of a run's files."""
    noise = f"b{config.mislabel_bogus:g}_r{config.mislabel_real:g}"
    if config.labels is not None:
        noise = f"labels-{config.labels}"
    return f"{point.method}_{point.network}_{noise}_seed{point.seed}"


def _named(progress: Progress, name: str) -> Progress:
    return lambda what, done, total: progress(f"{name}: {what}", done, total)
