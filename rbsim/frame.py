"""One calibrated image with everything that is known about it, and how to read it from FITS."""

import logging
import re
import warnings
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS, FITSFixedWarning

from rbsim import hdus
from rbsim.cube import Cube, n_frames_of, of_mean, read_cube
from rbsim.detector import (
    PILE_UP_SHARE,
    Detector,
    DetectorOptions,
    check_response,
    find_saturation,
    interpret_header,
    median_of_finite,
)
from rbsim.errors import InputError
from rbsim.locations import location
from rbsim.photon_noise import add_source_noise
from rbsim.remote import is_url
from rbsim.schema import MASK
from rbsim.sources import grow, measure_background
from rbsim.tomoe.standard import standard_header, warn_of_units

log = logging.getLogger(__name__)

MIN_SIZE_PIX = 64
WILD_SIGMA = 1e6
"""Detectors give no values this far from the sky in units of the noise, and their rounding would spread."""
UNCALIBRATED_ZERO_POINT_MAG = 25.0

_DITHER = re.compile(r"_dith\d+$")
EXPOSURE_CARDS = ("EXPTIME", "EXPOSURE", "EXP_TIME")


@dataclass(frozen=True, eq=False)
class Frame:
    """A background-subtracted image; steps return new frames and never change one.

    Attributes
    ----------
    name : str
        File name.
    image : ndarray, shape (ny, nx), float32
        ADU, background-subtracted; NaN where the mask has BAD.
    sky_adu : ndarray, shape (ny, nx), float32
        The background that was subtracted.
    variance : ndarray, shape (ny, nx), float32
        ADU squared: measured sky noise plus the Poisson noise of the sources; inf where BAD.
    mask : ndarray, shape (ny, nx), uint8
        Bits of schema.MASK_PLANES.
    wcs : astropy.wcs.WCS or None
    zero_point_mag : float
        Magnitude of 1 ADU per exposure.
    zero_point_calibrated : bool
        False: the zero point is only the instrumental 25.0.
    detector : Detector
    sensor : int
        Sensor number, 0 if unknown.
    time_unix_s : float
        Start of the exposure; NaN if unknown.
    variance_given : bool
        The variance came with the file and has the noise of the sources already.
    field : str
        Name of the field, empty if unknown.
    dither : str
        ``_dith1`` and the like, what the name of the field goes on with; empty if unknown.
    exposure_s : float
        Exposure time; NaN if unknown.
    cube : Cube or None
        The short exposures of which `image` is the mean, None if it is not.
    """

    name: str
    image: np.ndarray
    sky_adu: np.ndarray
    variance: np.ndarray
    mask: np.ndarray
    wcs: WCS | None
    zero_point_mag: float
    zero_point_calibrated: bool
    detector: Detector
    sensor: int
    time_unix_s: float
    variance_given: bool
    field: str = ""
    dither: str = ""
    exposure_s: float = float("nan")
    cube: Cube | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx)."""
        ny, nx = self.image.shape
        return ny, nx

    @property
    def bad(self) -> np.ndarray:
        """Pixels without a value, shape (ny, nx), bool."""
        return (self.mask & MASK["BAD"]) != 0

    @property
    def saturated(self) -> np.ndarray:
        """Saturated pixels, shape (ny, nx), bool."""
        return (self.mask & MASK["SATURATED"]) != 0


def split_extension(text: str | Path) -> tuple[Path, str | int | None]:
    """``file.fits[EXT]``, on a disk or a URL, as path and extension name or number; None without brackets."""
    raw = str(text)
    if raw.endswith("]") and "[" in raw and (is_url(raw) or not Path(raw).exists()):
        path, _, extension = raw[:-1].rpartition("[")
        return location(path), int(extension) if extension.isdigit() else extension
    return location(raw), None


def read_frame(source: str | Path, *, options: DetectorOptions | None = None) -> Frame:
    """Read a FITS image, or the mean of a cube of them (`rbsim.cube`), measure its background and noise.

    Takes the first HDU with an image (or ``file.fits[EXT]``), integer or float, with or without
    WCS. NaN and infinite pixels become BAD, and values that no detector gives (`WILD_SIGMA`). An extension
    ``MASK`` (schema.MASK_PLANES, as written by `rbsim.reference`) or ``VARIANCE`` of the same shape is used;
    pixels whose variance is not positive and finite become BAD.

    Parameters
    ----------
    source : str or Path
    options : DetectorOptions, optional
        Override the header.

    Returns
    -------
    Frame
        Gain NaN where neither header nor options have it; see `rbsim.gain`.

    Raises
    ------
    InputError
        If the file is missing, not FITS, truncated, has no usable 2-D image, or has no noise.
    """
    path, extension = split_extension(source)
    found = _read_pixels(path, extension, options or DetectorOptions())
    raw, header, planes, detector = found.raw, found.header, found.planes, found.detector
    if min(raw.shape) < MIN_SIZE_PIX:
        raise InputError(
            f"{path}: image is {raw.shape[1]} x {raw.shape[0]} px;"
            f" at least {MIN_SIZE_PIX} px a side are needed"
        )
    is_integer = raw.dtype.kind in "iu"
    with np.errstate(over="ignore"):  # to infinity, which is BAD
        image = raw.astype(np.float32)
    mask = found.mask
    mask[_is_wild(image)] |= MASK["BAD"]
    if planes["MASK"] is not None:
        if str(header.get("CREATOR", "")).startswith("rbsim"):
            mask |= planes["MASK"].astype(np.uint8)
        else:
            log.warning("%s: the bits of its MASK are not known; every pixel but 0 counts as bad", path)
            mask[planes["MASK"] != 0] |= MASK["BAD"]
            image[planes["MASK"] != 0] = np.nan
    if planes["VARIANCE"] is not None:
        # Without a noise a pixel has no weight, and one infinite weight spoils a whole kernel fit.
        unknown = ~(np.isfinite(planes["VARIANCE"]) & (planes["VARIANCE"] > 0))
        mask[unknown] |= MASK["BAD"]
        image[unknown] = np.nan
    bad = (mask & MASK["BAD"]) != 0
    any_bad = bool(bad.any())
    if any_bad and bad.all():
        raise InputError(f"{path}: every pixel is NaN or masked; drop this frame")
    values = image[~bad] if any_bad else image.ravel()
    is_whole = is_integer or _is_whole(values)
    saturation = detector.saturation_adu
    masked_from = saturation
    if np.isnan(saturation):
        saturation = find_saturation(values)
        floor = median_of_finite(values)
        masked_from = floor + PILE_UP_SHARE * (saturation - floor)
    detector = check_response(replace(detector, saturation_adu=saturation, is_integer=is_whole), path)
    if not np.isnan(saturation):
        mask[grow(image >= masked_from, 1) & ~bad] |= MASK["SATURATED"]
    try:
        background = measure_background(
            image, bad | ((mask & MASK["SATURATED"]) != 0), digit_adu=1.0 if is_whole else 0.0
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    warn_of_units(
        header,
        path,
        gain_e_per_adu=detector.gain_e_per_adu,
        read_noise_e=detector.read_noise_e,
        sky_adu=float(np.median(background.sky_adu)),
        rms_adu=float(np.median(background.rms_adu)),
    )
    image -= background.sky_adu
    image[bad] = np.nan
    variance = planes["VARIANCE"]
    if variance is None:
        variance = background.rms_adu**2
        if not np.isnan(detector.gain_e_per_adu):
            variance = add_source_noise(variance, image, detector.gain_e_per_adu)
    variance = np.where(bad | ~(variance > 0), np.float32(np.inf), variance).astype(np.float32, copy=False)
    return Frame(
        name=path.name,
        image=image,
        sky_adu=background.sky_adu,
        variance=variance,
        mask=mask,
        wcs=read_wcs(header, path),
        zero_point_mag=UNCALIBRATED_ZERO_POINT_MAG if found.zero_point_mag is None else found.zero_point_mag,
        zero_point_calibrated=found.zero_point_mag is not None,
        detector=detector,
        sensor=sensor_of(header),
        time_unix_s=start_time(header),
        variance_given=planes["VARIANCE"] is not None,
        field=field_of(header),
        dither=dither_of(header),
        exposure_s=_exposure_of(header),
        cube=found.cube,
    )


@dataclass(frozen=True, eq=False)
class _Pixels:
    """What a file holds: of a cube the clipped mean, with a mask of what single frames say."""

    raw: np.ndarray
    mask: np.ndarray
    header: fits.Header
    planes: dict[str, np.ndarray | None]
    detector: Detector
    zero_point_mag: float | None
    cube: Cube | None


def _read_pixels(path: Path, extension: str | int | None, options: DetectorOptions) -> _Pixels:
    mean = read_cube(path, extension, options)
    if mean is not None:
        none: dict[str, np.ndarray | None] = {"MASK": None, "VARIANCE": None}
        return _Pixels(
            mean.image, mean.mask, mean.header, none, mean.detector, mean.zero_point_mag, mean.cube
        )
    raw, header, planes = hdus.read_image(path, extension)
    detector, zero_point = interpret_header(header, options, path)
    return _Pixels(raw, np.zeros(raw.shape, np.uint8), header, planes, detector, zero_point, None)


def with_gain(frame: Frame, gain_e_per_adu: float, gain_err_e_per_adu: float) -> Frame:
    """The frame with an estimated gain, its variance completed by the source noise."""
    detector = replace(frame.detector, gain_e_per_adu=gain_e_per_adu, gain_err_e_per_adu=gain_err_e_per_adu)
    if frame.variance_given:
        return replace(frame, detector=detector)
    variance = add_source_noise(frame.variance, frame.image, gain_e_per_adu)
    return replace(frame, detector=detector, variance=variance)


def _is_whole(values: np.ndarray) -> bool:
    """Whether all values are whole numbers; the first few tell almost always."""
    return all(bool(np.all(part == np.rint(part))) for part in (values[:1000], values))


def _is_wild(image: np.ndarray) -> np.ndarray:
    """Pixels that are not finite or farther from the sky than `WILD_SIGMA`, shape (ny, nx), bool."""
    some = image.ravel()[:: max(1, image.size // 50_000)]
    some = some[np.isfinite(some)]
    middle = float(np.median(some)) if some.size else 0.0
    width = 1.4826 * float(np.median(np.abs(some - middle))) if some.size else 0.0
    reach = WILD_SIGMA * width if width > 0 else float(np.finfo(np.float32).max)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(~(np.abs(image - np.float32(middle)) <= np.float32(reach)))


def read_gain(source: str | Path, *, options: DetectorOptions | None = None) -> float:
    """The gain that `read_frame` would find, electrons per ADU, without reading pixels; NaN if there is none.

    Raises
    ------
    InputError
        If the file is missing, not FITS, or has no usable 2-D image.
    """
    path, extension = split_extension(source)
    with hdus.opened(path, pixels=False) as opened:
        header = standard_header(hdus.choose_hdu(opened, extension, path).header, path, quiet=True)
    detector, _ = interpret_header(header, options or DetectorOptions(), path)
    return of_mean(detector, n_frames_of(header)).gain_e_per_adu


def _int_card(header: fits.Header, cards: tuple[str, ...]) -> int:
    value = next((header[card] for card in cards if card in header), 0)
    return int(value) if isinstance(value, int | float) else 0


def _exposure_of(header: fits.Header) -> float:
    """Exposure time in seconds; NaN if the header has none."""
    values = (header.get(card) for card in EXPOSURE_CARDS)
    return next((float(v) for v in values if isinstance(v, int | float) and 0 < v < np.inf), float("nan"))


def sensor_of(header: fits.Header) -> int:
    """Sensor number; 0 if unknown."""
    return _int_card(header, ("DET_ID", "DETID", "CCDNUM", "CCDID"))


def field_of(header: fits.Header) -> str:
    """Name of the field from OBJECT, without the dither (``J0322+5925_dith1``); empty if unknown."""
    return _DITHER.sub("", str(header.get("OBJECT", "")).strip())


def dither_of(header: fits.Header) -> str:
    """The dither that OBJECT ends with (``_dith1``); empty if unknown."""
    found = _DITHER.search(str(header.get("OBJECT", "")).strip())
    return "" if found is None else found.group()


def read_wcs(header: fits.Header, path: Path) -> WCS | None:
    """Celestial WCS of a header, or None if it has none that can be used."""
    if "CTYPE1" not in header or "CRVAL1" not in header:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FITSFixedWarning)
            warnings.simplefilter("ignore", AstropyWarning)
            wcs = WCS(header, naxis=2)
    except Exception as error:
        log.warning("%s: its WCS cannot be used (%s)", path, str(error).splitlines()[0])
        return None
    return wcs if wcs.has_celestial else None


def start_time(header: fits.Header) -> float:
    """Start of the exposure in Unix seconds, from the header; NaN if it has none."""
    cards = ("UTC", "UT-OBS", "DATE-OBS", "TIME-OBS")
    utc, ut_obs, date, time = (str(header.get(card, "")).strip() for card in cards)
    for text in (utc, ut_obs, f"{date}T{time}" if time and len(date) == 10 else date):
        for candidate in (text, text[:19]):
            try:
                moment = datetime.fromisoformat(candidate)
            except ValueError:
                continue
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    mjd = header.get("MJD-OBS")
    return (float(mjd) - 40587.0) * 86400.0 if isinstance(mjd, int | float) else float("nan")
