"""Headers of Tomo-e in the cards that the rest of rbsim reads, and what had to be assumed for that."""

import logging
import re
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from astropy.io import fits

from rbsim.errors import InputError
from rbsim.tomoe.header import ELECTRONICS, Cards, TomoeHeader, is_tomoe, parse_header

log = logging.getLogger(__name__)

MIN_SKY_SIGMA = 3.0
"""Sky, in units of its noise, from which on it was not subtracted."""
NOISE_FACTOR = 2.0
"""A median has 1.25 times the noise of a mean, a sum of 17 frames about 4 times what is expected."""

_AXIS_3 = re.compile(
    r"(NAXIS|CTYPE|CRPIX|CRVAL|CUNIT|CDELT|CROTA|CNAME)3|(CD|PC)(\d_3|3_\d)|(CD|PC)00(300\d|\d003)"
)


def standard_header(header: fits.Header, path: Path, *, quiet: bool = False) -> fits.Header:
    """A copy of an image's header in which a stack or cube of Tomo-e has the cards that rbsim reads.

    GAIN, RDNOISE and SATURATE are set from the gain setting: in a cube those of a single frame, in a stack
    those of the mean of its frames. UTC, EXPTIME, DET_ID, EXP_ID and GAINCNFG are completed, the cards of a
    third axis are dropped, and the WCS if WCSVALID says no. Other headers are only copied. A standard
    header given again comes out the same.

    Parameters
    ----------
    header : fits.Header
        Of the HDU with the image.
    path : Path
    quiet : bool
        Do not warn of what had to be assumed: the pixels are read another time.

    Raises
    ------
    InputError
        If the file is no image of the sky (raw, dark, flat), or as `parse_header`.
    """
    header = header.copy()
    if not is_tomoe(header, path.name):
        return header
    card = parse_header(header, path)
    if card.kind == "raw":
        raise InputError(
            f"{path}: is a RAW file of Tomo-e, without dark and flat; make a stack of it first:"
            " rbsim calibrate FILE --dark DARK --flat FLAT --out DIR"
        )
    if card.kind in ("dark", "flat"):
        raise InputError(f"{path}: is a {card.kind} of Tomo-e, no image of the sky; leave it out")
    if not quiet:
        warn_of_assumptions(header, card, path)
    _drop_axis_3(header)
    n = 1 if card.kind == "cube" else card.n_frames
    if np.isfinite(card.gain_e_per_adu):
        header["GAIN"] = (card.gain_e_per_adu * n, "[e-/ADU] by GAINCNFG, of these pixels")
        header["RDNOISE"] = (round(card.read_noise_e * np.sqrt(n), 4), "[e-] by GAINCNFG, of these pixels")
        header["SATURATE"] = (round(card.saturation_adu, 1), "[ADU] 0.9 of the well of a single frame")
        header["GAINCNFG"] = card.gain_setting
    elif card.kind == "stack":
        header.remove("GAIN", ignore_missing=True)  # of a single frame
    if np.isfinite(card.exposure_s):
        header["EXPTIME"] = card.exposure_s
    if card.det_id:
        header["DET_ID"] = card.det_id
    if card.frame_id is not None:
        header["FRAME_ID"] = card.frame_id.text
        header["EXP_ID"] = card.frame_id.exposure
    if np.isfinite(card.utc_unix_s):
        header["UTC"] = datetime.fromtimestamp(card.utc_unix_s, UTC).replace(tzinfo=None).isoformat()
    if str(header.get("WCSVALID", True)).strip().upper() in ("F", "FALSE", "0"):
        for name in ("CTYPE1", "CTYPE2"):
            header.remove(name, ignore_missing=True)
    return header


def warn_of_units(
    header: fits.Header,
    path: Path,
    *,
    gain_e_per_adu: float,
    read_noise_e: float,
    sky_adu: float,
    rms_adu: float,
) -> None:
    """Say so if a stack is noisier or quieter than a mean of its frames can be: it may be a sum.

    Parameters
    ----------
    header : fits.Header
    path : Path
    gain_e_per_adu, read_noise_e : float
        That the stack is taken to have.
    sky_adu, rms_adu : float
        Its sky, which may have been subtracted (then nothing can be said), and the noise of a pixel.
    """
    is_stack = header.get("FMTTYPE") == "TOMOE-IMAGE-STACK"
    if not is_stack or not sky_adu > MIN_SKY_SIGMA * rms_adu or not np.isfinite(read_noise_e):
        return
    expected_adu = np.sqrt(sky_adu * gain_e_per_adu + read_noise_e**2) / gain_e_per_adu
    if not 1 / NOISE_FACTOR < rms_adu / expected_adu < NOISE_FACTOR:
        log.warning(
            "%s: the noise of its sky is %.3g ADU, of a mean of its frames %.3g are expected;"
            " if it is a sum or was scaled, give --gain, --read-noise and --saturation",
            path,
            rms_adu,
            expected_adu,
        )


def as_stack(header: fits.Header, n_frames: int) -> fits.Header:
    """A copy of the header of a cube or RAW for the mean of its frames; of other headers a plain copy."""
    header = header.copy()
    for name in ("CHECKSUM", "DATASUM", "BZERO", "BSCALE"):
        header.remove(name, ignore_missing=True)
    if header.get("NAXIS") != 3:
        return header
    header["NAXIS"] = 2
    _drop_axis_3(header)
    header["NCOMBINE"] = (n_frames, "frames in the mean")
    if is_tomoe(header):
        header["FMTTYPE"] = "TOMOE-IMAGE-STACK"
    return header


def warn_of_assumptions(header: fits.Header, card: TomoeHeader, path: Path) -> None:
    """Say what a file's header does not, and what it is taken for."""
    stated = Cards(header).text("GAINCNFG")
    if not card.gain_setting:
        log.warning("%s: GAINCNFG is %r, not %s; its gain is unknown", path, stated, ", ".join(ELECTRONICS))
    elif not stated:
        log.warning("%s: no GAINCNFG; taken for %r", path, card.gain_setting)
    if np.isnan(card.exposure_s):
        log.warning("%s: EXPTIME is missing; taken for %d frame(s)", path, card.n_frames)


def _drop_axis_3(header: fits.Header) -> None:
    for name in [name for name in header if _AXIS_3.fullmatch(str(name))]:
        if name != "NAXIS3" or header["NAXIS"] == 2:
            del header[name]
    if header.get("WCSAXES", 0) > 2:
        header["WCSAXES"] = 2
