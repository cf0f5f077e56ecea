"""Injection catalogues with the column names of LSST source_injection."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.table import Table
from astropy.units import UnitsError

from rbsim.errors import InputError
from rbsim.frame import Frame
from rbsim.schema import INJECTION_FLAG


@dataclass(frozen=True, eq=False)
class InjectionCatalogue:
    """Stars that the user asks for; arrays of shape (n,).

    Attributes
    ----------
    ra_deg, dec_deg : NaN if the table has only pixels.
    x_pix, y_pix : 0-based; NaN if the table has only sky positions.
    mag : AB magnitudes, or whatever the zero point of the frames means.
    flag : bits of schema.INJECTION_FLAGS that follow from the row alone.
    """

    ra_deg: np.ndarray
    dec_deg: np.ndarray
    x_pix: np.ndarray
    y_pix: np.ndarray
    mag: np.ndarray
    flag: np.ndarray

    def positions_in(self, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
        """Pixel positions in a frame, shape (n,) each; NaN where they cannot be known.

        Raises
        ------
        InputError
            If there are only sky positions and the frame has no WCS.
        """
        if np.isfinite(self.x_pix).any():
            return self.x_pix, self.y_pix
        if frame.wcs is None:
            raise InputError(f"{frame.name}: has no WCS; the catalogue needs columns x and y for it")
        x, y = frame.wcs.world_to_pixel_values(self.ra_deg, self.dec_deg)
        return np.asarray(x, float), np.asarray(y, float)


def read_catalogue(path: Path) -> InjectionCatalogue:
    """Read a table in any format that astropy knows by its extension (ECSV, CSV, FITS, VOTable, ...).

    Columns: ``ra`` and ``dec`` (degrees) or ``x`` and ``y`` (0-based pixels), ``mag``, optionally
    ``source_type`` (only Star is known).

    Raises
    ------
    InputError
        If the file cannot be read, lacks columns, or has wrong units.
    """
    table = read_table(path)
    has_sky, has_pixels = {"ra", "dec"} <= set(table.colnames), {"x", "y"} <= set(table.colnames)
    if "mag" not in table.colnames or not (has_sky or has_pixels):
        raise InputError(
            f"{path}: needs columns mag and either ra, dec or x, y; it has {', '.join(table.colnames)}"
        )
    n = len(table)
    nan = np.full(n, np.nan)
    ra, dec = (read_column(table, name, "deg", path) for name in ("ra", "dec")) if has_sky else (nan, nan)
    x, y = (read_column(table, name, "pix", path) for name in ("x", "y")) if has_pixels else (nan, nan)
    mag = read_column(table, "mag", "mag", path)
    flag = np.where(np.isfinite(mag), 0, INJECTION_FLAG["MAG_BAD"]).astype(np.int32)
    if "source_type" in table.colnames:
        known = np.array([str(kind).lower() in ("star", "deltafunction") for kind in table["source_type"]])
        flag[~known] |= INJECTION_FLAG["TYPE_UNKNOWN"]
    return InjectionCatalogue(ra, dec, x, y, mag, flag)


def read_table(path: Path) -> Table:
    """A table in any format that astropy knows by its extension.

    Raises
    ------
    InputError
        If there is none, or it cannot be read.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file")
    try:
        return Table.read(path)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{path}: cannot be read as a table ({reason}); try ECSV") from error


def read_column(table: Table, name: str, unit: str, path: Path) -> np.ndarray:
    """A column of numbers in a unit, converted if it has another; NaN where masked.

    Raises
    ------
    InputError
        If it holds no numbers, or its unit cannot be converted.
    """
    column = table[name]
    try:
        if column.unit is not None and str(column.unit) not in (unit, "ABmag", "mag(AB)"):
            column = column.to(unit)
        values = np.ma.filled(np.ma.asarray(column).astype(float), np.nan)
    except (UnitsError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: column {name} must be numbers in {unit}, not {column.unit or column.dtype}"
        ) from error
    return np.asarray(values, float)
