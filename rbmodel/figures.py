"""Figures of the report: ROC, rates, histograms, confusion matrices and what cleaning found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from textwrap import fill
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator
from sklearn.metrics import roc_curve

from rbmodel import cleaning_curves
from rbmodel.evaluate import cleaning_scores
from rbmodel.sheet import COLOURS, RC, Block, Sheet
from rbmodel.verdict import Rate
from rbsim import schema

METHOD_COLOURS = {
    "baseline": "series0",
    "removed": "series1",
    "unlabelled": "series2",
    "fixmatch": "series3",
    "ensemble": "series4",
    "gce": "series5",
    "ce_auc": "series6",
    "confident": "series1",
    "coteaching": "series4",
    "oracle": "bound",
}
SPARE_COLOURS = ("series3", "series4", "series5", "series6")
SHARED_COLOUR = ("confident", "coteaching")
"""Methods with the colour of another, told from it by their dots."""
SEED_COLOURS = ("series2", "series0", "series3", "series4", "series6")
SOLID_STYLES: tuple[Any, ...] = ("-", (0, (8, 2, 1.5, 2)), (0, (1.2, 1.2)))
BOUND_STYLES: tuple[Any, ...] = ((0, (5, 2.5)), (0, (5, 1.5, 1, 1.5, 1, 1.5)), (0, (2, 1.5)))

POSITIVE_SOURCES = {"emulated": "emulator", "injected": "injected"}
POSITIVE_NAMES = {"emulated": "emulated transients", "injected": "injected stars"}


@dataclass(frozen=True, eq=False)
class Series:
    """One method with one network in one setting and how it is drawn; `colour` is a key of `COLOURS`.

    `rows` are its finished runs ordered by seed, `arrays` what the npz file of each holds.
    """

    label: str
    colour: str
    linestyle: Any
    rows: tuple[Mapping[str, Any], ...]
    arrays: tuple[Mapping[str, np.ndarray], ...]


def positives_mask(arrays: Mapping[str, np.ndarray], positives: str) -> np.ndarray:
    """Which test stamps are positives of the given sort ('emulated' or 'injected'), shape (n,), bool."""
    kinds = [kind.code for kind in schema.KINDS if kind.label_true_source == POSITIVE_SOURCES[positives]]
    return np.isin(arrays["test_kind"], kinds) & (arrays["test_label_true"] == schema.LABEL_REAL)


def bogus_mask(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Which test stamps are bogus, shape (n,), bool."""
    return np.asarray(arrays["test_label_true"] == schema.LABEL_BOGUS)


@mpl.rc_context(RC)
def roc(series: Sequence[Series], positives: Sequence[str], sheet: Sheet) -> Block:
    """ROC of all methods, FPR logarithmic; one drawing per sort of positives.

    The thick line is the mean TPR over seeds at fixed FPR (vertical averaging, Fawcett 2006), the
    thin lines are the seeds.
    """
    n_bogus = max(int(bogus_mask(arrays).sum()) for one in series for arrays in one.arrays)
    grid = np.geomspace(0.5 / n_bogus, 1.0, 400)
    table: list[Sequence[Any]] = [("positives", "series", "seed", "fpr", "tpr")]
    drawings = []
    for sort in positives:
        figure, axes = _axes(5.2, 3.9)
        lowest = 1.0
        for one in series:
            curves = np.array([_tpr_on_grid(arrays, sort, grid) for arrays in one.arrays])  # (seed, fpr)
            for row, tpr in zip(one.rows, curves, strict=True):
                if len(curves) > 1:
                    axes.plot(grid, tpr, color=_light(one.colour), lw=0.6, alpha=0.45)
                table += [(sort, one.label, row["seed"], *point) for point in zip(grid, tpr, strict=True)]
            mean = curves.mean(axis=0)
            axes.plot(grid, mean, color=_light(one.colour), ls=one.linestyle, lw=1.8, label=one.label)
            lowest = min(lowest, float(mean[0]))
        axes.axhline(0.9, color=_light("muted"), lw=0.6, ls=":")
        axes.axvline(1 / n_bogus, color=_light("muted"), lw=0.6, ls=":")
        axes.text(1 / n_bogus, 1.005, " one false positive", fontsize=7, color=_light("muted"))
        _log_rate_axis(axes, grid[0], 1.0)
        bottom = min(np.floor(lowest * 10) / 10, 0.8)
        axes.set_ylim(bottom, 1.0 + 0.03 * (1 - bottom))
        axes.set_xlabel("false positive rate (bogus called real)")
        axes.set_ylabel("true positive rate")
        axes.set_title(f"positives: {POSITIVE_NAMES[sort]}", pad=14)
        axes.legend(loc="lower right", handlelength=3)
        drawings.append((f"ROC with {POSITIVE_NAMES[sort]} as positives", figure))
    return sheet.write("roc", "ROC, all methods", drawings, table)


@mpl.rc_context(RC)
def rates(groups: Sequence[tuple[str, Sequence[tuple[Series, Rate]]]], sheet: Sheet) -> Block:
    """FPR at TPR 0.9 with its interval, one drawing per group (title of the setting, [(series, rate)])."""
    table: list[Sequence[Any]] = [("setting", "series", "mean", "low", "high", "values")]
    shown = [
        v for _, members in groups for _, rate in members for v in (rate.low, rate.mean, rate.high) if v > 0
    ]
    left, right = min(shown) / 1.6, min(max(shown) * 1.6, 1.0)
    drawings = []
    for title, members in groups:
        figure, axes = _axes(5.2, 0.75 + 0.36 * len(members))
        for place, (one, rate) in enumerate(members):
            colour = _light(one.colour)
            if rate.mean > 0:
                axes.plot([max(rate.low, left), rate.high], [place, place], color=colour, lw=2)
                axes.plot(rate.mean, place, "o", color=colour, ms=6)
            else:
                arrow = {"arrowstyle": "->", "color": colour, "lw": 1.6, "shrinkA": 0, "shrinkB": 0}
                axes.annotate("", (left, place), (rate.high, place), arrowprops=arrow)
                axes.plot(rate.high, place, "|", color=colour, ms=9, mew=1.6)
            if len(rate.values) > 1:
                values = [v for v in rate.values if v > 0]
                axes.plot(values, [place + 0.26] * len(values), "|", color=colour, ms=5, mew=1)
            table.append((title, one.label, rate.mean, rate.low, rate.high, " ".join(map(str, rate.values))))
        axes.set_yticks(range(len(members)), [one.label for one, _ in members])
        axes.tick_params(axis="y", length=0, labelcolor=_light("ink"))
        axes.spines["left"].set_visible(False)
        axes.set_ylim(len(members) - 0.4, -0.6)
        _log_rate_axis(axes, left, right)
        axes.set_xlabel("false positive rate at TPR 0.9")
        if len(groups) > 1:
            axes.set_title(fill(title, 50))
        drawings.append((f"False positive rate at TPR 0.9: {title}", figure))
    return sheet.write("rates", "False positives at TPR 0.9", drawings, table)


@mpl.rc_context(RC)
def histograms(series: Sequence[Series], positives: Sequence[str], sheet: Sheet) -> Block:
    """Scores of the test stamps per class, one drawing per method (its first seed), counts logarithmic."""
    edges = np.histogram_bin_edges(np.concatenate([one.arrays[0]["test_score"] for one in series]), 60)
    table: list[Sequence[Any]] = [("series", "class", "score_low", "score_high", "count")]
    drawings = []
    for one in series:
        arrays = one.arrays[0]
        parts = [("bogus", "bogus", bogus_mask(arrays))]
        parts += [
            (POSITIVE_NAMES[sort], role, positives_mask(arrays, sort))
            for sort, role in zip(positives, ("real", "second"), strict=False)
        ]
        figure, counts = _score_histogram(one.label, arrays["test_score"], edges, parts, "score")
        table += [(one.label, *line) for line in counts]
        drawings.append((f"Histogram of test scores, {one.label}", figure))
    return sheet.write("histograms", "Scores per class", drawings, table)


@mpl.rc_context(RC)
def cleaning(one: Series, sheet: Sheet) -> Block:
    """Out-of-fold scores of stage 1 per given label, wrong labels marked where the truth is known."""
    arrays = next(arrays for arrays in one.arrays if "train_oof_score" in arrays)
    scores, given = arrays["train_oof_score"], arrays["train_label_given"]
    edges = np.histogram_bin_edges(scores, 60)
    table: list[Sequence[Any]] = [("given", "marked", "score_low", "score_high", "count")]
    drawings = []
    for label, name in ((schema.LABEL_BOGUS, "bogus"), (schema.LABEL_REAL, "real")):
        chosen = given == label
        parts = [("all", name, chosen)]
        if "train_label_true" in arrays:
            parts.append(("label is wrong", "wrong", chosen & (arrays["train_label_true"] == 1 - label)))
        figure, counts = _score_histogram(f"given as {name}", scores, edges, parts, "out-of-fold score")
        table += [(name, *line) for line in counts]
        drawings.append((f"Out-of-fold scores of stamps given as {name}", figure))
    return sheet.write("cleaning", f"Stage 1: which labels are suspected ({one.label})", drawings, table)


@mpl.rc_context(RC)
def cleaning_curve(one: Series, sheet: Sheet) -> Block:
    """Recall and precision of wrong labels at every threshold of stage 1, all seeds; a dot where it stood."""
    table: list[Sequence[Any]] = [("seed", "threshold", "recall", "precision")]
    figure, axes = _axes(5.2, 3.4)
    for number, (row, arrays) in enumerate(zip(one.rows, one.arrays, strict=True)):
        if "train_label_true" not in arrays:
            continue
        given, true = arrays["train_label_given"], arrays["train_label_true"]
        curve = cleaning_curves.cleaning_curve(arrays["train_oof_score"], given, true)
        if not np.isfinite(curve.average_precision):  # no label is wrong
            continue
        colour = _light(SEED_COLOURS[number % len(SEED_COLOURS)])
        label = f"seed {row['seed']}: average precision {curve.average_precision:.3f}"
        axes.plot(curve.recall, curve.precision, color=colour, lw=1.4, label=label)
        found = cleaning_scores(arrays["train_suspect"], given, true)
        axes.plot(*found, "o", color=colour, ms=6, mfc="none")
        columns = (curve.threshold, curve.recall, curve.precision)
        table += [(row["seed"], *point) for point in zip(*columns, strict=True)]
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("wrong labels found (recall)")
    axes.set_ylabel("suspects that are wrong (precision)")
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc="lower left")
    title = f"Stage 1: what a threshold costs ({one.label})"
    return sheet.write("cleaning_curve", title, [("Precision against recall of wrong labels", figure)], table)


@mpl.rc_context(RC)
def confusions(series: Sequence[Series], sheet: Sheet) -> Block:
    """Confusion matrix of the first seed of each method: counts and fractions of the true class."""
    table: list[Sequence[Any]] = [("series", "seed", "threshold", "tn", "fp", "fn", "tp")]
    drawings = []
    for one in series:
        row, cells = one.rows[0], one.rows[0]["confusion"]
        figure, axes = _axes(2.7, 2.3)
        for y, pair in enumerate(((cells["tn"], cells["fp"]), (cells["fn"], cells["tp"]))):
            for x, count in enumerate(pair):
                share = count / max(sum(pair), 1)
                # Square root: an error of 1 % would be invisible in linear shading.
                colour, alpha = (
                    (_light("real"), 0.3 * share) if x == y else (_light("wrong"), 0.05 + 0.5 * share**0.5)
                )
                axes.add_patch(Rectangle((x, y), 0.97, 0.95, color=colour, alpha=alpha, lw=0))
                axes.text(x + 0.485, y + 0.5, f"{count:,}", ha="center", fontsize=11)
                axes.text(
                    x + 0.485,
                    y + 0.72,
                    f"{100 * share:.3g} %",
                    ha="center",
                    fontsize=7.5,
                    color=_light("muted"),
                )
        axes.set_xlim(0, 2)
        axes.set_ylim(2, 0)
        axes.set_xticks([0.485, 1.485], ["bogus", "real"])
        axes.set_yticks([0.475, 1.475], ["bogus", "real"], rotation=90, va="center")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("classified as")
        axes.set_ylabel("truth")
        axes.set_title(one.label)
        table.append(
            (one.label, row["seed"], row["threshold"], *(cells[key] for key in ("tn", "fp", "fn", "tp")))
        )
        drawings.append((f"Confusion matrix of {one.label}", figure))
    return sheet.write("confusion", "Confusion matrices", drawings, table)


@mpl.rc_context(RC)
def mislabel_rates(series: Sequence[Series], sheet: Sheet) -> Block:
    """Mislabel rate that stage 1 estimates against the true one, all runs of all settings."""
    bounds = ("mislabel_estimate_low", "mislabel_estimate_high")
    table: list[Sequence[Any]] = [("series", "seed", "mislabel_true", "mislabel_estimate", *bounds)]
    figure, axes = _axes(3.9, 3.3)
    markers = dict(zip(dict.fromkeys(one.label for one in series), cycle("os^Dv"), strict=False))
    for one in series:
        rows = [
            row for row in one.rows if None not in (row.get("mislabel_true"), row.get("mislabel_estimate"))
        ]
        points = [(row["mislabel_true"], row["mislabel_estimate"]) for row in rows]
        if points:
            label = "" if one.label in axes.get_legend_handles_labels()[1] else one.label
            for row in rows:
                ends = [row[name] for name in bounds if row.get(name) is not None]
                if len(ends) == 2:
                    axes.plot([row["mislabel_true"]] * 2, ends, color=_light(one.colour), lw=1, alpha=0.6)
            axes.plot(
                *zip(*points, strict=True),
                markers[one.label],
                color=_light(one.colour),
                mfc="none",
                label=label,
            )
            table += [
                (one.label, row["seed"], *point, *(row.get(name) for name in bounds))
                for row, point in zip(rows, points, strict=True)
            ]
    top = 1.15 * max(max(v for v in line[2:] if v is not None) for line in table[1:]) or 0.01
    axes.plot([0, top], [0, top], color=_light("muted"), lw=0.7, ls=":")
    axes.set_xlim(0, top)
    axes.set_ylim(0, top)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
        axis.set_major_formatter(_percent)
    axes.set_xlabel("true mislabel rate of the training set")
    axes.set_ylabel("estimated by stage 1")
    axes.legend(loc="lower right")
    title = "Estimated and true mislabel rate"
    return sheet.write("mislabel_rates", title, [(title, figure)], table)


def _tpr_on_grid(arrays: Mapping[str, np.ndarray], positives: str, grid: np.ndarray) -> np.ndarray:
    """Highest TPR reached at an FPR not above each value of `grid`."""
    chosen = positives_mask(arrays, positives)
    used = chosen | bogus_mask(arrays)
    fpr, tpr, _ = roc_curve(chosen[used], arrays["test_score"][used])
    return np.asarray(tpr[np.searchsorted(fpr, grid, side="right") - 1])


def _score_histogram(
    title: str, scores: np.ndarray, edges: np.ndarray, parts: Sequence[tuple[str, str, np.ndarray]], name: str
) -> tuple[Figure, list[tuple[Any, ...]]]:
    """Histogram of the parts (name, colour, mask) and its numbers (name, low, high, count)."""
    figure, axes = _axes(3.9, 2.7)
    lines: list[tuple[Any, ...]] = []
    for part, role, mask in parts:
        counts = np.histogram(scores[mask], edges)[0]
        alpha = {"second": 1.0, "wrong": 0.9}.get(role, 0.55)
        axes.stairs(counts, edges, color=_light(role), fill=role != "second", alpha=alpha, label=part)
        lines += [(part, *line) for line in zip(edges[:-1], edges[1:], counts, strict=True)]
    axes.axvline(0, color=_light("muted"), lw=0.7, ls=":")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_ylim(0.7, 2 * max(line[-1] for line in lines))
    axes.set_xlabel(f"{name} (logit real \N{MINUS SIGN} logit bogus)")
    axes.set_ylabel("stamps per bin")
    axes.set_title(title, pad=17)
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=3, fontsize=7, handlelength=1.2, columnspacing=1
    )
    return figure, lines


def _light(role: str) -> str:
    return COLOURS[role][0]


def _percent(value: float, _position: float | None = None) -> str:
    return f"{100 * value:.6g} %"


def _axes(width_in: float, height_in: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    return figure, figure.add_subplot()


def _log_rate_axis(axes: Axes, low: float, high: float) -> None:
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_formatter(_percent)
    axes.xaxis.set_minor_formatter("")
    if high / low < 300:
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
