"""Stores whose detection efficiency, causes and counts are known, without any image."""

from pathlib import Path

import numpy as np
from scipy.special import ndtr

from rbsim import build, schema
from rbsim.pack import finalise

CONFIG = {"condition": "clear", "reference_name": "stack", "threshold_snr": 5.0}
ZERO_POINT_MAG = 25.0


def truth_of(
    n,
    *,
    rng,
    midpoint=5.0,
    width=1.0,
    asymptote=1.0,
    snr_range=(2.5, 20.0),
    ambiguous=0.0,
    saturated=0.0,
    masked=0.0,
):
    """Truth columns of n stars, half of them near hosts, found with the efficiency that is asked for."""
    low, high = np.log(snr_range)
    snr = np.exp(rng.uniform(low, high, n))
    near = rng.random(n) < 0.5
    kind = np.where(near, schema.KIND_CODES["injected_near_galaxy"], schema.KIND_CODES["injected_random"])
    on_mask, lifted, unclear = (rng.random(n) < share for share in (masked, saturated, ambiguous))
    flux = 20 * snr
    given = {
        "injection_id": np.arange(n) + rng.integers(1 << 40),
        "kind": kind,
        "flux_adu": flux,
        "mag": ZERO_POINT_MAG - 2.5 * np.log10(flux),
        "snr": snr,
        "snr_expected": snr,
        "host_offset_pix": np.where(near, rng.uniform(0, 8, n), np.nan),
        "host_radius_pix": np.where(near, 2.0, np.nan),
        "host_sb_mag_per_pix2": np.where(near, rng.uniform(19, 24, n), np.nan),
        "injection_flag": np.where(on_mask, schema.INJECTION_FLAG["ON_MASK"], 0)
        | np.where(lifted, schema.INJECTION_FLAG["SATURATED"], 0),
        "injected": ~on_mask,
        "detected": (rng.random(n) < asymptote * ndtr((snr - midpoint) / width)) & ~on_mask,
        "ambiguous": unclear & ~on_mask,
        "stamp": np.full(n, -1),
    }
    return {s.name: given.get(s.name, np.zeros(n)) for s in schema.TRUTH_COLUMNS if s.name != "frame"}


def joined(*truths):
    """Stars of several calls in one frame."""
    return {name: np.concatenate([truth[name] for truth in truths]) for name in truths[0]}


def write_store(path: Path, frames, *, config=CONFIG, pixel_scale_arcsec=1.2):
    """A store of frames, each a dict: truth; sensor, n_bogus (stamps), n_detections, kind of its bogus."""
    build.init(
        path, config=dict(config), inputs=[str(i) for i in range(len(frames))], overwrite=path.exists()
    )
    for index, frame in enumerate(frames):
        n = frame.get("n_bogus", 3)
        kind = schema.KIND_CODES[frame.get("kind", "artefact")]
        given = {
            "realisation": np.full(n, -1),
            "injection_id": np.full(n, -1),
            "kind": np.full(n, kind),
            "label_true": np.full(n, schema.label_of_kind(kind)[0]),
        }
        candidates = {
            s.name: given.get(s.name, np.zeros(n)) for s in schema.CANDIDATE_COLUMNS if s.name != "frame"
        }
        row = dict.fromkeys((s.name for s in schema.FRAME_COLUMNS), 0) | {
            "sensor": frame.get("sensor", 1),
            "ok": True,
            "pixel_scale_arcsec": pixel_scale_arcsec,
            "n_bogus_detected": frame.get("n_detections", n),
        }
        for spec in schema.FRAME_COLUMNS:
            if spec.name.startswith("n_false_"):
                row[spec.name] = frame.get(spec.name, -1)
        stamps = np.zeros((n, len(schema.CHANNELS), schema.STAMP_SIZE_PIX, schema.STAMP_SIZE_PIX), np.float32)
        build.write_partition(
            path, index, build.Partition(f"f{index}.fits", "", row, stamps, candidates, frame["truth"])
        )
    return finalise(path, overwrite=True)
