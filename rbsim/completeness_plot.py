"""The figure of a completeness measurement: detected fraction against S/N, magnitude and host."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rbsim.completeness import BRIGHT, Completeness, Curve
from rbsim.store_groups import ALL_SENSORS, Group

MAX_SENSORS = 4
"""Up to so many sensors are all drawn; of more, those with the brightest and the faintest limit."""

MIN_STARS = 5
"""Bins with fewer are in the table only."""

# Okabe & Ito's palette, which colour-blind people can tell apart, without its yellow.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
MARKERS = "osD^vP*"
DASHES: tuple[Any, ...] = ((0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (2, 1)), (0, (8, 3)))
MUTED = "#666e78"
RC: dict[Any, Any] = {
    "font.size": 8,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 7,
}


@dataclass(frozen=True)
class _Series:
    group: Group
    label: str
    colour: str
    marker: str
    is_pooled: bool


def draw_completeness(result: Completeness, path: Path) -> None:
    """Write the figure as PNG.

    Points are bins with their 68 % binomial intervals (open ones: only stars well above the threshold),
    lines the fitted curves. One colour per
    condition, reference and threshold; beside its pooled sensors all of at most 4 sensors, or the two with
    the brightest and faintest 50 % magnitude.

    Parameters
    ----------
    result : Completeness
    path : Path
        Ending in .png.
    """
    series = _choose(result)
    with rc_context(RC):
        figure = Figure(figsize=(7.6, 5.6), layout="constrained")
        axes = figure.subplots(2, 2)
        panels = (
            (axes[0, 0], "snr_expected", "all", "expected S/N of the detection"),
            (axes[0, 1], "mag", "all", "magnitude (mag)"),
            (axes[1, 0], *_brightness(result)),
            (axes[1, 1], "host_offset_radii", "near_hosts", "distance to host (its half-light radii)"),
        )
        for panel, variable, place, label in panels:
            _panel(panel, result, series, variable, place)
            panel.set(xlabel=label, ylabel="detected fraction", ylim=(-0.02, 1.04))
        _finish_snr(axes[0, 0], series)
        for panel in axes[1]:
            panel.set_title(
                f"open: expected S/N above {BRIGHT:g} x threshold", size=7, color=MUTED, loc="right"
            )
            if not panel.has_data():
                panel.text(
                    0.5, 0.5, "no stars on or near hosts", transform=panel.transAxes, ha="center", color=MUTED
                )
        axes[1, 0].invert_xaxis()  # brighter to the right
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(
            handles,
            labels,
            loc="outside upper left",
            ncols=min(len(labels), 3),
            title="points: bins with 68 % binomial intervals; lines: fitted efficiency",
            title_fontsize=7,
            alignment="left",
        )
        figure.savefig(path, dpi=130, metadata={"Software": None})


def _brightness(result: Completeness) -> tuple[str, str, str]:
    variable = "host_sb_mag_per_arcsec2"
    if any(row["variable"] == variable for row in result.fractions):
        return variable, "near_hosts", "surface brightness of the host (mag arcsec$^{-2}$)"
    return "host_sb_mag_per_pix2", "near_hosts", "surface brightness of the host (mag pixel$^{-2}$)"


def _choose(result: Completeness) -> list[_Series]:
    groups = sorted({curve.group for curve in result.curves})
    pooled = [group for group in groups if group.sensor == ALL_SENSORS]
    several = len({group.threshold_snr for group in pooled}) > 1
    chosen = []
    for i, total in enumerate(pooled):
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        members = [g for g in groups if g.pooled == total and g != total]
        name = total.condition + (f", {total.reference}" if len({g.reference for g in pooled}) > 1 else "")
        name += f", threshold {total.threshold_snr:g}" if several else ""
        about = f"{len(members)} sensors" if len(members) > 1 else "1 sensor"
        chosen.append(_Series(total, f"{name} ({about})", colour, marker, True))
        if len(members) > 1:
            shown = members if len(members) <= MAX_SENSORS else _extremes(result.curves, members)
            chosen += [_Series(g, f"{name}, sensor {g.sensor}", colour, marker, False) for g in shown]
    return chosen


def _extremes(curves: Sequence[Curve], members: Sequence[Group]) -> list[Group]:
    """The sensors with the brightest and the faintest 50 % magnitude."""
    limits = {
        curve.group: curve.efficiency.points[0].value
        for curve in curves
        if (curve.place, curve.variable) == ("all", "mag")
        and curve.efficiency is not None
        and curve.group in members
        and curve.efficiency.points[0].bracketed
    }
    if not limits:
        return []
    return sorted({min(limits, key=lambda g: limits[g]), max(limits, key=lambda g: limits[g])})


def _panel(axes: Axes, result: Completeness, series: Sequence[_Series], variable: str, place: str) -> None:
    for number, one in enumerate(series):
        style = "-" if one.is_pooled else DASHES[number % len(DASHES)]
        curve = next(
            (
                c.efficiency
                for c in result.curves
                if (c.group, c.place, c.variable) == (one.group, place, variable) and c.efficiency is not None
            ),
            None,
        )
        bins = _bins(result, one.group, variable, place)
        if bins is None:
            continue
        if one.is_pooled:
            _points(axes, bins, one, one.label, filled=True)
            bright = _bins(result, one.group, variable, f"{place}_bright")
            if bright is not None:
                _points(axes, bright, one, None, filled=False)
        elif curve is None:
            axes.plot(bins.centre, bins.fraction, color=one.colour, ls=style, lw=0.8)
        if curve is not None:
            grid = np.geomspace(bins.low, bins.high, 300)
            label = None if one.is_pooled else one.label
            axes.plot(grid, curve.at(grid), color=one.colour, ls=style, lw=1.1, label=label)


@dataclass(frozen=True, eq=False)
class _Bins:
    """Bins of one group; `error` is below and above the fraction, shape (2, n)."""

    centre: np.ndarray
    fraction: np.ndarray
    error: np.ndarray
    low: float
    high: float


def _bins(result: Completeness, group: Group, variable: str, place: str) -> _Bins | None:
    wanted = {**vars(group), "variable": variable, "place": place}.items()
    rows = [row for row in result.fractions if wanted <= row.items() and row["n"] >= MIN_STARS]
    if not rows:
        return None
    names = ("low", "high", "fraction", "fraction_low_68", "fraction_high_68")
    low, high, fraction, below, above = np.array([[row[name] for name in names] for row in rows]).T
    centre = np.sqrt(low * high) if variable.startswith("snr") else (low + high) / 2
    # Jeffreys' interval does not reach the fraction itself where a few stars were all found or all lost.
    error = np.maximum([fraction - below, above - fraction], 0)
    return _Bins(centre, fraction, error, float(low[0]), float(high[-1]))


def _points(axes: Axes, bins: _Bins, one: _Series, label: str | None, *, filled: bool) -> None:
    axes.errorbar(
        bins.centre,
        bins.fraction,
        bins.error,
        fmt=one.marker,
        ms=3,
        lw=0.7,
        color=one.colour,
        mfc=one.colour if filled else "white",
        label=label,
    )


def _finish_snr(axes: Axes, series: Sequence[_Series]) -> None:
    axes.set_xscale("log")
    ticks = [
        t
        for t in (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50, 100)
        if axes.get_xlim()[0] <= t <= axes.get_xlim()[1]
    ]
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.set_xticks([], minor=True)
    axes.axhline(0.5, color=MUTED, lw=0.6, ls=":")
    for threshold in sorted({one.group.threshold_snr for one in series}):
        axes.axvline(threshold, color=MUTED, lw=0.8, ls="--")
        axes.text(
            threshold * 0.97,
            0.97,
            f"threshold {threshold:g}",
            rotation=90,
            ha="right",
            va="top",
            color=MUTED,
            size=7,
        )
