"""The files of an audit: pictures to look at, a table to fill in, the plan that turns verdicts into a rate.

Picture and table show neither label nor score: whoever knows them sees what they say.
"""

import csv
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from rbmodel.audit import MislabelRate, Strata, estimate_rate
from rbmodel.gallery import Choice, Pick, album
from rbsim import schema
from rbsim.errors import InputError
from rbsim.folder import new_folder
from rbsim.store import Store

PLAN, TABLE, PAGE = "plan.json", "verdicts.csv", "index.html"
PLAN_VERSION = 1
COLUMNS = ("number", "verdict", "remark")
VERDICTS = {"real": schema.LABEL_REAL, "bogus": schema.LABEL_BOGUS, "unclear": schema.LABEL_EXCLUDED}
LABEL_NAMES = {schema.LABEL_REAL: "real", schema.LABEL_BOGUS: "bogus"}


def write_audit(
    store: Store,
    out: Path,
    *,
    row: np.ndarray,
    label_given: np.ndarray,
    score: np.ndarray,
    strata: Strata,
    index: np.ndarray,
    facts: Mapping[str, Any],
    overwrite: bool = False,
) -> None:
    """Write ``index.html``, ``verdicts.csv`` and ``plan.json``, all or none.

    Parameters
    ----------
    store : Store
    out : Path
        Folder.
    row, label_given, score : ndarray, shape (n_population,)
        Of the population: rows of the store, labels, held-out scores.
    strata : Strata
        Of the population.
    index : ndarray, shape (n,)
        The sample, in the order of inspection.
    facts : mapping
        Where labels and scores come from, as JSON.
    overwrite : bool
        Replace an older audit that nobody has begun to fill in.

    Raises
    ------
    InputError
        If it cannot be written, or an older audit has verdicts.
    """
    if overwrite:
        _refuse_filled(out / TABLE)
    plan = {
        "version": PLAN_VERSION,
        **facts,
        "store": {"name": store.path.name, "manifest_sha256": store.manifest_sha256},
        "strata": [
            {
                "label_given": LABEL_NAMES[int(strata.label[k])],
                "n_population": int(strata.n_population[k]),
                "n_sample": int(np.sum(strata.of_stamp[index] == k)),
                "predicted": float(strata.predicted[k]),
            }
            for k in range(len(strata.label))
        ],
        "sample": [
            {
                "number": number,
                "row": int(row[i]),
                "stratum": int(strata.of_stamp[i]),
                "label_given": LABEL_NAMES[int(label_given[i])],
                "score": float(score[i]),
            }
            for number, i in enumerate(index, 1)
        ],
    }
    picks = tuple(Pick(int(row[i]), 0.0, "", "neutral") for i in index)
    pictures = album(store, [Choice("audit", picks, len(picks), of_test=False)])
    template = jinja2.Environment(
        loader=jinja2.PackageLoader("rbmodel"), autoescape=True, undefined=jinja2.StrictUndefined
    ).get_template("audit.html.j2")
    page = template.render(album=pictures, name=store.path.name, channels=schema.CHANNELS)
    with new_folder(out, overwrite=overwrite, proof=PLAN, command="rbsim audit") as work:
        (work / PAGE).write_text(page, encoding="utf-8")
        with (work / TABLE).open("w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *((n, "", "") for n in range(1, len(index) + 1))])
        (work / PLAN).write_text(json.dumps(plan, indent=1))


def read_audit(filled: Path, *, plan_path: Path | None = None) -> dict[str, Any]:
    """What the verdicts tell of the labels.

    Stamps without a verdict, and those called unclear, are left out of their strata as if never drawn. Two
    more figures say what the rate would be if all unclear labels were wrong, and if all were right.

    Parameters
    ----------
    filled : Path
        ``verdicts.csv``: column ``verdict`` is real, bogus, unclear, or empty.
    plan_path : Path, optional
        ``plan.json``; default: the one beside it.

    Returns
    -------
    dict
        ``all``, ``given_bogus`` and ``given_real``, each a `rbmodel.audit.MislabelRate` as a dict;
        ``value_if_unclear_wrong``, ``value_if_unclear_right``; ``n_unclear``, ``n_blank``; ``store``.

    Raises
    ------
    InputError
        If a file cannot be read, a verdict is none, or a stratum has none.
    """
    plan = _read_plan(plan_path or filled.with_name(PLAN))
    verdict = _read_verdicts(filled, len(plan["sample"]))  # (n,), NaN where there is none
    stratum = np.array([entry["stratum"] for entry in plan["sample"]])
    given = np.array([VERDICTS[entry["label_given"]] for entry in plan["sample"]])
    n_population = np.array([entry["n_population"] for entry in plan["strata"]])
    of_label = np.array([VERDICTS[entry["label_given"]] for entry in plan["strata"]])
    unclear = verdict == schema.LABEL_EXCLUDED
    clear = np.isfinite(verdict) & ~unclear
    wrong = clear & (verdict != given)

    def rate(inspected: np.ndarray, wrong: np.ndarray, part: np.ndarray) -> MislabelRate:
        counts = (np.bincount(stratum[chosen], minlength=len(part))[part] for chosen in (inspected, wrong))
        try:
            return estimate_rate(n_population[part], *counts)
        except InputError as error:
            raise InputError(f"{filled}: {error}") from error

    everything = np.ones(len(n_population), bool)
    parts = {"all": everything, "given_bogus": of_label == 0, "given_real": of_label == 1}
    return {
        **{name: asdict(rate(clear, wrong, part)) for name, part in parts.items()},
        "value_if_unclear_wrong": rate(clear | unclear, wrong | unclear, everything).value,
        "value_if_unclear_right": rate(clear | unclear, wrong, everything).value,
        "n_unclear": int(unclear.sum()),
        "n_blank": int(np.isnan(verdict).sum()),
        "store": plan["store"],
    }


def audit_text(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The same as lines of a summary."""
    lines = []
    for key, name in (("all", "wrong labels"), ("given_bogus", "given bogus"), ("given_real", "given real")):
        one = facts[key]
        rate = f"{100 * one['value']:.2f} % ({100 * one['low']:.2f} to {100 * one['high']:.2f})"
        seen = f"{one['n_wrong']} of {one['n_inspected']} inspected, for {one['n_population']:,} stamps"
        lines.append((name, f"{rate}: {seen}"))
    left = f"{facts['n_unclear']} unclear, {facts['n_blank']} without a verdict"
    if facts["n_unclear"]:
        low, high = (100 * facts[f"value_if_unclear_{name}"] for name in ("right", "wrong"))
        left += f"; {low:.2f} to {high:.2f} % if all unclear labels are right, or wrong"
    return [*lines, ("left out", left)]


def _refuse_filled(path: Path) -> None:
    """A person's work is not overwritten."""
    if not path.exists():
        return
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        n_filled = sum(1 for row in csv.DictReader(file) if (row.get("verdict") or "").strip())
    if n_filled:
        raise InputError(f"{path}: has {n_filled} verdicts, which are not replaced; give another --out")


def _read_plan(path: Path) -> dict[str, Any]:
    try:
        plan = json.loads(path.read_text())
        if plan["version"] != PLAN_VERSION:
            raise InputError(
                f"{path}: has version {plan['version']}, this rbsim reads {PLAN_VERSION}; audit again"
            )
        for entry in plan["sample"]:
            assert 0 <= entry["stratum"] < len(plan["strata"])
            assert entry["label_given"] in ("real", "bogus")
        return dict(plan)
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise InputError(
            f"{path}: is no readable plan of an audit ({error}); keep it beside the verdicts as it is"
        ) from error


def _read_verdicts(path: Path, n: int) -> np.ndarray:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets put a mark before the text
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a table ({error}); give verdicts.csv") from error
    if rows and not {"number", "verdict"} <= set(rows[0]):
        raise InputError(
            f"{path}: lacks the columns number and verdict; fill in the verdicts.csv of rbsim audit"
        )
    verdict = np.full(n, np.nan)
    seen: set[int] = set()
    for line, row in enumerate(rows, 2):
        text, word = str(row["number"]).strip(), str(row["verdict"] or "").strip().lower()
        number = int(text) if text.isdecimal() else 0
        if not 1 <= number <= n or number in seen:
            raise InputError(f"{path}: line {line} has number {text!r}; each from 1 to {n} is there once")
        seen.add(number)
        if word and word not in VERDICTS:
            raise InputError(
                f"{path}: line {line} has verdict {word!r}; allowed are {', '.join(VERDICTS)}, or nothing"
            )
        if word:
            verdict[number - 1] = VERDICTS[word]
    return verdict
