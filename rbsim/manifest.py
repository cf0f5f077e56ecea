"""What a finished folder consists of: every file with its size and checksum, in ``manifest.json``."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rbsim.errors import InputError
from rbsim.locations import list_files, write_whole

MANIFEST = "manifest.json"
REMEDY = (
    "rbsim inject with --resume repairs a store, rbsim convert with --overwrite makes one again that was"
    " converted, rbsim relabel with --overwrite writes labels again"
)
_BLOCK = 1 << 20


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def write_manifest(
    folder: Path, *, known: Mapping[str, str] | None = None, beside: tuple[str, ...] = (), **facts: Any
) -> None:
    """Write the manifest of all files below a folder.

    Parameters
    ----------
    folder : Path
    known : mapping of str to str
        Checksums of files that need not be read again.
    beside : tuple of str
        Beginnings of names that do not belong to it, such as ``labels/``.
    **facts
        More entries; must be JSON.
    """
    files = {
        name: [size, (known or {}).get(name) or sha256_of(folder / name)]
        for name, size in sorted(list_files(folder).items())
        if name != MANIFEST and not name.startswith(beside)
    }
    content = {"files": files, **facts}
    write_whole(folder / MANIFEST, json.dumps({"sha256": _digest(content), **content}, indent=0).encode())


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder.

    Raises
    ------
    InputError
        If there is none, or it was changed.
    """
    try:
        content = json.loads((folder / MANIFEST).read_bytes())
        digest = content.pop("sha256")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder}: its {MANIFEST} is missing or cannot be read; {REMEDY}") from error
    if digest != _digest(content):
        raise InputError(f"{folder}: its {MANIFEST} was changed; {REMEDY}")
    return dict(content)


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def missing_or_cut(folder: Path, files: Mapping[str, Any], *, beside: Iterable[str] = ()) -> dict[str, str]:
    """Files that are missing, of another size, or not in the manifest, with what is wrong: one listing.

    Parameters
    ----------
    folder : Path
    files : mapping
        Entry ``files`` of the manifest.
    beside : iterable of str
        Folders that have manifests of their own.
    """
    found = list_files(folder)
    wrong = {
        name: "is missing" if name not in found else f"has {found[name]} of {size} bytes"
        for name, (size, _) in files.items()
        if found.get(name) != size
    }
    known = {MANIFEST, *files}
    strange = (name for name in found if name not in known and not name.startswith(tuple(beside)))
    return wrong | dict.fromkeys(sorted(strange), "does not belong to it")


def damaged(folder: Path, files: Mapping[str, Any], *, beside: Iterable[str] = ()) -> dict[str, str]:
    """The same after reading every byte: also files whose checksum is another."""
    wrong = missing_or_cut(folder, files, beside=beside)
    for name, (_, checksum) in files.items():
        if name not in wrong and sha256_of(folder / name) != checksum:
            wrong[name] = "has another checksum"
    return dict(sorted(wrong.items()))
