"""Which artefact of the emulator caused a detection."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from astropy.table import Table

from rbsim.errors import InputError
from rbsim.register import Transform
from rbsim.schema import ARTEFACTS, NO_CAUSE

COLUMNS = ("frame", "class", "x_pix", "y_pix", "strength")


@dataclass(frozen=True, eq=False)
class TrueArtefacts:
    """Instances of artefacts in one frame; arrays of shape (n,).

    Attributes
    ----------
    code : of schema.ARTEFACTS.
    x_pix, y_pix : 0-based; the middle of a line or area.
    strength : in the unit of the class.
    length_pix, angle_deg : of lines, the angle from +x towards +y; NaN for points and areas.
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
) -> np.ndarray:
    """Code of the artefact that caused each detection, or `NO_CAUSE`.

    The nearest in units of the reach of its class (schema.ARTEFACTS), if that reaches the detection and,
    for classes with a sign, has the detection's.

    Parameters
    ----------
    x_pix, y_pix, is_positive : ndarray, shape (n,)
    artefacts : TrueArtefacts
        Of the science frame and of the reference, on the pixels of the science frame.
    fwhm_pix : float

    Returns
    -------
    ndarray of int8, shape (n,)
    """
    cause, nearest = np.full(len(x_pix), NO_CAUSE, np.int8), np.ones(len(x_pix))
    for kind in ARTEFACTS:
        rows = np.flatnonzero(artefacts.code == kind.code)
        if not len(rows) or not len(x_pix):
            continue
        distance = _distance(x_pix, y_pix, artefacts, rows)
        if kind.name == "mask_in_reference":
            size = np.sqrt(np.abs(artefacts.strength[rows]) / np.pi)
            distance = np.maximum(distance - size, 0)
        if kind.is_signed:
            distance[is_positive[:, None] != (artefacts.strength[rows] > 0)] = np.inf
        share = distance.min(axis=1) / (kind.reach_pix + kind.reach_fwhm * fwhm_pix)
        closer = share < nearest
        cause[closer], nearest[closer] = kind.code, share[closer]
    return cause


def _distance(x_pix: np.ndarray, y_pix: np.ndarray, artefacts: TrueArtefacts, rows: np.ndarray) -> np.ndarray:
    """From positions to points or lines, shape (n, n_rows)."""
    dx, dy = x_pix[:, None] - artefacts.x_pix[rows], y_pix[:, None] - artefacts.y_pix[rows]
    angle = np.radians(np.nan_to_num(artefacts.angle_deg[rows]))
    half = np.nan_to_num(artefacts.length_pix[rows]) / 2
    along, across = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
    return np.hypot(np.maximum(np.abs(along) - half, 0), across)


def joined(first: TrueArtefacts, second: TrueArtefacts) -> TrueArtefacts:
    """Both together."""
    return TrueArtefacts(
        **{name: np.concatenate([values, getattr(second, name)]) for name, values in vars(first).items()}
    )
