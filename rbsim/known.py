"""Objects that are known to vary, move or have exploded: which detections lie on them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.wcs.utils import proj_plane_pixel_scales
from scipy.spatial import cKDTree

from rbsim.catalogue import is_near, read_column, read_table
from rbsim.errors import InputError
from rbsim.frame import Frame

DEFAULT_RADIUS_ARCSEC = 2.0
DEFAULT_RADIUS_PIX = 2.0


@dataclass(frozen=True, eq=False)
class KnownObjects:
    """A catalogue of known objects; arrays of shape (n,).

    Attributes
    ----------
    ra_deg, dec_deg : ICRS; NaN if the table has pixels.
    x_pix, y_pix : 0-based; NaN if the table has sky positions.
    radius : arcsec with sky positions, px with pixels.
    name : text; empty if the table has none.
    frame : the only frame in which the object is there (an asteroid); empty for all frames.
    """

    ra_deg: np.ndarray
    dec_deg: np.ndarray
    x_pix: np.ndarray
    y_pix: np.ndarray
    radius: np.ndarray
    name: np.ndarray
    frame: np.ndarray

    def __len__(self) -> int:
        """Number of objects."""
        return len(self.radius)


@dataclass(frozen=True, eq=False)
class KnownInFrame:
    """Known objects on the pixels of one frame; arrays of shape (n,).

    Attributes
    ----------
    row : row in the catalogue.
    x_pix, y_pix, radius_pix : 0-based position, and how far from it a detection is the object.
    """

    row: np.ndarray
    x_pix: np.ndarray
    y_pix: np.ndarray
    radius_pix: np.ndarray


def read_known(path: Path) -> KnownObjects:
    """Read a catalogue of known objects in any format that astropy knows by its extension.

    Columns: ``ra`` and ``dec`` (degrees) or ``x`` and ``y`` (0-based pixels); optionally ``radius`` (arcsec
    with ra and dec, pixels with x and y; 2 of them where there is none), ``id`` or ``name``, and ``frame``
    (file name of the only frame it holds for; empty for all). Units in the table are honoured.

    Raises
    ------
    InputError
        If the file cannot be read, is empty, lacks columns, has wrong units, or holds a row without
        position or with a radius that is not positive.
    """
    table = read_table(path)
    has_sky, has_pixels = {"ra", "dec"} <= set(table.colnames), {"x", "y"} <= set(table.colnames)
    if not (has_sky or has_pixels):
        raise InputError(f"{path}: needs columns ra, dec or x, y; it has {', '.join(table.colnames)}")
    n = len(table)
    if not n:
        raise InputError(f"{path}: has no rows; leave --known out if nothing is known")
    nan = np.full(n, np.nan)
    # With both, the sky: pixels would hold for one frame only.
    ra, dec = (read_column(table, c, "deg", path) for c in ("ra", "dec")) if has_sky else (nan, nan)
    x, y = (nan, nan) if has_sky else (read_column(table, c, "pix", path) for c in ("x", "y"))
    radius = np.full(n, DEFAULT_RADIUS_ARCSEC if has_sky else DEFAULT_RADIUS_PIX)
    if "radius" in table.colnames:
        given = read_column(table, "radius", "arcsec" if has_sky else "pix", path)
        radius = np.where(np.isfinite(given), given, radius)
    place = np.isfinite(ra) & np.isfinite(dec) if has_sky else np.isfinite(x) & np.isfinite(y)
    for wrong, what in ((~place, "no position"), (~(radius > 0), "a radius that is not positive")):
        if wrong.any():
            raise InputError(f"{path}: row {int(np.argmax(wrong)) + 1} has {what}; correct or drop it")
    name = next((_text(table[c]) for c in ("id", "name") if c in table.colnames), np.full(n, ""))
    frame = _text(table["frame"]) if "frame" in table.colnames else np.full(n, "")
    return KnownObjects(ra, dec, x, y, radius, name, frame)


def _text(column: np.ndarray) -> np.ndarray:
    """A column as text, empty where masked."""
    masked = np.ma.getmaskarray(np.ma.asarray(column))
    return np.array(
        ["" if hidden else str(value).strip() for value, hidden in zip(column, masked, strict=True)], str
    )


def known_in(known: KnownObjects, frame: Frame) -> KnownInFrame:
    """Known objects that reach into a frame.

    Raises
    ------
    InputError
        If there are only sky positions and the frame has no WCS: its variables would pass for bogus.
    """
    rows = np.flatnonzero((known.frame == "") | (known.frame == frame.name))
    ny, nx = frame.shape
    if np.isfinite(known.x_pix).any():
        x, y, radius = known.x_pix[rows], known.y_pix[rows], known.radius[rows]
    else:
        if frame.wcs is None:
            raise InputError(f"{frame.name}: has no WCS; the catalogue of known objects needs x and y for it")
        near = is_near(frame, known.ra_deg, known.dec_deg, reach_arcsec=known.radius)
        rows = rows[near[rows]]
        at = frame.wcs.world_to_pixel_values(known.ra_deg[rows], known.dec_deg[rows])
        x, y = np.asarray(at[0], float), np.asarray(at[1], float)
        radius = known.radius[rows] / (3600 * float(np.mean(proj_plane_pixel_scales(frame.wcs.celestial))))
    with np.errstate(invalid="ignore"):
        inside = (x > -0.5 - radius) & (x < nx - 0.5 + radius) & (y > -0.5 - radius) & (y < ny - 0.5 + radius)
    return KnownInFrame(rows[inside], x[inside], y[inside], radius[inside])


def known_row(known: KnownInFrame | None, x_pix: np.ndarray, y_pix: np.ndarray) -> np.ndarray:
    """Catalogue row of the known object at each position, -1 without one.

    Parameters
    ----------
    known : KnownInFrame or None
    x_pix, y_pix : ndarray, shape (n,)

    Returns
    -------
    ndarray of int, shape (n,)
        Of several, the nearest in units of its radius.
    """
    out, nearest = np.full(len(x_pix), -1), np.full(len(x_pix), np.inf)
    if known is None or not len(known.row) or not len(x_pix):
        return out
    lists = cKDTree(np.column_stack([x_pix, y_pix])).query_ball_point(
        np.column_stack([known.x_pix, known.y_pix]), known.radius_pix
    )
    for i, found in enumerate(lists):
        here = np.array(found, int)
        distance = np.hypot(x_pix[here] - known.x_pix[i], y_pix[here] - known.y_pix[i]) / known.radius_pix[i]
        closer = distance < nearest[here]
        out[here[closer]], nearest[here[closer]] = known.row[i], distance[closer]
    return out
