"""Plain words on who wins: rates with intervals, methods against the baseline. Knows no torch."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Row = Mapping[str, Any]

METHOD_LABELS = {
    "ce_auc": "cross-entropy + AUC",
    "unlabelled": "unlabelled + VAT",
    "confident": "confident learning",
    "gce": "generalised cross-entropy",
    "coteaching": "co-teaching",
    "fixmatch": "FixMatch",
}
LEAD, BASELINE, ORACLE = "unlabelled", "baseline", "oracle"
OTHER_RATES = {"fpr_at_tpr95": "0.95", "fpr_at_tpr99": "0.99"}


@dataclass(frozen=True)
class Rate:
    """A rate with its interval, taken over the runs of a series; fractions, `values` one per run."""

    mean: float
    low: float
    high: float
    values: tuple[float, ...]


@dataclass(frozen=True)
class Verdict:
    """One method against the baseline; outcome is win, loss, overlap or missing."""

    outcome: str
    method: str
    sentence: str


def rate(rows: Iterable[Row], field: str = "fpr_at_tpr90") -> Rate | None:
    """Mean over runs with an interval; None if no run has one.

    The interval reaches from the mean of the lower to the mean of the upper bounds of the runs'
    95 % intervals (sampling of the test set), each arm widened in quadrature by the standard
    deviation over the runs (seeds).
    """
    names = (field, f"{field}_low", f"{field}_high")
    triples = [[row.get(name) for name in names] for row in rows]
    known = np.array([triple for triple in triples if None not in triple], float)  # (run, 3)
    if not len(known):
        return None
    mean, low, high = (float(v) for v in known.mean(axis=0))
    spread = float(known[:, 0].std(ddof=1)) if len(known) > 1 else 0.0
    low, high = mean - math.hypot(mean - low, spread), mean + math.hypot(high - mean, spread)
    return Rate(mean, max(low, 0.0), min(high, 1.0), tuple(known[:, 0].tolist()))


def compare(
    label: str, method: str, rows: Sequence[Row], opponent: str, opponent_rows: Sequence[Row]
) -> Verdict:
    """Compare two methods at TPR 0.9, all runs of both given; no win or loss if the intervals touch."""
    ours, theirs = finished(rows), finished(opponent_rows)
    a, b = rate(ours), rate(theirs)
    if a is None or b is None:
        name, runs = (label, rows) if a is None else (opponent, opponent_rows)
        reasons = [str(row.get("reason")) for row in runs if row["status"] != "ok"]
        why = f"failed ({reasons[0]})" if reasons else "has no result"
        return Verdict("missing", method, f"{label} and {opponent} cannot be compared: {name} {why}.")
    text = f"At TPR 0.9, {label} passes {rate_text(a, ours)}; {opponent} passes {rate_text(b, theirs)}. "
    if a.low <= b.high and b.low <= a.high:
        outcome = "overlap"
        text += "The intervals overlap: this test set cannot tell them apart."
    else:
        winner, loser, outcome = (a, b, "win") if a.mean < b.mean else (b, a, "loss")
        factor = f": a factor {significant(loser.mean / winner.mean)}" if winner.mean > 0 else ","
        text += (
            f"The intervals do not overlap{factor} in favour of {label if outcome == 'win' else opponent}."
        )
    for field, tpr in OTHER_RATES.items():
        text += _other_rate(rate(ours, field), rate(theirs, field), tpr)
    n_failed = len(rows) + len(opponent_rows) - len(ours) - len(theirs)
    if n_failed:
        text += f" Runs of theirs that failed and are left out: {n_failed}."
    if len({row["network"] for row in (*ours, *theirs)}) > 1:
        text += " The two use different networks, so part of the difference may be the network."
    return Verdict(outcome, method, text)


def _other_rate(ours: Rate | None, theirs: Rate | None, tpr: str) -> str:
    """What another TPR says, in half a sentence; nothing if a run lacks it."""
    if ours is None or theirs is None:
        return ""
    apart = ours.low > theirs.high or theirs.low > ours.high
    numbers = f"{percent(ours.mean)} against {percent(theirs.mean)}"
    return f" At TPR {tpr}: {numbers}, intervals {'apart' if apart else 'overlap'}."


def rate_text(one: Rate, rows: Sequence[Row]) -> str:
    """Words for a rate with its interval; without any false positive, its upper limit."""
    if one.mean == 0:
        n_bogus = rows[0].get("n_test_bogus") or 0
        return f"none of {n_bogus:,} bogus (upper limit {percent(one.high)})"
    return f"{percent(one.mean)} of the bogus ({significant(100 * one.low)}\N{EN DASH}{percent(one.high)})"


def verdicts(rows: Sequence[Row], labels: Mapping[tuple[str, str], str]) -> tuple[Verdict, ...]:
    """Compare every method with the baseline of its network, or of the first network if its own has none.

    Parameters
    ----------
    rows : sequence of mappings
        All runs of one setting.
    labels : mapping
        Name of every (method, network), in the order of the page.

    Returns
    -------
    tuple of Verdict
        The lead method first.
    """
    baselines = {key: label for key, label in labels.items() if key[0] == BASELINE}
    found = []
    for key, label in labels.items():
        ours = [row for row in rows if series_key(row) == key]
        if ours and key[0] not in (BASELINE, ORACLE):
            there = [one for one in baselines if any(series_key(row) == one for row in rows)]
            other = next((one for one in there if one[1] == key[1]), there[0] if there else None)
            theirs = [row for row in rows if series_key(row) == other]
            opponent = f"the {baselines[other]}" if other else "the baseline"
            found.append(compare(label, key[0], ours, opponent, theirs))
    return tuple(sorted(found, key=lambda verdict: verdict.method != LEAD))


def headline(verdicts: Sequence[Verdict]) -> str:
    """Say in one plain sentence whether the lead method beats the baseline; verdicts of all settings."""
    lead = [v for v in verdicts if v.method == LEAD] or verdicts
    if not lead:
        return "No method was compared with the baseline"
    label, outcomes = METHOD_LABELS.get(lead[0].method, lead[0].method), [v.outcome for v in lead]
    if len(lead) == 1:
        return {
            "win": f"{label} lets fewer bogus through than the baseline",
            "loss": f"The baseline beats {label}",
            "overlap": f"No measurable difference between {label} and the baseline",
            "missing": f"{label} could not be compared with the baseline",
        }[outcomes[0]]
    subject = label if len({v.method for v in lead}) == 1 else "A method"
    text = f"{subject} beats the baseline in {outcomes.count('win')} of {len(lead)} comparisons"
    missing = outcomes.count("missing")
    return f"{text} and loses in {outcomes.count('loss')}" + (
        f"; {missing} could not be made" if missing else ""
    )


def bound_text(rows: Sequence[Row]) -> str:
    """Say what perfect cleaning could win: baseline against oracle, of one network where both were run."""
    ends = [[row for row in finished(rows) if row["method"] == name] for name in (BASELINE, ORACLE)]
    shared = {row["network"] for row in ends[0]} & {row["network"] for row in ends[1]}
    baseline, oracle = ([row for row in end if not shared or row["network"] == min(shared)] for end in ends)
    a, b = rate(baseline), rate(oracle)
    if a is None or b is None:
        return "Not known: this needs a finished baseline and a finished oracle."
    text = f"The baseline passes {rate_text(a, baseline)}; "
    text += f"the oracle, trained on the true labels, passes {rate_text(b, oracle)}. "
    if a.low <= b.high and b.low <= a.high:
        text += "The intervals overlap: on this test set wrong labels cost nothing that can be measured."
    elif b.mean > a.mean:
        text += "The oracle is worse than the baseline: wrong labels do not limit this classifier."
    else:
        text += f"Perfect cleaning could spare at most {percent(a.mean - b.mean)} of the bogus"
        text += f", a factor {significant(a.mean / b.mean)}." if b.mean > 0 else "."
    return text + ("" if shared else " They use different networks, so this mixes network and labels.")


@dataclass(frozen=True)
class Rung:
    """One series of the ladder: rates by field, and what share of the oracle's gain it reaches.

    ``gain`` is (baseline - this) / (baseline - oracle) of the FPR at TPR 0.9, of one network: 1 is as good as
    with all labels right, negative is worse than the baseline. None where the oracle gains nothing that can
    be measured, as the intervals of baseline and oracle overlap, or one of them was not run.
    """

    label: str
    rates: Mapping[str, Rate]
    gain: float | None


def ladder(rows: Sequence[Row], labels: Mapping[tuple[str, str], str]) -> tuple[Rung, ...]:
    """Rates of all finished series of one setting with their distance to the oracle.

    Parameters
    ----------
    rows : sequence of mappings
    labels : mapping
        Name of every (method, network), in the order of the page.
    """
    runs = {key: [row for row in finished(rows) if series_key(row) == key] for key in labels}
    rungs = []
    for key, label in labels.items():
        found = {field: rate(runs[key], field) for field in ("fpr_at_tpr90", *OTHER_RATES)}
        rates = {field: one for field, one in found.items() if one is not None}
        ends = (rate(runs.get((method, key[1]), ())) for method in (BASELINE, ORACLE))
        if rates:
            rungs.append(Rung(label, rates, _gain(rates.get("fpr_at_tpr90"), *ends)))
    return tuple(rungs)


def _gain(one: Rate | None, baseline: Rate | None, oracle: Rate | None) -> float | None:
    if one is None or baseline is None or oracle is None or oracle.high >= baseline.low:
        return None
    return (baseline.mean - one.mean) / (baseline.mean - oracle.mean)


def significant(value: float, digits: int = 2) -> str:
    """Write in decimal notation with so many significant digits."""
    if value == 0:
        return "0"
    decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    return f"{value:,.{decimals}f}"


def percent(value: float, digits: int = 2) -> str:
    """Write a fraction as percentage with so many significant digits."""
    return f"{significant(100 * value, digits)}\N{NO-BREAK SPACE}%"


def finished(rows: Iterable[Row]) -> list[Row]:
    """Rows of the runs that did not fail, ordered by seed."""
    return sorted((row for row in rows if row["status"] == "ok"), key=lambda row: row["seed"])


def series_key(row: Row) -> tuple[str, str]:
    """Method and network of a run: what the seeds of one series share."""
    return row["method"], row["network"]
