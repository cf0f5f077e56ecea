"""What is in a store, as numbers."""

from typing import Any

import numpy as np

from rbsim import schema
from rbsim.condition import AS_OBSERVED
from rbsim.label_sets import describe_settings, settings_text
from rbsim.one_reference import by_reference
from rbsim.pairing import describe_pairs, pairs_text
from rbsim.store import Store


def describe_store(store: Store) -> dict[str, Any]:
    """Counts and typical values of a store; JSON-ready.

    Parameters
    ----------
    store : Store

    Returns
    -------
    dict
        ``n_stamps, n_real, n_bogus, n_frames, n_frames_failed, n_groups, n_blocks, n_tiles`` and more;
        counts of real and bogus follow `label_true`, but lost stars are counted apart, as `n_lost` and by
        reason in `lost`. Medians are NaN-free or None. Of a paired store, stamps are those of all references,
        everything about frames and stars is as with the first, and ``pairing`` compares them
        (`rbsim.pairing.describe_pairs`).
    """
    facts = _describe(store, by_reference(store)[0])
    return facts | ({"pairing": describe_pairs(store)} if store.references else {})


def _describe(store: Store, one: Store) -> dict[str, Any]:
    """Stamps of a store; frames and stars, which are the same for all references, as one of them has it."""
    label = store.column("label_true")
    kind = store.column("kind")
    lost = kind == schema.KIND_CODES["injected_lost"]
    ok = one.column("frames/ok")
    config = store.attributes["config"]
    tiling = store.attributes["tiling"]
    injected = one.column("truth/injected")
    n_injected = int(injected.sum())
    star_kinds = _star_kinds(one)
    near = star_kinds.get("injected_near_galaxy", {"drawn": 0})["drawn"]
    n_fixed = near + star_kinds.get("injected_random", {"drawn": 0})["drawn"]
    return {
        "path": str(store.path),
        "format_version": store.attributes["version"],
        "n_stamps": store.n_stamps,
        "n_real": int(np.count_nonzero(label == schema.LABEL_REAL)),
        "n_bogus": int(np.count_nonzero((label == schema.LABEL_BOGUS) & ~lost)),
        "n_lost": int(np.count_nonzero(lost)),
        "lost": _lost(store.column("flags")[lost]),
        "n_excluded": int(np.count_nonzero(label == schema.LABEL_EXCLUDED)),
        "n_ambiguous": int(
            np.count_nonzero(store.column("flags") & np.uint32(schema.CANDIDATE_FLAG["AMBIGUOUS"]))
        ),
        "kinds": {
            k.name: int(np.count_nonzero(kind == k.code)) for k in schema.KINDS if (kind == k.code).any()
        },
        "bogus_truth": "emulator" if (kind == schema.KIND_CODES["artefact"]).any() else "assumed",
        "n_frames": len(ok),
        "n_frames_failed": int(np.count_nonzero(~ok)),
        "failed": {
            name: reason for name, reason in zip(one.frame_names, one.frame_reasons, strict=True) if reason
        },
        "n_groups": int(np.unique(store.column("group")).size),
        "n_blocks": int(np.unique(store.column("block")).size),
        "n_tiles": (len(tiling["x_edges_pix"]) - 1) * (len(tiling["y_edges_pix"]) - 1),
        "n_stars_asked": int(one.column("frames/n_asked").sum()),
        "n_injected": n_injected,
        "not_drawn": _not_drawn(one),
        "n_detected": int((injected & one.column("truth/detected")).sum()),
        "population": config["population"] if config["catalogue"] is None else None,
        "injected_kinds": star_kinds,
        "near_galaxy_asked": _near_galaxy_asked(config["kinds"]),
        "near_galaxy_placed": near / n_fixed if n_fixed else None,
        "n_bogus_detected": int(one.column("frames/n_bogus_detected").sum()),
        "n_negative": int(one.column("frames/n_negative").sum()),
        "n_known": int(one.column("frames/n_known").sum()),
        "false_per_frame": _false_per_frame(one, ok),
        "median_fwhm_pix": _median(one.column("frames/fwhm_pix")[ok]),
        "median_psf_fwhm_err_pix": _median(one.column("frames/psf_fwhm_err_pix")[ok]),
        "median_psf_ellipticity": _median(
            np.hypot(one.column("frames/psf_e1")[ok], one.column("frames/psf_e2")[ok])
        ),
        "median_psf_order": _median(one.column("frames/psf_order")[ok]),
        "n_psf_moffat": int(np.count_nonzero(one.column("frames/psf_is_moffat")[ok])),
        "median_gain_e_per_adu": _median(one.column("frames/gain_e_per_adu")[ok]),
        "gain_estimate": store.attributes["gain_estimate"],
        "median_noise_adu": _median(one.column("frames/noise_adu")[ok]),
        "median_registration_rms_pix": _median(one.column("frames/registration_rms_pix")[ok]),
        "median_snr_scale": _median(one.column("frames/snr_scale")[ok]),
        "zero_point_calibrated": bool(one.column("frames/zero_point_calibrated")[ok].all()),
        "reference": config["reference"],
        "condition": config["condition"],
        "condition_parameters": config.get("condition_parameters"),
        "threshold_snr": config.get("threshold_snr") or None,  # conversions once wrote 0
        "seed": config["seed"],
        "versions": store.attributes["versions"],
        "label_settings": describe_settings(store),
    }


def _star_kinds(store: Store) -> dict[str, dict[str, int]]:
    """Of each kind of injected star, how many were asked for, drawn and detected."""
    kind = store.column("truth/kind")
    columns = {
        "asked": store.column("truth/injection_id") >= 0,
        "drawn": store.column("truth/injected"),
        "detected": store.column("truth/injected") & store.column("truth/detected"),
    }
    return {
        k.name: {name: int(np.count_nonzero(rows & (kind == k.code))) for name, rows in columns.items()}
        for k in schema.KINDS
        if (columns["asked"] & (kind == k.code)).any()
    }


def _not_drawn(store: Store) -> dict[str, int]:
    """Why stars in the truth were not drawn: numbers by flag, of which a star may have several."""
    lost = (store.column("truth/injection_id") >= 0) & ~store.column("truth/injected")
    flag = store.column("truth/injection_flag")[lost]
    counts = {one.name: int(np.count_nonzero(flag & one.value)) for one in schema.INJECTION_FLAGS}
    return {name: count for name, count in counts.items() if count}


def _lost(flags: np.ndarray) -> dict[str, int]:
    """Stamps of lost stars by the reason."""
    counts = np.bincount(schema.lost_reason(flags), minlength=len(schema.LOST_REASONS))
    return dict(zip(schema.LOST_REASONS, counts.tolist(), strict=True))


def _near_galaxy_asked(kinds: dict[str, Any] | None) -> float | None:
    """Share of the new fixed stars wanted near galaxies; None without any."""
    if kinds is None:
        return None
    near, random = kinds["near_galaxy"]["share"], kinds["random"]["share"]
    return near / (near + random) if near + random else None


def _false_per_frame(store: Store, ok: np.ndarray) -> dict[str, float] | None:
    """Mean number of false positives per frame by cause; None where the truth is not known."""
    names = [*(artefact.name for artefact in schema.ARTEFACTS), "unexplained"]
    counts = {name: store.column(f"frames/n_false_{name}") for name in names}
    known = ok & (counts["unexplained"] >= 0)
    if not known.any():
        return None
    return {name: round(float(values[known].mean()), 3) for name, values in counts.items()}


def _median(values: np.ndarray) -> float | None:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else None


def _false_text(per_frame: dict[str, float] | None) -> str:
    if per_frame is None:
        return ""
    parts = [
        f"{mean:.1f} {name.replace('_', ' ')}"
        for name, mean in sorted(per_frame.items(), key=lambda item: -item[1])
        if mean
    ]
    return f"{sum(per_frame.values()):.1f}: {', '.join(parts)}" if parts else "none"


def _lost_text(facts: dict[str, Any]) -> str:
    names = {"mask": "on masks", "core": "in saturated cores", "noise": "below the noise"}
    parts = [f"{n:,} {names[reason]}" for reason, n in facts["lost"].items() if n]
    return f"{facts['n_lost']:,}: {', '.join(parts)}" if parts else ""


def _psf_text(facts: dict[str, Any]) -> str:
    """Medians over the frames, and how many of them had light for a Moffat profile only."""
    if facts["median_fwhm_pix"] is None:
        return ""
    error = facts["median_psf_fwhm_err_pix"]
    width = f"FWHM {facts['median_fwhm_pix']:.2f}{'' if error is None else f' +- {error:.2g}'} px"
    n_moffat = facts["n_psf_moffat"]
    shape, degree = facts["median_psf_ellipticity"], facts["median_psf_order"]
    ellipticity = "" if shape is None else f", ellipticity {shape:.3f}"  # converted stores have no PSF
    order = "" if shape is None or degree is None else f", order {degree:g}"
    return f"{width}{ellipticity}{order} (medians)" + (
        f"; a mere Moffat on {n_moffat} of the frames" if n_moffat else ""
    )


def _threshold_text(threshold_snr: float | None) -> str:
    return "not known" if threshold_snr is None else f"S/N {threshold_snr:g}"


def _condition_text(facts: dict[str, Any]) -> str:
    """Name of the condition, and those of its parameters that change a frame."""
    neutral = AS_OBSERVED.parameters()
    given = [f"{k} {v}" for k, v in (facts["condition_parameters"] or {}).items() if v != neutral.get(k)]
    return f"{facts['condition']} ({', '.join(given)})" if given else str(facts["condition"])


def describe_text(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """The same as label and value lines for people."""
    gain = facts["gain_estimate"]
    gain_text = (
        f"{facts['median_gain_e_per_adu']:.3g} e-/ADU" if facts["median_gain_e_per_adu"] else "unknown"
    )
    if gain is not None:
        gain_text = f"{gain[0]:.3g} +- {gain[1]:.2g} e-/ADU, estimated from the frames"
    near = ""
    if facts["near_galaxy_asked"] is not None and facts["near_galaxy_placed"] is not None:
        near = f"{facts['near_galaxy_placed']:.0%} placed of {facts['near_galaxy_asked']:.0%} asked"
    of_kind = [
        f"{name.removeprefix('injected_').replace('_', ' ')} {n['drawn']:,} of {n['asked']:,}"
        f" ({n['detected']:,} detected)"
        for name, n in facts["injected_kinds"].items()
    ]
    # Glints are injected: they do not come from detections without injection.
    n_observed = facts["n_bogus"] - facts["kinds"].get("injected_glint", 0)
    drawn = (
        f"{facts['n_injected']:,} drawn of {facts['n_stars_asked']:,} asked, {facts['n_detected']:,} detected"
    )
    bogus = (
        "cause known from the emulator" if facts["bogus_truth"] == "emulator" else "assumed: not inspected"
    )
    if "pairing" in facts:  # what is not said of each is said of the first
        drawn += f" with {facts['pairing']['references'][0]}"
    lines = [
        ("stamps", f"{facts['n_stamps']:,}  ({facts['n_real']:,} real, {facts['n_bogus']:,} bogus)"),
        ("bogus labels", bogus),
        ("frames", f"{facts['n_frames']} ({facts['n_frames_failed']} failed)"),
        (
            "groups",
            f"{facts['n_groups']} ({facts['n_blocks']} exposure blocks x {facts['n_tiles']} sky tiles)",
        ),
        ("injected stars", drawn),
        ("stamps of lost stars", _lost_text(facts)),
        ("population", facts["population"] or ""),
        ("kinds drawn of asked", "; ".join(of_kind)),
        ("not drawn", ", ".join(f"{n:,} {name}" for name, n in facts["not_drawn"].items())),
        ("near galaxies", near),
        (
            "detections without injection",
            f"{facts['n_bogus_detected']:,}, of which {n_observed:,} with stamps that do not overlap"
            if "pairing" not in facts
            else "",
        ),
        ("false positives per frame", _false_text(facts["false_per_frame"])),
        ("at known objects", f"{facts['n_known']:,}" if facts["n_known"] else ""),
        ("detection threshold", _threshold_text(facts["threshold_snr"])),
        ("negative detections", f"{facts['n_negative']:,}"),
        ("gain", gain_text),
        ("PSF", _psf_text(facts)),
        ("reference", str(facts["reference"])),
        *(pairs_text(facts["pairing"]) if "pairing" in facts else []),
        ("condition", _condition_text(facts)),
        ("seed", str(facts["seed"])),
        *settings_text(facts["label_settings"]),
    ]
    return [(name, value) for name, value in lines if value]
