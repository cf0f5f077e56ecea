"""Rows of a store about which little is known: what a format does not say is NaN, -1 or 0."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np

from rbsim import __version__, schema
from rbsim.partition import Columns, Partition, no_rows, no_stamps

TILE_PIX = 1000.0
HALF_STAMP_PIX = schema.STAMP_SIZE_PIX / 2

_MINUS_ONE = ("realisation", "injection_id", "known_row", "cause", "block", "tile", "group", "pair")


def blank_candidates(n: int) -> Columns:
    """Candidates without any measurement: floats NaN, numbers of other tables -1, everything else 0."""
    columns: Columns = {}
    for spec in schema.CANDIDATE_COLUMNS:
        if spec.name == "frame":
            continue
        is_float = np.dtype(spec.dtype).kind == "f"
        value = np.nan if is_float else -1 if spec.name in _MINUS_ONE else 0
        columns[spec.name] = np.full(n, value, spec.dtype)
    columns["is_positive"][:] = True
    columns["found_with"][:] = 1
    return columns


def blank_frame(**known: Any) -> dict[str, Any]:
    """A frame of which only `known` is known; its false positives are not counted (-1)."""
    frame: dict[str, Any] = {}
    for spec in schema.FRAME_COLUMNS:
        is_float = np.dtype(spec.dtype).kind == "f"
        frame[spec.name] = np.nan if is_float else -1 if spec.name.startswith(("n_false_", "n_common")) else 0
    return frame | {"ok": True} | known


def no_truth() -> Columns:
    """A truth table without rows."""
    return no_rows("truth")


def failed_partition(name: str, reason: str) -> Partition:
    """A frame that failed: a row with its reason and no stamps."""
    return Partition(name, reason, blank_frame(ok=False), no_stamps(), blank_candidates(0), no_truth())


def set_labels(columns: Columns, kind: np.ndarray) -> None:
    """Kind, true label and its source by the table of the schema; given is what is true."""
    table = np.array([schema.label_of_kind(k.code) for k in schema.KINDS], np.int8)  # (kind, 2)
    columns["kind"] = kind.astype(np.int8)
    columns["label_true"], columns["label_true_source"] = table[kind, 0], table[kind, 1]
    columns["label_given"] = columns["label_true"].copy()


def measure_stamps(stamps: np.ndarray) -> Columns:
    """What pixels alone tell.

    Parameters
    ----------
    stamps : ndarray, shape (n, 3, 29, 29), float32
        NaN where there is no pixel.

    Returns
    -------
    dict of str to ndarray, shape (n,)
        ``noise_adu``: 1.4826 times the median absolute deviation of the difference outside the central
        15 x 15 px, in ADU, NaN without such pixels or if they are constant; ``n_bad``; ``flags``:
        MASK_SCIENCE and MASK_REFERENCE.
    """
    n = len(stamps)
    science, reference, difference = (
        stamps[:, schema.CHANNELS.index(name)] for name in ("science", "reference", "difference")
    )
    border = np.ones((schema.STAMP_SIZE_PIX,) * 2, bool)
    border[7:-7, 7:-7] = False
    noise = np.full(n, np.nan)
    around = np.where(np.isfinite(difference[:, border]), difference[:, border], np.nan)
    usable = np.isfinite(around).any(axis=1)
    if usable.any():
        some = around[usable]
        deviation = np.abs(some - np.nanmedian(some, axis=1, keepdims=True))
        width = 1.4826 * np.nanmedian(deviation, axis=1)
        noise[usable] = np.where(width > 0, width, np.nan)
    flags = np.zeros(n, np.uint32)
    for image, name in ((science, "MASK_SCIENCE"), (reference, "MASK_REFERENCE")):
        flags[~np.isfinite(image).all(axis=(1, 2))] |= np.uint32(schema.CANDIDATE_FLAG[name])
    middle = slice(schema.STAMP_HALF_PIX - 2, schema.STAMP_HALF_PIX + 3)
    bad = ~np.isfinite(stamps[:, :, middle, middle]).all(axis=1)
    return {"noise_adu": noise, "flags": flags, "n_bad": bad.sum(axis=(1, 2)).astype(np.int16)}


def store_config(source_format: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a converted store, with the entries that readers of any store expect."""
    return {
        "condition": "as observed",
        "condition_parameters": None,
        "reference_name": source_format,
        "reference": f"of the {source_format}",
        "threshold_snr": None,  # not known
        "population": "",
        "catalogue": None,
        "kinds": None,
        "seed": "none: nothing is random",
        "converted_from": source_format,
        **settings,
    }


def store_summary(tiling: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Root attributes of a converted store."""
    versions = {"rbsim": __version__} | {name: version(name) for name in ("numpy", "astropy", "zarr")}
    return {"tiling": dict(tiling), "gain_estimate": None, "versions": versions, **more}
