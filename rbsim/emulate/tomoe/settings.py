"""What a Tomo-e night is made of: its condition, the camera, the optics, the sky, the survey mode."""

from dataclasses import dataclass
from typing import Any

import catalogs
from rbsim.emulate.settings import from_table
from rbsim.errors import InputError

CONDITIONS = "conditions.toml"
INSTRUMENT = "tomoe.toml"


@dataclass(frozen=True)
class TomoeCondition:
    """Weather, temperature and field of a night; units and meanings in ``catalogs/conditions.toml``."""

    name: str
    description: str
    fwhm_arcsec: float
    fwhm_scatter: float
    extinction_mag: float
    extinction_scatter_mag: float
    sky_mag_per_arcsec2: float
    sky_scatter_mag: float
    sky_gradient: float
    temperature_k: float
    temperature_scatter_k: float
    dark_frame_offset_k: float
    shake_probability: float
    shake_rms_pix: float
    drift_pix_per_s: float
    galactic_latitude_deg: float
    galactic_longitude_deg: float
    field_low_deg: float
    field_high_deg: float
    artefact_rates: dict[str, float]

    def __post_init__(self) -> None:
        """Refuse what no night has."""
        checks = (
            (1 <= self.fwhm_arcsec <= 20, "fwhm_arcsec", "1 to 20"),
            (-5 <= self.extinction_mag <= 10, "extinction_mag", "-5 to 10"),
            (10 <= self.sky_mag_per_arcsec2 <= 25, "sky_mag_per_arcsec2", "10 to 25"),
            (230 <= self.temperature_k <= 330, "temperature_k", "230 to 330"),
            (0 <= self.shake_probability <= 1, "shake_probability", "0 to 1"),
            (15 <= abs(self.galactic_latitude_deg) <= 90, "galactic_latitude_deg", "15 to 90 or -90 to -15"),
            *(
                (getattr(self, name) >= 0, name, "0 or more")
                for name in (
                    "fwhm_scatter", "extinction_scatter_mag", "sky_scatter_mag", "sky_gradient",
                    "temperature_scatter_k", "shake_rms_pix", "drift_pix_per_s", "field_low_deg",
                )
            ),
            (self.field_high_deg > self.field_low_deg, "field_high_deg", "more than field_low_deg"),
            (all(rate >= 0 for rate in self.artefact_rates.values()), "artefact_rates", "0 or more each"),
        )  # fmt: skip
        for ok, name, allowed in checks:
            if not ok:
                value = getattr(self, name)
                raise InputError(f"Tomo-e condition {self.name!r}: {name} is {value}; allowed: {allowed}")


@dataclass(frozen=True)
class Camera:
    """Electronics of a sensor; units in ``catalogs/tomoe.toml``."""

    zero_point_e_per_s_mag: float
    gain_e_per_adu: float
    read_noise_e: float
    well_e: float
    nonlinearity_at_well: float
    adc_high_adu: int
    adc_low_adu: int
    dark_e_per_s: float
    dark_reference_k: float
    dark_doubling_k: float
    dark_scatter: float
    flat_scatter: float
    flat_gradient: float
    line_s: float

    def dark_e_per_s_at(self, temperature_k: float) -> float:
        """Median dark current of a pixel."""
        return float(
            self.dark_e_per_s * 2 ** ((temperature_k - self.dark_reference_k) / self.dark_doubling_k)
        )


@dataclass(frozen=True)
class OpticsSettings:
    """Images over the field and errors of the header's WCS; units in ``catalogs/tomoe.toml``."""

    fwhm_centre_arcsec: float
    fwhm_edge_arcsec: float
    ellipticity_edge: float
    defocus_arcsec: float
    wcs_shift_pix: float
    wcs_corner_pix: float


@dataclass(frozen=True)
class SkySettings:
    """Stars, galaxies and variables; units in ``catalogs/tomoe.toml``."""

    star_bright_mag: float
    star_faint_mag: float
    colour_slope: float
    galaxy_bright_mag: float
    galaxy_faint_mag: float
    galaxy_per_deg2: float
    galaxy_slope_dex_per_mag: float
    galaxy_radius_arcsec: float
    variable_fraction: float
    variable_low_mag: float
    variable_high_mag: float


@dataclass(frozen=True)
class TransientSettings:
    """Numbers and brightnesses of the night's transients; units in ``catalogs/tomoe.toml``."""

    supernovae: float
    supernova_bright_mag: float
    supernova_faint_mag: float
    dwarf_novae: float
    dwarf_nova_bright_mag: float
    dwarf_nova_faint_mag: float
    flares_per_exposure: float
    asteroids: float
    asteroid_bright_mag: float
    asteroid_faint_mag: float
    asteroid_low_arcsec_per_s: float
    asteroid_high_arcsec_per_s: float


@dataclass(frozen=True)
class Mode:
    """How the survey observes; units in ``catalogs/tomoe.toml``."""

    name: str
    project: str
    pipeline: str
    n_taken: int
    frame_s: float
    dead_s: float
    interval_s: float
    dither_arcsec: float

    @property
    def n_stacked(self) -> int:
        """Single frames that the stack holds: every 2-D product lacks one (tomoe-facts, section 4)."""
        return self.n_taken - 1

    @property
    def exposure1_s(self) -> float:
        """Exposure time of a single frame."""
        return self.frame_s - self.dead_s


@dataclass(frozen=True)
class NightSettings:
    """All that is fixed before anything is drawn."""

    mode: Mode
    condition: TomoeCondition
    camera: Camera
    optics: OpticsSettings
    sky: SkySettings
    transients: TransientSettings


def load_settings(mode: str, condition: str) -> NightSettings:
    """Settings of a night by the names of its mode and condition.

    Raises
    ------
    InputError
        If a name is unknown (the message lists the known ones), or a key is unknown, missing or of the
        wrong type.
    """
    tables = catalogs.read_toml(INSTRUMENT)
    parts: dict[str, Any] = {
        "camera": Camera,
        "optics": OpticsSettings,
        "sky": SkySettings,
        "transients": TransientSettings,
    }
    made = {
        part: from_table(kind, tables[part], f"catalogs/{INSTRUMENT} [{part}]")
        for part, kind in parts.items()
    }
    if mode not in tables["modes"]:
        raise InputError(f"mode {mode!r} is not known; choose one of {', '.join(tables['modes'])}")
    table = {"name": mode, **tables["modes"][mode]}
    return NightSettings(
        mode=from_table(Mode, table, f"catalogs/{INSTRUMENT} [modes.{mode}]"),
        condition=load_tomoe_condition(condition),
        **made,
    )


def load_tomoe_condition(name: str) -> TomoeCondition:
    """Condition of an emulated Tomo-e night by its name, see `load_settings`."""
    tables = catalogs.read_toml(CONDITIONS)["tomoe"]
    if name not in tables:
        raise InputError(f"Tomo-e condition {name!r} is not known; choose one of {', '.join(tables)}")
    condition = from_table(
        TomoeCondition, {"name": name, **tables[name]}, f"catalogs/{CONDITIONS} [tomoe.{name}]"
    )
    assert isinstance(condition, TomoeCondition)
    return condition
