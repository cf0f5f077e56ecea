"""Injection catalogues with the column names and units of LSST source_injection.

See https://pipelines.lsst.io/modules/lsst.source.injection for the originals; what is ours beside them is
said in docs/injection.md.
"""

import logging
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np
from astropy import units
from astropy.table import Table
from astropy.units import UnitsError
from astropy.wcs.utils import proj_plane_pixel_area

from rbsim.errors import InputError
from rbsim.frame import Frame
from rbsim.schema import INJECTED_IN, INJECTION_FLAG, KIND_CODES, KINDS

log = logging.getLogger(__name__)

STAR_TYPES = ("star", "deltafunction")
PREFIX = "injection_"
OWN_COLUMNS = ("injection_id", "injection_flag", "injection_draw_size")
"""Columns whose names have the prefix themselves; the last two are written, and ignored when read."""

COLUMNS = frozenset(
    [
        "injection_id",
        "ra",
        "dec",
        "x",
        "y",
        "mag",
        "source_type",
        "trail_length",
        "beta",
        "injected_in",
        "n_cube_frames",
        "delta_mag",
        "kind",
    ]
)
MISSPELT = 0.8
"""Likeness of names from which on an unused column is taken for a slip of the pen."""

MAX_ROWS = 999_999
"""What the six digits of a row in `rbsim.tables.injection_id` can count."""

AB_UNITS = ("mag", "ABmag", "mag(AB)")


@dataclass(frozen=True, eq=False)
class InjectionCatalogue:
    """Stars that the user asks for; arrays of shape (n,).

    Attributes
    ----------
    injection_id : the user's, else the number of the row.
    ra_deg, dec_deg : NaN if the table has only pixels.
    x_pix, y_pix : 0-based; NaN if the table has only sky positions.
    mag : AB magnitudes, or whatever the zero point of the frames means; of a trail, that of one pixel of its
        length; of a star that varies, that of the star as it is.
    kind : codes of schema.KINDS.
    trail_length, is_arcsec : length of a trail, 0 for points, and whether it is in arcsec or pixels.
    trail_angle_deg : from +x towards +y.
    injected_in : codes of schema.INJECTED_IN.
    n_cube_frames : single frames of a cube in which the star shines, 0 for all.
    delta_mag : magnitude in the science frame minus that in the reference; NaN: not given.
    flag : bits of schema.INJECTION_FLAGS that follow from the row alone.
    """

    injection_id: np.ndarray
    ra_deg: np.ndarray
    dec_deg: np.ndarray
    x_pix: np.ndarray
    y_pix: np.ndarray
    mag: np.ndarray
    kind: np.ndarray
    trail_length: np.ndarray
    is_arcsec: bool
    trail_angle_deg: np.ndarray
    injected_in: np.ndarray
    n_cube_frames: np.ndarray
    delta_mag: np.ndarray
    flag: np.ndarray

    def positions_in(self, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
        """Pixel positions in a frame, shape (n,) each; NaN where the sky is far from the frame.

        Rows with x and y have these, the others those of ra and dec.

        Raises
        ------
        InputError
            If there are only sky positions and the frame has no WCS.
        """
        x, y = self.x_pix.copy(), self.y_pix.copy()
        rows = np.flatnonzero(~(np.isfinite(x) & np.isfinite(y)) & np.isfinite(self.ra_deg + self.dec_deg))
        if not rows.size:
            return x, y
        if frame.wcs is None:
            raise InputError(f"{frame.name}: has no WCS; the catalogue needs columns x and y for it")
        x[rows] = y[rows] = np.nan
        rows = rows[is_near(frame, self.ra_deg[rows], self.dec_deg[rows])]
        if rows.size:
            x[rows], y[rows] = frame.wcs.world_to_pixel_values(self.ra_deg[rows], self.dec_deg[rows])
        return x, y


def read_catalogue(path: Path, *, table_format: str | None = None) -> InjectionCatalogue:
    """Read a table in any format that astropy knows (ECSV, CSV, FITS, VOTable, ...).

    Columns, each also with the prefix ``injection_``: ``ra`` and ``dec`` (degrees) or ``x`` and ``y``
    (0-based pixels), ``mag``; optionally ``injection_id``, ``source_type`` (Star, DeltaFunction or Trail;
    others are flagged), ``trail_length`` (pixels), ``beta`` (degrees from +x towards +y), ``injected_in``
    (science, reference, both), ``n_cube_frames``, ``delta_mag``, ``kind`` (names of schema.KINDS). Units in
    the table are honoured.

    Parameters
    ----------
    path : Path
    table_format : str, optional
        astropy's name of the format, if the extension does not tell.

    Raises
    ------
    InputError
        If the file cannot be read, has no rows or too many, lacks columns, has wrong units, holds no
        magnitude at all, or an injection_id twice.
    """
    remedy = "try ECSV, or say which with --catalog-format"
    table = _without_prefix(read_table(path, table_format=table_format, remedy=remedy), path)
    names = set(table.colnames)
    has_sky, has_pixels = {"ra", "dec"} <= names, {"x", "y"} <= names
    if "mag" not in names or not (has_sky or has_pixels):
        raise InputError(
            f"{path}: needs columns mag and either ra, dec or x, y; it has {', '.join(table.colnames)}"
        )
    for name in sorted(names - COLUMNS):
        for meant in get_close_matches(name, COLUMNS - names, n=1, cutoff=MISSPELT):
            log.warning("%s: its column %s is not used; was %s meant?", path, name, meant)
    n = len(table)
    if not n:
        raise InputError(f"{path}: has no rows; leave --catalog out to inject at random")
    if n > MAX_ROWS:
        raise InputError(
            f"{path}: has {n:,} rows; at most {MAX_ROWS:,} can be numbered, cut it to the frames"
        )
    nan, flag = np.full(n, np.nan), np.zeros(n, np.int32)
    ra, dec = (read_column(table, name, "deg", path) for name in ("ra", "dec")) if has_sky else (nan, nan)
    x, y = (read_column(table, name, "pix", path) for name in ("x", "y")) if has_pixels else (nan, nan)
    mag = read_column(table, "mag", "mag", path)
    if not np.isfinite(mag).any():
        raise InputError(f"{path}: no row has a magnitude; fill the column mag")
    flag[~np.isfinite(mag)] |= INJECTION_FLAG["MAG_BAD"]
    types = np.char.lower(_text(table, "source_type", "star"))
    is_trail = types == "trail"
    flag[~is_trail & ~np.isin(types, STAR_TYPES)] |= INJECTION_FLAG["TYPE_UNKNOWN"]
    length, is_arcsec = _lengths(table, path)
    angle = read_column(table, "beta", "deg", path) if "beta" in names else np.zeros(n)
    in_name = np.char.lower(_text(table, "injected_in", "science"))
    n_frames = read_column(table, "n_cube_frames", "", path) if "n_cube_frames" in names else np.zeros(n)
    n_frames = np.where(np.isnan(n_frames), 0, n_frames)
    delta = read_column(table, "delta_mag", "mag", path) if "delta_mag" in names else nan
    bad = is_trail & ~((length > 0) & (length < np.inf) & np.isfinite(angle))
    bad |= ~np.isin(in_name, list(INJECTED_IN)) | np.isinf(delta)
    bad |= (n_frames != np.rint(n_frames)) | (n_frames < 0) | (n_frames > np.iinfo(np.int16).max)
    # A change of a star that is there is seen in all frames of the cube, and stands still.
    bad |= np.isfinite(delta) & (is_trail | (n_frames != 0))
    flag[bad] |= INJECTION_FLAG["PARAMETER_BAD"]
    code = [INJECTED_IN.get(str(name), INJECTED_IN["science"]) for name in in_name]
    kind, known = _kinds(table, is_trail, n_frames, np.isfinite(delta))
    flag[~known] |= INJECTION_FLAG["TYPE_UNKNOWN"]
    return InjectionCatalogue(
        injection_id=_ids(table, path),
        ra_deg=ra,
        dec_deg=dec,
        x_pix=x,
        y_pix=y,
        mag=mag,
        kind=kind,
        trail_length=np.where(is_trail & ~bad, length, 0.0),
        is_arcsec=is_arcsec,
        trail_angle_deg=np.where(is_trail & ~bad, angle, 0.0),
        injected_in=np.array(code, np.int8),
        n_cube_frames=np.where(bad, 0, n_frames).astype(np.int16),
        delta_mag=np.where(bad, np.nan, delta),
        flag=flag,
    )


def _without_prefix(table: Table, path: Path) -> Table:
    for name in table.colnames:
        if name.startswith(PREFIX) and name not in OWN_COLUMNS:
            plain = name.removeprefix(PREFIX)
            if plain in table.colnames:
                raise InputError(f"{path}: has both {plain} and {name}; drop one")
            table.rename_column(name, plain)
    return table


def _ids(table: Table, path: Path) -> np.ndarray:
    """The injection_id of every row, whole and unique, shape (n,), int64."""
    if "injection_id" not in table.colnames:
        return np.arange(len(table), dtype=np.int64)
    column = np.ma.asarray(table["injection_id"])
    whole = column.dtype.kind in "iu" and not np.ma.getmaskarray(column).any()
    if not whole or (column.data < 0).any():
        raise InputError(f"{path}: column injection_id must be whole numbers from 0, one in every row")
    numbers, count = np.unique(column.data, return_counts=True)
    if (count > 1).any():
        raise InputError(
            f"{path}: injection_id {numbers[count > 1][0]} is there {count[count > 1][0]} times; number the"
            " rows anew or drop the column"
        )
    return column.data.astype(np.int64)


def _lengths(table: Table, path: Path) -> tuple[np.ndarray, bool]:
    """Lengths of trails, NaN where not given, and whether they are in arcsec."""
    if "trail_length" not in table.colnames:
        return np.full(len(table), np.nan), False
    unit = table["trail_length"].unit
    try:
        is_angle = unit is not None and unit.is_equivalent("arcsec")
    except AttributeError:
        is_angle = False  # a unit that astropy does not know: refused below
    return read_column(table, "trail_length", "arcsec" if is_angle else "pix", path), is_angle


def _kinds(
    table: Table, is_trail: np.ndarray, n_frames: np.ndarray, is_variable: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Codes of schema.KINDS, and which of the names given are known."""
    names = np.select(
        [is_variable, is_trail, n_frames > 0],
        ["injected_variable", "injected_moving", "injected_flare"],
        "injected_catalogue",
    ).astype(object)
    given = _text(table, "kind", "")
    names = np.where(given != "", given, names)
    injected = {kind.name for kind in KINDS if kind.label_true_source == "injected"} - {"injected_lost"}
    known = np.array([str(name) in injected for name in names], bool)
    codes = [
        KIND_CODES[str(name)] if ok else KIND_CODES["injected_catalogue"]
        for name, ok in zip(names, known, strict=True)
    ]
    return np.array(codes, np.int8), known


def _text(table: Table, name: str, default: str) -> np.ndarray:
    """A column as text; `default` where it is masked, empty, or not there."""
    if name not in table.colnames:
        return np.full(len(table), default)
    column = np.ma.asarray(table[name])
    hidden = np.ma.getmaskarray(column)
    texts = [value.decode() if isinstance(value, bytes) else str(value) for value in column.data.tolist()]
    return np.array(
        [
            default if gone or not text.strip() else text.strip()
            for text, gone in zip(texts, hidden, strict=True)
        ],
        str,
    )


def pixel_scale_arcsec(frame: Frame) -> float:
    """Side of a square of a pixel's area, arcsec; NaN without WCS."""
    if frame.wcs is None:
        return float("nan")
    return float(np.sqrt(proj_plane_pixel_area(frame.wcs.celestial))) * 3600


def is_near(
    frame: Frame, ra_deg: np.ndarray, dec_deg: np.ndarray, *, reach_arcsec: float | np.ndarray = 0.0
) -> np.ndarray:
    """Which positions are on the frame's part of the sky: elsewhere a WCS with distortion has no meaning.

    Parameters
    ----------
    frame : Frame
        With a WCS.
    ra_deg, dec_deg : ndarray, shape (n,)
        NaN is not near.
    reach_arcsec : float or ndarray, shape (n,)
        How far beyond the frame counts.

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    ny, nx = frame.shape
    assert frame.wcs is not None
    ra, dec = frame.wcs.pixel_to_world_values(
        [(nx - 1) / 2, 0, nx - 1, 0, nx - 1], [(ny - 1) / 2, 0, 0, ny - 1, ny - 1]
    )
    corners = _unit_vectors(np.asarray(ra, float), np.asarray(dec, float))
    reach = 1.2 * float(np.linalg.norm(corners[1:] - corners[0], axis=1).max()) + np.radians(
        np.asarray(reach_arcsec) / 3600
    )
    return np.asarray(np.linalg.norm(_unit_vectors(ra_deg, dec_deg) - corners[0], axis=1) < reach)


def _unit_vectors(ra_deg: np.ndarray, dec_deg: np.ndarray) -> np.ndarray:
    ra, dec = np.radians(ra_deg), np.radians(dec_deg)
    return np.column_stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])


def read_table(path: Path, *, table_format: str | None = None, remedy: str = "try ECSV") -> Table:
    """A table in any format that astropy knows, by its extension if no format is given.

    Raises
    ------
    InputError
        If there is none, or it cannot be read.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file")
    try:
        return Table.read(path, format=table_format)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        as_what = "as a table" if table_format is None else f"as {table_format}"
        raise InputError(f"{path}: cannot be read {as_what} ({reason}); {remedy}") from error


def read_column(table: Table, name: str, unit: str, path: Path) -> np.ndarray:
    """A column of numbers in a unit, converted if it has another; NaN where masked.

    Raises
    ------
    InputError
        If it holds no numbers, or its unit cannot be converted.
    """
    column = table[name]
    try:
        has_unit = column.unit is not None and str(column.unit) not in (unit, "")
        if has_unit and not (unit == "mag" and str(column.unit) in AB_UNITS):
            column = column.to(unit or units.dimensionless_unscaled)
        values = np.ma.filled(np.ma.asarray(column).astype(float), np.nan)
    except (UnitsError, TypeError, ValueError) as error:
        wanted = f"numbers in {unit}" if unit else "plain numbers"
        raise InputError(
            f"{path}: column {name} must be {wanted}, not {column.unit or column.dtype}"
        ) from error
    return np.asarray(values, float)
