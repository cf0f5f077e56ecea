"""A completeness measurement on disk: tables as ECSV, a figure, and the figures for the command line."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from astropy.table import Table

from rbsim import __version__
from rbsim.completeness import BRIGHT, LEFT_OUT, VARIABLES, Curve, measure_completeness
from rbsim.completeness_plot import draw_completeness
from rbsim.efficiency import Point
from rbsim.folder import new_folder
from rbsim.store_groups import ALL_SENSORS, find_stores

TABLES = ("completeness.ecsv", "points.ecsv", "false_positives.ecsv")
META = {
    "sensor": f"{ALL_SENSORS}: all sensors pooled",
    "intervals": "95 %, those named _68 68.27 %",
    "fractions": "Jeffreys binomial intervals",
    "points": "maximum likelihood of asymptote * Phi((x - midpoint) / width), profile-likelihood intervals",
    "false_positives": "Garwood Poisson intervals",
    "places": f"near_hosts: placed near an extended source or on reference light above 3 sigma; "
    f"near_hosts_bright: of these, expected S/N of at least {BRIGHT} thresholds",
    "left_out": f"stars that do not count: {', '.join(LEFT_OUT)}",
    "units": {variable.name: variable.unit for variable in VARIABLES},
}


def write_completeness(path: Path, out: Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Measure a store, or all stores of a folder, and write tables and figure.

    Parameters
    ----------
    path : Path
        A store or a folder of stores.
    out : Path
        Folder to make, with ``completeness.ecsv`` (fraction per bin), ``points.ecsv`` (50 % and 90 %
        points, counts), ``false_positives.ecsv`` and ``completeness.png``. It gets its name only when it is
        whole.
    overwrite : bool
        Replace a folder that this wrote.

    Returns
    -------
    dict
        JSON-ready: ``groups`` (rows of points.ecsv), ``false_positives``, ``warnings`` and more; None
        for what is not known.

    Raises
    ------
    InputError
        If there is no store or no star, or `out` exists and may not be replaced, or cannot be written.
    """
    with new_folder(out, overwrite=overwrite, proof=TABLES[0], command="rbsim completeness") as work:
        result = measure_completeness(find_stores(path))
        points = [_point_row(curve) for curve in result.curves]
        for name, rows in zip(TABLES, (result.fractions, points, result.false_positives), strict=True):
            _table(rows).write(work / name, format="ascii.ecsv")
        draw_completeness(result, work / "completeness.png")
    return {
        "out": str(out),
        "n_stores": result.n_stores,
        "interval": META["intervals"],
        "groups": [_json_row(row) for row in points],
        "false_positives": [_json_row(row) for row in result.false_positives],
        "warnings": result.warnings,
    }


def completeness_text(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """One line per group, for people; the pooled line is left out where there is one sensor."""
    rows = [row for row in facts["groups"] if row["place"] == "all"]
    sensors: dict[tuple[Any, ...], int] = {}
    for row in rows:
        if row["variable"] == "snr_expected" and row["sensor"] != ALL_SENSORS:
            sensors[_family(row)] = sensors.get(_family(row), 0) + 1
    lines = []
    for row in rows:
        pooled = row["sensor"] == ALL_SENSORS
        if row["variable"] != "snr_expected" or (pooled and sensors[_family(row)] == 1):
            continue
        mag = next(r for r in rows if r["variable"] == "mag" and _same_group(r, row))
        left_out = row["n_asked"] - row["n"]
        name = "all sensors" if pooled else f"sensor {row['sensor']}"
        text = f"50 % at S/N {_point_text(row, 50, 2)}, mag {_point_text(mag, 50, 2)}"
        text += f"; 90 % at S/N {_point_text(row, 90, 2)}"
        text += "" if row["asymptote"] is None else f"; asymptote {row['asymptote']:.3f}"
        text += f"; threshold {row['threshold_snr']:g}; {row['n']:,} stars, {left_out:,} left out"
        lines.append((f"{row['condition']}, {row['reference']}, {name}", text))
    return lines


def _family(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["condition"], row["reference"], row["threshold_snr"]


def _same_group(row: dict[str, Any], other: dict[str, Any]) -> bool:
    return (*_family(row), row["sensor"]) == (*_family(other), other["sensor"])


def _point_text(row: dict[str, Any], level: int, digits: int) -> str:
    value, low, high = (row[f"p{level}{end}"] for end in ("", "_low", "_high"))
    return "unknown" if value is None else f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _point_row(curve: Curve) -> dict[str, Any]:
    nan = math.nan
    fit = curve.efficiency
    points = fit.points if fit is not None else tuple(Point(level, nan, nan, nan) for level in (0.5, 0.9))
    row = vars(curve.group) | {"place": curve.place, "variable": curve.variable} | curve.counts
    row |= {
        name: nan if fit is None else getattr(fit, name)
        for name in ("midpoint", "width", "asymptote", "asymptote_low", "asymptote_high")
    }
    for point in points:
        name = f"p{point.level * 100:.0f}"
        row |= {name: point.value, f"{name}_low": point.low, f"{name}_high": point.high}
        row[f"{name}_bracketed"] = point.bracketed
    return row


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    short = [
        {key: float(f"{value:.7g}") if isinstance(value, float) else value for key, value in row.items()}
        for row in rows
    ]
    return Table(rows=short, names=list(rows[0]), meta={**META, "creator": f"rbsim {__version__}"})


def _json_row(row: dict[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }
