"""What a night consists of, read from ``catalogs/nights.toml`` and checked key by key."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import catalogs
from rbsim.emulate.artefacts import ArtefactConfig
from rbsim.emulate.detector import DetectorConfig
from rbsim.emulate.optics import OpticsConfig
from rbsim.emulate.sky import SkyConfig
from rbsim.errors import InputError


@dataclass(frozen=True)
class Night:
    """What to emulate; see ``catalogs/nights.toml`` for units, values and where they come from."""

    name: str
    n_exposures: int
    object: str
    ra_deg: float
    dec_deg: float
    start_utc: str
    sky: SkyConfig
    optics: OpticsConfig
    detector: DetectorConfig
    artefacts: ArtefactConfig


def load_night(name: str) -> Night:
    """Read the night of this name from ``catalogs/nights.toml``.

    Raises
    ------
    InputError
        If there is no such night, or a key of its table is unknown, missing or of the wrong type.
    """
    return night_from_tables(catalogs.read_toml("nights.toml"), name)


def night_from_tables(tables: Mapping[str, Any], name: str) -> Night:
    """Resolve ``like`` and check every key; `load_night` for tables that are already read."""
    if name not in tables:
        raise InputError(f"night {name!r} is not known; there are {', '.join(sorted(tables))}")
    table = dict(tables[name])
    if "like" in table:
        like = table.pop("like")
        if like not in tables:
            raise InputError(f"night {name}: like is {like!r}; it must be one of {', '.join(sorted(tables))}")
        base = dict(tables[like])
        for key, value in table.items():
            base[key] = {**base.get(key, {}), **value} if isinstance(value, dict) else value
        table = base
    parts = {
        "sky": SkyConfig,
        "optics": OpticsConfig,
        "detector": DetectorConfig,
        "artefacts": ArtefactConfig,
    }
    for part, config in parts.items():
        table[part] = from_table(config, table.get(part, {}), f"night {name}.{part}")
    night = from_table(Night, {"name": name, **table}, f"night {name}")
    assert isinstance(night, Night)
    return night


def from_table(kind: type, table: Mapping[str, Any], where: str) -> Any:
    """Build a frozen dataclass from a table whose keys and types must fit exactly.

    Parameters
    ----------
    kind : type
        Its fields are of a plain type each, or mappings of numbers.
    table : mapping
    where : str
        What the table is, for messages.

    Raises
    ------
    InputError
        If a key is unknown or missing, or a value of another type.
    """
    types = {field.name: field.type for field in dataclasses.fields(kind)}
    unknown, missing = sorted(set(table) - set(types)), sorted(set(types) - set(table))
    if unknown or missing:
        problem = f"unknown keys {', '.join(unknown)}" if unknown else f"missing keys {', '.join(missing)}"
        raise InputError(f"{where}: {problem}; the keys are {', '.join(types)}")
    values = {}
    for key, value in table.items():
        wanted = types[key] if isinstance(types[key], type) else dict
        assert isinstance(wanted, type)
        fits = _is_number(value) if wanted is float else isinstance(value, wanted)
        fits = fits and not isinstance(value, bool)
        if wanted is dict:
            fits = fits and all(map(_is_number, value.values()))
        if not fits:
            raise InputError(f"{where}: {key} is {value!r}; it must be of type {wanted.__name__}")
        values[key] = float(value) if wanted is float else value
    return kind(**values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
