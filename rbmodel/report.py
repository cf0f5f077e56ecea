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
from rbmodel.figures import Series
from rbmodel.results import read_rows
from rbmodel.sheet import COLOURS, Block, Sheet
from rbmodel.triplets import draw_triplets
from rbmodel.verdict import (
    LEAD,
    METHOD_LABELS,
    ORACLE,
    Row,
    Rung,
    Verdict,
    bound_text,
    finished,
    headline,
    ladder,
    percent,
    rate,
    series_key,
    significant,
    verdicts,
)
from rbsim import schema
from rbsim.errors import InputError
from rbsim.store import open_store

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
METHOD_ORDER = ("baseline", "ce_auc", "removed", "unlabelled")
PICTURES_PER_GALLERY = 24
PICTURES_MAX = 1500
"""Pictures on the page; at about 2.5 kB each they keep it below 10 MB."""


@dataclass(frozen=True)
class Setting:
    """Everything that the page shows of one label noise, condition and reference."""

    title: str
    rows: tuple[Row, ...]
    series: tuple[Series, ...]
    verdicts: tuple[Verdict, ...]
    bound: str
    ladder: tuple[Rung, ...]
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
        groups.setdefault(_setting_key(row), []).append(row)
    groups = {_with_mean_contamination(key, group): group for key, group in groups.items()}
    looks, title_of = _looks(rows), _titles(list(groups))
    n_galleries = sum(1 + 2 * len({series_key(row) for row in group}) for group in groups.values())
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
        headline=headline([verdict for setting in settings for verdict in setting.verdicts]),
        settings=settings,
        overview=_overview(settings, Sheet(out / "figures", "")),
        album=album,
        triplets=draw_triplets(store, out / "figures" / "triplets.png"),
        card_lists=iter(album.galleries),
        rows=rows,
        colours=COLOURS,
        kinds=schema.KINDS,
        study=study.read_text() if study.exists() else "",
    )
    path = out / "index.html"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(path)
    return path


def _setting_key(row: Row) -> tuple[Any, ...]:
    """What runs of one setting share. Of a label setting every seed draws another part, so not the rates."""
    drawn = ("mislabel_bogus", "mislabel_real") if "/" in str(row["label_noise"]) else ()
    return tuple(None if name in drawn else row[name] for name in SETTING_FIELDS)


def _with_mean_contamination(key: tuple[Any, ...], rows: Sequence[Row]) -> tuple[Any, ...]:
    """The key with the mean rates of the rows in the place of rates that differ."""
    drawn = {"mislabel_bogus", "mislabel_real"}
    return tuple(
        float(np.mean([row[name] for row in rows])) if value is None and name in drawn else value
        for name, value in zip(SETTING_FIELDS, key, strict=True)
    )


def cell(rows: Iterable[Row], field: str, style: str) -> dict[str, Any]:
    """Average a field over runs: mean as number and text, deviation as text; `style` percent or a format."""
    known = [row[field] for row in rows if row.get(field) is not None]
    if not known:
        return {"value": None, "text": "\N{EN DASH}", "spread": ""}
    mean, deviation = float(np.mean(known)), float(np.std(known, ddof=1)) if len(known) > 1 else 0.0
    text, spread = (percent(v, 3) if style == "percent" else f"{v:,{style}}" for v in (mean, deviation))
    return {"value": mean, "text": text, "spread": f"± {spread}" if deviation else ""}


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
    unknown = [name for name in rivals if name not in figures.METHOD_COLOURS]
    colours = figures.METHOD_COLOURS | dict(zip(unknown, cycle(figures.SPARE_COLOURS), strict=False))
    looks = {}
    for method in (*METHOD_ORDER, *rivals, ORACLE):
        styles = figures.BOUND_STYLES if method == ORACLE else figures.SOLID_STYLES
        if method in figures.SHARED_COLOUR:
            styles = styles[::-1]
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
        runs = finished(row for row in rows if series_key(row) == key)
        arrays = tuple(_load_arrays(out, row) for row in runs)
        for one in arrays:
            if max(one["test_row"].max(), one.get("train_row", one["test_row"]).max()) >= n_stamps:
                raise InputError(f"{out}: belongs to a store of more than {n_stamps} stamps; give that store")
        if runs:
            series.append(replace(look, rows=tuple(runs), arrays=arrays))
    return series


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
        if any("train_label_true" in one for one in staged[0].arrays):
            blocks.append(figures.cleaning_curve(staged[0], sheet))
        arrays = next(arrays for arrays in staged[0].arrays if "train_oof_score" in arrays)
        choice = gallery.suspicious(arrays, label_true_source=label_true_source, n_max=n_max)
        galleries.append((staged[0].label, choice))
    for one in series:
        probability = one.rows[0]["threshold"]
        threshold = math.log(probability / (1 - probability))
        pair = gallery.misclassified(one.arrays[0], threshold=threshold, n_max=n_max)
        galleries += [(one.label, choice) for choice in pair]
    labels = {key: look.label for key, look in looks.items()}
    return Setting(
        title=title,
        rows=tuple(rows),
        series=tuple(replace(one, arrays=()) for one in series),
        verdicts=verdicts(rows, labels),
        bound=bound_text(rows),
        ladder=ladder(rows, labels),
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
