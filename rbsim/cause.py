"""Which artefact of the emulator caused a detection."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from astropy.table import Table

from rbsim.errors import InputError
from rbsim.register import Transform
from rbsim.schema import ARTEFACTS, NO_CAUSE

Rows = TypeVar("Rows")
COLUMNS = ("frame", "class", "x_pix", "y_pix", "strength")
CHUNK = 1024
"""Detections compared with all artefacts at a time."""


@dataclass(frozen=True, eq=False)
class TrueArtefacts:
    """Instances of artefacts in one frame; arrays of shape (n,).

    Attributes
    ----------
    code : of schema.ARTEFACTS.
    x_pix, y_pix : 0-based; the middle of a line or area.
    strength : in the unit of the class.
    length_pix, angle_deg : of lines, the angle from +x towards +y; the diameter of some areas; else NaN.
    """

    code: np.ndarray
    x_pix: np.ndarray
    y_pix: np.ndarray
    strength: np.ndarray
    length_pix: np.ndarray
    angle_deg: np.ndarray


def find_artefacts(truth_path: Path | None) -> tuple[Path | None, dict[str, TrueArtefacts] | None]:
    """The table of artefacts that `rbsim emulate` puts beside its truth, and its rows; None without one."""
    path = None if truth_path is None else truth_path.with_name("artefacts.ecsv")
    if path is None or not path.exists():
        return None, None
    return path, read_artefacts(path)


def read_artefacts(path: Path) -> dict[str, TrueArtefacts]:
    """Artefacts of every frame of an emulated night, by the name of the frame.

    Raises
    ------
    InputError
        If the table cannot be read, lacks columns or has a class that is not known.
    """
    try:
        table = Table.read(path)
        names, classes, *numbers = (np.asarray(table[name]) for name in COLUMNS)
        x, y, strength = (values.astype(float) for values in numbers)
    except Exception as error:
        raise InputError(
            f"{path}: is not an artefact table of rbsim emulate (columns {', '.join(COLUMNS)})"
        ) from error
    nan = np.full(len(table), np.nan)
    length, angle = (
        np.asarray(table[name], float) if name in table.colnames else nan
        for name in ("length_pix", "angle_deg")
    )
    codes = {artefact.name: artefact.code for artefact in ARTEFACTS}
    unknown = sorted(set(classes.astype(str)) - set(codes))
    if unknown:
        raise InputError(f"{path}: unknown classes {', '.join(unknown)}; known are {', '.join(codes)}")
    code = np.array([codes[str(name)] for name in classes], int)
    names = names.astype(str)
    return {
        str(name): TrueArtefacts(*(values[names == name] for values in (code, x, y, strength, length, angle)))
        for name in np.unique(names)
    }


def rows_of(rows: Mapping[str, Rows], name: str, default: Rows | None = None) -> Rows | None:
    """What a table of the truth says of a frame, by the name of its file; else the default.

    An emulated Tomo-e night has tables for its stacks. They are those of the cubes (``rTMQ...``) and of
    compressed files, too.
    """
    if name in rows:
        return rows[name]
    stack = re.sub(r"^r(?=TMQ\d)", "s", name.removesuffix(".gz").removesuffix(".fz"))
    return rows.get(stack, default)


def onto_frame(artefacts: TrueArtefacts, transform: Transform) -> TrueArtefacts:
    """Artefacts of the reference on the pixels of a science frame.

    Parameters
    ----------
    artefacts : TrueArtefacts
        In pixels of the reference.
    transform : Transform
        From the science frame to the reference.
    """
    x, y = transform.invert(artefacts.x_pix, artefacts.y_pix)
    return replace(artefacts, x_pix=x, y_pix=y)


def causes_of(
    x_pix: np.ndarray,
    y_pix: np.ndarray,
    is_positive: np.ndarray,
    artefacts: TrueArtefacts,
    *,
    fwhm_pix: float,
    snr: np.ndarray | None = None,
) -> np.ndarray:
    """Code of the artefact that caused each detection, or `NO_CAUSE`; arguments as of `find_instances`.

    Returns
    -------
    ndarray of int8, shape (n,)
    """
    row = find_instances(x_pix, y_pix, is_positive, artefacts, fwhm_pix=fwhm_pix, snr=snr)
    cause = np.full(len(row), NO_CAUSE, np.int8)
    cause[row >= 0] = artefacts.code[row[row >= 0]]
    return cause


def find_instances(
    x_pix: np.ndarray,
    y_pix: np.ndarray,
    is_positive: np.ndarray,
    artefacts: TrueArtefacts,
    *,
    fwhm_pix: float,
    snr: np.ndarray | None = None,
) -> np.ndarray:
    """The instance that caused each detection: its row among `artefacts`, or -1.

    The nearest in units of the reach of its class (schema.ARTEFACTS), if that reaches the detection and,
    for classes with a sign, has the detection's. Of several at the same place it is the first in the
    table. Wide classes come after all others, and last those that are everywhere in the frame: they are
    the cause of weak detections only.

    Parameters
    ----------
    x_pix, y_pix, is_positive : ndarray, shape (n,)
    artefacts : TrueArtefacts
        Of the science frame and of the reference, on the pixels of the science frame.
    fwhm_pix : float
    snr : ndarray, shape (n,), optional
        Without it nothing is put down to classes that are everywhere.

    Returns
    -------
    ndarray of int, shape (n,)
    """
    found = np.full(len(x_pix), -1)
    everywhere = _has(artefacts, [kind.extent == "frame" for kind in ARTEFACTS])
    wide = _has(artefacts, [kind.is_last for kind in ARTEFACTS])
    for rows in (np.flatnonzero(~everywhere & ~wide), np.flatnonzero(~everywhere & wide)):
        open_cases = np.flatnonzero(found < 0) if len(rows) else np.empty(0, int)
        for first in range(0, len(open_cases), CHUNK):
            some = open_cases[first : first + CHUNK]
            share = _share_of_reach(x_pix[some], y_pix[some], is_positive[some], artefacts, rows, fwhm_pix)
            nearest = np.argmin(share, axis=1)
            found[some] = np.where(share[np.arange(len(share)), nearest] < 1, rows[nearest], -1)
    if snr is not None:
        for row in np.flatnonzero(everywhere):
            found[(found < 0) & (np.abs(snr) < artefacts.strength[row])] = row
    return found


def _has(artefacts: TrueArtefacts, of_class: list[bool]) -> np.ndarray:
    """What `of_class` says of the class of each row, in the order of schema.ARTEFACTS."""
    return np.asarray(_of_rows(artefacts, of_class), bool)


def _of_rows(artefacts: TrueArtefacts, of_class: list[Any]) -> np.ndarray:
    table = np.zeros(max(kind.code for kind in ARTEFACTS) + 1)
    table[[kind.code for kind in ARTEFACTS]] = of_class
    return table[artefacts.code]


def _share_of_reach(
    x_pix: np.ndarray,
    y_pix: np.ndarray,
    is_positive: np.ndarray,
    artefacts: TrueArtefacts,
    rows: np.ndarray,
    fwhm_pix: float,
) -> np.ndarray:
    """Distance over reach, shape (n, n_rows); infinite where the sign is another."""
    area = _has(artefacts, [kind.extent == "area" for kind in ARTEFACTS])[rows]
    signed = _has(artefacts, [kind.is_signed for kind in ARTEFACTS])[rows]
    reach = _of_rows(artefacts, [kind.reach_pix + kind.reach_fwhm * fwhm_pix for kind in ARTEFACTS])[rows]
    distance = _distance(
        x_pix, y_pix, artefacts, rows, length_pix=np.where(area, 0, artefacts.length_pix[rows])
    )
    diameter = artefacts.length_pix[rows]
    counted = np.sqrt(np.abs(artefacts.strength[rows]) / np.pi)
    radius = np.where(area, np.where(np.isfinite(diameter), diameter / 2, counted), 0)
    distance = np.maximum(distance - radius, 0)
    distance[signed & (is_positive[:, None] != (artefacts.strength[rows] > 0))] = np.inf
    return np.asarray(distance / reach)


def _distance(
    x_pix: np.ndarray,
    y_pix: np.ndarray,
    artefacts: TrueArtefacts,
    rows: np.ndarray,
    *,
    length_pix: np.ndarray,
) -> np.ndarray:
    """From positions to points or lines, shape (n, n_rows)."""
    dx, dy = x_pix[:, None] - artefacts.x_pix[rows], y_pix[:, None] - artefacts.y_pix[rows]
    angle = np.radians(np.nan_to_num(artefacts.angle_deg[rows]))
    half = np.nan_to_num(length_pix) / 2
    along, across = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
    return np.hypot(np.maximum(np.abs(along) - half, 0), across)


def joined(first: TrueArtefacts, second: TrueArtefacts) -> TrueArtefacts:
    """Both together."""
    return TrueArtefacts(
        **{name: np.concatenate([values, getattr(second, name)]) for name, values in vars(first).items()}
    )
