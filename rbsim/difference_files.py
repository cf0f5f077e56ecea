"""What `rbsim subtract` writes: a difference as FITS, its candidates and the summary of frames as ECSV."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Column, Table

from rbsim import __version__, schema
from rbsim.chain import Subtracted
from rbsim.locations import written_whole

LEFT_OUT = frozenset(
    {"frame", "realisation", "injection_id", "label_true", "label_true_source", "label_given"}
    | {"x0_pix", "y0_pix", "footprint_half_ref_pix", "host_offset_pix", "block", "tile", "group"}
    | {"reference", "pair", "found_with"}
)
"""Columns of a store's candidates that have no meaning without injection and stamps."""

NO_INJECTION = frozenset({"block", "n_asked", "reference", "n_common"})
"""Columns of frames that have no meaning without injection."""

CARDS = {
    "overlap": "OVERLAP",
    "flux_scale": "FLXSCALE",
    "flux_scale_spread": "FLXSPRD",
    "flux_scale_over_photometry": "FLXPHOT",
    "n_stamps": "NSTAMPS",
    "n_clipped": "NCLIPPED",
    "chi2_per_pixel": "KERCHI2",
    "star_residual": "STARRES",
    "star_shape_residual": "STARSHAP",
    "star_chi2": "STARCHI2",
    "stars_missing": "STARMISS",
    "pixel_noise_ratio": "PIXNOISE",
    "snr_scale": "SNRSCALE",
}
"""FITS cards of the quality figures."""


def write_difference(path: Path, frame: Subtracted) -> None:
    """Write a difference: the image, and VARIANCE, MASK (schema.MASK_PLANES), SNR and REFERENCE.

    REFERENCE is the reference on the pixels of the science frame, in its own ADU, not convolved.

    Parameters
    ----------
    path : Path
        Made under another name and renamed when whole; a file of this name is replaced.
    frame : Subtracted
    """
    header = fits.Header()
    if frame.science.wcs is not None:
        header.update(frame.science.wcs.to_header(relax=True))
    header["BUNIT"] = ("ADU", "of the science frame")
    header["SCIENCE"] = (frame.science.name, "science frame")
    header["REFERENC"] = (frame.reference.name, "reference, registered to it")
    header["CONVOLVD"] = (frame.difference.convolved, "which image the kernel was applied to")
    header["PSFFWHM"] = (round(frame.psf.fwhm_pix, 4), "[pix] FWHM of the science frame")
    header["REGRMS"] = (_card(frame.transform.rms_pix), "[pix] registration residual per axis")
    header["MAGZERO"] = (frame.science.zero_point_mag, "[mag] of 1 ADU per exposure")
    for name, value in frame.quality.as_dict().items():
        header[CARDS[name]] = (_card(value), name.replace("_", " "))
    header["CREATOR"] = f"rbsim {__version__}"
    difference = frame.difference
    hdus = fits.HDUList(
        [
            fits.PrimaryHDU(difference.image, header),
            fits.ImageHDU(difference.variance, name="VARIANCE"),
            fits.ImageHDU(difference.mask, name="MASK"),
            fits.ImageHDU(frame.filtered.snr, name="SNR"),
            fits.ImageHDU(frame.reference.image, name="REFERENCE"),
        ]
    )
    with written_whole(path) as temporary:
        hdus.writeto(temporary, overwrite=True)


def _card(value: float) -> float | None:
    """A number that a FITS card may hold: not NaN."""
    return round(float(value), 6) if np.isfinite(value) else None


def candidate_table(columns: Mapping[str, np.ndarray], *, known_names: np.ndarray | None) -> Table:
    """Candidates of one frame as a table with units and descriptions.

    Parameters
    ----------
    columns : mapping
        As `rbsim.tables.candidate_columns` returns them.
    known_names : ndarray of str, or None
        Names of the known objects, in the order of their catalogue.
    """
    table = Table()
    for spec in schema.CANDIDATE_COLUMNS:
        if spec.name in LEFT_OUT:
            continue
        values = columns[spec.name].astype(spec.dtype)
        table.add_column(
            Column(values, spec.name, unit=spec.unit or None, description=spec.description), copy=False
        )
    kinds = {kind.code: kind.name for kind in schema.KINDS}
    causes = {artefact.code: artefact.name for artefact in schema.ARTEFACTS} | {schema.NO_CAUSE: ""}
    table["kind"] = Column([kinds[int(code)] for code in columns["kind"]], dtype=str)
    table["cause"] = Column([causes[int(code)] for code in columns["cause"]], dtype=str)
    flags = [
        ",".join(flag.name for flag in schema.CANDIDATE_FLAGS if value & flag.value)
        for value in columns["flags"].astype(int)
    ]
    table["flag_names"] = Column(flags, dtype=str, description="the bits of flags by name")
    if known_names is not None:
        rows = columns["known_row"]
        table["known_name"] = Column([known_names[row] if row >= 0 else "" for row in rows], dtype=str)
    return table


def write_table(path: Path, table: Table) -> None:
    """Write a table as ECSV under another name, and rename it when it is whole."""
    with written_whole(path) as temporary:
        table.write(temporary, format="ascii.ecsv", overwrite=True)


def frame_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Summary of all frames, failed ones with their reason; columns of schema.FRAME_COLUMNS."""
    table = Table()
    for name in ("frame", "reason"):
        table[name] = Column([row[name] for row in rows], dtype=str)
    for spec in schema.FRAME_COLUMNS:
        if spec.name not in NO_INJECTION and all(spec.name in row for row in rows):
            values = np.array([row[spec.name] for row in rows]).astype(spec.dtype)
            table[spec.name] = Column(values, unit=spec.unit or None, description=spec.description)
    return table
