"""The RINGS.V3 tessellation of PS1: which skycells of 0.4 deg cover a piece of sky, and their pixels.

The sky is cut into rings of constant declination, a ring into projection cells of about 4 deg, each a
tangent plane with north up, and a projection cell into 10 x 10 skycells that share its plane and overlap by
480 pixels (STScI, «PS1 Sky tessellation patterns»; Waters et al. 2020, ApJS 251, 4). The table of rings is
the published one (``catalogs/ps1_rings.ecsv``); with it the positions and headers of known skycells are met
to a pixel (``tests/test_ps1_tessellation.py``).
"""

import re
import warnings
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path

import numpy as np
from astropy.table import Table
from astropy.wcs import WCS

from rbsim.errors import InputError

PIXEL_ARCSEC = 0.25
PER_SIDE = 10
"""Skycells per side of a projection cell."""
OVERLAP_PIX = 480
SOUTH_LIMIT_DEG = -31.0
"""PS1 surveyed north of -30 deg; skycells of that ring reach a little further."""
SERVER = "https://ps1images.stsci.edu"
KINDS = {"image": "", "mask": ".mask", "wt": ".wt", "num": ".num"}
"""What there is of every stack, and what its file name has before ``.fits``."""
_STEP_ARCSEC = 20.0
_NAMES_OF_STSCI = {
    "PROJCELL": "first_cell",
    "NBAND": "n_cells",
    "DEC": "dec_deg",
    "DEC_MIN": "dec_min_deg",
    "DEC_MAX": "dec_max_deg",
    "XCELL": "nx_pix",
    "YCELL": "ny_pix",
    "CRPIX1": "crpix1",
    "CRPIX2": "crpix2",
}


@dataclass(frozen=True, eq=False)
class Rings:
    """The rings, from south to north; arrays of shape (n,), the columns of the table."""

    first_cell: np.ndarray
    n_cells: np.ndarray
    dec_deg: np.ndarray
    dec_min_deg: np.ndarray
    dec_max_deg: np.ndarray
    nx_pix: np.ndarray
    ny_pix: np.ndarray
    crpix1: np.ndarray
    crpix2: np.ndarray


@dataclass(frozen=True)
class Skycell:
    """One skycell.

    Attributes
    ----------
    projection, subcell : int
        635 to 2643, and 0 to 99.
    ra_deg, dec_deg : float
        Tangent point of its projection cell.
    crpix1, crpix2 : float
        FITS pixel of that point, mostly outside the skycell.
    shape : (ny, nx)
    """

    projection: int
    subcell: int
    ra_deg: float
    dec_deg: float
    crpix1: float
    crpix2: float
    shape: tuple[int, int]

    @property
    def name(self) -> str:
        """As PS1 writes it, ``skycell.1405.053``."""
        return f"skycell.{self.projection:04d}.{self.subcell:03d}"

    def wcs(self) -> WCS:
        """Its tangent plane; FK5, which is ICRS to 0.02 arcsec."""
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
        wcs.wcs.crval = [self.ra_deg, self.dec_deg]
        wcs.wcs.crpix = [self.crpix1, self.crpix2]
        wcs.wcs.cdelt = [PIXEL_ARCSEC / 3600] * 2
        wcs.wcs.pc = [[-1.0, 0.0], [0.0, 1.0]]
        wcs.wcs.radesys = "FK5"
        wcs.wcs.lonpole = 180.0  # also at the pole, where the FITS default turns the plane
        wcs.array_shape = self.shape
        return wcs

    def file_name(self, band: str, kind: str = "image") -> str:
        """Name of a stack's file in the archive; `kind` of `KINDS`."""
        return f"rings.v3.{self.name}.stk.{band}.unconv{KINDS[kind]}.fits"

    def url(self, band: str, kind: str = "image") -> str:
        """Where the archive has that file."""
        folder = f"rings.v3.skycell/{self.projection:04d}/{self.subcell:03d}"
        return f"{SERVER}/{folder}/{self.file_name(band, kind)}"


def read_rings(path: Path | None = None) -> Rings:
    """The table of rings that is shipped, or one of the user's, also as STScI's ``ps1grid.fits``.

    Raises
    ------
    InputError
        If the file cannot be read or lacks a column.
    """
    source = path or Path(str(resources.files("catalogs") / "ps1_rings.ecsv"))
    try:
        table = Table.read(source)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{source}: is no table of rings ({str(error).splitlines()[0]})") from error
    for old, new in _NAMES_OF_STSCI.items():
        if old in table.colnames:
            table.rename_column(old, new)
    wanted = [field.name for field in fields(Rings)]
    lacking = [name for name in wanted if name not in table.colnames]
    if lacking:
        raise InputError(f"{source}: lacks {', '.join(lacking)}; give ps1grid.fits of STScI or such a table")
    table.sort("dec_deg")
    return Rings(**{name: np.asarray(table[name]) for name in wanted})


def skycell(projection: int, subcell: int, rings: Rings | None = None) -> Skycell:
    """The skycell of these numbers.

    Raises
    ------
    InputError
        If there is none.
    """
    rings = rings or read_rings()
    ring = int(np.searchsorted(rings.first_cell, projection, side="right")) - 1
    in_ring = projection - int(rings.first_cell[ring]) if ring >= 0 else -1
    if ring < 0 or in_ring >= rings.n_cells[ring] or not 0 <= subcell < PER_SIDE**2:
        last = int(rings.first_cell[-1] + rings.n_cells[-1] - 1)
        raise InputError(
            f"skycell.{projection:04d}.{subcell:03d}: is not in RINGS.V3; projection cells go from"
            f" {rings.first_cell[0]} to {last}, skycells from 0 to 99"
        )
    row, column = divmod(subcell, PER_SIDE)
    ny, nx = int(rings.ny_pix[ring]), int(rings.nx_pix[ring])
    return Skycell(
        projection,
        subcell,
        ra_deg=360.0 * in_ring / int(rings.n_cells[ring]),
        dec_deg=float(rings.dec_deg[ring]),
        crpix1=float(rings.crpix1[ring]) + (PER_SIDE // 2 - column) * (nx - OVERLAP_PIX),
        crpix2=float(rings.crpix2[ring]) + (PER_SIDE // 2 - row) * (ny - OVERLAP_PIX),
        shape=(ny, nx),
    )


def skycell_of_name(text: str, rings: Rings | None = None) -> Skycell | None:
    """The skycell that a file name or title names; None if it names none."""
    found = re.search(r"skycell\.(\d{4})\.(\d{3})", text)
    return skycell(int(found[1]), int(found[2]), rings) if found else None


def skycells_at(ra_deg: np.ndarray, dec_deg: np.ndarray, rings: Rings | None = None) -> np.ndarray:
    """Numbers (projection, subcell) of the skycells whose middle is nearest, shape (n, 2).

    A position lies in up to four skycells of its projection cell, and near its border in those of others;
    this one has it farthest from the border.

    Parameters
    ----------
    ra_deg, dec_deg : ndarray, shape (n,)
        J2000. South of the rings the numbers are of the southernmost one and mean nothing.
    """
    rings = rings or read_rings()
    ra, dec = np.asarray(ra_deg, float) % 360, np.asarray(dec_deg, float)
    n_rings = len(rings.dec_deg)
    ring = np.minimum(np.searchsorted(rings.dec_max_deg, dec), n_rings - 1)
    polar = ring >= n_rings - 2
    ring[polar] = n_rings - 2
    x, y, in_ring = _on_plane(ra, dec, ring, rings)
    if polar.any():  # there the better of the last two rings is that whose border is farther
        pole = np.full(int(polar.sum()), n_rings - 1)
        pole_x, pole_y, pole_cell = _on_plane(ra[polar], dec[polar], pole, rings)
        better = _depth(pole_x, pole_y, pole, rings) > _depth(x[polar], y[polar], ring[polar], rings)
        where = np.flatnonzero(polar)[better]
        ring[where], in_ring[where] = n_rings - 1, pole_cell[better]
        x[where], y[where] = pole_x[better], pole_y[better]
    middle = (PER_SIDE - 1) / 2
    columns = np.rint(middle + x / (rings.nx_pix[ring] - OVERLAP_PIX))
    rows = np.rint(middle + y / (rings.ny_pix[ring] - OVERLAP_PIX))
    last = PER_SIDE - 1
    subcell = PER_SIDE * np.clip(rows, 0, last) + np.clip(columns, 0, last)
    return np.column_stack([rings.first_cell[ring] + in_ring, subcell]).astype(int)


def _on_plane(
    ra_deg: np.ndarray, dec_deg: np.ndarray, ring: np.ndarray, rings: Rings
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels from the tangent point of the nearest projection cell of a ring, and the cell's number in it."""
    n_cells = rings.n_cells[ring]
    cell = np.rint(ra_deg * n_cells / 360).astype(int) % n_cells
    east = np.radians(ra_deg - cell * 360 / n_cells)
    dec, dec_0 = np.radians(dec_deg), np.radians(rings.dec_deg[ring])
    depth = np.sin(dec) * np.sin(dec_0) + np.cos(dec) * np.cos(dec_0) * np.cos(east)
    xi = np.cos(dec) * np.sin(east) / depth
    eta = (np.sin(dec) * np.cos(dec_0) - np.cos(dec) * np.sin(dec_0) * np.cos(east)) / depth
    per_radian = np.degrees(1) * 3600 / PIXEL_ARCSEC
    return -xi * per_radian, eta * per_radian, cell


def _depth(x_pix: np.ndarray, y_pix: np.ndarray, ring: np.ndarray, rings: Rings) -> np.ndarray:
    """Pixels to the border of a projection cell, negative outside."""
    half_x = (PER_SIDE * (rings.nx_pix[ring] - OVERLAP_PIX) + OVERLAP_PIX) / 2
    half_y = (PER_SIDE * (rings.ny_pix[ring] - OVERLAP_PIX) + OVERLAP_PIX) / 2
    return np.minimum(half_x - np.abs(x_pix), half_y - np.abs(y_pix))


def skycells_of(wcs: WCS, shape: tuple[int, int], rings: Rings | None = None) -> tuple[Skycell, ...]:
    """The skycells that cover a frame; those whose part of it others hold as well are left out.

    Raises
    ------
    InputError
        If the WCS does not reach the sky, or part of the frame is south of what PS1 observed.
    """
    rings = rings or read_rings()
    ny, nx = shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        middle = wcs.pixel_to_world_values([nx / 2, nx / 2 + 1], [ny / 2, ny / 2])
        scale = np.hypot(
            (middle[0][1] - middle[0][0]) * np.cos(np.radians(middle[1][0])), middle[1][1] - middle[1][0]
        )
        step = max(1.0, _STEP_ARCSEC / (scale * 3600)) if np.isfinite(scale) and scale > 0 else float(nx)
        x, y = np.meshgrid(
            np.linspace(-0.5, nx - 0.5, int(nx / step) + 2), np.linspace(-0.5, ny - 0.5, int(ny / step) + 2)
        )
        ra, dec = wcs.pixel_to_world_values(x.ravel(), y.ravel())
    if not (np.isfinite(ra) & np.isfinite(dec)).all():
        raise InputError("its WCS does not give positions over the whole frame; solve the frame's astrometry")
    if dec.min() < SOUTH_LIMIT_DEG:
        raise InputError(f"reaches declination {dec.min():.2f}; PS1 has the sky north of -30 deg")
    numbers = np.unique(skycells_at(ra, dec, rings), axis=0)
    return tuple(skycell(int(projection), int(subcell), rings) for projection, subcell in numbers)
