"""What a benchmark compares, and how: one frozen value, checked on making."""

from dataclasses import dataclass, field

from rbmodel.dataset import NORMALISATIONS
from rbmodel.label_cleaning import CONFIDENCE, N_FOLDS, check_confidence
from rbmodel.networks import NETWORKS
from rbmodel.recipes.table import RECIPES, Recipe
from rbmodel.splits import FRACTIONS
from rbmodel.train import TrainConfig
from rbsim.errors import InputError

ORACLE = "oracle"
METHODS = (*RECIPES, ORACLE)
DEFAULT_METHODS = ("baseline", "oracle", "removed", "unlabelled")
NEED_CLEANING = tuple(name for name, recipe in RECIPES.items() if recipe.needs_cleaning)


def recipe_of(method: str) -> Recipe:
    """The recipe of a method; the oracle is the baseline that is handed the truth as its given labels."""
    return RECIPES["baseline" if method == ORACLE else method]


@dataclass(frozen=True)
class BenchmarkConfig:
    """What to compare, and how.

    Attributes
    ----------
    methods : tuple of str
        Of `METHODS`; ``METHOD:NETWORK`` takes another network for one of them, so that the old network can
        stand beside the new one.
    network : str
        One for all other methods, so that they differ in nothing else.
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
    train_reference, test_reference : str or None
        Of a paired store: take stamps of this reference only; None takes those of all.
    n_folds, rounds : int
        Of stage 1.
    confidence : float
        Probability of the other class from which stage 1 suspects a label.
    n_bootstrap : int
    train : TrainConfig
    """

    methods: tuple[str, ...] = DEFAULT_METHODS
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
    train_reference: str | None = None
    test_reference: str | None = None
    n_folds: int = N_FOLDS
    rounds: int = 1
    confidence: float = CONFIDENCE
    n_bootstrap: int = 1000
    train: TrainConfig = field(default_factory=lambda: TrainConfig(min_steps=600))

    def __post_init__(self) -> None:
        unknown = [method for method, _ in self.entries if method not in METHODS]
        if unknown or not self.methods or len(set(self.entries)) < len(self.entries):
            raise InputError(
                f"methods are {', '.join(self.methods) or 'none'}; choose each once of {', '.join(METHODS)}"
            )
        named = [("network", name, NETWORKS) for name in (self.network, *(one for _, one in self.entries))]
        for what, value, allowed in (*named, ("normalisation", self.normalisation, NORMALISATIONS)):
            if value not in allowed:
                raise InputError(f"{what} is {value!r}; choose one of {', '.join(allowed)}")
        check_confidence(self.confidence)
        for name, least in (
            ("n_seeds", 1),
            ("seed", 0),
            ("split_seed", 0),
            ("n_folds", 2),
            ("rounds", 1),
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

    @property
    def entries(self) -> tuple[tuple[str, str], ...]:
        """Method and network of each of `methods`."""
        parts = [entry.partition(":") for entry in self.methods]
        return tuple((method, network if colon else self.network) for method, colon, network in parts)
