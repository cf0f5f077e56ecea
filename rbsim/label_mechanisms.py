"""How labels come to be wrong: at random, by score, as in surveys, or all together; with exact counts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rbsim import schema
from rbsim.errors import InputError
from rbsim.label_noise import (
    MAX_CONTAMINATION,
    REASON_CODES,
    NoisyLabels,
    check_contaminations,
    exact_flips,
    flip,
    unchanged,
)
from rbsim.score_rates import Rates

LEFT_KINDS = {
    "transient": "emulated_transient",
    "known": "known_object",
    "variable": "injected_variable",
    "moving": "injected_moving",
    "flare": "injected_flare",
}
"""Real light that a survey leaves among its bogus, and the kind in the store."""
LEFT_BY_DEFAULT = ("transient", "known", "variable", "moving")
_LOST_CODES = [REASON_CODES[name] for name in ("lost_on_mask", "lost_in_core", "lost_in_noise")]
"""In the order of schema.LOST_REASONS."""


@dataclass(frozen=True)
class ClassConditional:
    """Samples of a class are flipped with one probability, whatever they look like.

    Attributes
    ----------
    mislabel_bogus, mislabel_real : float
        Contaminations of the given classes that this mechanism makes.
    """

    mislabel_bogus: float
    mislabel_real: float

    def __post_init__(self) -> None:
        """Refuse what is no contamination."""
        check_contaminations(self.mislabel_bogus, self.mislabel_real)


@dataclass(frozen=True)
class LeftAndLost:
    """What surveys really have: real light left among the bogus, and lost injected stars called real.

    Attributes
    ----------
    mislabel_bogus, mislabel_real : float
        Contaminations of the given classes that this mechanism makes.
    left : tuple of str
        Which real light, of `LEFT_KINDS`.
    lost : tuple of str
        Which lost stars, of schema.LOST_REASONS.
    """

    mislabel_bogus: float
    mislabel_real: float
    left: tuple[str, ...] = LEFT_BY_DEFAULT
    lost: tuple[str, ...] = schema.LOST_REASONS

    def __post_init__(self) -> None:
        """Refuse values that make no sense, by name."""
        check_contaminations(self.mislabel_bogus, self.mislabel_real)
        for name, allowed in (("left", tuple(LEFT_KINDS)), ("lost", schema.LOST_REASONS)):
            values = getattr(self, name)
            if set(values) - set(allowed) or len(set(values)) < len(values):
                raise InputError(f"{name} is {', '.join(values)}; choose each once of {', '.join(allowed)}")


@dataclass(frozen=True, eq=False)
class ScoreBinned:
    """Samples that look like the other class are flipped more often, at multiples of measured rates.

    Attributes
    ----------
    score : ndarray, shape (n,)
        Of a classifier; NaN: unscored, left alone.
    rates : Rates
    multiple : float
        Contamination of each bin over the measured one.
    """

    score: np.ndarray
    rates: Rates
    multiple: float

    def __post_init__(self) -> None:
        """Refuse values that make no sense, by name."""
        if not 0 <= self.multiple < np.inf:
            raise InputError(f"multiple is {self.multiple}; it must be 0 or more, and finite")


Part = ClassConditional | LeftAndLost | ScoreBinned


@dataclass(frozen=True, eq=False)
class Labelled:
    """What a mechanism knows of stamps, all of shape (n,): columns of the store of these names."""

    label_given: np.ndarray
    kind: np.ndarray
    flags: np.ndarray


@dataclass(frozen=True, eq=False)
class _Pool:
    """Samples that one part may flip one way.

    Attributes
    ----------
    changed, added : ndarray of int
        Those that have the other label, and those that have none yet.
    share : float
        Contamination that the part makes with them.
    n_gone : int
        How many of `changed` another part has flipped.
    """

    changed: np.ndarray
    added: np.ndarray
    share: float
    n_gone: int = 0

    def __len__(self) -> int:
        return len(self.changed) + len(self.added) - self.n_gone

    @property
    def from_other(self) -> float:
        """Fraction that the other class loses, of what this pool gives."""
        return (len(self.changed) - self.n_gone) / max(len(self), 1)


_EMPTY = np.zeros(0, int)


def spoil(labelled: Labelled, parts: Sequence[Part], *, rng: np.random.Generator) -> NoisyLabels:
    """Labels with the wrong ones of some mechanisms, at most one of each sort, in exact numbers.

    Contaminations add up: with ``c_m`` that of mechanism m and ``G`` the final number of given bogus (or
    real), m makes ``c_m G`` wrong labels. ``G`` solves two linear equations: given bogus are the bogus there
    were, less those given real, plus the reals given bogus; and likewise given real. No sample is flipped
    twice: what may be left among the bogus is for that mechanism alone; then come scores, then chance.

    Parameters
    ----------
    labelled : Labelled
        With the labels that the store gives, which are taken as right.
    parts : sequence of Part
    rng : numpy.random.Generator

    Returns
    -------
    NoisyLabels

    Raises
    ------
    InputError
        If the samples cannot give the contaminations, or those of one class reach 0.5.
    """
    assert len({type(part) for part in parts}) == len(parts)
    given = labelled.label_given
    noisy = unchanged(given)
    real, bogus = given == schema.LABEL_REAL, given == schema.LABEL_BOGUS
    surveys = [part for part in parts if isinstance(part, LeftAndLost)]
    left, lost, reason = _survey_pools(labelled, surveys[0]) if surveys else (_EMPTY, _EMPTY, _EMPTY)
    free = np.ones(len(given), bool)
    free[left] = False
    for part in parts:
        if isinstance(part, ScoreBinned):
            _flip_by_score(noisy, part, real & free, bogus, rng=rng)
    to_bogus, to_real = [], []
    for part in surveys:
        to_bogus.append(_Pool(left[real[left]], left[~real[left]], part.mislabel_bogus))
        to_real.append(_Pool(_EMPTY, lost, part.mislabel_real))
    for part in parts:
        if isinstance(part, ClassConditional):
            for pools, rows, share in (
                (to_bogus, np.flatnonzero(real & free), part.mislabel_bogus),
                (to_real, np.flatnonzero(bogus), part.mislabel_real),
            ):
                pools.append(_Pool(rows, _EMPTY, share, int(np.count_nonzero(noisy.reason[rows]))))
    n_real, n_bogus = (int(np.count_nonzero(noisy.label_given == label)) for label in (1, 0))
    counts = _counts(n_real, n_bogus, to_bogus, to_real, n_surveys=len(surveys))
    for pools, numbers, label, by_chance in (
        (to_bogus, counts[0], schema.LABEL_BOGUS, "real_given_bogus"),
        (to_real, counts[1], schema.LABEL_REAL, "bogus_given_real"),
    ):
        for order, (pool, count) in enumerate(zip(pools, numbers, strict=True)):
            why = reason if order < len(surveys) else by_chance
            # In proportion, so that the other class loses what the equations say.
            n_changed = min(round(count * pool.from_other), len(pool.changed))
            n_changed = max(n_changed, count - len(pool.added))
            flip(noisy, pool.changed, n_changed, label, why, rng=rng)
            flip(noisy, pool.added, count - n_changed, label, why, rng=rng)
    return noisy


def _survey_pools(labelled: Labelled, part: LeftAndLost) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Real light that may be left among the bogus, lost stars, and the reason that each sample would have.

    Of injected stars only those that the store calls real: not fading or ambiguous ones.
    """
    reason = np.zeros(len(labelled.kind), np.int8)
    left = np.zeros(len(labelled.kind), bool)
    for name in part.left:
        kind = LEFT_KINDS[name]
        rows = labelled.kind == schema.KIND_CODES[kind]
        if kind.startswith("injected"):
            rows &= labelled.label_given == schema.LABEL_REAL
        left |= rows
        reason[rows] = REASON_CODES[f"{name}_left"]
    why = schema.lost_reason(labelled.flags)
    lost = labelled.kind == schema.KIND_CODES["injected_lost"]
    lost &= np.isin(why, [schema.LOST_REASONS.index(name) for name in part.lost])
    reason[lost] = np.array(_LOST_CODES)[why[lost]]
    return np.flatnonzero(left), np.flatnonzero(lost), reason


def _given(
    n_real: int, n_bogus: int, to_bogus: Sequence[_Pool], to_real: Sequence[_Pool]
) -> tuple[float, float]:
    """Final numbers of given real and bogus."""
    of_bogus, of_real = sum(pool.share for pool in to_bogus), sum(pool.share for pool in to_real)
    # G_b = n_bogus + sum c G_b - (what real gets from bogus), and likewise G_r.
    matrix = np.array(
        [
            [1 - of_real, sum(pool.share * pool.from_other for pool in to_bogus)],
            [sum(pool.share * pool.from_other for pool in to_real), 1 - of_bogus],
        ]
    )
    given_real, given_bogus = np.linalg.solve(matrix, [n_real, n_bogus])
    return float(given_real), float(given_bogus)


def _counts(
    n_real: int, n_bogus: int, to_bogus: Sequence[_Pool], to_real: Sequence[_Pool], *, n_surveys: int
) -> tuple[list[int], list[int]]:
    """How many samples of each pool are flipped, the totals rounded; the first `n_surveys` are a survey's.

    Raises
    ------
    InputError
        If there are too few samples; with the largest contamination that they can give.
    """
    for name, pools in (("mislabel-bogus", to_bogus), ("mislabel-real", to_real)):
        total = sum(pool.share for pool in pools)
        if total >= MAX_CONTAMINATION:
            raise InputError(f"{name} adds up to {total:g}; the sum must be below 0.5")
    given_real, given_bogus = _given(n_real, n_bogus, to_bogus, to_real)
    out = []
    for name, pools, given, remedy in (
        (
            "mislabel-bogus",
            to_bogus,
            given_bogus,
            "emulated transients (--truth), known objects (--known) or injected variables (--population)",
        ),
        ("mislabel-real", to_real, given_real, "lost stars: a higher --blind-share, more --realisations"),
    ):
        numbers = _rounded([pool.share * given for pool in pools])
        for order, (pool, count) in enumerate(zip(pools, numbers, strict=True)):
            if 0 <= count <= len(pool):
                continue
            if order < n_surveys:
                most = _largest_share(n_real, n_bogus, to_bogus, to_real, name, order)
                raise InputError(
                    f"{name} {pool.share:g} needs {count} stamps and there are {len(pool)}; the largest"
                    f" possible is {most:.4g}; lower it, or inject again with more {remedy}"
                )
            raise InputError(
                f"contaminations {to_bogus[order].share:g} and {to_real[order].share:g} are impossible with"
                f" {n_real} real and {n_bogus} bogus samples; balance the classes or lower them"
            )
        out.append(numbers)
    return out[0], out[1]


def _largest_share(
    n_real: int, n_bogus: int, to_bogus: Sequence[_Pool], to_real: Sequence[_Pool], name: str, order: int
) -> float:
    """Largest contamination that one pool can give, the others as they are, rounded down to four digits."""
    is_bogus = name == "mislabel-bogus"
    pools = list(to_bogus if is_bogus else to_real)
    low, high = 0.0, pools[order].share
    for _ in range(50):
        middle = (low + high) / 2
        pools[order] = replace(pools[order], share=middle)
        given = _given(n_real, n_bogus, *((pools, to_real) if is_bogus else (to_bogus, pools)))
        low, high = (middle, high) if middle * given[is_bogus] <= len(pools[order]) else (low, middle)
    digits = 10.0 ** (4 - np.ceil(np.log10(low))) if low > 0 else 1.0
    return float(np.floor(low * digits) / digits)


def _rounded(numbers: Sequence[float]) -> list[int]:
    """Whole numbers whose sum is the rounded sum; what is left over goes to the largest fractions."""
    floors = [int(np.floor(number + 1e-9)) for number in numbers]
    by_fraction = sorted(range(len(numbers)), key=lambda i: floors[i] - numbers[i])
    for i in by_fraction[: round(sum(numbers)) - sum(floors)]:
        floors[i] += 1
    return floors


def _flip_by_score(
    noisy: NoisyLabels, part: ScoreBinned, real: np.ndarray, bogus: np.ndarray, *, rng: np.random.Generator
) -> None:
    """Flip within each bin of score, in place, so that its given classes have the contaminations wanted."""
    rates = part.rates
    for low, high, of_bogus, of_real in zip(
        rates.score_low, rates.score_high, rates.rate_bogus, rates.rate_real, strict=True
    ):
        inside = (part.score >= low) & (part.score < high)  # False for NaN
        members = [np.flatnonzero(rows & inside) for rows in (real, bogus)]
        wanted = np.nan_to_num(part.multiple * np.array([of_bogus, of_real]))
        flips = None
        if wanted.max() < 1 and wanted.sum() < 1:
            flips = exact_flips(*map(len, members), mislabel_bogus=wanted[0], mislabel_real=wanted[1])
        if flips is None:
            raise InputError(
                f"scores {low:g} to {high:g}: contaminations {wanted[0]:.4g} of given bogus and"
                f" {wanted[1]:.4g} of given real are impossible with {len(members[0])} real and"
                f" {len(members[1])} bogus samples; lower --multiple, or give rates in wider bins"
            )
        flip(noisy, members[0], round(flips[0]), schema.LABEL_BOGUS, "score_real_given_bogus", rng=rng)
        flip(noisy, members[1], round(flips[1]), schema.LABEL_REAL, "score_bogus_given_real", rng=rng)
