"""Files as Tomo-e's archive has them: names, headers of version 0.730, stacks and cubes."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from rbsim.emulate.tomoe.settings import Camera, Mode
from rbsim.tomoe.sensors import Sensor

START_UTC = datetime(2023, 1, 2, 10, 0, 0, tzinfo=UTC)
"""First exposure of every emulated night, 19 h at Kiso."""
READOUT_S = 0.50002
"""TELAPSE is so much longer than the frames taken (tomoe-facts, section 1)."""
HEADER_VERSION = "0.730"


@dataclass(frozen=True)
class ExposureName:
    """What identifies one exposure of a sensor.

    Attributes
    ----------
    sensor : Sensor
    exposure_id : int
    start : datetime
        Of its first pixel, UTC.
    object : str
        Field and dither, as in the card OBJECT.
    """

    sensor: Sensor
    exposure_id: int
    start: datetime
    object: str

    @property
    def frame_id(self) -> str:
        """Card FRAME_ID."""
        return f"TMQ{self.sensor.quadrant}{self.start:%Y%m%d}{self.exposure_id:08d}{self.sensor.chip:02d}"

    def file_name(self, letter: str) -> str:
        """Of a stack (``s``, published) or a cube (``r``, as in 2019 and 2020)."""
        return f"{letter}{self.frame_id}.fits"


def field_name(ra_deg: float, dec_deg: float) -> str:
    """JHHMM+DDMM of a survey field, truncated."""
    minutes = int((ra_deg % 360) * 4)
    arcmin = int(abs(dec_deg) * 60)
    sign = "-" if dec_deg < 0 else "+"
    return f"J{minutes // 60:02d}{minutes % 60:02d}{sign}{arcmin // 60:02d}{arcmin % 60:02d}"


def header_of(
    name: ExposureName,
    wcs: WCS,
    *,
    kind: str,
    n_frames: int,
    mode: Mode,
    camera: Camera,
    temperature_k: float,
    pointing: tuple[float, float],
) -> fits.Header:
    """Header of a stack or cube.

    Observation and Data sections as published; of the others only the names of the sections are known, and
    their cards are guesses.

    Parameters
    ----------
    name : ExposureName
    wcs : WCS
        With its errors.
    kind : str
        ``STACK`` or ``CUBE``.
    n_frames : int
        That it holds.
    mode : Mode
    camera : Camera
    temperature_k : float
        Of the sensor.
    pointing : (ra_deg, dec_deg)
        Of the telescope, not of the sensor.
    """
    header, utc = fits.Header(), name.start
    iso = f"{utc:%Y-%m-%dT%H:%M:%S.%f}"
    sequence = utc - timedelta(seconds=4.8)
    made = utc + timedelta(seconds=mode.n_taken * mode.frame_s + 2)
    hours = f"{int(pointing[0] / 15):02d}:{int(pointing[0] * 4) % 60:02d}:{pointing[0] * 240 % 60:04.1f}"
    arcmin = abs(pointing[1]) * 60
    degrees = f"{'-' if pointing[1] < 0 else '+'}{int(arcmin / 60):02d}:{int(arcmin) % 60:02d}"
    degrees += f":{arcmin * 60 % 60:04.1f}"

    def section(title: str) -> None:
        header.add_comment(f"'---------- {title} SECTION'")

    section("OBSERVATION")
    for card in (
        ("OBJECT", name.object, "object name"),
        ("EXPTIME", n_frames * mode.exposure1_s, "[s] total exposure time"),
        ("TELAPSE", mode.n_taken * mode.frame_s + READOUT_S, "[s] elapsed time"),
        ("EXPTIME1", mode.exposure1_s, "[s] exposure time of a frame"),
        ("TFRAME", mode.frame_s, "[s] time of a frame"),
        ("TRLSTEP", 4 * camera.line_s, "[s] rolling shutter, 4 lines"),
        ("TRLSTEP1", camera.line_s, "[s] rolling shutter, a line"),
        ("DATA-FPS", 1 / mode.frame_s, "[Hz] frames per second"),
        ("DATA-TYP", "OBJECT", "data type"),
        ("OBS-MOD", "Imaging", "observation mode"),
        ("FILTER", "BLANK", "filter"),
        ("PROJECT", mode.project, "project"),
        ("OBSERVER", "rbsim", "emulated, not observed"),
        ("PIPELINE", mode.pipeline, "pipeline recipe"),
        ("DATE", f"{made:%Y-%m-%dT%H:%M:%S}", "[UTC] file creation"),
        ("DATE-OBS", f"{utc:%Y-%m-%d}", "[UTC] date of observation"),
        ("TIME-OBS", f"{utc:%H:%M:%S.%f}", "[UTC] time of observation"),
        ("UTC", iso, "[UTC] start of the first pixel"),
        ("UTC-EXP", f"{sequence:%Y-%m-%dT%H:%M:%S.%f}", "[UTC] start of the sequence"),
        ("GPS-UP", iso, "[UTC] GPS rising edge"),
        ("TIMESYS", "UTC", "time system"),
        ("RA", hours, "[h] pointing of the telescope"),
        ("DEC", degrees, "[deg] pointing of the telescope"),
        ("RADESYS", "ICRS", "coordinate system"),
        ("EQUINOX", 2000.0, "[yr]"),
    ):
        header.append(card, end=True)
    section("DATA")
    for card in (
        ("EXP_ID", name.exposure_id, "exposure ID"),
        ("QUAD_ID", name.sensor.quadrant, "quadrant"),
        ("DET_ID", name.sensor.det_id, "detector"),
        ("FRAME_ID", name.frame_id, "frame ID"),
        ("FMTTYPE", f"TOMOE-IMAGE-{kind}", "type of format"),
        ("BUNIT", "ADU", "per frame"),
    ):
        header.append(card, end=True)
    section("INSTRUMENT")
    for card in (
        ("GAINCNFG", "high", "gain setting"),
        ("CMOSTEMP", round(temperature_k - 273.15, 2), "[degC] of the sensor"),
        ("EMULATED", HEADER_VERSION, "by rbsim, after this header version"),
    ):
        header.append(card, end=True)
    section("WCS")
    for keyword, value in wcs.to_header(relax=False).items():
        if keyword not in ("RADESYS", "EQUINOX", "MJDREF", "DATE-OBS", "MJD-OBS") and keyword[:2] != "PC":
            header[keyword] = value
    for keyword in ("CDELT1", "CDELT2"):
        header.remove(keyword, ignore_missing=True)
    for row, column in np.ndindex(2, 2):
        header[f"CD{row + 1}_{column + 1}"] = float(wcs.wcs.cd[row, column])
    return header


def write_image(path: Path, pixels: np.ndarray, header: fits.Header) -> None:
    """Write a stack (ny, nx) or cube (n, ny, nx) as 32-bit floats, as the archive's."""
    fits.PrimaryHDU(np.asarray(pixels, np.float32), header).writeto(path)
