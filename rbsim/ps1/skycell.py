"""Stack images of PS1 as they are in the archive: skycells and cut-outs of them, with their companion files.

A full skycell holds asinh-scaled values, told by its cards BSOFTEN and BOFFSET; cut-outs and warps are
linear. Headers have PC001001-style cards and no RADESYS. Stacks have the zero point
25 + 2.5 log10(EXPTIME), in counts of the whole exposure (STScI, «PS1 Stack images», «PS1 Image Cutout
Service»).
"""

import logging
import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from rbsim import hdus
from rbsim.errors import InputError
from rbsim.frame import read_wcs
from rbsim.ps1.mask_bits import BAD, BITS
from rbsim.ps1.tessellation import KINDS

log = logging.getLogger(__name__)

FILE_ENDS = (".fits", ".fits.fz", ".fits.gz")
_PC = re.compile(r"^PC00(\d)00(\d)$")


@dataclass(frozen=True, eq=False)
class SkycellCard:
    """What the header of a stack image says, without its pixels.

    Attributes
    ----------
    path : Path
    name : str
        ``skycell.1405.053``, or the file's name where it names none.
    band : str
        g, r, i, z or y; empty if unknown.
    wcs : astropy.wcs.WCS
    shape : (ny, nx)
    exposure_s : float
        Sum over the inputs, as in EXPTIME.
    zero_point_mag : float
        AB magnitude of one count.
    companions : dict of str to Path
        Files of the kinds mask, wt and num that lie beside it.
    """

    path: Path
    name: str
    band: str
    wcs: WCS
    shape: tuple[int, int]
    exposure_s: float
    zero_point_mag: float
    companions: dict[str, Path]


@dataclass(frozen=True, eq=False)
class SkycellPixels:
    """A part of a stack, its first pixel at `origin` (y, x) of the file.

    Attributes
    ----------
    counts : ndarray, shape (ny, nx), float32
        Linear; NaN where `bad`.
    variance : ndarray, shape (ny, nx), float32
        Counts squared; NaN where `bad`.
    mask : ndarray, shape (ny, nx), uint16
        `rbsim.ps1.mask_bits.BITS`; pixels without a value have BLANK at least.
    n_inputs : ndarray, shape (ny, nx), float32, or None
        Exposures behind each pixel.
    origin : (y, x)
    """

    counts: np.ndarray
    variance: np.ndarray
    mask: np.ndarray
    n_inputs: np.ndarray | None
    origin: tuple[int, int]

    @property
    def bad(self) -> np.ndarray:
        """Pixels without a usable value, shape (ny, nx), bool."""
        return (self.mask & BAD) != 0


def find_skycells(folder: Path, band: str) -> tuple[SkycellCard, ...]:
    """Cards of all stack images of a band in a folder (and its subfolders), by name.

    Raises
    ------
    InputError
        If the folder holds none, or one cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: is no folder; give the one with the PS1 stack images")
    paths = sorted(p for p in folder.rglob("*") if p.name.endswith(FILE_ENDS) and _is_image(p.name))
    cards = [read_card(path) for path in paths]
    known = [card for card in cards if card.band in ("", band)]
    if not known:
        bands = ", ".join(sorted({card.band for card in cards})) or "none"
        raise InputError(f"{folder}: holds no PS1 stack image of band {band} (bands found: {bands})")
    return tuple(known)


def _is_image(name: str) -> bool:
    stem = name[: name.index(".fits")]
    return ".stk." in stem and not stem.endswith((".mask", ".wt", ".num", ".exp", ".expwt"))


def read_card(path: Path) -> SkycellCard:
    """Header of a stack image, and which companions it has.

    Raises
    ------
    InputError
        If the file cannot be read, has no 2-D image, no WCS or no exposure time.
    """
    with hdus.opened(path) as opened:
        hdu = hdus.choose_hdu(opened, None, path)
        header = _standard(hdu.header)
        shape = int(hdu.header["NAXIS2"]), int(hdu.header["NAXIS1"])
    wcs = read_wcs(header, path)
    if wcs is None:
        raise InputError(f"{path}: has no celestial WCS; it is no PS1 stack image")
    exposure = header.get("EXPTIME")
    if not isinstance(exposure, int | float) or not 0 < exposure < math.inf:
        raise InputError(f"{path}: EXPTIME is {exposure}; PS1 stacks need it for their zero point")
    named = re.search(r"skycell\.\d{4}\.\d{3}", f"{path.name} {header.get('SKYCELL', '')}")
    filtered = re.search(r"\.stk\.([grizy])\.", path.name)
    band = filtered[1] if filtered else str(header.get("FPA.FILTERID", header.get("FILTER", "")))[:1]
    return SkycellCard(
        path=path,
        name=named[0] if named else path.name,
        band=band if band in "grizy" else "",
        wcs=wcs,
        shape=shape,
        exposure_s=float(exposure),
        zero_point_mag=25 + 2.5 * math.log10(exposure),
        companions=_companions(path),
    )


def _companions(path: Path) -> dict[str, Path]:
    end = path.name.index(".fits")
    found = {}
    for kind, part in KINDS.items():
        names = [path.with_name(path.name[:end] + part + suffix) for suffix in FILE_ENDS]
        there = [name for name in names if name.exists()]
        if part and there:
            found[kind] = there[0]
    return found


def _standard(header: fits.Header) -> fits.Header:
    """The header with PC cards in today's form, and a frame for its coordinates."""
    header = header.copy()
    for card in list(header):
        old = _PC.match(card)
        if old:
            value = header[card]
            del header[card]
            header[f"PC{old[1]}_{old[2]}"] = value
    header.setdefault("RADESYS", "FK5")
    if header.get("CRVAL2") == 90.0:
        header.setdefault("LONPOLE", 180.0)  # the plane is not turned at the pole
    return header


def read_pixels(card: SkycellCard, window: tuple[slice, slice] | None = None) -> SkycellPixels:
    """Linear counts, variance and mask of a stack or a part of it.

    Without a mask file, pixels that are not finite are bad. Without a variance file, the variance is that of
    the scatter of the pixels, the same everywhere.

    Parameters
    ----------
    card : SkycellCard
    window : pair of slices, optional
        Rows and columns, with start and stop.

    Raises
    ------
    InputError
        If a file cannot be read, or a companion has another shape.
    """
    window = window or (slice(0, card.shape[0]), slice(0, card.shape[1]))
    counts = _linear(card.path, window, card.shape)
    mask = np.zeros(counts.shape, np.uint16)
    if "mask" in card.companions:
        values = _plane(card.companions["mask"], window, card.shape)
        if values.dtype.kind == "f":  # cut-outs
            values = np.where(np.isfinite(values), values, BITS["BLANK"])
        mask |= values.astype(np.int64).astype(np.uint16)
    else:
        log.warning("%s: no mask file beside it; only pixels without a value count as bad", card.path)
    mask[~np.isfinite(counts)] |= BITS["BLANK"]
    if "wt" in card.companions:
        variance = _linear(card.companions["wt"], window, card.shape)
        mask[~(np.isfinite(variance) & (variance > 0))] |= BITS["BLANK"]
    else:
        log.warning("%s: no variance file (wt) beside it; taken from the scatter of its pixels", card.path)
        variance = np.full(counts.shape, _scatter(counts[(mask & BAD) == 0]) ** 2, np.float32)
    n_inputs = None
    if "num" in card.companions:
        n_inputs = _plane(card.companions["num"], window, card.shape).astype(np.float32)
    bad = (mask & BAD) != 0
    counts[bad] = np.nan
    variance[bad] = np.nan
    return SkycellPixels(counts, variance, mask, n_inputs, (window[0].start, window[1].start))


def _scatter(values: np.ndarray) -> float:
    """Width of the noise, from a part of the pixels; 1 if there are none."""
    some = values[:: max(1, values.size // 200_000)]
    if not some.size:
        return 1.0
    return float(1.4826 * np.median(np.abs(some - np.median(some)))) or 1.0


def _linear(path: Path, window: tuple[slice, slice], shape: tuple[int, int]) -> np.ndarray:
    """Values of a file without their asinh scaling, if its header says that they have one."""
    with hdus.opened(path) as opened:
        hdu = _checked(opened, path, shape)
        values = np.array(hdu.section[window], np.float32)
        soften, offset = hdu.header.get("BSOFTEN"), hdu.header.get("BOFFSET")
    if soften is None or offset is None:
        return values
    values *= np.float32(math.log(10) / 2.5)
    with np.errstate(over="ignore"):
        np.sinh(values, out=values)
    values *= np.float32(2 * soften)
    values += np.float32(offset)
    return values


def _plane(path: Path, window: tuple[slice, slice], shape: tuple[int, int]) -> np.ndarray:
    with hdus.opened(path) as opened:
        return np.array(_checked(opened, path, shape).section[window])


def _checked(opened: fits.HDUList, path: Path, shape: tuple[int, int]) -> fits.ImageHDU:
    hdu = hdus.choose_hdu(opened, None, path)
    found = int(hdu.header["NAXIS2"]), int(hdu.header["NAXIS1"])
    if found != shape:
        raise InputError(f"{path}: has shape {found}, its image {shape}; fetch both again")
    return hdu
