"""Reference files from PS1: what a frame needs, the mosaic of it on the frame's grid, written once.

A reference that is there already is kept if it was made of the same skycells, for the same grid, in the
same way: its header has a key of all that (RBSKEY).
"""

import hashlib
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from rbsim import __version__, hdus
from rbsim.errors import InputError
from rbsim.frame import field_of, read_wcs, sensor_of, split_extension
from rbsim.manifest import sha256_of
from rbsim.ps1.skycell import SkycellCard, find_skycells
from rbsim.ps1.tessellation import KINDS, Rings, Skycell, read_rings, skycells_of
from rbsim.ps1.warp import Progress, WarpConfig, Warped, overlapping, warp

log = logging.getLogger(__name__)

BANDS = "grizy"
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


def read_target(source: str | Path, *, margin_pix: int = 0) -> Target:
    """Grid of a frame from its header, grown by a margin on all sides.

    Raises
    ------
    InputError
        If the file cannot be read, or has no celestial WCS.
    """
    path, extension = split_extension(source)
    with hdus.opened(path) as opened:
        header = hdus.choose_hdu(opened, extension, path).header.copy()
    wcs = read_wcs(header, path)
    if wcs is None:
        raise InputError(f"{path}: has no celestial WCS; PS1 skycells are found by position, solve it first")
    shape = int(header["NAXIS2"]) + 2 * margin_pix, int(header["NAXIS1"]) + 2 * margin_pix
    grown = wcs.to_header(relax=True)
    for axis in ("CRPIX1", "CRPIX2"):
        grown[axis] = grown.get(axis, 0.0) + margin_pix
    return Target(path.name, WCS(grown), shape, field_of(header), sensor_of(header))


def needed_skycells(target: Target, rings: Rings | None = None) -> tuple[Skycell, ...]:
    """Skycells that cover a frame.

    Raises
    ------
    InputError
        If it is outside the sky of PS1.
    """
    try:
        return skycells_of(target.wcs, target.shape, rings)
    except InputError as error:
        raise InputError(f"{target.name}: {error}") from error


def list_needed(
    frames: Sequence[str | Path], *, band: str = "r", margin_pix: int = 0, rings: Path | None = None
) -> list[dict[str, str]]:
    """Files of all skycells that frames need, each once: rows with skycell, kind, file and url.

    Raises
    ------
    InputError
        If a frame cannot be read, has no WCS, or is outside the sky of PS1.
    """
    _check_band(band)
    table = read_rings(rings)
    targets = [read_target(source, margin_pix=margin_pix) for source in frames]
    cells = {cell.name: cell for target in targets for cell in needed_skycells(target, table)}
    return [
        {"skycell": name, "kind": kind, "file": cell.file_name(band, kind), "url": cell.url(band, kind)}
        for name, cell in sorted(cells.items())
        for kind in KINDS
    ]


def _check_band(band: str) -> None:
    if len(band) != 1 or band not in BANDS:
        raise InputError(f"band is {band!r}; PS1 has {', '.join(BANDS)}")


def make_references(
    frames: Sequence[str | Path],
    skycells: Path,
    out: Path,
    *,
    band: str = "r",
    margin_pix: int = 0,
    rings: Path | None = None,
    config: WarpConfig | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> tuple[list[Ps1Summary], dict[str, str]]:
    """References of frames from the skycells in a folder.

    Parameters
    ----------
    frames : sequence of str or Path
        Of those with the same field and sensor only the first counts.
    skycells : Path
        Folder with stack images and their companions.
    out : Path
        A FITS file for one reference; else a folder, to be given as ``--reference``.
    band : str
        Of `BANDS`.
    margin_pix : int
        By which a reference is larger than its frame on each side, for dithers.
    rings : Path, optional
        Another table of the tessellation.
    config : WarpConfig, optional
    overwrite : bool
        Replace references that are not up to date.
    progress : callable, optional
        Called with (description, done, total).

    Returns
    -------
    summaries : list of Ps1Summary
    failed : dict of str to str
        Frames without a reference, and why.

    Raises
    ------
    InputError
        If there are no skycells of that band, or no frame gets a reference; nothing is then written.
    """
    config, tell = config or WarpConfig(), progress or (lambda *_: None)
    _check_band(band)
    table = read_rings(rings)
    cards = find_skycells(skycells, band)
    failed: dict[str, str] = {}
    targets = _targets(frames, margin_pix, failed)
    is_file = out.suffix.lower() in (".fits", ".fit")
    if is_file and len(targets) > 1:
        raise InputError(f"{out}: is one file, the frames need {len(targets)} references; give a folder")
    made = []
    for number, target in enumerate(targets):
        tell("references", number, len(targets))
        path = out if is_file else out / f"{_stem(target)}.fits"
        try:
            made.append(
                _make(target, cards, path, band, table, config, overwrite=overwrite, progress=progress)
            )
        except InputError as error:
            failed[target.name] = str(error)
    tell("references", len(targets), len(targets))
    if not made:
        raise InputError("; ".join(failed.values()) or "no frames were given")
    return made, failed


def _targets(frames: Sequence[str | Path], margin_pix: int, failed: dict[str, str]) -> list[Target]:
    """One target per field and sensor; frames that name neither have one each."""
    kept: dict[tuple[str, int, str], Target] = {}
    for source in frames:
        try:
            target = read_target(source, margin_pix=margin_pix)
        except InputError as error:
            failed[str(source)] = str(error)
            continue
        known = bool(target.field and target.sensor)
        kept.setdefault((target.field, target.sensor, "" if known else target.name), target)
    return list(kept.values())


def _stem(target: Target) -> str:
    """File name without its end."""
    if not (target.field and target.sensor):
        return "ps1_" + re.sub(r"\.fits?(\.\w+)?$", "", target.name)
    return f"ps1_{re.sub(r'[^A-Za-z0-9+._-]+', '_', target.field)}_{target.sensor}"


def _make(
    target: Target,
    cards: tuple[SkycellCard, ...],
    path: Path,
    band: str,
    rings: Rings,
    config: WarpConfig,
    *,
    overwrite: bool,
    progress: Progress | None,
) -> Ps1Summary:
    wanted = [cell.name for cell in needed_skycells(target, rings)]
    used = overlapping(cards, target.wcs, target.shape, config=config)
    missing = tuple(name for name in wanted if name not in {card.name for card in used})
    if not missing:  # neighbours that overlap add nothing
        used = tuple(card for card in used if card.name in wanted)
    if not used:
        there = ", ".join(card.name for card in cards[:4]) + (" ..." if len(cards) > 4 else "")
        raise InputError(
            f"{target.name}: no skycell of band {band} overlaps with it (there are {there});"
            f" it needs {', '.join(missing)}"
        )
    key = _key(used, target, band, config)
    if path.exists() and not overwrite:
        kept = _kept(path, key, used, missing)
        if kept is None:
            raise InputError(f"{path}: exists and is not up to date; give --overwrite to replace it")
        return kept
    if missing:
        log.warning("%s: lacks %s; pixels there have no reference", target.name, ", ".join(missing))
    try:
        warped = warp(used, target.wcs, target.shape, config=config, progress=progress)
    except InputError as error:
        raise InputError(f"{target.name}: {error}") from error
    _write(path, warped, target, band, key)
    masked = float(np.mean(np.isnan(warped.image)))
    facts = warped.zero_point_mag, warped.noise_ratio
    return Ps1Summary(str(path), "written", warped.names, missing, masked, *facts)


def _key(cards: Sequence[SkycellCard], target: Target, band: str, config: WarpConfig) -> str:
    """What tells references apart: contents of the skycells' files, grid, settings."""
    files = [path for card in cards for path in (card.path, *card.companions.values())]
    facts = {
        "format": FORMAT,
        "band": band,
        "config": asdict(config),
        "grid": [target.wcs.to_header_string(relax=True), target.shape, target.field, target.sensor],
        "files": sorted((path.name, sha256_of(path)) for path in files),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _kept(path: Path, key: str, used: Sequence[SkycellCard], missing: tuple[str, ...]) -> Ps1Summary | None:
    """Summary of a reference that has this key; None if it has another."""
    with hdus.opened(path) as opened:
        header = opened[0].header
    if header.get("RBSKEY") != key:
        return None
    ratio, masked = (float(header.get(card, np.nan)) for card in ("NOISERAT", "MASKED"))
    names = tuple(card.name for card in used)
    return Ps1Summary(str(path), "kept", names, missing, masked, float(header["MAGZERO"]), ratio)


def _write(path: Path, warped: Warped, target: Target, band: str, key: str) -> None:
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
