"""Mechanisms of label noise: counts exact alone and together, probabilities true, rates reproduced."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from rbsim import schema
from rbsim.errors import InputError
from rbsim.label_mechanisms import LEFT_KINDS, ClassConditional, Labelled, LeftAndLost, ScoreBinned, spoil
from rbsim.label_noise import REASON_CODES, contaminate, contamination_of
from rbsim.score_rates import Rates

KIND = schema.KIND_CODES
CONTAMINATIONS = (0.0, 0.006, 0.01, 0.03, 0.1, 0.2, 0.3)
COUNTS = {
    "artefact": 4000,
    "injected_random": 3000,
    "injected_near_galaxy": 1000,
    "emulated_transient": 1200,
    "known_object": 300,
    "injected_variable": 500,
    "injected_moving": 400,
    "injected_flare": 50,
    "injected_lost": 2600,
    "negative": 70,
}
LOST_FLAGS = (
    schema.CANDIDATE_FLAG["ON_MASK"] | schema.CANDIDATE_FLAG["SATURATED"],
    schema.CANDIDATE_FLAG["SATURATED"],
    schema.CANDIDATE_FLAG["NEAR_SATURATED"],
)


def labelled(counts=COUNTS, *, seed=1):
    """Stamps of some kinds in random order, with the labels and flags that the pipeline gives them."""
    rng = np.random.default_rng(seed)
    kind = rng.permutation(np.repeat([KIND[name] for name in counts], list(counts.values())))
    true = np.array([schema.label_of_kind(int(code))[0] for code in kind])
    lost = kind == KIND["injected_lost"]
    given = np.where((kind == KIND["emulated_transient"]) | lost, -1, true)
    flags = np.where(lost, rng.choice(LOST_FLAGS, len(kind)), 0)
    # A few ambiguous matches have no label, and no mechanism may give them one.
    ambiguous = np.isin(kind, [KIND["injected_variable"], KIND["artefact"]]) & (rng.random(len(kind)) < 0.02)
    flags[ambiguous] |= schema.CANDIDATE_FLAG["AMBIGUOUS"]
    given[ambiguous] = -1
    return Labelled(given.astype(np.int8), kind.astype(np.int8), flags.astype(np.uint32)), true


STAMPS, TRUE = labelled()
SCORE = np.random.default_rng(3).normal(np.where(TRUE == 1, 2.0, -2.0), 2.0)
EDGES = np.arange(-4.0, 5.0)
RATES = Rates(
    EDGES[:-1],
    EDGES[1:],
    np.array([0.002, 0.004, 0.01, 0.04, 0.1, 0.2, 0.3, np.nan]),
    np.array([0.4, 0.3, 0.2, 0.1, 0.04, 0.02, 0.01, 0.005]),
)


def is_real(stamps=STAMPS, true=TRUE):
    """True reals, known objects among them."""
    return (true == 1) | (stamps.kind == KIND["known_object"])


def check_counts(noisy, bogus, real, *, within=0.51):
    """The contaminations are those asked for to half a stamp, by the truth and not by the reasons."""
    given, wrong = noisy.label_given, noisy.reason != 0
    of_bogus, of_real = given == 0, given == 1
    assert abs(np.sum(of_bogus & is_real()) - bogus * of_bogus.sum()) <= within
    assert abs(np.sum(of_real & ~is_real()) - real * of_real.sum()) <= within
    np.testing.assert_array_equal(wrong, (of_bogus & is_real()) | (of_real & ~is_real()))
    np.testing.assert_array_equal(given[~wrong], STAMPS.label_given[~wrong])
    assert not noisy.flip_probability[wrong].min(initial=1) <= 0
    got = contamination_of(given, wrong)
    assert got.n_wrong_bogus == np.sum(of_bogus & is_real())
    assert got.mislabel_real == pytest.approx(np.mean(~is_real()[of_real]), abs=1e-12)


@pytest.mark.parametrize("bogus", CONTAMINATIONS)
@pytest.mark.parametrize("real", CONTAMINATIONS)
def test_contaminations_are_exact_for_each_mechanism_and_for_mixtures(bogus, real):
    rng = np.random.default_rng(1)
    chance, survey = ClassConditional(bogus, real), LeftAndLost(bogus, real)
    check_counts(spoil(STAMPS, [chance], rng=rng), bogus, real)
    check_counts(spoil(STAMPS, [survey], rng=rng), bogus, real)
    half = [ClassConditional(0.3 * bogus, 0.6 * real), LeftAndLost(0.7 * bogus, 0.4 * real)]
    # What two mechanisms take from each other is rounded twice.
    check_counts(spoil(STAMPS, half, rng=rng), bogus, real, within=1.01)


@settings(max_examples=60, deadline=None)
@given(
    bogus=st.floats(0, 0.2), real=st.floats(0, 0.2), share=st.floats(0, 1), multiple=st.floats(0, 1),
    order=st.permutations(range(3)), seed=st.integers(0, 99),
)  # fmt: skip
def test_mixtures_of_all_three_add_up(bogus, real, share, multiple, order, seed):
    parts = [
        ClassConditional(share * bogus, share * real),
        LeftAndLost((1 - share) * bogus, (1 - share) * real),
        ScoreBinned(SCORE, RATES, multiple),
    ]
    parts = [parts[i] for i in order]
    noisy = spoil(STAMPS, parts, rng=np.random.default_rng(seed))
    given = noisy.label_given
    by_score = [
        np.isin(noisy.reason, REASON_CODES[name]).sum()
        for name in ("score_real_given_bogus", "score_bogus_given_real")
    ]
    for label, asked, extra, wrong in (
        (0, bogus, by_score[0], is_real()),
        (1, real, by_score[1], ~is_real()),
    ):
        n = np.sum(given == label)
        assert abs(np.sum((given == label) & wrong) - asked * n - extra) <= 1.01
    # No stamp is flipped twice, and none that has no place in any mechanism.
    unlabelled = ~np.isin(STAMPS.kind, [KIND[name] for name in (*LEFT_KINDS.values(), "injected_lost")])
    np.testing.assert_array_equal(given[unlabelled] >= 0, STAMPS.label_given[unlabelled] >= 0)


def test_reasons_say_what_it_is():
    noisy = spoil(STAMPS, [LeftAndLost(0.2, 0.3, left=tuple(LEFT_KINDS))], rng=np.random.default_rng(2))
    for name, kind in LEFT_KINDS.items():
        rows = noisy.reason == REASON_CODES[f"{name}_left"]
        assert rows.sum() > 5
        assert (STAMPS.kind[rows] == KIND[kind]).all()
        assert (noisy.label_given[rows] == 0).all()
    for reason, flags in zip(("lost_on_mask", "lost_in_core", "lost_in_noise"), LOST_FLAGS, strict=True):
        rows = noisy.reason == REASON_CODES[reason]
        assert rows.sum() > 100
        assert (STAMPS.kind[rows] == KIND["injected_lost"]).all()
        assert (STAMPS.flags[rows] == flags).all()
        assert (noisy.label_given[rows] == 1).all()
    only = spoil(STAMPS, [LeftAndLost(0.05, 0.05, ("moving",), ("core",))], rng=np.random.default_rng(2))
    assert set(np.unique(only.reason)) == {0, REASON_CODES["moving_left"], REASON_CODES["lost_in_core"]}


def test_without_noise_labels_are_those_of_the_store():
    parts = [ClassConditional(0, 0), LeftAndLost(0, 0), ScoreBinned(SCORE, RATES, 0)]
    noisy = spoil(STAMPS, parts, rng=np.random.default_rng(1))
    np.testing.assert_array_equal(noisy.label_given, STAMPS.label_given)
    assert not noisy.reason.any()
    assert not noisy.flip_probability.any()


def test_chance_alone_is_what_a_benchmark_does_bit_for_bit():
    rates = {"mislabel_bogus": 0.03, "mislabel_real": 0.1}
    one = spoil(STAMPS, [ClassConditional(**rates)], rng=np.random.default_rng(7))
    other = contaminate(STAMPS.label_given, **rates, rng=np.random.default_rng(7))
    for name in ("label_given", "reason", "flip_probability"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_the_seed_decides_and_the_input_stays():
    before = [column.copy() for column in vars(STAMPS).values()]
    parts = [ClassConditional(0.02, 0.02), LeftAndLost(0.02, 0.02), ScoreBinned(SCORE, RATES, 1)]
    a, b, c = (spoil(STAMPS, parts, rng=np.random.default_rng(seed)) for seed in (5, 5, 6))
    for name in ("label_given", "reason", "flip_probability"):
        assert getattr(a, name).tobytes() == getattr(b, name).tobytes()
    assert not np.array_equal(a.reason, c.reason)
    np.testing.assert_array_equal(a.flip_probability, c.flip_probability)
    for old, new in zip(before, vars(STAMPS).values(), strict=True):
        np.testing.assert_array_equal(old, new)


SMALL, SMALL_TRUE = labelled({name: n // 20 for name, n in COUNTS.items()}, seed=4)


@pytest.mark.parametrize(
    "parts",
    [
        [ClassConditional(0.1, 0.2)],
        [LeftAndLost(0.2, 0.15)],
        [ScoreBinned(SCORE[: len(SMALL_TRUE)], RATES, 1.0)],
        [
            ClassConditional(0.1, 0.1),
            LeftAndLost(0.1, 0.1),
            ScoreBinned(SCORE[: len(SMALL_TRUE)], RATES, 0.5),
        ],
    ],
    ids=["class-conditional", "mechanism", "score-binned", "mixed"],
)
def test_flip_probabilities_are_those_of_the_flips(parts):
    """Chi-square of the flips of each stamp over many seeds, and of all that share a probability."""
    n_seeds = 600
    flips = np.zeros(len(SMALL.kind))
    for seed in range(n_seeds):
        noisy = spoil(SMALL, parts, rng=np.random.default_rng(seed))
        flips += noisy.reason != 0
    p = noisy.flip_probability.astype(float)
    assert not flips[p == 0].any()
    assert (flips[p > 0.999] == n_seeds).all()
    some = (p > 0) & (p < 0.999)
    assert some.sum() > 100
    pull2 = (flips - n_seeds * p)[some] ** 2 / (n_seeds * p * (1 - p))[some]
    # Numbers of flips in a pool are fixed: a degree of freedom less for each.
    assert chi2.sf(pull2.sum(), some.sum()) > 1e-4
    assert chi2.cdf(pull2.sum(), some.sum() - 40) > 1e-4
    # Added up, the counts are exact; a probability that is off by a little for many would show here.
    np.testing.assert_allclose(flips.sum(), n_seeds * p.sum(), rtol=2e-3)


def test_score_binned_has_the_rates_it_was_given_in_each_bin():
    noisy = spoil(STAMPS, [ScoreBinned(SCORE, RATES, 1.5)], rng=np.random.default_rng(1))
    inside = np.zeros(len(SCORE), bool)
    score = SCORE
    for low, high, of_bogus, of_real in zip(*vars(RATES).values(), strict=True):
        rows = (score >= low) & (score < high) & (STAMPS.label_given >= 0)
        inside |= rows
        for label, rate, wrong in ((0, np.nan_to_num(of_bogus), is_real()), (1, of_real, ~is_real())):
            given = rows & (noisy.label_given == label)
            assert abs(np.sum(given & wrong) - 1.5 * rate * given.sum()) <= 1.01
    # Beyond the bins, and without a score, nothing changes.
    assert not noisy.reason[~inside].any()
    unscored = np.where(np.arange(len(SCORE)) % 2, SCORE, np.nan)
    noisy = spoil(STAMPS, [ScoreBinned(unscored, RATES, 1.0)], rng=np.random.default_rng(1))
    assert not noisy.reason[::2].any()
    assert noisy.reason[1::2].any()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            lambda: [LeftAndLost(0.0, 0.45, lost=("core",))],
            r"mislabel-real 0\.45 needs \d+ stamps .* possible is 0\.\d+; .* stars: a higher --blind-share",
        ),
        (
            lambda: [LeftAndLost(0.1, 0.0, left=("flare",))],
            r"mislabel-bogus 0.1 needs \d+ stamps .* \(--truth\)",
        ),
        (lambda: [ClassConditional(0.3, 0), LeftAndLost(0.2, 0)], r"mislabel-bogus adds up to 0\.5"),
        (lambda: [ClassConditional(0.5, 0)], r"mislabel-bogus is 0\.5; a contamination must be"),
        (
            lambda: [LeftAndLost(0.1, 0.1, left=("star",))],
            "left is star; choose each once of transient, known",
        ),
        (lambda: [LeftAndLost(0.1, 0.1, lost=("core", "core"))], "lost is core, core; choose each once"),
        (lambda: [ScoreBinned(SCORE, RATES, -1)], "multiple is -1; it must be 0 or more"),
        (
            lambda: [ScoreBinned(SCORE, RATES, 3)],
            r"scores -4 to -3: contaminations 0.006 of given bogus and 1.2 .* lower --multiple",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_the_remedy(parts, message):
    with pytest.raises(InputError, match=message):
        spoil(STAMPS, parts(), rng=np.random.default_rng(1))


def test_the_largest_rate_named_can_be_had_and_hardly_more():
    with pytest.raises(InputError) as error:
        spoil(STAMPS, [LeftAndLost(0.0, 0.45, lost=("core",))], rng=np.random.default_rng(1))
    most = float(str(error.value).split("possible is ")[1].split(";")[0])
    check_counts(
        spoil(STAMPS, [LeftAndLost(0.0, most, lost=("core",))], rng=np.random.default_rng(1)), 0, most
    )
    with pytest.raises(InputError):
        spoil(STAMPS, [LeftAndLost(0.0, most * 1.01, lost=("core",))], rng=np.random.default_rng(1))
