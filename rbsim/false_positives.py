"""False positives per frame, by artefact class where the truth is known."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from astropy.stats import poisson_conf_interval

from rbsim import schema
from rbsim.store import Store
from rbsim.store_groups import Group, group_of

POISSON_INTERVAL = "frequentist-confidence"  # Garwood's, by its name in astropy.stats
ALL_CAUSES, UNKNOWN_CAUSE = "all", "unknown"
BY_CLASS = "n_false_"
"""How the columns of the frames group begin that count false positives by artefact class."""


def measure_false_positives(stores: Sequence[Store]) -> list[dict[str, Any]]:
    """Detections without injection that are not real, per usable frame, by group and artefact class.

    All positive detections without injection count, also those whose stamps overlap and are not
    stored, but not emulated transients and known objects. Intervals are those of Garwood (1936,
    Biometrika 28, 437) for the mean number per frame; artefacts come in clusters (a streak is many
    detections), so the scatter from frame to frame stands beside them.

    Parameters
    ----------
    stores : sequence of Store

    Returns
    -------
    list of dict
        Ordered by group and cause: artefact classes, ``unknown``, ``all``. `truth` says whether the
        emulator knows that they are bogus or whether this is assumed.
    """
    per_frame: dict[Group, dict[str, list[np.ndarray]]] = {}
    truth: dict[Group, set[str]] = {}
    for store in stores:
        for group, source, counts in _bogus_of(store):
            for key in (group, group.pooled):
                truth.setdefault(key, set()).add(source)
                for cause, n in counts.items():
                    per_frame.setdefault(key, {}).setdefault(cause, []).append(n)
    rows = []
    for group in sorted(per_frame):
        n_frames = sum(len(n) for n in per_frame[group][ALL_CAUSES])
        for cause, parts in sorted(
            per_frame[group].items(), key=lambda item: (item[0] == ALL_CAUSES, item[0])
        ):
            n = np.concatenate(parts)
            # A cause that another store of the group does not know counts as zero there.
            n = np.append(n, np.zeros(n_frames - len(n)))
            low, high = poisson_conf_interval(n.sum(), interval=POISSON_INTERVAL, sigma=1.959964) / n_frames
            low68, high68 = poisson_conf_interval(n.sum(), interval=POISSON_INTERVAL, sigma=1.0) / n_frames
            rows.append(
                vars(group)
                | {
                    "cause": cause,
                    "truth": "+".join(sorted(truth[group])),
                    "n_frames": n_frames,
                    "n": int(n.sum()),
                    "per_frame": float(n.mean()),
                    "per_frame_low": float(low),
                    "per_frame_high": float(high),
                    "per_frame_low_68": float(low68),
                    "per_frame_high_68": float(high68),
                    "frame_scatter": float(n.std(ddof=1)) if n_frames > 1 else float("nan"),
                }
            )
    return rows


def _bogus_of(store: Store) -> Iterator[tuple[Group, str, dict[str, np.ndarray]]]:
    """Of each sensor of a store: source of the truth, and counts per usable frame of each cause."""
    ok, sensors = store.column("frames/ok"), store.column("frames/sensor")
    kind, frame = store.column("kind"), store.column("frame")
    by_class = {
        spec.name.removeprefix(BY_CLASS): store.column(f"frames/{spec.name}")
        for spec in schema.FRAME_COLUMNS
        if spec.name.startswith(BY_CLASS)
    }
    # Transients have their stamps before all others, so every one that was detected has one.
    transient = kind == schema.KIND_CODES["emulated_transient"]
    n = store.column("frames/n_bogus_detected") - np.bincount(frame[transient], minlength=len(ok))
    if any(spec.name == "n_known" for spec in schema.FRAME_COLUMNS):
        n = n - store.column("frames/n_known")
    known = np.zeros(len(ok), bool)
    if by_class:
        known = np.min(list(by_class.values()), axis=0) >= 0
        n = np.where(known, np.sum(list(by_class.values()), axis=0), n)
    counts = {ALL_CAUSES: n, **{cause: np.where(known, some, 0) for cause, some in by_class.items()}}
    if not known[ok].all():
        counts[UNKNOWN_CAUSE] = np.where(known, 0, n)
    emulated = known[ok].all() or (kind == schema.KIND_CODES["artefact"]).any()
    for sensor in np.unique(sensors[ok]):
        rows = ok & (sensors == sensor)
        yield (
            group_of(store, int(sensor)),
            "emulator" if emulated else "assumed",
            {
                cause: some[rows]
                for cause, some in counts.items()
                if cause != UNKNOWN_CAUSE or some[rows].any()
            },
        )
