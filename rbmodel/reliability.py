"""Figure of calibrated probabilities: P(real) beside the share of stamps labelled real."""

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from rbmodel.sheet import COLOURS, RC, Sheet
from rbmodel.temperature import Reliability

SERIES = ("series0", "series2", "series3")


@mpl.rc_context(RC)
def draw_reliability(tables: Mapping[str, Reliability], sheet: Sheet) -> None:
    """Write ``reliability.png`` and ``reliability.csv``.

    Parameters
    ----------
    tables : mapping of str to Reliability
        By name, at most three.
    sheet : Sheet
    """
    figure = Figure(figsize=(4.2, 3.9), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=COLOURS["muted"][0], lw=0.7, ls=":")
    table: list[tuple[Any, ...]] = [
        ("series", "low", "high", "n", "probability", "frequency", "frequency_low", "frequency_high")
    ]
    for (name, one), colour in zip(tables.items(), SERIES, strict=False):
        above, below = one.frequency_high - one.frequency, one.frequency - one.frequency_low
        label = f"{name}: error {one.calibration_error:.4f}"
        axes.errorbar(
            one.probability, one.frequency, (below, above), color=COLOURS[colour][0], fmt="o-", ms=3.5, lw=1,
            label=label,
        )  # fmt: skip
        columns = [getattr(one, column).tolist() for column in table[0][1:]]
        table += [(name, *row) for row in zip(*columns, strict=True)]
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_xlabel("P(real) of the classifier, mean of the bin")
    axes.set_ylabel("share labelled real, 95 % interval")
    axes.legend(loc="upper left")
    sheet.write("reliability", "Reliability", [("Probabilities beside frequencies", figure)], table)
