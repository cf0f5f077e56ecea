"""The configuration of an injection run: one frozen value, checked on making, stored with the result."""

import math
import tomllib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rbsim.condition import AS_OBSERVED, Condition, load_condition
from rbsim.errors import InputError

_TYPES: dict[Any, tuple[type, ...]] = {
    int: (int,),
    float: (int, float),
    str: (str,),
    bool: (bool,),
    float | None: (int, float, type(None)),
    Condition: (Condition,),
}


BACKENDS = ("rbsim", "hotpants", "sfft")
BASES = ("gauss-hermite", "delta")
CONVOLVE = ("auto", "reference", "science")
MAX_NONLINEARITY = 0.2
"""Beyond 0.25 the response would turn down before it saturates."""


@dataclass(frozen=True)
class SubtractConfig:
    """How to subtract.

    Attributes
    ----------
    backend : str
        ``rbsim``, or an external program: ``hotpants``, ``sfft``.
    convolve : str
        Which image the kernel is applied to: ``reference``, ``science``, or ``auto``, the sharper one.
    basis : str
        Kernel functions: ``gauss-hermite`` or ``delta``.
    kernel_order, background_order : int
        Highest degrees in position; fewer stars lower them. The background beside the kernel is a constant
        by default: smooth backgrounds are taken out before and after, and a star that is injected into a
        stamp must not tilt the frame.
    psf_order : int
        Highest degree in position of the frame's PSF.
    """

    backend: str = "rbsim"
    convolve: str = "auto"
    basis: str = "gauss-hermite"
    kernel_order: int = 2
    background_order: int = 0
    psf_order: int = 3

    def __post_init__(self) -> None:
        """Refuse values that make no sense, by name."""
        checks = (
            (self.backend in BACKENDS, "backend", ", ".join(BACKENDS)),
            (self.convolve in CONVOLVE, "convolve", ", ".join(CONVOLVE)),
            (self.basis in BASES, "basis", ", ".join(BASES)),
            (0 <= self.kernel_order <= 4, "kernel-order", "0 to 4"),
            (0 <= self.background_order <= 4, "background-order", "0 to 4"),
            (0 <= self.psf_order <= 4, "psf-order", "0 to 4"),
        )
        for ok, name, allowed in checks:
            if not ok:
                raise InputError(f"{name} is {getattr(self, name.replace('-', '_'))!r}; allowed: {allowed}")


@dataclass(frozen=True)
class InjectConfig:
    """What to inject and how to detect it.

    Attributes
    ----------
    seed : int
    stars_per_frame : int
        Per realisation; fewer where they do not fit.
    realisations : int
        Independent sets of stars per frame.
    population : str
        Which kinds of stars: a name of ``catalogs/populations.toml``, or ``FILE.toml:NAME``.
    near_galaxy : float or None
        Fraction of the new, fixed stars wanted near extended sources of the reference; None: as the
        population says.
    snr_min, snr_max : float
        Range of the log-uniform matched-filter S/N of the stars, before their own photon noise; of trails
        and lights in single frames, that of a point of their whole flux.
    blind_share : float
        Share of the random stars that is placed as by a survey that does not look: anywhere on the frame,
        also on masks and in saturated cores.
    blind_snr_min : float
        Lower end of their S/N, the upper is `snr_max`.
    threshold_snr : float
        Detection threshold.
    match_radius_sigma : float
        A detection within this many position errors of an injected star is that star; at least 0.5 px
        and 0.3 FWHM, at most one FWHM.
    negatives : bool
        Store stamps of negative sources too.
    backend, convolve, basis, kernel_order, background_order, psf_order
        See `SubtractConfig`.
    tile_pix : float
        Size of the sky tiles, about.
    n_blocks : int
        Exposure blocks wanted; fewer with fewer frames.
    gain_e_per_adu, read_noise_e, saturation_adu, zero_point_mag : float or None
        Override the headers.
    pixel_scale_arcsec, exposure_s : float or None
        Override WCS and header; for the trails of moving objects.
    zero_point_aperture_pix : float or None
        Radius of the aperture in which a star of magnitude m has the flux that the zero point says; None:
        all its light has it.
    nonlinearity : float or None
        Share by which the detector's response falls short at saturation, 0 to 0.2; None: 0.
    bias_adu : float or None
        Level without light, raw ADU, from which the response counts; None: 0.
    reference_name : str
        Label of the store, copied to result rows.
    condition : Condition
        What the frames are degraded to before they are subtracted; its name is a label like that.
    """

    seed: int = 1
    stars_per_frame: int = 150
    realisations: int = 4
    population: str = "stars"
    near_galaxy: float | None = None
    snr_min: float = 5.0
    snr_max: float = 100.0
    blind_share: float = 0.0
    blind_snr_min: float = 1.0
    threshold_snr: float = 5.0
    match_radius_sigma: float = 5.0
    negatives: bool = False
    backend: str = "rbsim"
    convolve: str = "auto"
    basis: str = "gauss-hermite"
    kernel_order: int = 2
    background_order: int = 0
    psf_order: int = 3
    tile_pix: float = 160.0
    n_blocks: int = 8
    gain_e_per_adu: float | None = None
    read_noise_e: float | None = None
    saturation_adu: float | None = None
    zero_point_mag: float | None = None
    pixel_scale_arcsec: float | None = None
    exposure_s: float | None = None
    zero_point_aperture_pix: float | None = None
    nonlinearity: float | None = None
    bias_adu: float | None = None
    reference_name: str = "stack"
    condition: Condition = AS_OBSERVED

    def __post_init__(self) -> None:
        """Refuse values that make no sense, by name."""
        for field in fields(self):
            value = getattr(self, field.name)
            # A bool is an int for Python, not for us.
            is_flag = isinstance(value, bool)
            if is_flag != (field.type is bool) or not isinstance(value, _TYPES[field.type]):
                wanted = getattr(field.type, "__name__", str(field.type)).replace("Condition", "str")
                raise InputError(f"{field.name} is {value!r}; it must be of type {wanted}")
        checks = (
            (self.seed >= 0, "seed", "0 or more"),
            (self.stars_per_frame >= 0, "stars-per-frame", "0 or more"),
            (1 <= self.realisations <= 1000, "realisations", "1 to 1000"),
            (
                self.near_galaxy is None or 0 <= self.near_galaxy <= 1,
                "near-galaxy",
                "a fraction from 0 to 1",
            ),
            (self.snr_max < math.inf, "snr-max", "finite"),
            (
                0 < self.snr_min <= self.snr_max,
                "snr-min",
                f"positive, at most snr-max, which is {self.snr_max}",
            ),
            (0 <= self.blind_share <= 1, "blind-share", "a fraction from 0 to 1"),
            (
                0 < self.blind_snr_min < math.inf
                and (self.blind_share == 0 or self.blind_snr_min <= self.snr_max),
                "blind-snr-min",
                f"positive, at most snr-max, which is {self.snr_max}",
            ),
            (self.threshold_snr >= 3, "threshold-snr", "3 or more; below, noise peaks are endless"),
            (0 < self.match_radius_sigma < math.inf, "match-radius-sigma", "positive and finite"),
            (
                self.nonlinearity is None or 0 <= self.nonlinearity <= MAX_NONLINEARITY,
                "nonlinearity",
                f"0 to {MAX_NONLINEARITY}",
            ),
            *(
                (value is None or math.isfinite(value), name, "finite")
                for name, value in (("bias-adu", self.bias_adu), ("zero-point-mag", self.zero_point_mag))
            ),
            (self.tile_pix >= 30, "tile-pix", "30 or more"),
            (self.n_blocks >= 1, "n-blocks", "1 or more"),
            *(
                (
                    getattr(self, name) is None or 0 < getattr(self, name) < math.inf,
                    name.replace("_", "-"),
                    "positive and finite",
                )
                for name in (
                    *("gain_e_per_adu", "read_noise_e", "saturation_adu"),
                    *("pixel_scale_arcsec", "exposure_s", "zero_point_aperture_pix"),
                )
            ),
        )
        for ok, name, allowed in checks:
            if not ok:
                raise InputError(f"{name} is {getattr(self, name.replace('-', '_'))}; allowed: {allowed}")

        _ = self.subtract  # checks its own values

    @property
    def subtract(self) -> SubtractConfig:
        """The part of the configuration that subtraction needs."""
        return SubtractConfig(**{field.name: getattr(self, field.name) for field in fields(SubtractConfig)})

    def as_dict(self) -> dict[str, Any]:
        """All values, JSON-ready: of the condition the name, and its parameters beside it."""
        return asdict(self) | {
            "condition": self.condition.name,
            "condition_parameters": self.condition.parameters(),
        }


def load_config(path: Path | None, overrides: dict[str, Any]) -> InjectConfig:
    """Configuration from a TOML file, options of the command line taking precedence.

    Parameters
    ----------
    path : Path or None
    overrides : dict
        Values that are None are ignored.

    Raises
    ------
    InputError
        If the file cannot be read, is not TOML, has a key that does not exist, or a value is not allowed,
        or the condition is not known.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text())
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read as text ({error})") from error
        except tomllib.TOMLDecodeError as error:
            raise InputError(f"{path}: is not valid TOML ({error})") from error
    known = {field.name for field in fields(InjectConfig)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise InputError(f"{path}: unknown keys {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    values |= {name: value for name, value in overrides.items() if value is not None}
    try:
        if isinstance(values.get("condition"), str):
            values["condition"] = load_condition(values["condition"])
        return InjectConfig(**values)
    except InputError as error:
        if path is None:
            raise
        raise InputError(f"{path} and options: {error}") from error
