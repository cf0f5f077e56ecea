"""False positives per frame, by artefact class where the truth is known."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from astropy.stats import poisson_conf_interval

from rbsim import schema
from rbsim.store import Store
from rbsim.store_groups import Group, group_of

POISSON_INTERVAL = "frequentist-confidence"  # Garwood's, by its name in astropy.stats
UNTHINNED, ANY_CAUSE, UNKNOWN_CAUSE = "all_detections", "all_stamps", "unknown"


def measure_false_positives(stores: Sequence[Store]) -> list[dict[str, Any]]:
    """Detections without injection that are not real, per usable frame, by group and artefact class.

    The classes are those of stamps, of which none overlap: of detections that crowd (a satellite's
    streak, a bad column) some have no stamp. So there is a row for all stamps, and one for all
    detections before overlapping stamps were dropped. Intervals are those of Garwood (1936,
    Biometrika 28, 437) for the mean number per frame; artefacts come in clusters, so the scatter from
    frame to frame is given beside them.

    Parameters
    ----------
    stores : sequence of Store

    Returns
    -------
    list of dict
        Ordered by group and cause. `truth` says whether the emulator knows that they are bogus or
        whether this is assumed.
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
        n_frames = sum(len(n) for n in per_frame[group][UNTHINNED])
        for cause, parts in sorted(per_frame[group].items()):
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
    without = store.column("realisation") < 0
    bogus = without & (store.column("label_true") == schema.LABEL_BOGUS)
    frame, ok, sensors = store.column("frame"), store.column("frames/ok"), store.column("frames/sensor")
    emulated = (store.column("kind") == schema.KIND_CODES["artefact"]).any()
    causes = _causes(store)
    counts = {
        cause: np.bincount(frame[bogus & (causes == cause)], minlength=len(ok))
        for cause in np.unique(causes[bogus])
    }
    counts[ANY_CAUSE] = np.bincount(frame[bogus], minlength=len(ok))
    counts[UNTHINNED] = store.column("frames/n_bogus_detected") - np.bincount(
        frame[without & ~bogus], minlength=len(ok)
    )
    for sensor in np.unique(sensors[ok]):
        rows = ok & (sensors == sensor)
        yield (
            group_of(store, int(sensor)),
            "emulator" if emulated else "assumed",
            {cause: n[rows] for cause, n in counts.items()},
        )


def _causes(store: Store) -> np.ndarray:
    """Name of the artefact class of every stamp; «unknown» in stores without the column."""
    names = np.full(store.n_stamps, UNKNOWN_CAUSE, dtype=object)
    if "cause" in store.root:
        known: Any = store.attributes.get("causes") or store.root["cause"].attrs.get("names", {})
        codes = store.column("cause")
        for name, code in known.items():
            if code >= 0:
                names[codes == code] = name
    return names.astype(str)
