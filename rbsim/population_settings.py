"""Which kinds of stars a population has, and how they are distributed: ``catalogs/populations.toml``."""

import dataclasses
import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import catalogs
from rbsim.errors import InputError

FILE = "populations.toml"
SHARE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class RandomStars:
    """New stars anywhere.

    Attributes
    ----------
    share : float
        Fraction of all stars.
    """

    share: float = 0.0


@dataclass(frozen=True)
class NearGalaxy:
    """New stars near extended sources of the reference, one per host, in all directions.

    Attributes
    ----------
    share : float
    offset_max_radii : float
        Largest distance to the host's centre in its half-light radii; uniform from 0.
    """

    share: float = 0.0
    offset_max_radii: float = 2.5


@dataclass(frozen=True)
class Variable:
    """Stars of the reference that change.

    Attributes
    ----------
    share : float
    star_snr_min : float
        Lowest S/N that the star has in the reference.
    delta_mag_min, delta_mag_max : float
        Limits of the change between science and reference; no image changes by more than the largest.
    fainter : float
        Fraction of them fainter in the science frame than in the reference: negative sources.
    in_science, in_reference, in_both : float
        Fractions by the image that is changed; in both, each gets a part, uniform from 0 to 1.
    """

    share: float = 0.0
    star_snr_min: float = 20.0
    delta_mag_min: float = 0.02
    delta_mag_max: float = 3.0
    fainter: float = 0.5
    in_science: float = 1.0
    in_reference: float = 0.0
    in_both: float = 0.0


@dataclass(frozen=True)
class Moving:
    """Objects that leave a trail: rate times exposure time, over the pixel scale.

    Attributes
    ----------
    share : float
    rate_min_arcsec_per_s, rate_max_arcsec_per_s : float
        Log-uniform; directions are uniform.
    """

    share: float = 0.0
    rate_min_arcsec_per_s: float = 0.02
    rate_max_arcsec_per_s: float = 2.0


@dataclass(frozen=True)
class Flare:
    """Stars that shine in some successive single frames of a cube only.

    Attributes
    ----------
    share : float
    n_frames_min, n_frames_max : int
        Uniform, both included.
    """

    share: float = 0.0
    n_frames_min: int = 2
    n_frames_max: int = 6


@dataclass(frozen=True)
class Glint:
    """Flashes of satellites in a single frame of a cube; bogus.

    Attributes
    ----------
    share : float
    """

    share: float = 0.0


@dataclass(frozen=True)
class Population:
    """The mixture of stars to inject; the shares of its kinds add up to 1."""

    name: str
    description: str = ""
    random: RandomStars = field(default_factory=RandomStars)
    near_galaxy: NearGalaxy = field(default_factory=NearGalaxy)
    variable: Variable = field(default_factory=Variable)
    moving: Moving = field(default_factory=Moving)
    flare: Flare = field(default_factory=Flare)
    glint: Glint = field(default_factory=Glint)

    def __post_init__(self) -> None:
        """Refuse values that make no sense, by name."""
        parts = (
            *((f"variable.{name}", getattr(self.variable, name)) for name in _PLACES),
            ("variable.fainter", self.variable.fainter),
            *((f"{kind}.share", getattr(self, kind).share) for kind in KINDS),
        )
        for name, value in parts:
            if not 0 <= value <= 1:
                raise InputError(f"population {self.name}: {name} is {value}; allowed: 0 to 1")
        for what, total in (
            ("shares of its kinds", math.fsum(getattr(self, kind).share for kind in KINDS)),
            ("variable: " + ", ".join(_PLACES), math.fsum(getattr(self.variable, name) for name in _PLACES)),
        ):
            if abs(total - 1) > SHARE_TOLERANCE:
                raise InputError(f"population {self.name}: {what} add up to {total:g}; they must make 1")
        v, m, f = self.variable, self.moving, self.flare
        for name, ok, allowed in (
            (
                "near_galaxy.offset_max_radii",
                0 < self.near_galaxy.offset_max_radii < math.inf,
                "positive and finite",
            ),
            ("variable.star_snr_min", 5 <= v.star_snr_min < math.inf, "5 or more, and finite"),
            (
                "variable.delta_mag_min",
                0 < v.delta_mag_min <= v.delta_mag_max < math.inf,
                "positive, at most delta_mag_max, which is finite",
            ),
            (
                "moving.rate_min_arcsec_per_s",
                0 < m.rate_min_arcsec_per_s <= m.rate_max_arcsec_per_s < math.inf,
                "positive, at most rate_max_arcsec_per_s, which is finite",
            ),
            ("flare.n_frames_min", 1 <= f.n_frames_min <= f.n_frames_max, "1 to n_frames_max"),
        ):
            if not ok:
                kind, key = name.split(".")
                value = getattr(getattr(self, kind), key)
                raise InputError(f"population {self.name}: {name} is {value}; allowed: {allowed}")

    def as_dict(self) -> dict[str, Any]:
        """All values, JSON-ready."""
        return asdict(self)


KINDS = ("random", "near_galaxy", "variable", "moving", "flare", "glint")
"""Kinds of a population; the codes in schema.KINDS have ``injected_`` before the name."""

_PLACES = ("in_science", "in_reference", "in_both")


def load_population(name: str, *, near_galaxy: float | None = None) -> Population:
    """The population of this name from ``catalogs/populations.toml``, or from a file of the user.

    Parameters
    ----------
    name : str
        A name, or ``FILE.toml``, or ``FILE.toml:NAME`` if the file has several.
    near_galaxy : float, optional
        Fraction of the random and near-galaxy stars to have near galaxies, instead of the population's.

    Raises
    ------
    InputError
        If there is no such population or file, or a key is unknown, of the wrong type, or not allowed.
    """
    path, wanted = _split(name)
    tables = catalogs.read_toml(FILE) if path is None else _read(path)
    if not tables:
        raise InputError(f"{path}: has no populations; each is a table [NAME] with {', '.join(KINDS)}")
    if path is not None and not wanted:
        if len(tables) != 1:
            raise InputError(f"{path}: has populations {', '.join(sorted(tables))}; give {path}:NAME")
        wanted = next(iter(tables))
    if wanted not in tables:
        where = "" if path is None else f"{path}: "
        raise InputError(
            f"{where}population {wanted!r} is not known; there are {', '.join(sorted(tables))}"
            + ("; a file of your own is FILE.toml:NAME" if path is None else "")
        )
    try:
        population = population_from_table(tables[wanted], wanted)
    except InputError as error:
        if path is None:
            raise
        raise InputError(f"{path}: {error}") from error
    if near_galaxy is None:
        return population
    still = population.random.share + population.near_galaxy.share
    return dataclasses.replace(
        population,
        random=dataclasses.replace(population.random, share=still * (1 - near_galaxy)),
        near_galaxy=dataclasses.replace(population.near_galaxy, share=still * near_galaxy),
    )


def population_from_table(table: Any, name: str) -> Population:
    """A population from its TOML table.

    Raises
    ------
    InputError
        If a key is unknown, of the wrong type, or not allowed.
    """
    if not isinstance(table, Mapping):
        raise InputError(
            f"population {name} is {table!r}; it must be a table [{name}.KIND] of {', '.join(KINDS)}"
        )
    unknown = sorted(set(table) - {"description", *KINDS})
    if unknown:
        raise InputError(
            f"population {name}: unknown keys {', '.join(unknown)}; known are description, {', '.join(KINDS)}"
        )
    description = table.get("description", "")
    if not isinstance(description, str):
        raise InputError(f"population {name}: description is {description!r}; it must be text")
    types = {part.name: part.type for part in dataclasses.fields(Population)}
    parts: dict[str, Any] = {
        kind: _part(types[kind], table[kind], f"{name}.{kind}") for kind in KINDS if kind in table
    }
    return Population(name=name, description=description, **parts)


def _part(config: Any, table: Any, where: str) -> Any:
    if not isinstance(table, Mapping):
        raise InputError(f"population {where} is {table!r}; it must be a table with its share")
    types: dict[str, Any] = {part.name: part.type for part in dataclasses.fields(config)}
    unknown = sorted(set(table) - set(types))
    if unknown or "share" not in table:
        problem = f"unknown keys {', '.join(unknown)}" if unknown else "share is missing"
        raise InputError(f"population {where}: {problem}; the keys are {', '.join(types)}")
    for key, value in table.items():
        good = isinstance(value, int if types[key] is int else int | float) and not isinstance(value, bool)
        if not good:
            raise InputError(
                f"population {where}: {key} is {value!r}; it must be of type {types[key].__name__}"
            )
    return config(**table)


def _split(name: str) -> tuple[Path | None, str]:
    """File and name: ``a.toml:b``, ``a.toml``, or a name alone."""
    if name.endswith(".toml"):
        return Path(name), ""
    file, colon, wanted = name.rpartition(":")
    return (Path(file), wanted) if colon and file.endswith(".toml") else (None, name)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text ({error})") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: is not valid TOML ({error})") from error


def label_of(name: str) -> str:
    """The name as it is stored: without the folders of a file."""
    path, wanted = _split(name)
    return name if path is None else path.name + (f":{wanted}" if wanted else "")
