"""Package data (nights, lists of sources, sensors) and its loaders."""

import tomllib
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from astropy.table import Table

from rbsim.errors import InputError


def read_toml(file_name: str) -> dict[str, Any]:
    """Tables of a TOML file that is shipped with the package.

    Parameters
    ----------
    file_name : str
        Name within ``catalogs/``, e.g. ``nights.toml``.

    Raises
    ------
    InputError
        If there is no such file.
    """
    return tomllib.loads(_find(file_name, ".toml").read_text(encoding="utf-8"))


def read_table(file_name: str) -> Table:
    """Table of an ECSV file that is shipped with the package.

    Parameters
    ----------
    file_name : str
        Name within ``catalogs/``, e.g. ``sensors.ecsv``.

    Raises
    ------
    InputError
        If there is no such file.
    """
    return Table.read(_find(file_name, ".ecsv").read_text(encoding="utf-8"), format="ascii.ecsv")


def _find(file_name: str, suffix: str) -> Traversable:
    folder = resources.files(__name__)
    known = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(suffix))
    if file_name not in known:
        raise InputError(f"catalogue file {file_name!r} is not known; there are {', '.join(known)}")
    return folder / file_name
