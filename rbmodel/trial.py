"""The data of one seed: a balanced training set with wrong labels, and the truth kept aside."""

import logging
from dataclasses import dataclass

import numpy as np

from rbmodel.dataset import TrainingSet, load_stamps
from rbmodel.splits import Split
from rbsim import label_noise, schema, seeding
from rbsim.errors import InputError
from rbsim.label_sets import LabelSet
from rbsim.store import Store

log = logging.getLogger(__name__)

MIN_EMULATED_POSITIVES = 30


@dataclass(frozen=True, eq=False)
class Stamps:
    """Normalised stamps of some store rows with the columns that a benchmark needs.

    Attributes
    ----------
    row : ndarray, shape (n,), int64
        Rows of the store.
    pixels : ndarray, shape (n, 3, 29, 29), float32
    label_given, label_true, kind, group : ndarray, shape (n,)
        Known objects that a label setting leaves among the bogus are real in truth.
    """

    row: np.ndarray
    pixels: np.ndarray
    label_given: np.ndarray
    label_true: np.ndarray
    kind: np.ndarray
    group: np.ndarray

    def __len__(self) -> int:
        return len(self.row)


@dataclass(frozen=True, eq=False)
class Pools:
    """What one split offers: the same for every seed and method."""

    training: Stamps
    validation: Stamps
    test: Stamps
    label_noise: str = ""
    """Mechanism and name of the label setting that the given labels are from, wrong ones among them."""


@dataclass(frozen=True, eq=False)
class Trial:
    """Training and validation sets as recipes see them, and beside them what only the study sees.

    Attributes
    ----------
    training_set, validation_set : TrainingSet
    training_row : ndarray, shape (n_train,), int64
        Rows of the store.
    training_true, validation_true : ndarray, int8
        True labels: for the oracle and for scoring stage 1.
    """

    training_set: TrainingSet
    validation_set: TrainingSet
    training_row: np.ndarray
    training_true: np.ndarray
    validation_true: np.ndarray

    @property
    def contamination(self) -> label_noise.Contamination:
        """What share of the given training labels is wrong."""
        given = self.training_set.label_given
        return label_noise.contamination_of(given, given != self.training_true)


def load_pools(
    store: Store,
    split: Split,
    *,
    normalisation: str,
    label_set: LabelSet | None = None,
    train_reference: str | None = None,
    test_reference: str | None = None,
    test_store: Store | None = None,
) -> Pools:
    """Read the stamps of a split.

    Training and validation take what has a given label and was not drawn by the emulator's own
    transients; or all that has a label in a label setting. The test takes what was detected, has a true
    label and one possible cause.

    Parameters
    ----------
    store : Store
    split : Split
    normalisation : str
        See `rbmodel.dataset.normalise`.
    label_set : LabelSet, optional
        Labels of training and validation, instead of those of the store.
    train_reference, test_reference : str, optional
        Only stamps of this reference of a paired store, for training and validation, and for the test.
    test_store : Store, optional
        Test on all stamps of this store instead.

    Raises
    ------
    InputError
        If a role lacks real or bogus stamps, a store has no reference of this name, or both stores have a
        frame in common.
    """
    tested = store if test_store is None else test_store
    if test_store is not None:
        _refuse_common_frames(store, test_store)
    label_given, label_true = store.column("label_given"), store.column("label_true")
    trains = (label_given >= 0) & (store.column("kind") != schema.KIND_CODES["emulated_transient"])
    train_true = label_true
    if label_set is not None:
        label_given = label_set.label_given
        trains = label_given >= 0
        # The store has no true label of known objects; that they shine is why they are known.
        is_known = label_set.reason == label_noise.REASON_CODES["known_left"]
        train_true = np.where(is_known, np.int8(schema.LABEL_REAL), label_true)
    trains &= _of_reference(store, train_reference)
    test_true = tested.column("label_true")
    scored = (test_true >= 0) & (tested.column("kind") != schema.KIND_CODES["injected_lost"])
    scored &= (tested.column("flags") & schema.CANDIDATE_FLAG["AMBIGUOUS"]) == 0
    scored &= _of_reference(tested, test_reference)
    test_rows = split.rows("test") if test_store is None else np.arange(tested.n_stamps)

    def pool(role: str, source: Store, rows: np.ndarray, given: np.ndarray, true: np.ndarray) -> Stamps:
        label = true if role == "test" else given
        n_real, n_bogus = int(np.sum(label[rows] == 1)), int(np.sum(label[rows] == 0))
        if not (n_real and n_bogus):
            raise InputError(
                f"{source.path}: the {role} part has {n_real} real and {n_bogus} bogus stamps and needs both;"
                " inject into more frames or change --split-seed"
            )
        pixels = load_stamps(source, rows, normalisation=normalisation)
        columns = (source.column("kind")[rows], source.column("group")[rows])
        return Stamps(rows, pixels, given[rows], true[rows], *columns)

    train_rows, validation_rows = (
        rows[trains[rows]] for rows in (split.rows("train"), split.rows("validation"))
    )
    training = pool("train", store, train_rows, label_given, train_true)
    validation = pool("validation", store, validation_rows, label_given, train_true)
    test_given = label_given if test_store is None else tested.column("label_given")
    test = pool("test", tested, test_rows[scored[test_rows]], test_given, test_true)
    label_noise_name = "" if label_set is None else f"{label_set.attributes['mechanism']}/{label_set.name}"
    return Pools(training, validation, test, label_noise_name)


def _refuse_common_frames(store: Store, test_store: Store) -> None:
    """Frames of one name and one picture: the test would know the training."""
    if store.manifest_sha256 == test_store.manifest_sha256:
        raise InputError(f"{test_store.path}: is the store that is trained on; test on one of other frames")
    levels = dict(zip(store.frame_names, store.column("frames/sky_adu"), strict=True))
    # The name alone would not do: emulated nights of different seeds share theirs. Frames of a converted
    # store have no level: 0 or NaN.
    common = [
        name
        for name, level in zip(test_store.frame_names, test_store.column("frames/sky_adu"), strict=True)
        if level and levels.get(name) == level
    ]
    if common:
        raise InputError(
            f"{test_store.path}: has {len(common)} frames of {store.path} ({common[0]} first); test on others"
        )


def _of_reference(store: Store, name: str | None) -> np.ndarray:
    """Which stamps are of a reference; all of them without a name."""
    if name is None:
        return np.ones(store.n_stamps, bool)
    if name not in store.references:
        known = ", ".join(store.references)
        remedy = f"it has {known}" if known else "only a run with several --reference NAME=PATH has names"
        raise InputError(f"{store.path}: has no reference {name!r}; {remedy}")
    return np.asarray(store.column("reference") == store.references.index(name))


def make_trial(
    pools: Pools, *, bogus_per_real: float | None, mislabel_bogus: float, mislabel_real: float, seed: int
) -> Trial:
    """Balance the classes, then spoil labels, of training and validation each on its own.

    Both steps start from the labels that the store gives; they never look at the truth. The labels of a label
    setting are wrong already, and stay as they are.

    Parameters
    ----------
    pools : Pools
    bogus_per_real : float or None
        Class ratio, reached by dropping samples of the class that has too many; None keeps all.
    mislabel_bogus, mislabel_real : float
        Contaminations, see `rbsim.label_noise`; 0 with a label setting.
    seed : int

    Returns
    -------
    Trial

    Raises
    ------
    InputError
        If the contaminations are impossible.
    """
    if pools.label_noise and (mislabel_bogus or mislabel_real):
        raise InputError("the label setting has its wrong labels already; contaminations must be 0")
    parts = []
    for number, pool in enumerate((pools.training, pools.validation)):
        chosen = balanced(
            pool.label_given, bogus_per_real=bogus_per_real, rng=seeding.stream(seed, "thin", number)
        )
        noisy = label_noise.contaminate(
            pool.label_given[chosen],
            mislabel_bogus=mislabel_bogus,
            mislabel_real=mislabel_real,
            rng=seeding.stream(seed, "label", number),
        )
        n_wrong = int(np.sum(noisy.reason != 0))
        if number == 0 and (mislabel_bogus or mislabel_real):
            log.log(
                logging.WARNING if n_wrong < 10 else logging.INFO,
                "%d of %d training labels are wrong; asked for %.3g %% of given bogus, %.3g %% of given real",
                n_wrong,
                len(chosen),
                100 * mislabel_bogus,
                100 * mislabel_real,
            )
        parts.append((chosen, TrainingSet(pool.pixels[chosen], noisy.label_given, pool.group[chosen])))
    (training_chosen, training_set), (validation_chosen, validation_set) = parts
    return Trial(
        training_set,
        validation_set,
        pools.training.row[training_chosen],
        pools.training.label_true[training_chosen],
        pools.validation.label_true[validation_chosen],
    )


def balanced(label: np.ndarray, *, bogus_per_real: float | None, rng: np.random.Generator) -> np.ndarray:
    """Rising indices of a random subset with the given class ratio; at least one sample of each class."""
    if bogus_per_real is None:
        return np.arange(len(label))
    real, bogus = np.flatnonzero(label == schema.LABEL_REAL), np.flatnonzero(label == schema.LABEL_BOGUS)
    n_real = min(len(real), max(1, round(len(bogus) / bogus_per_real)))
    n_bogus = min(len(bogus), max(1, round(len(real) * bogus_per_real)))
    return np.sort(np.concatenate([rng.permutation(real)[:n_real], rng.permutation(bogus)[:n_bogus]]))


def positives(kind: np.ndarray, label_true: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
    """Emulated and injected positives of a test, and which of them make the headline.

    Returns
    -------
    emulated, injected : ndarray, shape (n,), bool
    headline : str
        ``emulated`` if there are at least 30 of them or no others, else ``injected``.
    """
    is_real = label_true == schema.LABEL_REAL
    emulated = is_real & (kind == schema.KIND_CODES["emulated_transient"])
    injected = is_real & ~emulated
    enough = np.sum(emulated) >= MIN_EMULATED_POSITIVES or not np.any(injected)
    return emulated, injected, "emulated" if enough else "injected"
