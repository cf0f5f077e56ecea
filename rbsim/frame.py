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
from rbsim.errors import InputError
from rbsim.photon_noise import add_source_noise
from rbsim.schema import MASK
from rbsim.sources import grow, measure_background

log = logging.getLogger(__name__)

MIN_SIZE_PIX = 64
PILE_UP_SHARE = 0.995
WILD_SIGMA = 1e6
"""Detectors give no values this far from the sky in units of the noise, and their rounding would spread."""
UNCALIBRATED_ZERO_POINT_MAG = 25.0

GAIN_CARDS = ("GAIN", "EGAIN", "CCDGAIN", "GAINEFF")
READ_NOISE_CARDS = ("RDNOISE", "READNOIS", "RON", "ENOISE")
SATURATION_CARDS = ("SATURATE", "SATLEVEL", "SATURATA")
EXPOSURE_CARDS = ("EXPTIME", "EXPOSURE", "EXP_TIME")
ZERO_POINT_CARDS = ("MAGZERO", "MAGZPT", "ZEROPNT", "PHOTZP")


@dataclass(frozen=True)
class Detector:
    """Electronics of a frame, in the units of its pixels.

    Attributes
    ----------
    gain_e_per_adu : float
        NaN: not known yet.
    gain_err_e_per_adu : float
        0 unless the gain was estimated.
    read_noise_e : float
        NaN if unknown; the noise is measured on the frame in any case.
    saturation_adu : float
        In raw ADU, sky included; NaN if there is no sign of saturation.
    is_integer : bool
        Pixel values are whole ADU.
    """

    gain_e_per_adu: float
    gain_err_e_per_adu: float
    read_noise_e: float
    saturation_adu: float
    is_integer: bool


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
    exposure_s : float
        Exposure time; NaN if unknown.
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
    exposure_s: float = float("nan")

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


@dataclass(frozen=True)
class DetectorOptions:
    """What the user knows better than the header; None: take the header or the data."""

    gain_e_per_adu: float | None = None
    read_noise_e: float | None = None
    saturation_adu: float | None = None
    zero_point_mag: float | None = None


def split_extension(text: str | Path) -> tuple[Path, str | int | None]:
    """``file.fits[EXT]`` as path and extension name or number; None without brackets."""
    raw = str(text)
    if raw.endswith("]") and "[" in raw and not Path(raw).exists():
        path, _, extension = raw[:-1].rpartition("[")
        return Path(path), int(extension) if extension.isdigit() else extension
    return Path(raw), None


def read_frame(source: str | Path, *, options: DetectorOptions | None = None) -> Frame:
    """Read a 2-D FITS image, measure its background and noise.

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
    raw, header, planes = hdus.read_image(path, extension)
    ny, nx = raw.shape
    if min(ny, nx) < MIN_SIZE_PIX:
        raise InputError(f"{path}: image is {nx} x {ny} px; at least {MIN_SIZE_PIX} px a side are needed")
    is_integer = raw.dtype.kind in "iu"
    with np.errstate(over="ignore"):  # to infinity, which is BAD
        image = raw.astype(np.float32)
    mask = np.zeros((ny, nx), np.uint8)
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
    detector, zero_point = _interpret(header, options or DetectorOptions(), path)
    values = image[~bad] if any_bad else image.ravel()
    is_whole = is_integer or _is_whole(values)
    saturation = detector.saturation_adu
    masked_from = saturation
    if np.isnan(saturation):
        saturation = find_saturation(values)
        floor = _median(values)
        masked_from = floor + PILE_UP_SHARE * (saturation - floor)
    detector = replace(detector, saturation_adu=saturation, is_integer=is_whole)
    if not np.isnan(saturation):
        mask[grow(image >= masked_from, 1) & ~bad] |= MASK["SATURATED"]
    try:
        background = measure_background(
            image, bad | ((mask & MASK["SATURATED"]) != 0), digit_adu=1.0 if is_whole else 0.0
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
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
        zero_point_mag=UNCALIBRATED_ZERO_POINT_MAG if zero_point is None else zero_point,
        zero_point_calibrated=zero_point is not None,
        detector=detector,
        sensor=sensor_of(header),
        time_unix_s=start_time(header),
        variance_given=planes["VARIANCE"] is not None,
        field=field_of(header),
        exposure_s=_exposure_of(header),
    )


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


def _median(values: np.ndarray) -> float:
    """`numpy.median` of finite values, three times faster: it does not look for NaN."""
    middle = len(values) // 2
    ordered = np.partition(values, middle)
    if len(values) % 2:
        return float(ordered[middle])
    return float(np.mean([ordered[:middle].max(), ordered[middle]]))


def _is_wild(image: np.ndarray) -> np.ndarray:
    """Pixels that are not finite or farther from the sky than `WILD_SIGMA`, shape (ny, nx), bool."""
    some = image.ravel()[:: max(1, image.size // 50_000)]
    some = some[np.isfinite(some)]
    middle = float(np.median(some)) if some.size else 0.0
    width = 1.4826 * float(np.median(np.abs(some - middle))) if some.size else 0.0
    reach = WILD_SIGMA * width if width > 0 else float(np.finfo(np.float32).max)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(~(np.abs(image - np.float32(middle)) <= np.float32(reach)))


def find_saturation(values: np.ndarray) -> float:
    """Saturation level from the pile-up at the top of the histogram, or NaN.

    Saturated pixels crowd just below the maximum, where star profiles alone would leave a thinning
    tail: the top 0.5 % of the range must hold at least 5 pixels and more than the 4.5 % below it. The
    level is the commonest of these values.
    """
    top = float(values.max())
    floor = _median(values)
    height = top - floor
    if height <= 0:
        return float("nan")
    high = values[values >= floor + PILE_UP_SHARE * height]
    n_below = np.count_nonzero(values >= floor + 0.95 * height) - len(high)
    if len(high) < 5 or len(high) <= n_below:
        return float("nan")
    levels, counts = np.unique(high, return_counts=True)
    return float(levels[np.argmax(counts)])


def read_gain(source: str | Path, *, options: DetectorOptions | None = None) -> float:
    """The gain that `read_frame` would find, electrons per ADU, without reading pixels; NaN if there is none.

    Raises
    ------
    InputError
        If the file is missing, not FITS, or has no usable 2-D image.
    """
    path, extension = split_extension(source)
    with hdus.opened(path) as opened:
        header = hdus.choose_hdu(opened, extension, path).header.copy()
    return _interpret(header, options or DetectorOptions(), path)[0].gain_e_per_adu


def _number(header: fits.Header, cards: tuple[str, ...]) -> float | None:
    """First usable positive number of several cards; amplifier pairs (GAINA, GAINB) are averaged."""
    for card in cards:
        values = [header.get(card)] if card in header else [header.get(card + "A"), header.get(card + "B")]
        numbers = [float(v) for v in values if isinstance(v, int | float) and np.isfinite(v) and v > 0]
        if numbers:
            return float(np.mean(numbers))
    return None


def _interpret(header: fits.Header, options: DetectorOptions, path: Path) -> tuple[Detector, float | None]:
    for name, value in vars(options).items():
        if value is not None and (not np.isfinite(value) or (name != "zero_point_mag" and value <= 0)):
            raise InputError(f"{name} is {value}; give a positive number")
    gain = _first(options.gain_e_per_adu, _number(header, GAIN_CARDS))
    read_noise = _first(options.read_noise_e, _number(header, READ_NOISE_CARDS))
    saturation = _first(options.saturation_adu, _number(header, SATURATION_CARDS))
    zero_point = _first(options.zero_point_mag, _number(header, ZERO_POINT_CARDS))
    found = gain, read_noise, saturation, zero_point
    log.debug("%s: gain %s, read noise %s, saturation %s, zero point %s", path, *found)
    nan = float("nan")
    detector = Detector(
        gain_e_per_adu=nan if gain is None else gain,
        gain_err_e_per_adu=0.0,
        read_noise_e=nan if read_noise is None else read_noise,
        saturation_adu=nan if saturation is None else saturation,
        is_integer=False,
    )
    return detector, zero_point


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


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
    return re.sub(r"_dith\d+$", "", str(header.get("OBJECT", "")).strip())


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
    for card in ("UTC", "UT-OBS", "DATE-OBS"):
        text = str(header.get(card, "")).strip()
        for candidate in (text, text[:19]):
            try:
                moment = datetime.fromisoformat(candidate)
            except ValueError:
                continue
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    mjd = header.get("MJD-OBS")
    return (float(mjd) - 40587.0) * 86400.0 if isinstance(mjd, int | float) else float("nan")
