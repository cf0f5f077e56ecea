"""Stage 1: find suspect labels by scoring every sample with a network that did not see it."""

import math
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
from rbsim import schema, seeding
from rbsim.errors import InputError

N_FOLDS = 5
CONFIDENCE = 0.5
"""Bare argmax: suspect is what is likelier the other class."""


@dataclass(frozen=True, eq=False)
class Cleaning:
    """Out-of-fold scores and the labels that they contradict.

    Attributes
    ----------
    fold : ndarray, shape (n,), int8
        The fold that held the sample out.
    oof_score : ndarray, shape (n,), float32
        Score of the network of that fold in the last round, which saw no sample of the sample's group.
    suspect : ndarray, shape (n,), bool
        The probability of the label that is not the given one is high enough.
    seconds : float
        What all folds of all rounds took together.
    passes : float
        Passes forward, and as many backward, per sample that they took; NaN if not known.
    """

    fold: np.ndarray
    oof_score: np.ndarray
    suspect: np.ndarray
    seconds: float
    passes: float = math.nan


def clean_labels(
    network_name: str,
    training_set: TrainingSet,
    validation_set: TrainingSet,
    config: TrainConfig,
    *,
    seed: int,
    n_folds: int = N_FOLDS,
    rounds: int = 1,
    confidence: float = CONFIDENCE,
    progress: Progress | None = None,
) -> Cleaning:
    """Score the training set out of fold and mark the samples whose given label is contradicted.

    Folds keep groups together and balance the labels; each fold's network has its own weights and
    order. Networks stop on the validation set, never on the samples that they are going to score.

    In a second round the networks train without the suspects of the first, then all samples are scored and
    judged anew: a suspect can become respectable again. The folds stay. Whom the first round suspects
    depends on the labels of other folds, so from the second round on a sample's own label has had a small,
    indirect say in its score.

    Parameters
    ----------
    network_name : str
        See `rbmodel.networks.make_network`.
    training_set : TrainingSet
        Samples without a given label are scored, but are never suspect.
    validation_set : TrainingSet
    config : TrainConfig
    seed : int
    n_folds, rounds : int
    confidence : float
        See `find_suspects`.
    progress : callable, optional

    Returns
    -------
    Cleaning

    Raises
    ------
    InputError
        If there are fewer groups than folds, if a fold or its complement lacks a class, or if a round
        suspects all samples of a class.
    """
    if rounds < 1:
        raise InputError(f"rounds is {rounds}; stage 1 needs at least 1")
    check_confidence(confidence)
    started = time.perf_counter()
    fold_of = assign_folds(training_set.label_given, training_set.group, n_folds=n_folds, seed=seed)
    suspect = np.zeros(len(training_set), bool)
    n_passed = 0.0
    for number in range(rounds):
        oof_score = np.empty(len(training_set), np.float32)
        labels_without_suspects(training_set, suspect)  # refuses what leaves one class
        for fold in range(n_folds):
            held_out = fold_of == fold
            fit_number = number * n_folds + fold
            fold_seed = int(seeding.stream(seed, "train", 1 + fit_number).integers(2**31))
            network = make_network(network_name, generator=torch.Generator().manual_seed(fold_seed))
            trained_on = training_set.subset(~held_out & ~suspect)
            result = fit(
                network,
                trained_on,
                validation_set,
                cross_entropy_loss,
                config,
                seed=fold_seed,
                progress=None if progress is None else _within(progress, fit_number, rounds * n_folds),
            )
            n_passed += result.n_epochs * len(trained_on)
            oof_score[held_out] = predict(network, training_set.stamps[held_out], precision=config.precision)
        suspect = find_suspects(oof_score, training_set.label_given, confidence=confidence)
    seconds = time.perf_counter() - started
    return Cleaning(fold_of, oof_score, suspect, seconds, n_passed / len(training_set))


def check_confidence(confidence: float) -> None:
    """Refuse what is no probability to contradict a label with.

    Raises
    ------
    InputError
        If it is below 0.5, where both labels would be contradicted, or not below 1.
    """
    if not 0.5 <= confidence < 1:
        raise InputError(f"confidence is {confidence}; it must be at least 0.5 and below 1")


def find_suspects(oof_score: np.ndarray, label_given: np.ndarray, *, confidence: float) -> np.ndarray:
    """Which given labels the scores contradict, shape (n,), bool.

    Parameters
    ----------
    oof_score : ndarray, shape (n,)
        logit(real) - logit(bogus).
    label_given : ndarray, shape (n,), integer
        1, 0, or -1 (never suspect).
    confidence : float
        A label is suspect from this probability of the other class on. At 0.5, the bare argmax, samples that
        are right but hard are suspects too; the higher, the fewer of both sorts.
    """
    against = np.where(label_given == schema.LABEL_REAL, -oof_score, oof_score)
    least = math.log(confidence / (1 - confidence))
    # Probability 0.5 counts as real, also where a label says so.
    certain = np.where(label_given == schema.LABEL_REAL, against > least, against >= least)
    return np.asarray((label_given >= 0) & certain)


def labels_without_suspects(training_set: TrainingSet, suspect: np.ndarray) -> np.ndarray:
    """The given labels with -1 for the suspects, shape (n,), int8.

    Raises
    ------
    InputError
        If this takes away all labels of a class.
    """
    label_given = training_set.label_given
    kept = np.where(suspect, schema.LABEL_EXCLUDED, label_given).astype(np.int8)
    for label, name in ((schema.LABEL_REAL, "real"), (schema.LABEL_BOGUS, "bogus")):
        n_given = int(np.sum(label_given == label))
        if n_given and not np.any(kept == label):
            raise InputError(
                f"all {n_given} stamps given {name} are suspect, none is left to train on; raise the"
                " confidence of stage 1, or inject into more frames"
            )
    return kept


def assign_folds(label_given: np.ndarray, group: np.ndarray, *, n_folds: int, seed: int) -> np.ndarray:
    """Fold number per sample, shape (n,), int8; every group lies in one fold.

    Raises
    ------
    InputError
        See `clean_labels`.
    """
    n_real, n_bogus = int(np.sum(label_given == 1)), int(np.sum(label_given == 0))
    if not (n_real and n_bogus):
        raise InputError(
            f"stage 1 has {n_real} stamps given real and {n_bogus} given bogus; both are needed:"
            " inject into more frames or change the split seed"
        )
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


def _within(progress: Progress, number: int, n_fits: int) -> Progress:
    def report(what: str, done: int, total: int) -> None:
        progress(f"stage 1, {what}", number * total + done, n_fits * total)

    return report
