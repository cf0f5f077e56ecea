"""Stage 1: find suspect labels by scoring every sample with a network that did not see it."""

import time
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.model_selection import StratifiedGroupKFold

from rbmodel.dataset import TrainingSet
from rbmodel.losses import cross_entropy_loss
from rbmodel.networks import make_network
from rbmodel.train import Progress, TrainConfig, fit, predict
from rbsim import seeding
from rbsim.errors import InputError

N_FOLDS = 5


@dataclass(frozen=True, eq=False)
class Cleaning:
    """Out-of-fold scores and the labels that they contradict.

    Attributes
    ----------
    fold : ndarray, shape (n,), int8
        The fold that held the sample out.
    oof_score : ndarray, shape (n,), float32
        Score of the network of that fold, which saw no sample of the sample's group.
    suspect : ndarray, shape (n,), bool
        The likelier label is not the given one.
    seconds : float
        What all folds took together.
    """

    fold: np.ndarray
    oof_score: np.ndarray
    suspect: np.ndarray
    seconds: float


def clean_labels(
    network_name: str,
    training_set: TrainingSet,
    validation_set: TrainingSet,
    config: TrainConfig,
    *,
    seed: int,
    n_folds: int = N_FOLDS,
    progress: Progress | None = None,
) -> Cleaning:
    """Score the training set out of fold and mark the samples whose given label is contradicted.

    Folds keep groups together and balance the labels; each fold's network has its own weights and
    order. Networks stop on the validation set, never on the samples that they are going to score.

    Parameters
    ----------
    network_name : str
        See `rbmodel.networks.make_network`.
    training_set : TrainingSet
        Samples without a given label are scored, but are never suspect.
    validation_set : TrainingSet
    config : TrainConfig
    seed : int
    n_folds : int
    progress : callable, optional

    Returns
    -------
    Cleaning

    Raises
    ------
    InputError
        If there are fewer groups than folds, or a fold or its complement lacks a class.
    """
    started = time.perf_counter()
    fold_of = assign_folds(training_set.label_given, training_set.group, n_folds=n_folds, seed=seed)
    oof_score = np.empty(len(training_set), np.float32)
    for fold in range(n_folds):
        held_out = fold_of == fold
        fold_seed = int(seeding.stream(seed, "train", 1 + fold).integers(2**31))
        network = make_network(network_name, generator=torch.Generator().manual_seed(fold_seed))
        fit(
            network,
            training_set.subset(~held_out),
            validation_set,
            cross_entropy_loss,
            config,
            seed=fold_seed,
            progress=None if progress is None else _within_fold(progress, fold, n_folds),
        )
        oof_score[held_out] = predict(network, training_set.stamps[held_out], precision=config.precision)
    likelier = (oof_score >= 0).astype(np.int8)
    suspect = (training_set.label_given >= 0) & (likelier != training_set.label_given)
    return Cleaning(fold_of, oof_score, suspect, time.perf_counter() - started)


def assign_folds(label_given: np.ndarray, group: np.ndarray, *, n_folds: int, seed: int) -> np.ndarray:
    """Fold number per sample, shape (n,), int8; every group lies in one fold.

    Raises
    ------
    InputError
        See `clean_labels`.
    """
    n_groups = len(np.unique(group))
    if n_folds < 2 or n_groups < n_folds:
        raise InputError(
            f"{n_groups} training groups cannot make {n_folds} folds;"
            " use at least 2 folds and inject into more frames"
        )
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    fold_of = np.empty(len(label_given), np.int8)
    with warnings.catch_warnings():
        # A label rarer than the folds is refused below, in our words; a rare -1 does no harm.
        warnings.filterwarnings("ignore", message="The least populated class")
        for fold, (_, held_out) in enumerate(splitter.split(np.zeros(len(group)), label_given, group)):
            fold_of[held_out] = fold
    for fold in range(n_folds):
        for part in (fold_of == fold, fold_of != fold):
            if not {0, 1} <= set(np.unique(label_given[part])):
                raise InputError(
                    f"fold {fold} of {n_folds} lacks real or bogus samples;"
                    " use fewer folds or inject into more frames"
                )
    return fold_of


def _within_fold(progress: Progress, fold: int, n_folds: int) -> Progress:
    def report(what: str, done: int, total: int) -> None:
        progress(f"stage 1, {what}", fold * total + done, n_folds * total)

    return report
