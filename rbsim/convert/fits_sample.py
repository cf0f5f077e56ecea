"""A sample of a store as one FITS file: a cube of stamps per channel, and the candidates as a table."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from rbsim import __version__, schema
from rbsim.errors import InputError
from rbsim.locations import written_whole
from rbsim.seeding import stream
from rbsim.store import Store
from rbsim.truth_schema import ArraySpec

MAX_STAMPS = 10_000
LABELS = {"real": schema.LABEL_REAL, "bogus": schema.LABEL_BOGUS, "excluded": schema.LABEL_EXCLUDED}


WHEN = "by rbsim"
"""In the comments of DATASUM and CHECKSUM in place of the time: the same sample has the same bytes."""


@dataclass(frozen=True)
class FitsSample:
    """What was written: rows of the store that were chosen, and how many there were to choose from."""

    n_stamps: int
    n_eligible: int


def choose_rows(
    store: Store, *, kind: str | None, label: str | None, max_stamps: int, rng: np.random.Generator
) -> tuple[np.ndarray, int]:
    """Rising rows of a random sample, and the number of rows that it was drawn from.

    Raises
    ------
    InputError
        If kind or label is not known or no stamp has it.
    """
    eligible = np.ones(store.n_stamps, bool)
    if kind is not None:
        if kind not in schema.KIND_CODES:
            raise InputError(f"kind is {kind!r}; choose one of {', '.join(schema.KIND_CODES)}")
        eligible &= store.column("kind") == schema.KIND_CODES[kind]
    if label is not None:
        if label not in LABELS:
            raise InputError(f"label is {label!r}; choose one of {', '.join(LABELS)}")
        eligible &= store.column("label_given") == LABELS[label]
    if max_stamps < 1:
        raise InputError(f"max-stamps is {max_stamps}; it must be at least 1")
    rows = np.flatnonzero(eligible)
    if not rows.size:
        raise InputError(f"{store.path}: no stamp has kind {kind or 'any'} and given label {label or 'any'}")
    return np.sort(rng.permutation(rows)[:max_stamps]), len(rows)


def export_fits(
    store: Store,
    out: Path,
    *,
    max_stamps: int = MAX_STAMPS,
    kind: str | None = None,
    label: str | None = None,
    seed: int = 1,
    overwrite: bool = False,
) -> FitsSample:
    """Write a sample: HDUs REFERENCE, SCIENCE, DIFFERENCE (n, 29, 29), CANDIDATES, FRAMES.

    Parameters
    ----------
    store : Store
    out : Path
        FITS file.
    max_stamps : int
        A random sample of so many of the stamps that `kind` and `label` leave; all in memory at once.
    kind : str, optional
        Of `schema.KINDS`.
    label : str, optional
        Given label: real, bogus, excluded.
    seed : int
        Of the sample.
    overwrite : bool
        Replace an older file.

    Raises
    ------
    InputError
    """
    if out.exists() and not overwrite:
        raise InputError(f"{out}: exists already; give --overwrite to replace it, or another --out")
    rows, n_eligible = choose_rows(
        store, kind=kind, label=label, max_stamps=max_stamps, rng=stream(seed, "thin")
    )
    stamps = store.read_stamps(rows)
    frames = np.arange(len(store.frame_names))
    hdus = fits.HDUList([_primary(store, kind=kind, label=label, seed=seed, n_eligible=n_eligible)])
    for number, channel in enumerate(schema.CHANNELS):
        hdu = fits.ImageHDU(np.ascontiguousarray(stamps[:, number]), name=channel.upper())
        hdu.header["BUNIT"] = ("adu", "background-subtracted; NaN without pixel")
        hdus.append(hdu)
    row = ArraySpec("row", "int64", "", "row in the store")
    candidates: list[tuple[ArraySpec, np.ndarray]] = [(row, rows)]
    candidates += [(spec, store.column(spec.name)[rows]) for spec in schema.CANDIDATE_COLUMNS]
    hdus.append(_table(candidates, "CANDIDATES"))
    names = [_ascii(name) for name in store.frame_names]
    reasons = [_ascii(reason) for reason in store.frame_reasons]
    text = [
        (ArraySpec("row", "int64", "", "row of the frame: column frame of CANDIDATES"), frames),
        (
            ArraySpec("name", "str", "", "name of the frame"),
            np.array(names or [""], dtype=str)[: len(frames)],
        ),
        (
            ArraySpec("reason", "str", "", "why it failed"),
            np.array(reasons or [""], dtype=str)[: len(frames)],
        ),
    ]
    hdus.append(
        _table([*text, *((s, store.column(f"frames/{s.name}")) for s in schema.FRAME_COLUMNS)], "FRAMES")
    )
    for hdu in hdus:
        hdu.add_checksum(when=WHEN)
    with written_whole(out) as temporary, temporary.open("wb") as file:
        hdus.writeto(file)
    return FitsSample(len(rows), n_eligible)


def _primary(store: Store, *, kind: str | None, label: str | None, seed: int, n_eligible: int) -> Any:
    """Provenance."""
    header = fits.Header()
    header["ORIGIN"] = (f"rbsim {__version__}", "rbsim convert --to fits")
    header["STORE"] = (_ascii(store.path.name)[:60], "store that this is a sample of")
    header["FORMAT"] = (store.attributes["version"], "version of the store's format")
    header["NSTORE"] = (store.n_stamps, "stamps in the store")
    header["NCHOICE"] = (n_eligible, "of these with the kind and label asked for")
    header["KIND"] = (kind or "any", "kind asked for")
    header["LABEL"] = (label or "any", "given label asked for")
    header["SEED"] = (seed, "of the random sample")
    for name, number in store.attributes["kinds"].items():
        header.add_comment(f"kind {number}: {_ascii(str(name))}")
    for flag in schema.CANDIDATE_FLAGS:
        header.add_comment(f"flags bit {flag.bit}: {flag.name}")
    header.add_comment("label_true is for evaluation only; a detection is only assumed to be bogus")
    return fits.PrimaryHDU(header=header)


def _table(columns: list[tuple[ArraySpec, np.ndarray]], name: str) -> Any:
    """A binary table with units and descriptions (TUNITn, TCOMMn)."""
    made = []
    for spec, values in columns:
        unit = spec.unit.replace("ADU", "adu").replace("pixel2", "pixel**2")
        if "electron" in unit:
            unit = ""  # FITS knows no electrons: the comment has it
        made.append(
            fits.Column(spec.name, _format(values), unit=unit or None, array=values, bzero=_zero(values))
        )
    table = fits.BinTableHDU.from_columns(made, name=name)
    for number, (spec, _) in enumerate(columns, start=1):
        text = f"[{spec.unit}] {spec.description}" if spec.unit else spec.description
        table.header[f"TCOMM{number}"] = _ascii(text)
    return table


def _format(values: np.ndarray) -> str:
    if values.dtype.kind == "U":
        return f"{max(1, values.dtype.itemsize // 4)}A"
    return {
        "b1": "L",
        "u1": "B",
        "i1": "I",
        "i2": "I",
        "i4": "J",
        "u4": "J",
        "i8": "K",
        "f4": "E",
        "f8": "D",
    }[values.dtype.str[1:]]


def _zero(values: np.ndarray) -> int | None:
    """FITS has no unsigned words: they are kept with an offset."""
    return 2**31 if values.dtype == np.uint32 else None


def _ascii(text: str) -> str:
    """Text as FITS allows it."""
    return "".join(c if 32 <= ord(c) < 127 else "?" for c in text)
