"""Calibration files of Tomo-e: what there is, which of them a file needs, and where RAW pixels see light."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits

from rbsim import hdus
from rbsim.errors import InputError
from rbsim.robust import robust_width
from rbsim.tomoe.header import TomoeHeader, is_tomoe, parse_header

log = logging.getLogger(__name__)

SAME_EXPOSURE = 1e-3
"""Relative difference of two exposure times that are the same."""
MIN_LIGHT_SIGMA = 5.0
"""Light against unlit columns, in units of their scatter, from which on the lit ones are known."""
LOOK_AT_FRAMES = 5


@dataclass(frozen=True)
class CalibrationFile:
    """A dark or a flat that may be used."""

    path: Path
    card: TomoeHeader

    def describe(self) -> str:
        """Name and what it is of."""
        card = self.card
        setting = f"gain {card.gain_setting}, {card.frame_exposure_s:.4g} s"
        return f"{self.path.name} (sensor {card.det_id}, {setting})"

    @property
    def ids(self) -> tuple[str, ...]:
        """By what it may be asked for: FRAME_ID, number of its exposure, file name."""
        frame_id = self.card.frame_id
        named = () if frame_id is None else (frame_id.text, str(frame_id.exposure))
        return (*named, self.path.name, self.path.name.split(".")[0])


def read_card(path: Path) -> TomoeHeader:
    """What a file of Tomo-e is; its pixels are not read.

    Raises
    ------
    InputError
        If the file is unreadable or not of Tomo-e, or as `rbsim.tomoe.header.parse_header`.
    """
    with hdus.opened(path, pixels=False) as opened:
        header = hdus.choose_hdu(opened, None, path).header
        if not is_tomoe(header, path.name):
            raise InputError(f"{path}: is no file of Tomo-e (no FMTTYPE, no FRAME_ID, no such name)")
        return parse_header(header, path)


def list_calibration(paths: Sequence[Path], kind: str) -> tuple[CalibrationFile, ...]:
    """Files of one kind among some; a single one must be it, of several the others are left out.

    Parameters
    ----------
    paths : sequence of Path
    kind : str
        dark or flat.

    Raises
    ------
    InputError
        If there is none.
    """
    found, reasons = [], []
    for path in paths:
        try:
            card = read_card(path)
        except InputError as error:
            reasons.append(str(error))
            continue
        if card.kind == kind:
            found.append(CalibrationFile(path, card))
        else:
            reasons.append(f"{path}: is a {card.kind}, not a {kind}")
    if not found:
        raise InputError(f"{reasons[0]}; give a {kind} of Tomo-e" if reasons else f"no {kind} was given")
    for reason in reasons:
        log.info("not used as %s: %s", kind, reason)
    return tuple(found)


def choose_calibration(
    files: Sequence[CalibrationFile], science: TomoeHeader, kind: str, *, wanted_id: str | None = None
) -> CalibrationFile:
    """The dark or flat for a file: of its sensor, a dark of its gain and exposure; the nearest in time.

    Parameters
    ----------
    files : sequence of CalibrationFile
        Of one kind.
    science : TomoeHeader
    kind : str
    wanted_id : str, optional
        Take this one: FRAME_ID, number of the exposure, or file name. Default: what the file's own header
        names, if it is there.

    Raises
    ------
    InputError
        If there is none; the message says why, or lists what there is.
    """
    stated = science.dark_id if kind == "dark" else science.flat_id
    if wanted_id is None and any(stated in file.ids for file in files):
        wanted_id = stated
    among = [file for file in files if wanted_id is None or wanted_id in file.ids]
    if not among:
        known = ", ".join(file.ids[0] for file in files[:8])
        raise InputError(f"no {kind} has the id {wanted_id!r}; there are {known}")
    reasons = {file: unfit(file, science) for file in among}
    fitting = [file for file in among if not reasons[file]]
    if fitting:
        return min(fitting, key=lambda file: (_days_apart(file.card, science), file.path.name))
    if len(among) == 1:
        raise InputError(reasons[among[0]])
    there = "; ".join(file.describe() for file in among[:8])
    exposure = f", {science.frame_exposure_s:.4g} s" if kind == "dark" else ""
    gain = f", gain {science.gain_setting}" if kind == "dark" else ""
    raise InputError(f"no {kind} for sensor {science.det_id}{gain}{exposure}; there are {there}")


def unfit(file: CalibrationFile, science: TomoeHeader) -> str:
    """Why a dark or flat cannot be used for a file; empty if it can. A flat is a ratio: of any gain."""
    card = file.card
    if card.det_id and science.det_id and card.det_id != science.det_id:
        return f"{file.path}: is of sensor {card.det_id}, not {science.det_id}; give its {card.kind}"
    if card.kind != "dark":
        return ""
    if card.gain_setting != science.gain_setting:
        settings = (setting or "unknown" for setting in (card.gain_setting, science.gain_setting))
        return f"{file.path}: has gain {', not '.join(settings)}; give a dark of the same gain"
    own, other = card.frame_exposure_s, science.frame_exposure_s
    if np.isfinite(own) and np.isfinite(other) and abs(own / other - 1) > SAME_EXPOSURE:
        return (
            f"{file.path}: its frames were exposed for {own:.6g} s, not {other:.6g} s;"
            " give a dark of the same exposure"
        )
    return ""


def read_pixels(file: CalibrationFile) -> np.ndarray:
    """The image of a dark or flat, shape (ny, nx), float32.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    with hdus.opened(file.path) as opened:
        return np.asarray(hdus.choose_hdu(opened, None, file.path).data).astype(np.float32)


def find_lit(hdu: fits.ImageHDU, card: TomoeHeader, shape: tuple[int, int], path: Path) -> tuple[int, int]:
    """The first pixel (y, x) of a RAW file's frames that has its place in dark and flat.

    RAW has some of the reference pixels still, which see no light. Where is taken from the header, else
    from the light: the lines and columns that are brightest together.

    Parameters
    ----------
    hdu : fits.ImageHDU
        With three axes.
    card : TomoeHeader
    shape : (ny, nx)
        Of dark and flat.
    path : Path

    Raises
    ------
    InputError
        If dark and flat are larger, or the light does not tell.
    """
    (ny, nx), (raw_ny, raw_nx) = shape, card.shape
    if ny > raw_ny or nx > raw_nx:
        raise InputError(
            f"{path}: has {raw_nx} x {raw_ny} px, dark and flat {nx} x {ny}; give those of the same readout"
        )
    if (ny, nx) == (raw_ny, raw_nx):
        return 0, 0
    if card.lit_from is not None and card.lit_from[0] + ny <= raw_ny and card.lit_from[1] + nx <= raw_nx:
        return card.lit_from
    n = min(int(hdu.header["NAXIS3"]), LOOK_AT_FRAMES)
    light = np.asarray(hdu.section[:n]).mean(axis=0, dtype=np.float64)
    y0 = _brightest(np.nanmedian(light, axis=1), ny)
    x0 = _brightest(np.nanmedian(light, axis=0), nx)
    if y0 is None or x0 is None:
        raise InputError(
            f"{path}: the sky is too dark to tell which {nx} x {ny} of its {raw_nx} x {raw_ny} px see light;"
            " give --first-pixel X,Y"
        )
    return y0, x0


def _brightest(profile: np.ndarray, n: int) -> int | None:
    """First of the n neighbouring values that are brightest together; None if they hardly stand out."""
    if n == len(profile):
        return 0
    sums = np.convolve(profile, np.ones(n), mode="valid")
    first = int(np.argmax(sums))
    outside = np.concatenate([profile[:first], profile[first + n :]])
    contrast = np.median(profile[first : first + n]) - np.median(outside)
    return first if contrast > MIN_LIGHT_SIGMA * max(robust_width(outside), 1e-6) else None


def _days_apart(card: TomoeHeader, science: TomoeHeader) -> float:
    apart = abs(card.utc_unix_s - science.utc_unix_s) / 86400
    return apart if np.isfinite(apart) else np.inf
