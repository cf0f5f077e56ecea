"""The electronics of a frame: gain, saturation, response; from the header or from the user."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits

from rbsim.config import MAX_NONLINEARITY
from rbsim.errors import InputError

log = logging.getLogger(__name__)

GAIN_CARDS = ("GAIN", "EGAIN", "CCDGAIN", "GAINEFF")
READ_NOISE_CARDS = ("RDNOISE", "READNOIS", "RON", "ENOISE")
SATURATION_CARDS = ("SATURATE", "SATLEVEL", "SATURATA")
ZERO_POINT_CARDS = ("MAGZERO", "MAGZPT", "ZEROPNT", "PHOTZP")
PILE_UP_SHARE = 0.995


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
    nonlinearity : float
        Share ``c`` by which the response falls short at saturation: light of ``t`` ADU reads
        ``t (1 - c t / s)``, with ``s`` the saturation above the bias.
    bias_adu : float
        Level without light, raw ADU.
    """

    gain_e_per_adu: float
    gain_err_e_per_adu: float
    read_noise_e: float
    saturation_adu: float
    is_integer: bool
    nonlinearity: float = 0.0
    bias_adu: float = 0.0

    @property
    def is_linear(self) -> bool:
        """Whether raw ADU are proportional to light."""
        return self.nonlinearity == 0

    def light_of(self, raw_adu: np.ndarray) -> np.ndarray:
        """Light, in linear ADU above the bias, behind raw ADU; of any shape, NaN stays NaN."""
        above = raw_adu - self.bias_adu
        if self.is_linear:
            return above
        full = self.saturation_adu - self.bias_adu
        # The stable root of c t^2 / s - t + above = 0; light below the bias is noise, and linear.
        root = np.sqrt(np.maximum(1 - 4 * self.nonlinearity * np.maximum(above, 0) / full, 0))
        return np.asarray(2 * above / (1 + root))

    def raw_of(self, light_adu: np.ndarray) -> np.ndarray:
        """Raw ADU that light, in linear ADU above the bias, reads; the inverse of `light_of`."""
        if self.is_linear:
            return light_adu + self.bias_adu
        full = self.saturation_adu - self.bias_adu
        # The parabola ends at its top: more light never reads less.
        lit = np.clip(light_adu, 0, full / (2 * self.nonlinearity))
        return np.asarray(light_adu - lit + lit * (1 - self.nonlinearity * lit / full) + self.bias_adu)


@dataclass(frozen=True)
class DetectorOptions:
    """What the user knows better than the header; None: take the header or the data."""

    gain_e_per_adu: float | None = None
    read_noise_e: float | None = None
    saturation_adu: float | None = None
    zero_point_mag: float | None = None
    nonlinearity: float | None = None
    bias_adu: float | None = None


def interpret_header(
    header: fits.Header, options: DetectorOptions, path: Path
) -> tuple[Detector, float | None]:
    """Detector and zero point from options and header; the pixels tell what is still NaN.

    Raises
    ------
    InputError
        If an option has a value that makes no sense.
    """
    for name, value in vars(options).items():
        if name == "nonlinearity":
            if value is not None and not 0 <= value <= MAX_NONLINEARITY:
                raise InputError(f"{name} is {value}; give a fraction from 0 to {MAX_NONLINEARITY}")
        elif value is not None and (
            not np.isfinite(value) or (name not in ("zero_point_mag", "bias_adu") and value <= 0)
        ):
            raise InputError(f"{name} is {value}; give a {'' if name == 'bias_adu' else 'positive '}number")
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
        nonlinearity=options.nonlinearity or 0.0,
        bias_adu=options.bias_adu or 0.0,
    )
    return detector, zero_point


def check_response(detector: Detector, path: Path) -> Detector:
    """The detector itself, unless its response is not defined.

    Raises
    ------
    InputError
        If a nonlinearity has no saturation level above the bias to refer to.
    """
    if detector.is_linear or detector.saturation_adu > detector.bias_adu:
        return detector
    raise InputError(
        f"{path}: nonlinearity refers to saturation, which is {detector.saturation_adu:g} ADU with a bias of"
        f" {detector.bias_adu:g}; give --saturation above the bias"
    )


def median_of_finite(values: np.ndarray) -> float:
    """`numpy.median` of finite values, three times faster: it does not look for NaN."""
    middle = len(values) // 2
    ordered = np.partition(values, middle)
    if len(values) % 2:
        return float(ordered[middle])
    return float(np.mean([ordered[:middle].max(), ordered[middle]]))


def find_saturation(values: np.ndarray) -> float:
    """Saturation level from the pile-up at the top of the histogram, or NaN.

    Saturated pixels crowd just below the maximum, where star profiles alone would leave a thinning
    tail: the top 0.5 % of the range must hold at least 5 pixels and more than the 4.5 % below it. The
    level is the commonest of these values.
    """
    top = float(values.max())
    floor = median_of_finite(values)
    height = top - floor
    if height <= 0:
        return float("nan")
    high = values[values >= floor + PILE_UP_SHARE * height]
    n_below = np.count_nonzero(values >= floor + 0.95 * height) - len(high)
    if len(high) < 5 or len(high) <= n_below:
        return float("nan")
    levels, counts = np.unique(high, return_counts=True)
    return float(levels[np.argmax(counts)])


def _number(header: fits.Header, cards: tuple[str, ...]) -> float | None:
    """First usable positive number of several cards; amplifier pairs (GAINA, GAINB) are averaged."""
    for card in cards:
        values = [header.get(card)] if card in header else [header.get(card + "A"), header.get(card + "B")]
        numbers = [float(v) for v in values if isinstance(v, int | float) and np.isfinite(v) and v > 0]
        if numbers:
            return float(np.mean(numbers))
    return None


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)
