"""Rates and strengths of all artefacts, read from ``catalogs/artefacts.toml``."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import catalogs
from rbsim.emulate.tomoe.artefacts.bad_columns import BadColumnConfig
from rbsim.emulate.tomoe.artefacts.banding import BandingConfig
from rbsim.emulate.tomoe.artefacts.clouds import CloudConfig
from rbsim.emulate.tomoe.artefacts.colour_residuals import ColourConfig
from rbsim.emulate.tomoe.artefacts.cosmic_rays import CosmicRayConfig
from rbsim.emulate.tomoe.artefacts.crosstalk import CrosstalkConfig
from rbsim.emulate.tomoe.artefacts.dipoles import DipoleConfig
from rbsim.emulate.tomoe.artefacts.expected import NoiseConfig
from rbsim.emulate.tomoe.artefacts.flicker_pixels import FlickerPixelConfig
from rbsim.emulate.tomoe.artefacts.ghosts import GhostConfig
from rbsim.emulate.tomoe.artefacts.hot_pixels import HotPixelConfig
from rbsim.emulate.tomoe.artefacts.image_edges import ImageEdgeConfig
from rbsim.emulate.tomoe.artefacts.large_galaxies import LargeGalaxyConfig
from rbsim.emulate.tomoe.artefacts.low_snr import LowSnrConfig
from rbsim.emulate.tomoe.artefacts.mask_in_reference import MaskInReferenceConfig
from rbsim.emulate.tomoe.artefacts.mask_in_subtraction import MaskInSubtractionConfig
from rbsim.emulate.tomoe.artefacts.moving_objects import MovingObjectConfig
from rbsim.emulate.tomoe.artefacts.proper_motion import ProperMotionConfig
from rbsim.emulate.tomoe.artefacts.psf_mismatch import PsfMismatchConfig
from rbsim.emulate.tomoe.artefacts.satellite_glints import SatelliteGlintConfig
from rbsim.emulate.tomoe.artefacts.satellite_streaks import SatelliteStreakConfig
from rbsim.emulate.tomoe.artefacts.saturated_cores import SaturatedCoreConfig
from rbsim.emulate.tomoe.artefacts.tracking_errors import TrackingConfig
from rbsim.errors import InputError


@dataclass(frozen=True)
class Artefacts:
    """Everything that `all_layers` needs; fields are named as the classes, `noise` belongs to all."""

    noise: NoiseConfig
    hot_pixel: HotPixelConfig
    flicker_pixel: FlickerPixelConfig
    bad_column: BadColumnConfig
    banding: BandingConfig
    crosstalk: CrosstalkConfig
    cosmic_ray: CosmicRayConfig
    satellite_glint: SatelliteGlintConfig
    satellite_streak: SatelliteStreakConfig
    moving_object: MovingObjectConfig
    ghost: GhostConfig
    clouds: CloudConfig
    saturated_core: SaturatedCoreConfig
    mask_in_subtraction: MaskInSubtractionConfig
    mask_in_reference: MaskInReferenceConfig
    psf_mismatch: PsfMismatchConfig
    colour_residual: ColourConfig
    proper_motion: ProperMotionConfig
    dipole: DipoleConfig
    tracking_error: TrackingConfig
    large_galaxy: LargeGalaxyConfig
    low_snr: LowSnrConfig
    image_edge: ImageEdgeConfig


def load_artefacts(rates: Mapping[str, float] | None = None) -> Artefacts:
    """The shipped rates and strengths, with some rates multiplied.

    Parameters
    ----------
    rates : mapping, optional
        Class -> factor on its ``rate_factor``; not negative.

    Raises
    ------
    InputError
        If a table of the file is not as `artefacts_from_tables` wants it, or `rates` names a class that
        has no rate.
    """
    return with_rates(artefacts_from_tables(catalogs.read_toml("artefacts.toml")), rates or {})


def with_rates(artefacts: Artefacts, rates: Mapping[str, float]) -> Artefacts:
    """The same with the rates of some classes multiplied; see `load_artefacts`."""
    known = [
        field.name
        for field in dataclasses.fields(artefacts)
        if hasattr(getattr(artefacts, field.name), "rate_factor")
    ]
    changed = {}
    for name, factor in rates.items():
        if name not in known:
            raise InputError(f"artefact {name!r} has no rate; those with one are {', '.join(known)}")
        if not 0 <= factor < float("inf"):
            raise InputError(f"artefact {name}: rate factor {factor} is not 0 or a positive number")
        config = getattr(artefacts, name)
        changed[name] = dataclasses.replace(config, rate_factor=config.rate_factor * factor)
    return dataclasses.replace(artefacts, **changed)


def artefacts_from_tables(tables: Mapping[str, Any]) -> Artefacts:
    """Check every key of every class.

    Raises
    ------
    InputError
        If a class or key is unknown or missing, or a value is not a number that is not negative.
    """
    parts = {field.name: field.type for field in dataclasses.fields(Artefacts)}
    _check_names("", tables, parts)
    configs = {}
    for name, config in parts.items():
        assert isinstance(config, type)
        types = {field.name: field.type for field in dataclasses.fields(config)}
        table = tables[name]
        _check_names(f" {name}", table, types)
        values = {}
        for key, value in table.items():
            whole = types[key] is int
            good = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
            if not good or (value < 0 and key != "magnification"):
                kind = "a whole number" if whole else "a number"
                raise InputError(f"artefacts.toml {name}: {key} is {value!r}; it must be {kind}, 0 or more")
            values[key] = value if whole else float(value)
        configs[name] = config(**values)
    return Artefacts(**configs)


def _check_names(where: str, given: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    unknown, missing = sorted(set(given) - set(wanted)), sorted(set(wanted) - set(given))
    if unknown or missing:
        problem = f"unknown {', '.join(unknown)}" if unknown else f"missing {', '.join(missing)}"
        raise InputError(f"artefacts.toml{where}: {problem}; there must be {', '.join(wanted)}")
