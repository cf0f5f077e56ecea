"""A night of emulated frames on disk: science exposures, a deep sharp reference, and the truth."""

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astropy.io import fits
from astropy.table import Table

from rbsim.emulate.artefacts import STRENGTHS
from rbsim.emulate.exposure import EmulatedFrame, emulate_frame, emulate_reference, make_sky
from rbsim.emulate.settings import Night, load_night
from rbsim.folder import new_folder

__all__ = ["Night", "NightSummary", "emulate_night", "load_night"]

log = logging.getLogger(__name__)

TRUTH_UNITS = {
    "frame": None,
    "kind": None,
    "transient_id": None,
    "x_pix": "pixel",
    "y_pix": "pixel",
    "ra_deg": "deg",
    "dec_deg": "deg",
    "mag": "mag",
    "flux_e": "electron",
    "snr_expected": None,
    "host_offset_pix": "pixel",
}
ARTEFACT_UNITS = {
    "frame": None,
    "class": None,
    "x_pix": "pixel",
    "y_pix": "pixel",
    "strength": None,
    "length_pix": "pixel",
    "angle_deg": "deg",
}


@dataclass(frozen=True)
class NightSummary:
    """What `emulate_night` wrote: transient rows over all frames, artefact rows by class."""

    path: Path
    n_frames: int
    n_transients: int
    n_artefacts: Mapping[str, int]


def emulate_night(
    out: Path,
    night: Night,
    *,
    seed: int,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> NightSummary:
    """Write a night: ``science/EXPNNN.fits``, ``reference.fits``, ``truth.ecsv``, ``artefacts.ecsv``.

    Parameters
    ----------
    out : Path
        Directory to make. It gets its name only when it is whole.
    night : Night
    seed : int
        Not negative; the same seed gives the same bits.
    overwrite : bool
        Replace an emulated night of this name.
    progress : callable, optional
        Called with the number of images made and their total.

    Raises
    ------
    InputError
        If `out` exists and may not be replaced, is not an emulated night, or cannot be written.
    """
    night_sky = make_sky(night, seed=seed)
    with new_folder(out, overwrite=overwrite, proof="truth.ecsv", command="rbsim emulate") as work:
        (work / "science").mkdir()
        frames = [_write(work, emulate_reference(night, night_sky, seed=seed))]
        for index in range(night.n_exposures):
            if progress is not None:
                progress(len(frames), night.n_exposures + 1)
            frames.append(_write(work / "science", emulate_frame(night, night_sky, index, seed=seed)))
        transients = [row for frame in frames for row in frame.transients]
        rows = [(frame.file_name, *dataclasses.astuple(row)) for frame in frames for row in frame.artefacts]
        meta = {"night": night.name, "seed": seed}
        truth_table = [tuple(row[name] for name in TRUTH_UNITS) for row in transients]
        _write_table(work / "truth.ecsv", truth_table, TRUTH_UNITS, meta)
        _write_table(work / "artefacts.ecsv", rows, ARTEFACT_UNITS, {**meta, "strength": STRENGTHS})
    if progress is not None:
        progress(len(frames), len(frames))
    log.info("%s: %d exposures with %d transients", out, night.n_exposures, len(transients))
    return NightSummary(out, night.n_exposures, len(transients), dict(Counter(row[1] for row in rows)))


def _write(folder: Path, frame: EmulatedFrame) -> EmulatedFrame:
    fits.PrimaryHDU(frame.image, frame.header).writeto(folder / frame.file_name)
    return frame


def _write_table(
    path: Path, rows: Sequence[Sequence[Any]], units: Mapping[str, str | None], meta: dict[str, Any]
) -> None:
    dtypes = [
        str if name in ("frame", "kind", "class") else int if name == "transient_id" else float
        for name in units
    ]
    table = Table(rows=rows or None, names=list(units), dtype=dtypes, units=dict(units), meta=meta)
    table.write(path, format="ascii.ecsv")
