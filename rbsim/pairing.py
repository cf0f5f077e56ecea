"""What a paired store says about its references: which of them finds what, and the rows of every pair."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rbsim import schema
from rbsim.store import Store


def pair_rows(store: Store) -> np.ndarray:
    """Rows of the stamps of each place, one column per reference.

    Returns
    -------
    ndarray of int, shape (n, k)
        In the order of the column ``pair``; -1 where there is no stamp.
    """
    pair, reference = store.column("pair"), store.column("reference")
    rows = np.flatnonzero(pair != -1)
    names, place = np.unique(pair[rows], return_inverse=True)
    out = np.full((len(names), len(store.references)), -1)
    out[place, reference[rows]] = rows
    return out


def class_name(found_with: int, references: Sequence[str]) -> str:
    """Name of a value of the column ``found_with``: common, only NAME, NAME+NAME, none."""
    names = [name for code, name in enumerate(references) if found_with >> code & 1]
    if len(names) == len(references):
        return "common"
    return f"only {names[0]}" if len(names) == 1 else "+".join(names) or "none"


def describe_pairs(store: Store) -> dict[str, Any]:
    """Which reference of a paired store finds which of the stars and of the bogus; JSON-ready.

    Returns
    -------
    dict
        ``references``; ``stars_found``: stars that were drawn, by class (`class_name`); ``transients_found``
        the same of emulated transients that have stamps; ``bogus_found``: places of bogus with stamps, and
        ``bogus_found_per_frame`` the mean over the frames that worked; ``bogus_found_in_frames`` by frame;
        ``detections_per_frame``: all without injection, by reference and common to all;
        ``n_forced``: forced stamps by reference.
    """
    references = store.references
    n_references = len(references)
    ok = store.column("frames/ok")[::n_references]
    names = store.frame_names[::n_references]
    star = store.column("truth/injection_id") >= 0
    drawn = star & store.column("truth/injected")
    # Every reference has the same stars in the same order.
    code = store.column("truth/frame") % n_references
    detected = store.column("truth/detected")
    of_star = sum(
        detected[drawn & (code == reference)].astype(int) << reference for reference in range(n_references)
    )
    frame, found_with = store.column("frame") // n_references, store.column("found_with")
    kind, label = store.column("kind"), store.column("label_true")
    observed = store.column("pair") < -1
    bogus = _first_of_pair(store, observed & (label == schema.LABEL_BOGUS))
    transient = _first_of_pair(store, observed & (kind == schema.KIND_CODES["emulated_transient"]))
    n_worked = max(int(ok.sum()), 1)
    forced = store.column("reference")[kind == schema.KIND_CODES["forced"]]
    n_detected = store.column("frames/n_bogus_detected").reshape(-1, n_references)[ok]
    n_common = store.column("frames/n_common")[::n_references][ok]
    counts = _count(found_with[bogus], references)
    return {
        "references": list(references),
        "stars_found": _count(np.asarray(of_star), references),
        "transients_found": _count(found_with[transient], references),
        "bogus_found": counts,
        "bogus_found_per_frame": {name: round(n / n_worked, 3) for name, n in counts.items()},
        "bogus_found_in_frames": [
            {"frame": names[i], **_count(found_with[bogus][frame[bogus] == i], references)}
            for i in np.flatnonzero(ok)
        ],
        "detections_per_frame": {
            name: round(float(values.mean()), 3) if len(values) else 0.0
            for name, values in (*zip(references, n_detected.T, strict=True), ("common", n_common))
        },
        "n_forced": {name: int(np.count_nonzero(forced == code)) for code, name in enumerate(references)},
    }


def _first_of_pair(store: Store, rows: np.ndarray) -> np.ndarray:
    """Of some rows, a mask, one for each place."""
    chosen = np.flatnonzero(rows)
    return chosen[np.unique(store.column("pair")[chosen], return_index=True)[1]]


def _count(found_with: np.ndarray, references: Sequence[str]) -> dict[str, int]:
    """Numbers by class; all classes are named, also empty ones."""
    counts = np.bincount(found_with.astype(int), minlength=1 << len(references))
    order = sorted(range(len(counts)), key=lambda value: (-value.bit_count(), value))
    return {class_name(value, references): int(counts[value]) for value in order if value or counts[0]}


def pairs_text(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """The same as label and value lines for people."""

    def listed(counts: dict[str, Any], form: str) -> str:
        return ", ".join(f"{format(n, form)} {name}" for name, n in counts.items())

    transients = facts["transients_found"]
    lines = [
        ("paired references", ", ".join(facts["references"])),
        ("stars found", listed(facts["stars_found"], ",")),
        (
            "transients found",
            listed(transients, ",") if any(transients.values()) else "",
        ),
        ("bogus per frame", listed(facts["bogus_found_per_frame"], ".1f") + " (places with stamps)"),
        ("detections per frame", listed(facts["detections_per_frame"], ".1f") + " (without injection)"),
        ("forced stamps", listed(facts["n_forced"], ",")),
    ]
    return [(name, value) for name, value in lines if value]
