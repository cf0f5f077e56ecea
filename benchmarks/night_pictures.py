"""The pictures of docs/emulator.md from an emulated night: a sensor, its detections, depths, bogus.

    rbsim emulate --out NIGHT --mode all-sky --exposures 4 --sensors 111,134,222,343 --seed 1
    OMP_NUM_THREADS=1 python benchmarks/night_pictures.py NIGHT --out docs/emulator

Writes `sensor.png` (a stack, PS1 and their difference, whole), `zoom.png` (the part of it with most kinds of
detections, each with its name), `bogus.png` (bogus per exposure by class, against PS1 and against a stack of
the earlier epochs) and `depth.png` (5-sigma depths of all conditions, which needs no night; `--no-depth`
leaves it out), and prints the figures behind the last two.
"""

import argparse
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from artefact_rates import Explained, explained, stack_epochs
from astropy.table import Table
from emulate import CONDITIONS, depth
from matplotlib import rc_context
from matplotlib.figure import Figure
from sensor_pictures import NO_CLASS, Example, Mark, best_part, draw_sensor, draw_zoom, inside, shrink
from threadpoolctl import threadpool_limits

from rbsim.completeness_plot import COLOURS, MUTED, RC
from rbsim.detect import Detections
from rbsim.schema import ARTEFACTS

KNOWN_FRAME_MAG, KNOWN_STACK_MAG = 17.0, 18.5
"""5-sigma depths on an ordinary dark night (tomoe-facts, section 4)."""
KNOWN_BOGUS = ((20.0, "a million\na night"), (180.0, "60 million\na week"))
"""Candidates per sensor exposure of the early and the deployed survey."""
N_CLASSES = 7
"""With a colour of their own."""
WORDS = {"low_snr": "low S/N", "psf_mismatch": "PSF mismatch"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("night", type=Path, help="folder of rbsim emulate, with epochs")
    parser.add_argument("--out", type=Path, required=True, help="folder for the PNGs")
    parser.add_argument("--no-depth", action="store_true", help="without depth.png, half a minute")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with threadpool_limits(1), rc_context(RC):
        against_ps1, best = look(options.night, "ps1", truth_of(options.night))
        if best is not None:
            draw_sensor(best, options.out / "sensor.png")
            draw_zoom(best, options.out / "zoom.png")
            print(f"sensor.png and zoom.png: {best.name}, {best.corner[0]},{best.corner[1]} of it")
        bars = {"PS1": against_ps1}
        if (options.night / "epochs").exists():
            if not (options.night / "tomoe").exists():
                stack_epochs(options.night)
            bars["Tomo-e's own"], _ = look(options.night, "tomoe", {})
        draw_bogus(bars, options.out / "bogus.png")
        print(table(bars))
        if not options.no_depth:
            rows = [depth(name) for name in CONDITIONS]
            draw_depth(rows, options.out / "depth.png")
            for row in rows:
                print(" ".join(f"{v:.2f}" if isinstance(v, float) else f"{v:12}" for v in row.values()))


@dataclass(frozen=True)
class Counts:
    """Positive bogus by class over a number of exposures."""

    n_frames: int
    by_class: Counter[str]

    def per_exposure(self, name: str) -> float:
        """Of one class."""
        return self.by_class[name] / max(self.n_frames, 1)

    @property
    def total(self) -> float:
        """Of all classes per exposure."""
        return sum(self.by_class.values()) / max(self.n_frames, 1)


def truth_of(night: Path) -> dict[str, Table]:
    """Rows of the transients by frame."""
    truth = Table.read(night / "truth.ecsv")
    return {str(name): truth[truth["frame"] == name] for name in set(truth["frame"])}


def look(night: Path, reference: str, truth: dict[str, Table]) -> tuple[Counts, Example | None]:
    """Count the positive bogus of all frames, and find the part of one with most kinds of detections."""
    n_frames, by_class = 0, Counter[str]()
    best, best_score = None, -1.0
    for one in explained(night, reference):
        n_frames += 1
        names = classes_of(one)
        by_class.update(names[one.bogus.is_positive])
        if one.name not in truth:
            continue
        marks = marks_of(one.bogus, names, is_real=False)
        marks += marks_of(one.transients, kinds_of(one.transients, truth[one.name]), is_real=True)
        corner, score = best_part(marks, one.frame.science.shape)
        if score > best_score:
            best, best_score = Example(one.name, one.frame, corner, inside(marks, corner)), score
    return Counts(n_frames, by_class), best


def classes_of(one: Explained) -> np.ndarray:
    """Class of every bogus detection, in words."""
    words = {kind.code: WORDS.get(kind.name, kind.name.replace("_", " ")) for kind in ARTEFACTS}
    codes = np.where(one.instance >= 0, one.artefacts.code[one.instance], -1)
    return np.array([words.get(int(code), NO_CLASS) for code in codes], dtype=object)


def kinds_of(found: Detections, truth: Table) -> np.ndarray:
    """Kind of the transient that is nearest to each detection of one."""
    distance = np.hypot(
        found.x_pix[:, None] - np.asarray(truth["x_pix"]), found.y_pix[:, None] - np.asarray(truth["y_pix"])
    )
    kinds = [str(kind).replace("_", " ") for kind in truth["kind"]]
    return np.array([kinds[row] for row in distance.argmin(axis=1)], dtype=object)


def marks_of(found: Detections, names: np.ndarray, *, is_real: bool) -> list[Mark]:
    values = (values.tolist() for values in (found.x_pix, found.y_pix, found.snr))
    return [Mark(x, y, snr, name, is_real) for x, y, snr, name in zip(*values, names, strict=True)]


def draw_bogus(bars: dict[str, Counts], path: Path) -> None:
    """Positive bogus per exposure, stacked by class, beside what is known of the survey."""
    names, colours = legend_of(bars)
    figure = Figure(figsize=(7.6, 2.6), dpi=120, layout="constrained")
    axes = figure.subplots()
    top = max(1.12 * max(KNOWN_BOGUS)[0], 1.1 * max(counts.total for counts in bars.values()))
    for row, (title, counts) in enumerate(bars.items()):
        left = 0.0
        for name in names:
            size = share_of(counts, name, names)
            kind = {"hatch": "////", "ec": "white", "lw": 0} if name == NO_CLASS else {}
            once = name if row == 0 else None
            axes.barh(row, size, 0.6, left, color=colours[name], label=once, **kind)
            if size > 0.025 * top:
                axes.text(
                    left + size / 2, row, f"{size:.0f}", ha="center", va="center", color="white", size=7
                )
            left += size
        axes.text(left + 0.008 * top, row, f"{left:.0f}", va="center", weight="bold")
        print(f"bogus.png: {left:.1f} against {title}")
    for value, text in KNOWN_BOGUS:
        axes.axvline(value, color="black", lw=0.9, ls="--", zorder=0)
        axes.text(value, -0.62, f"{value:g}: {text}", ha="center", va="bottom", size=7, color="black")
    axes.set(xlim=(0, top), ylim=(len(bars) - 0.5, -0.55))
    axes.set_yticks(range(len(bars)), [f"{title}\n{bar.n_frames} exposures" for title, bar in bars.items()])
    axes.tick_params(left=False)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("positive bogus per sensor and exposure at 5 sigma")
    figure.legend(loc="outside lower center", ncols=5)
    figure.savefig(path, metadata={"Software": None})
    shrink(path)


def legend_of(bars: dict[str, Counts]) -> tuple[list[str], dict[str, str]]:
    """Classes in the order of their numbers, the others after them, and their colours."""
    total: Counter[str] = Counter()
    for counts in bars.values():
        for name in counts.by_class:
            total[name] += counts.per_exposure(name)
    known = [name for name, _ in total.most_common() if name != NO_CLASS]
    names = [*known[:N_CLASSES], "others", NO_CLASS]
    return names, dict(zip(names, [*COLOURS[:N_CLASSES], "#9aa1a9", "#c5cad0"], strict=False)) | {
        "others": "#9aa1a9",
        NO_CLASS: "#c5cad0",
    }


def share_of(counts: Counts, name: str, names: list[str]) -> float:
    if name != "others":
        return counts.per_exposure(name)
    return counts.total - sum(counts.per_exposure(other) for other in names if other != "others")


def draw_depth(rows: list[dict[str, float | str]], path: Path) -> None:
    """5-sigma magnitudes of frame and stack under each condition."""
    figure = Figure(figsize=(5.4, 2.9), dpi=120, layout="constrained")
    axes = figure.subplots()
    for key, colour, marker, known, title in (
        ("frame_mag", COLOURS[1], "o", KNOWN_FRAME_MAG, "frame of 0.5 s"),
        ("stack_mag", COLOURS[0], "s", KNOWN_STACK_MAG, "stack of 17"),
    ):
        values = [float(row[key]) for row in rows]
        axes.axvline(known, color=colour, lw=1, ls="--", zorder=0)
        text = f"{title}\nknown: about {known:g}"
        axes.text(known, -0.75, text, color=colour, ha="center", va="bottom", size=8)
        axes.plot(values, range(len(rows)), marker, color=colour, ms=5)
        for number, value in enumerate(values):
            axes.text(value - 0.06, number, f"{value:.1f}", ha="right", va="center", size=7, color=MUTED)
    axes.set_yticks(range(len(rows)), [f"{row['condition']}, {row['fwhm_arcsec']:.1f}″" for row in rows])
    axes.set(ylim=(len(rows) - 0.5, -0.7), xlabel="5-sigma magnitude")
    lowest = min(float(row["frame_mag"]) for row in rows)
    axes.set_xlim(lowest - 0.35, max(19.0, max(float(row["stack_mag"]) for row in rows) + 0.2))
    axes.grid(axis="y", color="0.92", lw=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(left=False)
    figure.savefig(path, metadata={"Software": None})
    shrink(path)


def table(bars: dict[str, Counts]) -> str:
    """Positive bogus per exposure by class, as markdown."""
    classes = sorted(
        {name for counts in bars.values() for name in counts.by_class},
        key=lambda name: -max(counts.per_exposure(name) for counts in bars.values()),
    )
    lines = [["class", *bars], ["---"] * (1 + len(bars))]
    lines += [[name, *(f"{counts.per_exposure(name):.1f}" for counts in bars.values())] for name in classes]
    lines += [["all", *(f"{counts.total:.1f}" for counts in bars.values())]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
