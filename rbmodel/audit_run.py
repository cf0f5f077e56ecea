"""The population of an audit and its held-out scores: of a benchmark, of a table, or of a new stage 1."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rbmodel.audit import draw_sample, make_strata
from rbmodel.audit_sheet import write_audit
from rbmodel.benchmark_config import BenchmarkConfig
from rbmodel.label_cleaning import clean_labels
from rbmodel.point import Work
from rbmodel.train import Progress, TrainConfig
from rbsim import seeding
from rbsim.errors import InputError
from rbsim.label_sets import read_labels
from rbsim.score_rates import read_scores
from rbsim.store import Store, open_store

STUDY = "study.json"


@dataclass(frozen=True, eq=False)
class Population:
    """Labelled stamps of a store with scores of networks that did not see them.

    Attributes
    ----------
    store : Store
    row : ndarray, shape (n,), int64
    label_given : ndarray, shape (n,), int8
    score : ndarray, shape (n,), float
    origin : dict
        Where labels and scores are from.
    """

    store: Store
    row: np.ndarray
    label_given: np.ndarray
    score: np.ndarray
    origin: dict[str, Any]


@dataclass(frozen=True)
class AuditConfig:
    """How to audit.

    Attributes
    ----------
    n : int
        Stamps to inspect.
    scores : Path or None
        Scores of the store's stamps, see `rbsim.score_rates.read_scores`.
    labels : str or None
        Label setting of the store to audit.
    run : str or None
        Run of a benchmark; default: the first with scores of stage 1.
    network : str
        Of a new stage 1.
    seed, split_seed : int
    train : TrainConfig
        Of a new stage 1.
    """

    n: int = 300
    scores: Path | None = None
    labels: str | None = None
    run: str | None = None
    network: str = "simple"
    seed: int = 1
    split_seed: int = 0
    train: TrainConfig = field(default_factory=lambda: TrainConfig(min_steps=600))


def run_audit(
    source: Path,
    out: Path,
    config: AuditConfig,
    *,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Draw the stamps to inspect and write their sheet, see `rbmodel.audit_sheet.write_audit`.

    The population is the training part of a benchmark's run with the labels that the run had; or all labelled
    stamps of a store that have a score; or, without scores, the training part of the store, of which stage 1
    then makes scores out of fold.

    Parameters
    ----------
    source : Path
        Store, or folder of `rbsim benchmark`.
    out : Path
        Folder to write.
    config : AuditConfig
    progress : callable, optional
    overwrite : bool

    Returns
    -------
    dict
        Numbers of stamps, and the share of wrong labels that the scores alone make one expect.

    Raises
    ------
    InputError
        If a source cannot be used, options do not fit it, or `out` cannot be written.
    """
    if (source / STUDY).exists():
        population = _of_benchmark(source, config)
    elif config.run is not None:
        raise InputError(f"{source}: is no folder of rbsim benchmark, so --run is not for it; drop it")
    elif config.scores is not None:
        population = _of_scores(open_store(source), config)
    else:
        population = _of_stage_1(source, config, progress)
    strata = make_strata(population.score, population.label_given)
    index = draw_sample(
        strata, config.n, rng=seeding.stream(config.seed, "thin", seeding.key_of_name("audit"))
    )
    predicted = float(np.average(strata.predicted, weights=strata.n_population))
    facts = {**population.origin, "seed": config.seed}
    write_audit(
        population.store, out, row=population.row, label_given=population.label_given, score=population.score,
        strata=strata, index=index, facts=facts, overwrite=overwrite,
    )  # fmt: skip
    return {
        "path": str(out),
        "n_population": len(population.row),
        "n_sample": len(index),
        "predicted": predicted,
        **facts,
    }


def _of_benchmark(source: Path, config: AuditConfig) -> Population:
    if config.scores is not None or config.labels is not None:
        raise InputError(f"{source}: a benchmark has its own scores and labels; drop --scores and --labels")
    try:
        said = json.loads((source / STUDY).read_text())["store"]
        store_path, digest = Path(said["path"]), said["manifest_sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{source / STUDY}: cannot be read ({error}); give a folder of rbsim benchmark"
        ) from error
    names = (
        sorted(path.stem for path in (source / "runs").glob("*.npz")) if config.run is None else [config.run]
    )
    for name in names:
        try:
            with np.load(source / "runs" / f"{name}.npz", allow_pickle=False) as run:
                if "train_oof_score" not in run.files or "train_row" not in run.files:
                    continue
                arrays = [run[f"train_{what}"] for what in ("row", "label_given", "oof_score")]
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"{source}: run {name} cannot be read ({error}); run the benchmark again"
            ) from error
        store = open_store(store_path)
        if store.manifest_sha256 != digest:
            raise InputError(f"{store_path}: is another store than that of {source}; run the benchmark again")
        labelled = arrays[1] >= 0
        row, label, score = (array[labelled] for array in arrays)
        return Population(store, row, label, score, {"benchmark": source.name, "run": name})
    lacking = "no run has" if config.run is None else f"run {config.run} lacks"
    raise InputError(
        f"{source}: {lacking} scores of stage 1; benchmark a method that needs it, such as removed, or"
        " give the store"
    )


def _of_scores(store: Store, config: AuditConfig) -> Population:
    assert config.scores is not None
    score = read_scores(config.scores, store.n_stamps)
    label = (
        store.column("label_given")
        if config.labels is None
        else read_labels(store, config.labels).label_given
    )
    row = np.flatnonzero((label >= 0) & np.isfinite(score))
    origin = {"scores": config.scores.name, "labels": config.labels}
    return Population(store, row, label[row], score[row], origin)


def _of_stage_1(source: Path, config: AuditConfig, progress: Progress | None) -> Population:
    settings = BenchmarkConfig(
        methods=("removed",), network=config.network, mislabel_bogus=0.0, mislabel_real=0.0,
        labels=config.labels, bogus_per_real=None,
        seed=config.seed, split_seed=config.split_seed, train=config.train,
    )  # fmt: skip
    work = Work(source, source, settings)
    trial = work.trial(config.seed)
    cleaning = clean_labels(
        config.network, trial.training_set, trial.validation_set, config.train,
        seed=config.seed, n_folds=settings.n_folds, progress=progress,
    )  # fmt: skip
    origin = {"scores": f"stage 1, {config.network}", "labels": config.labels, "part": "train"}
    return Population(
        work.store, trial.training_row, trial.training_set.label_given, cleaning.oof_score, origin
    )
