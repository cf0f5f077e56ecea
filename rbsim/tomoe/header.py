"""Headers of Tomo-e's files: what they are of.

Written for header version 0.730 and its traps. Missing cards are made up for from others: what the names
of cards have in the way of ``-`` and ``_`` does not matter, a stack has no NAXIS3 (and 17 frames where 18
were taken), DATE-OBS has no time, and RA and DEC, which go beyond 90 deg on calibration frames, are not
looked at. Numbers of the electronics are those of the instrument's page of specifications.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from astropy.io import fits

from rbsim.errors import InputError

KIND_OF_FMTTYPE = {
    "TOMOE-IMAGE-RAW": "raw",
    "TOMOE-IMAGE-CUBE": "cube",
    "TOMOE-IMAGE-DARK": "dark",
    "TOMOE-IMAGE-FLAT": "flat",
    "TOMOE-IMAGE-STACK": "stack",
}
RAW_WIDTH_PIX = 2156
"""Columns of a RAW file read out in full: some reference pixels are left beside the 2000 lit ones."""
READOUT_GAP_S = 96e-6
"""Time of a frame that is not exposed (EXPTIME1 = TFRAME - 96 us in all published headers)."""
START_UP_S = 0.50002
"""TELAPSE of a sequence beyond its frames, in all published headers."""

_FRAME_ID = re.compile(r"TMQ([1-4])(\d{8})(\d{8})(\d{2})")


@dataclass(frozen=True)
class Electronics:
    """One gain setting: electrons per ADU and read noise of a single frame, well (5 % non-linear)."""

    gain_e_per_adu: float
    read_noise_e: float
    well_e: float


ELECTRONICS = {
    "high": Electronics(0.23, 2.0, 6_000.0),
    "mid": Electronics(0.94, 4.1, 25_000.0),
    "low": Electronics(2.4, 9.2, 52_000.0),
}
SATURATED_SHARE = 0.9
"""Of the well: there the response falls short by up to 5 %, and flats move the level by some more."""
SURVEY_SETTING = "high"
"""What a file without GAINCNFG is taken for, with a warning."""


@dataclass(frozen=True)
class FrameId:
    """``TMQ`` + quadrant + date + exposure (8 digits) + chip (2 digits), taken apart."""

    quadrant: int
    chip: int
    date: str
    exposure: int

    @property
    def text(self) -> str:
        """As in the header."""
        return f"TMQ{self.quadrant}{self.date.replace('-', '')}{self.exposure:08d}{self.chip:02d}"


@dataclass(frozen=True)
class TomoeHeader:
    """What a file of Tomo-e is.

    Attributes
    ----------
    kind : str
        raw, cube, dark, flat or stack.
    frame_id : FrameId or None
        From FRAME_ID, else from the name of the file.
    det_id : int
        Number of the sensor; 0 if unknown.
    object : str
        Field and dither (``J0322+5925_dith1``), or what the dome showed.
    gain_setting : str
        high, mid or low; empty if GAINCNFG has a value that is not known.
    gain_e_per_adu, read_noise_e, well_e : float
        Of a single frame in that setting; NaN if not known.
    n_frames : int
        Single frames in a cube, or behind a 2-D image.
    frame_s, frame_exposure_s : float
        From one frame to the next, and exposure of one (TFRAME, EXPTIME1); NaN if unknown.
    exposure_s : float
        Net, of all frames; NaN if unknown.
    utc_unix_s : float
        Start of the first photosensitive pixel; NaN if unknown.
    shape : (ny, nx)
    dark_id, flat_id : str
        Cards DARK_ID and FLAT_ID, which the archive's table of stacks has as columns; empty if missing.
    lit_from : (y, x) or None
        First photosensitive pixel, 0-based, from EFP-MIN1 and EFP-MIN2 (cards of the sister camera TriCCS).
    """

    kind: str
    frame_id: FrameId | None
    det_id: int
    object: str
    gain_setting: str
    gain_e_per_adu: float
    read_noise_e: float
    well_e: float
    n_frames: int
    frame_s: float
    frame_exposure_s: float
    exposure_s: float
    utc_unix_s: float
    shape: tuple[int, int]
    dark_id: str
    flat_id: str
    lit_from: tuple[int, int] | None

    @property
    def saturation_adu(self) -> float:
        """Where a single frame counts as saturated; a mean of frames does there too."""
        return SATURATED_SHARE * self.well_e / self.gain_e_per_adu


def parse_frame_id(text: str) -> FrameId | None:
    """The parts of a FRAME_ID, or of a file name that holds one; None if there is none."""
    found = _FRAME_ID.search(text)
    if found is None:
        return None
    quadrant, date, exposure, chip = found.groups()
    return FrameId(int(quadrant), int(chip), f"{date[:4]}-{date[4:6]}-{date[6:]}", int(exposure))


def is_tomoe(header: fits.Header, name: str = "") -> bool:
    """Whether a header, or failing that the name of the file, is of Tomo-e; files of rbsim's own are not."""
    cards = Cards(header)
    if cards.text("FMTTYPE").startswith("TOMOE") or cards.text("FRAMEID").startswith("TMQ"):
        return True
    if cards.text("CREATOR").startswith("rbsim"):
        return False
    return re.match(r"[a-z]?TMQ[1-4]\d{18}", name) is not None


def parse_header(header: fits.Header, path: Path) -> TomoeHeader:
    """What a file of Tomo-e is, from the header of its image.

    Raises
    ------
    InputError
        If FMTTYPE is unknown, or a cube has fewer frames than were exposed.
    """
    cards = Cards(header)
    kind = _kind(header, cards, path)
    frame_s = cards.number("TFRAME")
    if np.isnan(frame_s):
        frame_s = 1 / cards.number("DATAFPS")
    frame_exposure_s = cards.number("EXPTIME1")
    if np.isnan(frame_exposure_s):
        frame_exposure_s = frame_s - READOUT_GAP_S
    n_frames, exposure_s = _frames(header, cards, frame_s, frame_exposure_s, path)
    frame_id = parse_frame_id(cards.text("FRAMEID")) or parse_frame_id(path.name)
    det_id = cards.number("DETID")
    if np.isnan(det_id):
        det_id = 0 if frame_id is None else 100 * frame_id.quadrant + frame_id.chip
    setting = _gain_setting(cards)
    nan = float("nan")
    electronics = ELECTRONICS.get(setting, Electronics(nan, nan, nan))
    return TomoeHeader(
        kind=kind,
        frame_id=frame_id,
        det_id=int(det_id),
        object=cards.text("OBJECT"),
        gain_setting=setting,
        gain_e_per_adu=electronics.gain_e_per_adu,
        read_noise_e=electronics.read_noise_e,
        well_e=electronics.well_e,
        n_frames=n_frames,
        frame_s=frame_s,
        frame_exposure_s=frame_exposure_s,
        exposure_s=exposure_s,
        utc_unix_s=_start(cards),
        shape=(int(header["NAXIS2"]), int(header["NAXIS1"])),
        dark_id=cards.text("DARKID"),
        flat_id=cards.text("FLATID"),
        lit_from=_lit_from(cards),
    )


def exposure_of(header: fits.Header, name: str) -> str:
    """What all sensors' files of one exposure have in common; empty if it cannot be told.

    Their UTC may differ: every sensor has a time stamp of its own.
    """
    if not is_tomoe(header, name):
        return ""
    frame_id = parse_frame_id(Cards(header).text("FRAMEID")) or parse_frame_id(name)
    return "" if frame_id is None else f"{frame_id.date} {frame_id.exposure}"


class Cards:
    """Values by the name of their card, without ``-`` and ``_`` in it."""

    def __init__(self, header: fits.Header) -> None:
        self._header = header
        self._names = {str(name).upper().replace("-", "").replace("_", ""): str(name) for name in header}

    def text(self, name: str) -> str:
        """Value as text; empty if there is none, or none that can be read."""
        try:
            value = self._header.get(self._names.get(name, ""), "")
        except (ValueError, fits.VerifyError):
            return ""
        return "" if isinstance(value, fits.card.Undefined) else str(value).strip()

    def number(self, name: str) -> float:
        """Value as a positive number, also where it was written as text; NaN if it is none."""
        try:
            value = float(self.text(name))
        except ValueError:
            return float("nan")
        return value if 0 < value < np.inf else float("nan")


def _kind(header: fits.Header, cards: Cards, path: Path) -> str:
    """By FMTTYPE; without it by the type of data, the number of axes and the width."""
    format_type = cards.text("FMTTYPE").upper()
    is_cube = header.get("NAXIS") == 3
    if format_type in KIND_OF_FMTTYPE:
        kind = KIND_OF_FMTTYPE[format_type]
        if is_cube != (kind in ("raw", "cube")):
            raise InputError(
                f"{path}: FMTTYPE is {format_type}, but the image has {header.get('NAXIS')} axes;"
                " it is damaged or was changed"
            )
        return kind
    if format_type.startswith(("TOMOE-COLLECTION-NEO", "TOMOE-IMAGE-NEO", "TOMOE-TABLE-NEO")):
        raise InputError(
            f"{path}: holds cut-outs of moving objects ({format_type}); give the stack of the exposure"
        )
    if format_type:
        raise InputError(
            f"{path}: FMTTYPE {format_type!r} is not known; there are {', '.join(KIND_OF_FMTTYPE)}"
        )
    if is_cube:
        is_raw = header.get("BITPIX", -32) > 0 or header.get("NAXIS1") == RAW_WIDTH_PIX
        return "raw" if is_raw else "cube"
    said = (cards.text("DATATYP") or cards.text("OBJECT")).upper()
    return said.lower() if said in ("DARK", "FLAT") else "stack"


def _frames(
    header: fits.Header, cards: Cards, frame_s: float, frame_exposure_s: float, path: Path
) -> tuple[int, float]:
    """Number of single frames in or behind an image, and their net exposure time in seconds."""
    exposure_s = cards.number("EXPTIME")
    exposed = exposure_s / frame_exposure_s
    if header.get("NAXIS") == 3:
        n = int(header["NAXIS3"])
        if np.isfinite(exposed) and n < round(exposed):
            raise InputError(
                f"{path}: {n} of {round(exposed)} frames are there (EXPTIME {exposure_s:g} s, EXPTIME1"
                f" {frame_exposure_s:g} s); get the whole cube"
            )
        return n, exposure_s if np.isfinite(exposure_s) else n * frame_exposure_s
    if np.isfinite(exposed):
        return max(round(exposed), 1), exposure_s
    taken = (cards.number("TELAPSE") - START_UP_S) / frame_s
    if np.isfinite(taken):
        n = max(round(taken) - 1, 1)  # every published 2-D product lacks one of the frames taken
        return n, n * frame_exposure_s
    return 1, exposure_s


def _gain_setting(cards: Cards) -> str:
    stated = cards.text("GAINCNFG").lower()
    if stated:
        return stated if stated in ELECTRONICS else ""
    gain = cards.number("GAIN")
    for name, electronics in ELECTRONICS.items():
        if abs(gain / electronics.gain_e_per_adu - 1) < 0.2:
            return name
    return SURVEY_SETTING


def _start(cards: Cards) -> float:
    """UTC, GPS-UP, or DATE-OBS with TIME-OBS, in Unix seconds; NaN if there is none."""
    candidates = (cards.text("UTC"), cards.text("GPSUP"), f"{cards.text('DATEOBS')}T{cards.text('TIMEOBS')}")
    for text in candidates:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            continue
        if "T" in text or " " in text:
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return float("nan")


def _lit_from(cards: Cards) -> tuple[int, int] | None:
    first = cards.number("EFPMIN2"), cards.number("EFPMIN1")
    return (int(first[0]) - 1, int(first[1]) - 1) if np.isfinite(first).all() else None
