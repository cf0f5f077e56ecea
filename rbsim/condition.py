"""Noise conditions: their parameters, names, and where they are read from."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import catalogs
from rbsim.errors import InputError

FILE_NAME = "conditions.toml"
RANDOM = "random"
EMULATED = "tomoe"
"""Table of the same file with the conditions of emulated nights, which no real frame can be degraded to."""


@dataclass(frozen=True)
class Condition:
    """What a frame is degraded to; the defaults leave it as it is.

    Attributes
    ----------
    name : str
        Label in stores and results.
    description : str
    sky_factor : float
        Sky electrons over those of the frame as observed.
    read_noise_added_e : float
        Electrons, added in quadrature.
    fwhm_factor : float
        FWHM of the PSF over that of the frame as observed, without the jitter.
    transparency : float
        Share of the light of the sources, not of the sky, that arrives.
    jitter_rms_pix : float
        Rms of the tracking along a line.
    jitter_angle_deg : float or None
        Of that line, from +x towards +y; None: drawn for each frame.
    """

    name: str = "as observed"
    description: str = "The frame as it is, bit for bit."
    sky_factor: float = 1.0
    read_noise_added_e: float = 0.0
    fwhm_factor: float = 1.0
    transparency: float = 1.0
    jitter_rms_pix: float = 0.0
    jitter_angle_deg: float | None = None

    def __post_init__(self) -> None:
        """Refuse values that would make a frame better, or that no frame can be degraded to."""
        remedy = "a real frame can only be degraded"
        checks = (
            (1 <= self.sky_factor <= 1000, "sky_factor", f"1 to 1000; {remedy}"),
            (0 <= self.read_noise_added_e <= 1000, "read_noise_added_e", f"0 to 1000 electrons; {remedy}"),
            (1 <= self.fwhm_factor <= 5, "fwhm_factor", f"1 to 5; {remedy}"),
            (0.01 <= self.transparency <= 1, "transparency", f"0.01 to 1; {remedy}"),
            (0 <= self.jitter_rms_pix <= 20, "jitter_rms_pix", f"0 to 20 px; {remedy}"),
            (
                self.jitter_angle_deg is None or math.isfinite(self.jitter_angle_deg),
                "jitter_angle_deg",
                f'a number of degrees, or "{RANDOM}"',
            ),
        )
        for ok, name, allowed in checks:
            if not ok:
                value = getattr(self, name)
                raise InputError(f"condition {self.name!r}: {name} is {value}; allowed: {allowed}")

    @property
    def is_neutral(self) -> bool:
        """Whether it leaves a frame as it is."""
        return all(
            getattr(self, field.name) == field.default
            for field in fields(self)
            if field.name not in ("name", "description", "jitter_angle_deg")
        )

    def parameters(self) -> dict[str, float | str]:
        """Values by name, JSON-ready, without name and description."""
        values = {k: v for k, v in asdict(self).items() if k not in ("name", "description")}
        return values | {
            "jitter_angle_deg": RANDOM if self.jitter_angle_deg is None else self.jitter_angle_deg
        }


AS_OBSERVED = Condition()


def load_condition(text: str) -> Condition:
    """A condition by its name in ``catalogs/conditions.toml``, or as ``FILE.toml:NAME`` from a user's file.

    Its label is the name; of a user's file with the file's name before it, so that two conditions of one
    name are not taken for each other.

    Parameters
    ----------
    text : str

    Returns
    -------
    Condition

    Raises
    ------
    InputError
        If the file cannot be read, the condition is not known (the known ones are listed), or a key or
        value is not allowed.
    """
    file, colon, name = text.rpartition(":")
    if not colon:
        if text.endswith(".toml"):
            raise InputError(f"condition {text!r} is a file; add the condition's name, as in {text}:NAME")
        tables = {key: table for key, table in catalogs.read_toml(FILE_NAME).items() if key != EMULATED}
        return _from_tables(tables, text, text, f"catalogs/{FILE_NAME}")
    path = Path(file)
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: no such file; conditions of your own are given as FILE.toml:NAME"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text ({error})") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: is not valid TOML ({error})") from error
    return _from_tables(tables, name, f"{path.name}:{name}", file)


def _from_tables(tables: Mapping[str, Any], name: str, label: str, where: str) -> Condition:
    if not isinstance(tables.get(name), Mapping):
        known = ", ".join(key for key, value in tables.items() if isinstance(value, Mapping))
        raise InputError(
            f"condition {name!r} is not known; {where} has {known or 'none'};"
            " one of your own is given as FILE.toml:NAME"
        )
    values = dict(tables[name])
    types = {field.name: str if field.name == "description" else float for field in fields(Condition)}
    del types["name"]
    unknown = sorted(set(values) - set(types))
    if unknown:
        raise InputError(
            f"{where}: condition {name!r} has unknown keys {', '.join(unknown)};"
            f" the keys are {', '.join(types)}"
        )
    if values.get("jitter_angle_deg") == RANDOM:
        del values["jitter_angle_deg"]
    for key, value in values.items():
        fits = isinstance(value, str) if types[key] is str else isinstance(value, int | float)
        if not fits or isinstance(value, bool):
            wanted = "a text" if types[key] is str else "a number"
            wanted += f' or "{RANDOM}"' if key == "jitter_angle_deg" else ""
            raise InputError(f"{where}: condition {name!r}: {key} is {value!r}; it must be {wanted}")
    numbers: dict[str, Any] = {
        key: value if types[key] is str else float(value) for key, value in values.items()
    }
    return Condition(**({"description": ""} | numbers | {"name": label}))
