"""The figures of a fidelity report, as PNG files, each with the words that belong below it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.figure import Figure

from rbsim.completeness_plot import COLOURS, MUTED, RC
from rbsim.fidelity_facts import MIN_MAP_STARS, WIDE_AUC
from rbsim.fidelity_photometry import BIAS_SNR, Photometry
from rbsim.fidelity_sample import SNR_BINS, Pairs, mean_residuals
from rbsim.fidelity_stamps import StarStamps

REAL, INJECTED, WIDE = COLOURS[0], COLOURS[1], COLOURS[3]
TARGET_AUC = 0.60
N_EXAMPLES = 10
GREY, RED_BLUE = colormaps["gray"], colormaps["RdBu_r"]
N_PARTS = 3
MIN_POINTS = 20
"""Groups of fewer stamps are not drawn."""

MIN_PART_STARS = 5
"""The same of stars in one part of the frame."""


@dataclass(frozen=True)
class Picture:
    """A PNG file with its heading; `what` is for those who do not see it. The page has the captions."""

    path: Path
    title: str
    what: str


def _save(figure: Figure, folder: Path, name: str) -> Path:
    path = folder / f"{name}.png"
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return path


def _bin_name(number: int) -> str:
    return "S/N {:g} to {:g}".format(*SNR_BINS[number])


def auc_figure(rows: Sequence[dict[str, Any]], wide_rows: Sequence[dict[str, Any]], folder: Path) -> Picture:
    """AUC of each bin with its interval, of the test and of the control."""
    with rc_context(RC):
        figure = Figure(figsize=(5.6, 3.0), layout="constrained")
        axes = figure.subplots()
        kinds = (
            (rows, REAL, "o", -0.08, "the frame's own PSF"),
            (wide_rows, WIDE, "s", 0.08, "control: PSF 5 % too wide"),
        )
        for some, colour, marker, shift, label in kinds:
            known = [(i + shift, row) for i, row in enumerate(some) if row["auc"] is not None]
            if known:
                value = np.array([row["auc"] for _, row in known])
                ends = np.array([[row["auc_low"], row["auc_high"]] for _, row in known]).T
                error = np.maximum([value - ends[0], ends[1] - value], 0)
                axes.errorbar(
                    [x for x, _ in known], value, error, fmt=marker, color=colour, ms=5, label=label
                )
                axes.legend(loc="upper left")
        for i, row in enumerate(rows):
            if row["auc"] is None:
                axes.text(i, 0.52, "not measured", ha="center", color=MUTED)
        axes.axhline(0.5, color="black", lw=0.8)
        axes.axhline(TARGET_AUC, color=MUTED, lw=0.8, ls="--")
        axes.plot([1.75, 2.25], [WIDE_AUC, WIDE_AUC], color=WIDE, lw=0.8, ls=":")
        axes.set_xticks(range(len(SNR_BINS)), [_bin_name(i) for i in range(len(SNR_BINS))])
        lowest = min((row["auc_low"] for row in rows if row["auc"] is not None), default=0.5)
        axes.set(xlim=(-0.5, len(SNR_BINS) - 0.5), ylim=(min(0.4, lowest - 0.05), 1.02))
        axes.set_ylabel("AUC of real against injected")
        path = _save(figure, folder, "auc")
    return Picture(
        path,
        "Can a network tell them apart?",
        "AUC per S/N bin",
    )


def residual_figures(pairs: Pairs, scores: np.ndarray, folder: Path) -> list[Picture]:
    """Scores, examples, maps of residuals per S/N bin and part of the frame, and chi-square."""
    pictures = []
    with rc_context(RC):
        if np.isfinite(scores).any():
            pictures.append(_score_figure(pairs, scores, folder))
        if len(pairs.star) >= MIN_POINTS:
            pictures += [
                _example_figure(pairs, folder),
                _map_figure(pairs, folder),
                _part_figure(pairs, folder),
                _chi2_figure(pairs, folder),
            ]
    return pictures


def _score_figure(pairs: Pairs, scores: np.ndarray, folder: Path) -> Picture:
    real, injected = np.split(scores, 2)
    figure = Figure(figsize=(7.6, 2.4), layout="constrained")
    for number, axes in enumerate(figure.subplots(1, len(SNR_BINS), sharey=True)):
        here = pairs.snr_bin == number
        for values, colour, label in ((real, REAL, "real"), (injected, INJECTED, "injected")):
            axes.hist(
                np.clip(values[here], -4, 4),
                np.linspace(-4, 4, 41),
                histtype="step",
                color=colour,
                label=label,
            )
        axes.set(title=_bin_name(number), xlabel="score (high: looks real)")
        if number == 0:
            axes.legend(loc="upper left")
            axes.set_ylabel("stamps")
    return Picture(
        _save(figure, folder, "scores"),
        "What the network says",
        "histograms of scores of real and injected stars",
    )


def _example_figure(pairs: Pairs, folder: Path) -> Picture:
    figure = Figure(figsize=(7.6, 4.4), layout="constrained")
    for number, axes in enumerate(figure.subplots(len(SNR_BINS), 1)):
        rows = np.flatnonzero(pairs.snr_bin == number)
        # Evenly through the sample, so that many frames show.
        rows = rows[np.linspace(0, len(rows) - 1, min(N_EXAMPLES, len(rows))).astype(int)]
        axes.set(xticks=[], yticks=[])
        axes.set_title(_bin_name(number), size=8, loc="left")
        axes.set_frame_on(False)
        if len(rows):
            strips = [_strip(stamps.select(rows)) for stamps in (pairs.real, pairs.injected)]
            axes.imshow(np.concatenate(strips), interpolation="nearest")
            height = strips[0].shape[0]
            axes.set_yticks([height / 2, 1.5 * height], ["real", "injected"])
            axes.tick_params(length=0)
    return Picture(
        _save(figure, folder, "examples"),
        "See for yourself",
        "stamps of real and injected stars",
    )


def _strip(stamps: StarStamps) -> np.ndarray:
    """Stars side by side, each in grey and then less its PSF in colour, shape (size + 1, width, 4)."""
    tiles = []
    for light, model, sigma, residual in zip(
        stamps.light_adu, stamps.model_adu, stamps.sigma_adu, stamps.residual_sigma, strict=True
    ):
        dark = -3 * float(np.median(sigma))
        grey = GREY(np.clip((light - dark) / (float(model.max()) - dark), 0, 1))
        colour = RED_BLUE(np.clip(residual / 8 + 0.5, 0, 1))
        tiles += [np.pad(tile, ((0, 1), (0, 1), (0, 0)), constant_values=1.0) for tile in (grey, colour)]
    return np.concatenate([tile[::-1] for tile in tiles], axis=1)


def _map_figure(pairs: Pairs, folder: Path) -> Picture:
    figure = Figure(figsize=(7.0, 5.6), layout="constrained")
    grid = figure.subplots(len(SNR_BINS), 3, squeeze=False)
    for number in range(len(SNR_BINS)):
        here = pairs.snr_bin == number
        star = pairs.star[here]
        n = len(np.unique(star))
        names = ("real", "injected", "difference / its error")
        maps: list[np.ndarray] = []
        if n >= MIN_MAP_STARS:
            both = [mean_residuals(one.select(here), star) for one in (pairs.real, pairs.injected)]
            error = np.hypot(*(one.std(axis=0, ddof=1) for one in both)) / np.sqrt(n)
            means = [one.mean(axis=0) for one in both]
            maps = [*means, (means[0] - means[1]) / error]
            span = max(float(np.abs(means).max()), 0.1)
        for k, axes in enumerate(grid[number]):
            axes.set(xticks=[], yticks=[])
            if not maps:
                axes.text(0.5, 0.5, "too few stars", transform=axes.transAxes, ha="center", color=MUTED)
                continue
            limit = span if k < 2 else 5
            image = axes.imshow(maps[k], vmin=-limit, vmax=limit, cmap="RdBu_r", origin="lower")
            figure.colorbar(image, ax=axes, shrink=0.8)
            axes.set_title(names[k], size=8)
            if k == 0:
                axes.set_ylabel(f"{_bin_name(number)}\n{n:,} stars")
    return Picture(
        _save(figure, folder, "residuals"),
        "What the PSF leaves on average",
        "maps of mean residuals per S/N bin",
    )


def _part_figure(pairs: Pairs, folder: Path) -> Picture:
    bright = pairs.snr_bin == len(SNR_BINS) - 1
    column = np.clip((pairs.x_share * N_PARTS).astype(int), 0, N_PARTS - 1)
    row = np.clip((pairs.y_share * N_PARTS).astype(int), 0, N_PARTS - 1)
    figure = Figure(figsize=(5.4, 5.2), layout="constrained")
    grid = figure.subplots(N_PARTS, N_PARTS, squeeze=False)
    image = None
    for j in range(N_PARTS):
        for i in range(N_PARTS):
            axes = grid[N_PARTS - 1 - j, i]  # the frame's first row is below
            axes.set(xticks=[], yticks=[])
            here = bright & (column == i) & (row == j)
            n = len(np.unique(pairs.star[here]))
            axes.set_title(f"{n} stars", size=7, color=MUTED)
            if n < MIN_PART_STARS:
                axes.text(0.5, 0.5, "too few", transform=axes.transAxes, ha="center", color=MUTED)
                continue
            mean = mean_residuals(pairs.real.select(here), pairs.star[here]).mean(axis=0)
            image = axes.imshow(mean, vmin=-2, vmax=2, cmap="RdBu_r", origin="lower")
    if image is not None:
        figure.colorbar(image, ax=grid, shrink=0.6, label="mean residual / error")
    return Picture(
        _save(figure, folder, "parts"),
        "The same across the frame",
        "maps of mean residuals in nine parts of the frame",
    )


def _chi2_figure(pairs: Pairs, folder: Path) -> Picture:
    figure = Figure(figsize=(5.6, 3.0), layout="constrained")
    axes = figure.subplots()
    edges = np.geomspace(SNR_BINS[0][0], SNR_BINS[-1][1], 13)
    kinds = (
        (pairs.real, pairs.real_snr, REAL, "real"),
        (pairs.injected, pairs.injected_snr, INJECTED, "injected"),
    )
    for stamps, snr, colour, label in kinds:
        axes.plot(snr, stamps.chi2, ".", ms=1.5, alpha=0.15, color=colour, rasterized=True)
        number = np.digitize(snr, edges) - 1
        points = [
            (np.sqrt(edges[k] * edges[k + 1]), np.median(stamps.chi2[number == k]))
            for k in range(len(edges) - 1)
            if np.sum(number == k) >= MIN_POINTS
        ]
        if points:
            axes.plot(*zip(*points, strict=True), "o-", ms=4, color=colour, label=label)
            axes.legend(loc="upper left")
    axes.axhline(1, color="black", lw=0.8)
    axes.set(xscale="log", xlabel="S/N", ylabel="reduced chi-square", ylim=(0, 4))
    ticks = (10, 20, 50, 100, 150)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    return Picture(
        _save(figure, folder, "chi2"),
        "Chi-square of single stars",
        "reduced chi-square against S/N",
    )


def photometry_figures(photometry: Photometry, folder: Path) -> list[Picture]:
    """Recovered flux against magnitude and position, and pulls."""
    if len(photometry.snr) < MIN_POINTS:
        return []
    ratio = 100 * (photometry.gained_adu / photometry.flux_adu - 1)
    pull = (photometry.gained_adu - photometry.flux_adu) / photometry.gained_err_adu
    found = (photometry.found_adu - photometry.flux_adu) / photometry.found_err_adu
    noiseless = (photometry.noiseless_adu - photometry.flux_adu) / photometry.gained_err_adu
    bright = photometry.snr > BIAS_SNR
    with rc_context(RC):
        figure = Figure(figsize=(7.6, 5.6), layout="constrained")
        ((top, side), (left, right)) = figure.subplots(2, 2)
        edges = np.quantile(photometry.mag, np.linspace(0, 1, 11))
        number = np.clip(np.digitize(photometry.mag, edges) - 1, 0, 9)
        _trend(top, photometry.mag, ratio, number)
        span = 4 * float(np.std(ratio))
        top.set(xlabel="magnitude (mag)", ylabel="recovered over injected - 1 (%)", ylim=(-span, span))
        _trend(side, photometry.mag, pull, number, width=True)
        side.set(xlabel="magnitude (mag)", ylabel="pull: mean and std", ylim=(-0.5, 1.6))
        side.axhline(1, color=MUTED, lw=0.8, ls="--")
        bins = np.linspace(-5, 5, 51)
        for values, colour, label in (
            (pull, REAL, "after - before"),
            (noiseless, WIDE, "control: no photon noise"),
            (found, MUTED, "after alone"),
        ):
            left.hist(
                np.clip(values[bright], -5, 5), bins, histtype="step", density=True, color=colour, label=label
            )
        left.plot(bins, np.exp(-(bins**2) / 2) / np.sqrt(2 * np.pi), color="black", lw=0.8)
        left.legend(loc="upper left")
        left.set(xlabel="pull", ylabel="density", ylim=(0, 1.4))
        image = right.imshow(
            _by_position(photometry, ratio, bright), cmap="RdBu_r", origin="lower", vmin=-1, vmax=1
        )
        right.set(xticks=[], yticks=[], title="mean bias in parts of the frame (%)")
        figure.colorbar(image, ax=right, shrink=0.8)
        path = _save(figure, folder, "photometry")
    return [
        Picture(
            path,
            "Is the flux there?",
            "recovered flux of injected stars",
        )
    ]


def _trend(
    axes: Any, mag: np.ndarray, values: np.ndarray, number: np.ndarray, *, width: bool = False
) -> None:
    """Mean with error, and standard deviation if asked for, in groups of stars."""
    if not width:
        axes.plot(mag, values, ".", ms=1.5, alpha=0.25, color=MUTED, rasterized=True)
    rows = [(number == k) for k in np.unique(number) if np.sum(number == k) >= 5]
    centre = [float(np.mean(mag[row])) for row in rows]
    error = [float(np.std(values[row]) / np.sqrt(row.sum())) for row in rows]
    axes.errorbar(centre, [float(np.mean(values[row])) for row in rows], error, fmt="o-", ms=4, color=REAL)
    if width:
        spread = [float(np.std(values[row], ddof=1)) for row in rows]
        error = [one / np.sqrt(2 * (row.sum() - 1)) for one, row in zip(spread, rows, strict=True)]
        axes.errorbar(centre, spread, error, fmt="o-", ms=4, color=REAL, mfc="white")
    axes.axhline(0, color="black", lw=0.8)


def _by_position(photometry: Photometry, ratio: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Mean of the bright stars in 4 x 4 parts of the frame; NaN with fewer than 5."""
    n_parts = 4
    column = np.clip((photometry.x_share * n_parts).astype(int), 0, n_parts - 1)
    row = np.clip((photometry.y_share * n_parts).astype(int), 0, n_parts - 1)
    part = (row * n_parts + column)[rows]
    number = np.bincount(part, minlength=n_parts**2)
    total = np.bincount(part, ratio[rows], minlength=n_parts**2)
    mean = np.divide(total, number, out=np.full(n_parts**2, np.nan), where=number >= 5)
    return np.asarray(mean.reshape(n_parts, n_parts))
