"""What an emulated night says of skycells of PS1, on the pixels of the references that were made of them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from astropy.wcs import WCS

from rbsim import hdus
from rbsim.cause import TrueArtefacts, find_artefacts, joined
from rbsim.frame import read_wcs, split_extension
from rbsim.ps1.skycell import read_card

FOLDER = "ps1"
"""Of the skycells, beside the tables of the night."""


def find_all_artefacts(
    truth_path: Path | None, references: Sequence[str]
) -> tuple[Path | None, dict[str, TrueArtefacts] | None]:
    """`rbsim.cause.find_artefacts`, and the rows of skycells under the names of references.

    Parameters
    ----------
    truth_path : Path or None
    references : sequence of str
        Files. Those that `rbsim reference ps1` made of skycells of this night get the rows of these; the
        skycells must still be in its folder.
    """
    path, artefacts = find_artefacts(truth_path)
    if path is None or artefacts is None:
        return path, artefacts
    folder = path.parent / FOLDER
    skycells = {
        found[0]: name
        for name in artefacts
        if (found := re.search(r"skycell\.\d{4}\.\d{3}", name)) and (folder / name).exists()
    }
    added = {}
    for reference in references if skycells else ():
        file = split_extension(reference)[0]
        if file.name not in artefacts:
            rows = _rows_on(file, {name: artefacts[row] for name, row in skycells.items()}, folder, skycells)
            if rows is not None:
                added[file.name] = rows
    return path, artefacts | added


def _rows_on(
    reference: Path, rows: Mapping[str, TrueArtefacts], folder: Path, files: Mapping[str, str]
) -> TrueArtefacts | None:
    """Rows of the skycells that a reference names in its header, in its pixels; None if it names none."""
    with hdus.opened(reference, pixels=False) as opened:
        header = opened[0].header.copy()
    wcs = read_wcs(header, reference)
    made_of = [line.removeprefix("PS1 ") for line in map(str, header.get("HISTORY", []))]
    parts = [name for name in made_of if name in rows]
    if wcs is None or not parts:
        return None
    out: TrueArtefacts | None = None
    for name in parts:
        here = moved(rows[name], read_card(folder / files[name]).wcs, wcs)
        out = here if out is None else joined(out, here)
    return out


def moved(artefacts: TrueArtefacts, wcs: WCS, onto: WCS) -> TrueArtefacts:
    """Artefacts from the pixels of one image to those of another of the same sky.

    Parameters
    ----------
    artefacts : TrueArtefacts
    wcs, onto : astropy.wcs.WCS
    """
    half = np.nan_to_num(artefacts.length_pix) / 2
    angle = np.radians(np.nan_to_num(artefacts.angle_deg))
    ends = []
    for side in (-half, half):
        sky = wcs.wcs_pix2world(
            artefacts.x_pix + side * np.cos(angle), artefacts.y_pix + side * np.sin(angle), 0
        )
        ends.append(onto.wcs_world2pix(*sky, 0))
    (x0, y0), (x1, y1) = ends
    turned = np.degrees(np.arctan2(y1 - y0, x1 - x0))
    return replace(
        artefacts,
        x_pix=(x0 + x1) / 2,
        y_pix=(y0 + y1) / 2,
        length_pix=np.where(np.isfinite(artefacts.length_pix), np.hypot(x1 - x0, y1 - y0), np.nan),
        angle_deg=np.where(np.isfinite(artefacts.angle_deg), (turned + 90) % 180 - 90, np.nan),
    )
