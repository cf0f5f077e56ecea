"""From a store to a model: one recipe, trained on given labels, calibrated, judged on groups it never saw."""

import dataclasses
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rbmodel.benchmark_config import BenchmarkConfig
from rbmodel.evaluate import estimate_mislabelled, evaluate
from rbmodel.label_cleaning import N_FOLDS, Cleaning, clean_labels
from rbmodel.model import FACTS, Model, save_model
from rbmodel.model_card import write_card
from rbmodel.networks import count_weights
from rbmodel.point import VERSIONS, Work
from rbmodel.recipes.table import RECIPES
from rbmodel.reliability import draw_reliability
from rbmodel.scorecard import figures_on_test
from rbmodel.sheet import Sheet
from rbmodel.temperature import fit_temperature, reliability
from rbmodel.train import FitResult, Progress, TrainConfig
from rbmodel.trial import Stamps, Trial, positives
from rbsim import schema, seeding
from rbsim.errors import InputError
from rbsim.folder import check_folder, new_folder
from rbsim.label_sets import LabelSet
from rbsim.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelConfig:
    """What to train, and on what; checked when the training begins.

    Attributes
    ----------
    recipe : str
        A key of `RECIPES`.
    network, normalisation, labels, bogus_per_real, seed, split_seed, n_folds, n_bootstrap, train
        See `rbmodel.benchmark_config.BenchmarkConfig`.
    reference : str or None
        Of a paired store: stamps of this reference only.
    """

    recipe: str = "baseline"
    network: str = "simple"
    normalisation: str = "minmax"
    labels: str | None = None
    bogus_per_real: float | None = 1.0
    reference: str | None = None
    seed: int = 1
    split_seed: int = 0
    n_folds: int = N_FOLDS
    n_bootstrap: int = 1000
    train: TrainConfig = field(default_factory=lambda: TrainConfig(min_steps=600))

    def __post_init__(self) -> None:
        if self.recipe not in RECIPES:
            raise InputError(
                f"recipe is {self.recipe!r}; choose one of {', '.join(RECIPES)}: they learn from given labels"
            )

    def as_benchmark(self) -> BenchmarkConfig:
        """The same as a benchmark of one method, without wrong labels beside those that are there."""
        return BenchmarkConfig(
            methods=(self.recipe,),
            network=self.network,
            mislabel_bogus=0.0,
            mislabel_real=0.0,
            labels=self.labels,
            bogus_per_real=self.bogus_per_real,
            normalisation=self.normalisation,
            seed=self.seed,
            split_seed=self.split_seed,
            train_reference=self.reference,
            test_reference=self.reference,
            n_folds=self.n_folds,
            n_bootstrap=self.n_bootstrap,
            train=self.train,
        )


def train_model(
    store_path: Path,
    out: Path,
    config: ModelConfig,
    *,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Train a model on the given labels of a store and write its folder, whole or not at all.

    The true labels of the store are used once, after the training, to judge the model on the test groups;
    these figures are marked as evaluation only. Early stopping and temperature use given labels of the
    validation groups.

    Parameters
    ----------
    store_path : Path
    out : Path
        Folder to write: ``model.safetensors``, ``model.json``, ``README.md``, ``reliability.png``, ``.csv``.
    config : ModelConfig
    progress : callable, optional
    overwrite : bool
        Replace an older model.

    Returns
    -------
    dict
        What ``model.json`` says beside the network's own settings.

    Raises
    ------
    InputError
        If the store cannot be split, a part of it lacks a class, or `out` cannot be written.
    """
    check_folder(out, overwrite=overwrite, proof=FACTS, command="rbsim train")
    work = Work(store_path, out, config.as_benchmark())
    _check_labels(work)
    trial = work.trial(config.seed)
    # The seeds of a benchmark: what won there can be had again here.
    fit_seed = int(seeding.stream(config.seed, "train", 0).integers(2**31))
    cleaning = None
    if RECIPES[config.recipe].needs_cleaning:
        cleaning = clean_labels(
            config.network, trial.training_set, trial.validation_set, config.train,
            seed=config.seed, n_folds=config.n_folds, progress=progress,
        )  # fmt: skip
    recipe = RECIPES[config.recipe]
    network = recipe.make_network(config.network, generator=torch.Generator().manual_seed(fit_seed))
    fitted = recipe.train(
        network, trial.training_set, trial.validation_set, config.train,
        cleaning=cleaning, seed=fit_seed, progress=progress,
    )  # fmt: skip
    model = _calibrated(network, trial, config)
    with new_folder(out, overwrite=overwrite, proof=FACTS, command="rbsim train") as folder:
        facts: dict[str, Any] = {
            "store": _describe_store(work.store),
            "labels": _describe_labels(work.label_set, trial, cleaning),
            "training": _describe_training(config, trial, fitted, work.split.n_unused),
            "n_weights": count_weights(network),
            "metrics": _judge(model, work.pools.test, config, Sheet(folder, "")),
            "versions": VERSIONS,
        }
        save_model(folder, model, facts)
        write_card(folder)
    log.info("%s: %s", out, model.version)
    return {"path": str(out), "version": model.version, "temperature": model.temperature, **facts}


def _check_labels(work: Work) -> None:
    """Say what is missing of the whole store before a part of it is blamed."""
    label_set = work.label_set
    label = work.store.column("label_given") if label_set is None else label_set.label_given
    n_real, n_bogus = int(np.sum(label == schema.LABEL_REAL)), int(np.sum(label == schema.LABEL_BOGUS))
    if not (n_real or n_bogus):
        raise InputError(
            f"{work.store_path}: none of its {work.store.n_stamps} stamps has a given label; inject stars,"
            " give labels with rbsim convert --label, or name a setting of rbsim relabel with --labels"
        )
    if not (n_real and n_bogus):
        there, absent = ("real", "bogus") if n_real else ("bogus", "real")
        raise InputError(
            f"{work.store_path}: all {n_real + n_bogus} labelled stamps are given {there}; a classifier needs"
            f" {absent} too, give a store that has both"
        )


def _calibrated(network: torch.nn.Module, trial: Trial, config: ModelConfig) -> Model:
    from_validation = trial.validation_set
    prevalence = float(np.mean(from_validation.label_given[from_validation.label_given >= 0] == 1))
    model = Model(network, config.recipe, config.normalisation, config.train.precision, 1.0, prevalence)
    score = model.score_normalised(from_validation.stamps)
    return dataclasses.replace(model, temperature=fit_temperature(score, from_validation.label_given))


def _judge(model: Model, test: Stamps, config: ModelConfig, sheet: Sheet) -> dict[str, Any]:
    """Figures on the test groups, against given labels and against the truth; the reliability diagram."""
    score = model.score_normalised(test.pixels)
    out: dict[str, Any] = {"given": None, "truth": None}
    given = test.label_given >= 0
    if {0, 1} <= set(np.unique(test.label_given)):
        rng = seeding.stream(config.seed, "train", seeding.key_of_name("bootstrap"))
        figures = evaluate(
            score[given], test.label_given[given], test.group[given], n_bootstrap=config.n_bootstrap, rng=rng
        )
        tables = {}
        for name, one in (("as trained", dataclasses.replace(model, temperature=1.0)), ("calibrated", model)):
            # The test has another share of reals than the balanced validation; that is no error of the model.
            probability = one.probability(score[given], prevalence=figures.prevalence)
            tables[name] = reliability(probability, test.label_given[given])
        draw_reliability(tables, sheet)
        out["given"] = {
            "n_real": int(np.sum(test.label_given == 1)),
            "n_bogus": int(np.sum(test.label_given == 0)),
            **_plain_figures(dataclasses.asdict(figures)),
            "calibration_error": tables["calibrated"].calibration_error,
            "calibration_error_as_trained": tables["as trained"].calibration_error,
        }
    truth = figures_on_test(score, test, n_bootstrap=config.n_bootstrap, seed=config.seed)
    emulated, injected, headline = positives(test.kind, test.label_true)
    out["truth"] = {
        "evaluation_only": True,
        "positives": headline,
        "n_real": int(np.sum(emulated if headline == "emulated" else injected)),
        "n_bogus": int(np.sum(test.label_true == 0)),
        "n_bogus_assumed": int(np.sum(test.kind[test.label_true == 0] == schema.KIND_CODES["detection"])),
        **_plain_figures(truth),
    }
    return out


def _plain_figures(figures: dict[str, Any]) -> dict[str, Any]:
    """Python numbers, nested estimates kept; NaN, which JSON has not, as None."""
    plain: dict[str, Any] = {}
    for name, value in figures.items():
        if isinstance(value, dict):
            plain[name] = _plain_figures(value)
        else:
            number = value.item() if isinstance(value, np.generic) else value
            plain[name] = None if isinstance(number, float) and not np.isfinite(number) else number
    return plain


def _describe_store(store: Store) -> dict[str, Any]:
    config = store.attributes.get("config", {})
    return {
        "name": store.path.name,
        "manifest_sha256": store.manifest_sha256,
        "format_version": store.attributes["version"],
        "n_stamps": store.n_stamps,
        "condition": config.get("condition", "as observed"),
        "reference": config.get("reference_name", "stack"),
    }


def _describe_labels(label_set: LabelSet | None, trial: Trial, cleaning: Cleaning | None) -> dict[str, Any]:
    """Where the labels come from, what is known of wrong ones, and what stage 1 made of them."""
    given, true = trial.training_set.label_given, trial.training_true
    known = (given >= 0) & (true >= 0)
    facts: dict[str, Any] = {
        "setting": None if label_set is None else label_set.name,
        "setting_attributes": None if label_set is None else dict(label_set.attributes),
        "mislabelled_by_truth": float(np.mean(given[known] != true[known])) if known.any() else None,
        "mislabelled_by_stage_1": None,
        "n_suspect": None,
    }
    if cleaning is not None:
        estimate = estimate_mislabelled(cleaning.oof_score, given)
        facts |= {"mislabelled_by_stage_1": estimate, "n_suspect": int(np.sum(cleaning.suspect))}
    return facts


def _describe_training(config: ModelConfig, trial: Trial, fitted: FitResult, n_unused: int) -> dict[str, Any]:
    given, held_out = trial.training_set.label_given, trial.validation_set.label_given
    return {
        "config": dataclasses.asdict(config),
        "n_real": int(np.sum(given == 1)),
        "n_bogus": int(np.sum(given == 0)),
        "n_validation": len(held_out),
        "n_groups": len(np.unique(trial.training_set.group)),
        "n_unused_by_split": n_unused,
        "n_epochs": fitted.n_epochs,
        "best_epoch": fitted.best_epoch,
        "train_loss": list(fitted.train_loss),
        "validation_loss": list(fitted.validation_loss),
    }
