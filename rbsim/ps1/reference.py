"""References from PS1: what frames need, and the mosaic of it on each frame's grid, made once.

A reference that is there already is kept if it was made of the same skycells, for the same grid, in the
same way: its header has a key of all that (RBSKEY).
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.wcs import WCS

from rbsim import hdus
from rbsim.errors import InputError
from rbsim.frame import field_of, read_wcs, sensor_of, split_extension
from rbsim.manifest import sha256_of
from rbsim.parallel import Run, run_here
from rbsim.ps1.reference_file import Ps1Summary, Target, files_of, kept, key_of, write
from rbsim.ps1.skycell import SkycellCard, find_skycells, read_card
from rbsim.ps1.tessellation import KINDS, Rings, Skycell, read_rings, skycells_of
from rbsim.ps1.warp import Progress, WarpConfig, overlapping, warp

log = logging.getLogger(__name__)

BANDS = "grizy"


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
    run: Run = run_here,
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
    run : Run
        Who does the work; the result is the same.
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
    checksums: dict[Path, str] = {}
    made: dict[int, Ps1Summary] = {}
    jobs: list[_Job] = []
    for number, target in enumerate(targets):
        path = out if is_file else out / f"{_stem(target)}.fits"
        try:
            job = _plan(number, target, cards, path, band, table, config, checksums)
            there = kept(path, job.key, job.used, job.missing) if path.exists() and not overwrite else None
            if there is not None:
                made[number] = there
            elif path.exists() and not overwrite:
                raise InputError(f"{path}: exists and is not up to date; give --overwrite to replace it")
            else:
                jobs.append(job)
        except InputError as error:
            failed[target.name] = str(error)
    tell("references", len(made), len(made) + len(jobs))

    def on_done(result: tuple[_Job, Ps1Summary | str]) -> None:
        job, outcome = result
        if isinstance(outcome, str):
            failed[job.target.name] = outcome
        else:
            made[job.number] = outcome
        tell("references", len(made), len(targets))

    run(
        _process,
        (band, config),
        jobs,
        on_done=on_done,
        on_lost=lambda job, reason: on_done((job, f"{job.target.name}: {reason}")),
    )
    if not made:
        raise InputError("; ".join(failed.values()) or "no frames were given")
    return [made[number] for number in sorted(made)], failed


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


@dataclass(frozen=True, eq=False)
class _Job:
    """One reference that is to be made."""

    number: int
    target: Target
    used: tuple[SkycellCard, ...]
    missing: tuple[str, ...]
    path: Path
    key: str


def _plan(
    number: int,
    target: Target,
    cards: tuple[SkycellCard, ...],
    path: Path,
    band: str,
    rings: Rings,
    config: WarpConfig,
    checksums: dict[Path, str],
) -> _Job:
    """Which skycells a reference is made of; their files' checksums are added to the mapping."""
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
    for file in files_of(used):
        if file not in checksums:
            checksums[file] = sha256_of(file)
    if missing:
        log.warning("%s: lacks %s; pixels there have no reference", target.name, ", ".join(missing))
    return _Job(number, target, used, missing, path, key_of(used, target, band, config, checksums))


def _process(shared: tuple[str, WarpConfig], job: _Job) -> tuple[_Job, Ps1Summary | str]:
    """Make and write one reference; its summary, or why there is none."""
    band, config = shared
    try:
        # Read anew: on its way to a worker a WCS loses its last digits.
        cards = [read_card(card.path) for card in job.used]
        warped = warp(cards, job.target.wcs, job.target.shape, config=config)
        write(job.path, warped, job.target, band, job.key)
    except InputError as error:
        return job, f"{job.target.name}: {error}"
    masked = float(np.mean(np.isnan(warped.image)))
    facts = warped.zero_point_mag, warped.noise_ratio
    return job, Ps1Summary(str(job.path), "written", warped.names, job.missing, masked, *facts)
