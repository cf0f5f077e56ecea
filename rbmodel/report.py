"""Result rows and scores to one self-contained page that says who wins where. Knows no torch."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress, cycle
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from rbmodel import figures, gallery
from rbmodel.figures import Block, Rate, Series, Sheet
from rbmodel.results import read_rows
from rbsim import schema
from rbsim.errors import InputError
from rbsim.store import open_store

Row = Mapping[str, Any]
Looks = Mapping[tuple[str, str], Series]

SETTING_FIELDS = (
    "label_noise",
    "mislabel_bogus",
    "mislabel_real",
    "condition",
    "reference",
    "bogus_per_real",
    "normalisation",
)
METHOD_LABELS = {"unlabelled": "unlabelled + VAT"}
METHOD_ORDER = ("baseline", "removed", "unlabelled")
LEAD, BASELINE, ORACLE = "unlabelled", "baseline", "oracle"
PICTURES_PER_GALLERY = 24
PICTURES_MAX = 1500
"""Pictures on the page; at about 2.5 kB each they keep it below 10 MB."""


@dataclass(frozen=True)
class Verdict:
    """One method against the baseline; outcome is win, loss, overlap or missing."""

    outcome: str
    method: str
    sentence: str


@dataclass(frozen=True)
class Setting:
    """Everything that the page shows of one label noise, condition and reference."""

    title: str
    rows: tuple[Row, ...]
    series: tuple[Series, ...]
    verdicts: tuple[Verdict, ...]
    bound: str
    kind_counts: Mapping[int, int]
    n_groups: int
    blocks: tuple[Block, ...]
    galleries: tuple[tuple[str, gallery.Choice], ...]


def build_report(out: Path, store_path: Path, *, title: str | None = None) -> Path:
    """Write ``index.html`` into a study's output, with PNG and CSV of every figure in ``figures``.

    Parameters
    ----------
    out : Path
        Directory with ``results.jsonl``, ``runs/{run_id}.npz`` of every finished run and, if there,
        ``study.json``.
    store_path : Path
        The store that the study was run on; the pictures come from it.
    title : str, optional
        Small line above the headline.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    InputError
        If rows or arrays are missing or unreadable, or if they do not belong to the store.
    """
    rows = list({row["run_id"]: row for row in read_rows(out)}.values())
    if not rows:
        raise InputError(f"{out / 'results.jsonl'}: is empty; run rbsim benchmark first")
    store = open_store(store_path)
    sources = store.column("label_true_source")
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in SETTING_FIELDS), []).append(row)
    looks, title_of = _looks(rows), _titles(list(groups))
    n_galleries = sum(1 + 2 * len({_series_key(row) for row in group}) for group in groups.values())
    n_max = min(PICTURES_PER_GALLERY, max(PICTURES_MAX // n_galleries, 2))
    (out / "figures").mkdir(exist_ok=True)
    settings = []
    for number, (key, group) in enumerate(groups.items(), 1):
        series = _all_series(out, group, looks, n_stamps=store.n_stamps)
        sheet = Sheet(out / "figures", f"setting{number}_" if len(groups) > 1 else "")
        settings.append(
            _setting(title_of[key], group, series, sheet, looks=looks, label_true_source=sources, n_max=n_max)
        )
    album = gallery.album(store, [choice for setting in settings for _, choice in setting.galleries])
    environment = Environment(loader=PackageLoader("rbmodel"), autoescape=True, undefined=StrictUndefined)
    environment.filters |= {
        "percent": percent,
        "significant": significant,
        "cell": cell,
        "rate": rate,
        "next": next,
    }
    study = out / "study.json"
    page = environment.get_template("report.html.j2").render(
        title=title or "Real/bogus benchmark",
        headline=headline(settings),
        settings=settings,
        overview=_overview(settings, Sheet(out / "figures", "")),
        album=album,
        card_lists=iter(album.galleries),
        rows=rows,
        colours=figures.COLOURS,
        kinds=schema.KINDS,
        study=study.read_text() if study.exists() else "",
    )
    path = out / "index.html"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(path)
    return path


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


def significant(value: float, digits: int = 2) -> str:
    """Write in decimal notation with so many significant digits."""
    if value == 0:
        return "0"
    decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    return f"{value:,.{decimals}f}"


def percent(value: float, digits: int = 2) -> str:
    """Write a fraction as percentage with so many significant digits."""
    return f"{significant(100 * value, digits)}\N{NO-BREAK SPACE}%"


def cell(rows: Iterable[Row], field: str, style: str) -> dict[str, Any]:
    """Average a field over runs: mean as number and text, deviation as text; `style` percent or a format."""
    known = [row[field] for row in rows if row.get(field) is not None]
    if not known:
        return {"value": None, "text": "\N{EN DASH}", "spread": ""}
    mean, deviation = float(np.mean(known)), float(np.std(known, ddof=1)) if len(known) > 1 else 0.0
    text, spread = (percent(v, 3) if style == "percent" else f"{v:,{style}}" for v in (mean, deviation))
    return {"value": mean, "text": text, "spread": f"± {spread}" if deviation else ""}


def compare(
    label: str, method: str, rows: Sequence[Row], opponent: str, opponent_rows: Sequence[Row]
) -> Verdict:
    """Compare two methods at TPR 0.9, all runs of both given; no win or loss if the intervals touch."""
    ours, theirs = _finished(rows), _finished(opponent_rows)
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
    n_failed = len(rows) + len(opponent_rows) - len(ours) - len(theirs)
    if n_failed:
        text += f" Runs of theirs that failed and are left out: {n_failed}."
    if len({row["network"] for row in (*ours, *theirs)}) > 1:
        text += " The two use different networks, so part of the difference may be the network."
    return Verdict(outcome, method, text)


def rate_text(one: Rate, rows: Sequence[Row]) -> str:
    """Words for a rate with its interval; without any false positive, its upper limit."""
    if one.mean == 0:
        n_bogus = rows[0].get("n_test_bogus") or 0
        return f"none of {n_bogus:,} bogus (upper limit {percent(one.high)})"
    return f"{percent(one.mean)} of the bogus ({significant(100 * one.low)}\N{EN DASH}{percent(one.high)})"


def headline(settings: Sequence[Setting]) -> str:
    """Say in one plain sentence whether the lead method beats the baseline."""
    verdicts = [verdict for setting in settings for verdict in setting.verdicts]
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
    ends = [[row for row in _finished(rows) if row["method"] == name] for name in (BASELINE, ORACLE)]
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


def _finished(rows: Iterable[Row]) -> list[Row]:
    return sorted((row for row in rows if row["status"] == "ok"), key=lambda row: row["seed"])


def _series_key(row: Row) -> tuple[str, str]:
    return row["method"], row["network"]


def _titles(keys: Sequence[tuple[Any, ...]]) -> dict[tuple[Any, ...], str]:
    """Name settings in words: by everything if there is one, else by what differs between them."""
    parts = []
    for noise, bogus, real, condition, reference, ratio, normalisation in keys:
        wrong = f"wrong labels: {percent(bogus or 0)} of given bogus, {percent(real or 0)} of given real"
        ratio_text = "all training stamps" if ratio is None else f"{significant(ratio)} bogus per real"
        rest = (
            f"condition {condition}",
            f"reference {reference}",
            ratio_text,
            f"normalisation {normalisation}",
        )
        parts.append((f"{wrong} ({str(noise).replace('_', '-')})", *rest))
    differs = [len(keys) == 1 or len(set(column)) > 1 for column in zip(*parts, strict=True)]
    return {key: " · ".join(compress(own, differs)) for key, own in zip(keys, parts, strict=True)}


def _looks(rows: Sequence[Row]) -> dict[tuple[str, str], Series]:
    """How every (method, network) is named and drawn, in the order of the page: series without runs."""
    methods, networks = (list(dict.fromkeys(row[field] for row in rows)) for field in ("method", "network"))
    rivals = [name for name in methods if name not in (*METHOD_ORDER, ORACLE)]
    colours = figures.METHOD_COLOURS | dict(zip(rivals, cycle(figures.SPARE_COLOURS), strict=False))
    looks = {}
    for method in (*METHOD_ORDER, *rivals, ORACLE):
        styles = figures.BOUND_STYLES if method == ORACLE else figures.SOLID_STYLES
        for network, style in zip(networks, cycle(styles), strict=False):
            label = METHOD_LABELS.get(method, method) + (f", {network}" if len(networks) > 1 else "")
            looks[method, network] = Series(label, colours[method], style, (), ())
    return looks


def _load_arrays(out: Path, row: Row) -> dict[str, np.ndarray]:
    path = out / "runs" / f"{row['run_id']}.npz"
    try:
        with np.load(path, allow_pickle=False) as data:
            return {name: data[name] for name in data.files}
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); run the study again") from error


def _all_series(out: Path, rows: Sequence[Row], looks: Looks, *, n_stamps: int) -> list[Series]:
    """Load the finished series of one setting with their arrays."""
    series = []
    for key, look in looks.items():
        finished = _finished(row for row in rows if _series_key(row) == key)
        arrays = tuple(_load_arrays(out, row) for row in finished)
        for one in arrays:
            if max(one["test_row"].max(), one.get("train_row", one["test_row"]).max()) >= n_stamps:
                raise InputError(f"{out}: belongs to a store of more than {n_stamps} stamps; give that store")
        if finished:
            series.append(replace(look, rows=tuple(finished), arrays=arrays))
    return series


def _verdicts(rows: Sequence[Row], looks: Looks) -> tuple[Verdict, ...]:
    """Every method against the baseline of its network, or of the first network if its own has none."""
    baselines = {key: look.label for key, look in looks.items() if key[0] == BASELINE}
    verdicts = []
    for key, look in looks.items():
        ours = [row for row in rows if _series_key(row) == key]
        if ours and key[0] not in (BASELINE, ORACLE):
            there = [one for one in baselines if any(_series_key(row) == one for row in rows)]
            other = next((one for one in there if one[1] == key[1]), there[0] if there else None)
            theirs = [row for row in rows if _series_key(row) == other]
            opponent = f"the {baselines[other]}" if other else "the baseline"
            verdicts.append(compare(look.label, key[0], ours, opponent, theirs))
    return tuple(sorted(verdicts, key=lambda verdict: verdict.method != LEAD))


def _setting(
    title: str,
    rows: Sequence[Row],
    series: Sequence[Series],
    sheet: Sheet,
    *,
    looks: Looks,
    label_true_source: np.ndarray,
    n_max: int,
) -> Setting:
    """Judge and draw one setting; its arrays are let go afterwards."""
    blocks: list[Block] = []
    galleries: list[tuple[str, gallery.Choice]] = []
    kind_counts: dict[int, int] = {}
    if series:
        first = series[0].arrays[0]
        sorts = [series[0].rows[0]["test_positives"], "injected"]
        sorts = [sort for sort in dict.fromkeys(sorts) if figures.positives_mask(first, sort).any()]
        kind_counts = Counter(first["test_kind"].tolist())
        blocks = [
            figures.roc(series, sorts, sheet),
            figures.histograms(series, sorts, sheet),
            figures.confusions(series, sheet),
        ]
    staged = [one for one in series if any("train_oof_score" in arrays for arrays in one.arrays)]
    staged.sort(key=lambda one: one.rows[0]["method"] != LEAD)
    if staged:
        blocks.append(figures.cleaning(staged[0], sheet))
        arrays = next(arrays for arrays in staged[0].arrays if "train_oof_score" in arrays)
        choice = gallery.suspicious(arrays, label_true_source=label_true_source, n_max=n_max)
        galleries.append((staged[0].label, choice))
    for one in series:
        probability = one.rows[0]["threshold"]
        threshold = math.log(probability / (1 - probability))
        pair = gallery.misclassified(one.arrays[0], threshold=threshold, n_max=n_max)
        galleries += [(one.label, choice) for choice in pair]
    return Setting(
        title=title,
        rows=tuple(rows),
        series=tuple(replace(one, arrays=()) for one in series),
        verdicts=_verdicts(rows, looks),
        bound=bound_text(rows),
        kind_counts=kind_counts,
        n_groups=len(np.unique(series[0].arrays[0]["test_group"])) if series else 0,
        blocks=tuple(blocks),
        galleries=tuple(galleries),
    )


def _overview(settings: Sequence[Setting], sheet: Sheet) -> list[Block]:
    """Figures over all settings."""
    groups = []
    for setting in settings:
        members = [(one, found) for one in setting.series if (found := rate(one.rows)) is not None]
        groups += [(setting.title, members)] if members else []
    blocks = [figures.rates(groups, sheet)] if groups else []
    series = [one for setting in settings for one in setting.series]
    pairs = [(row.get("mislabel_true"), row.get("mislabel_estimate")) for one in series for row in one.rows]
    if any(None not in pair for pair in pairs):
        blocks.append(figures.mislabel_rates(series, sheet))
    return blocks
