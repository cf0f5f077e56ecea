"""Reference files made from PS1: written whole, and recognised when nothing they were made of has changed."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from rbsim import __version__, hdus
from rbsim.errors import InputError
from rbsim.ps1.skycell import SkycellCard
from rbsim.ps1.warp import WarpConfig, Warped

FORMAT = 1
"""Of what is written; a new one makes old references stale."""


@dataclass(frozen=True, eq=False)
class Target:
    """The grid of a reference, and which frames it is for.

    Attributes
    ----------
    name : str
        File name of the frame.
    wcs : astropy.wcs.WCS
    shape : (ny, nx)
    field : str
        Empty if unknown.
    sensor : int
        0 if unknown.
    """

    name: str
    wcs: WCS
    shape: tuple[int, int]
    field: str
    sensor: int


@dataclass(frozen=True)
class Ps1Summary:
    """One reference that was asked for.

    Attributes
    ----------
    path : str
    state : str
        ``written``, or ``kept`` if it was there and up to date.
    skycells, missing : tuple of str
        Those in it, and those that the frame needs besides.
    masked_share : float
        Of its pixels without a value.
    zero_point_mag : float
    noise_ratio : float
        Measured noise of the sky over that of the variance.
    """

    path: str
    state: str
    skycells: tuple[str, ...]
    missing: tuple[str, ...]
    masked_share: float
    zero_point_mag: float
    noise_ratio: float


def files_of(cards: Sequence[SkycellCard]) -> list[Path]:
    """All files of some skycells."""
    return [path for card in cards for path in (card.path, *card.companions.values())]


def key_of(
    cards: Sequence[SkycellCard],
    target: Target,
    band: str,
    config: WarpConfig,
    checksums: Mapping[Path, str],
) -> str:
    """What tells references apart: contents of the skycells' files, grid, settings."""
    facts = {
        "format": FORMAT,
        "band": band,
        "config": asdict(config),
        "grid": [target.wcs.to_header_string(relax=True), target.shape, target.field, target.sensor],
        "files": sorted((path.name, checksums[path]) for path in files_of(cards)),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def kept(path: Path, key: str, used: Sequence[SkycellCard], missing: tuple[str, ...]) -> Ps1Summary | None:
    """Summary of a reference that has this key; None if it has another."""
    with hdus.opened(path) as opened:
        header = opened[0].header
    if header.get("RBSKEY") != key:
        return None
    ratio, masked = (float(header.get(card, np.nan)) for card in ("NOISERAT", "MASKED"))
    names = tuple(card.name for card in used)
    return Ps1Summary(str(path), "kept", names, missing, masked, float(header["MAGZERO"]), ratio)


def write(path: Path, warped: Warped, target: Target, band: str, key: str) -> None:
    """Write a reference; its folder is made if it is not there.

    Raises
    ------
    InputError
        If it cannot be written; nothing is left of it then.
    """
    header = warped.wcs.to_header(relax=True)
    if target.field:
        header["OBJECT"] = target.field
    if target.sensor:
        header["DET_ID"] = (target.sensor, "sensor number")
    header["MAGZERO"] = (warped.zero_point_mag, f"[mag] AB, of 1 count, PS1 {band} band")
    header["PS1BAND"] = band
    header["BUNIT"] = "ADU"
    header["MASKED"] = (float(np.mean(np.isnan(warped.image))), "share of pixels without a value")
    if np.isfinite(warped.noise_ratio):
        header["NOISERAT"] = (warped.noise_ratio, "measured noise of the sky over VARIANCE's")
    header["RBSKEY"] = (key, "of skycells, grid and settings")
    header["CREATOR"] = f"rbsim {__version__}"
    for name in warped.names:
        header["HISTORY"] = f"PS1 {name}"
    planes = {
        "VARIANCE": warped.variance,
        "MASK": warped.mask,
        "BADSHARE": warped.bad_share,
        "FLAGGED": warped.flagged_share,
        "COVERAGE": warped.n_inputs,
    }
    extensions = [fits.ImageHDU(plane, name=name) for name, plane in planes.items()]
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fits.HDUList([fits.PrimaryHDU(warped.image, header), *extensions]).writeto(temporary, overwrite=True)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        reason = error.strerror or error
        raise InputError(f"{path}: cannot be written ({reason}); choose another --out") from error
