"""Package data (nights, lists of sources) and its one loader."""

import tomllib
from importlib import resources
from typing import Any

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
    folder = resources.files(__name__)
    known = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".toml"))
    if file_name not in known:
        raise InputError(f"catalogue file {file_name!r} is not known; there are {', '.join(known)}")
    return tomllib.loads((folder / file_name).read_text(encoding="utf-8"))
