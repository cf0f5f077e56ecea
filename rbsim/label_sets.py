"""Named labels beside the pixels of a store, each in a folder of its own. Knows no astronomy.

``STORE/labels/NAME/`` is a Zarr v3 group with one value per stamp and a ``manifest.json`` of its files. The
store's own files never change, so any number of settings share the same pixels.
"""

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from rbsim.errors import InputError
from rbsim.locations import give_name, list_files, remove_folder, write_whole, zarr_store
from rbsim.manifest import write_manifest
from rbsim.schema import ArraySpec
from rbsim.store import Store
from rbsim.zarr_arrays import WRITE_ALL, consolidate, create_array

log = logging.getLogger(__name__)

FORMAT_NAME = "rbsim-labels"
FORMAT_VERSION = 1
FOLDER = "labels"
ARRAYS = (
    ArraySpec("label_given", "int8", "", "label to train on; -1 left out"),
    ArraySpec("reason", "int8", "", "why it is wrong; codes in the attribute 'reasons', 0: it is not"),
    ArraySpec(
        "flip_probability", "float32", "", "how probable it was that this stamp would get a wrong label"
    ),
)
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
UNFINISHED, REPLACED = ".partial", ".old"


@dataclass(frozen=True, eq=False)
class LabelSet:
    """One setting of labels.

    Attributes
    ----------
    name : str
    label_given, reason : ndarray, shape (n_stamps,), int8
    flip_probability : ndarray, shape (n_stamps,), float32
    attributes : mapping
        Mechanism, parameters, seed, counts asked for and got, the names of the reasons.
    """

    name: str
    label_given: np.ndarray
    reason: np.ndarray
    flip_probability: np.ndarray
    attributes: Mapping[str, Any]


def check_name(name: str) -> str:
    """The name, if it can be that of a folder and of nothing else.

    Raises
    ------
    InputError
        If it is empty, has other characters, begins with a dot or dash, or ends like an unfinished one.
    """
    if not NAME.fullmatch(name) or name.endswith((UNFINISHED, REPLACED)):
        raise InputError(
            f"label setting {name!r}: a name has at most 64 letters, digits, - _ . and neither begins with"
            f" - . nor ends in {UNFINISHED} or {REPLACED}; give another --name"
        )
    return name


def names(store: Store) -> list[str]:
    """Names of the finished settings of a store, sorted."""
    folder = store.path / FOLDER
    if not folder.exists():
        return []
    found = [path.name for path in folder.iterdir() if (path / "zarr.json").exists()]
    return sorted(name for name in found if not name.endswith((UNFINISHED, REPLACED)))


def read_labels(store: Store, name: str) -> LabelSet:
    """Read a setting.

    Raises
    ------
    InputError
        If there is none of this name, it is damaged, of another version, or was made for another store.
    """
    path = store.path / FOLDER / check_name(name)
    if not path.exists():
        others = names(store)
        raise InputError(
            f"{store.path}: has no label setting {name!r}; "
            + (f"there are {', '.join(others)}" if others else "make one with rbsim relabel")
        )
    remedy = f"make it again with rbsim relabel --name {name} --overwrite"
    try:
        group = zarr.open_group(zarr_store(path), mode="r", zarr_format=3)
        attributes = dict(group.attrs)
        arrays = {spec.name: np.asarray(group[spec.name][:]) for spec in ARRAYS}  # type: ignore[index]
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(f"{path}: is damaged ({error}); {remedy}") from error
    if (attributes.get("format"), attributes.get("version")) != (FORMAT_NAME, FORMAT_VERSION):
        raise InputError(f"{path}: is not version {FORMAT_VERSION} of {FORMAT_NAME}; {remedy}")
    if attributes.get("store") != fingerprint(store):
        raise InputError(f"{path}: was made for another store; {remedy}")
    for spec in ARRAYS:
        if arrays[spec.name].shape != (store.n_stamps,) or arrays[spec.name].dtype != spec.dtype:
            raise InputError(f"{path}: {spec.name} does not have one {spec.dtype} per stamp; {remedy}")
    return LabelSet(name, attributes=attributes, **arrays)


def write_labels(
    store: Store,
    name: str,
    arrays: Mapping[str, np.ndarray],
    attributes: Mapping[str, Any],
    *,
    overwrite: bool = False,
) -> LabelSet:
    """Write a setting beside the pixels; it has its name only when it is whole.

    Parameters
    ----------
    store : Store
        Nothing else in it changes.
    name : str
    arrays : mapping of str to ndarray, shape (n_stamps,)
        Those of `ARRAYS`.
    attributes : mapping
        JSON-ready.
    overwrite : bool
        Replace a setting of this name.

    Raises
    ------
    InputError
        If the name is not allowed or taken, or nothing can be written.
    """
    path = store.path / FOLDER / check_name(name)
    check_free(store, name, overwrite=overwrite)
    building, old = (path.with_name(name + end) for end in (UNFINISHED, REPLACED))
    try:
        for left_over in (building, old):
            if left_over.exists():
                remove_folder(left_over)
        _write_group(building, store, arrays, attributes)
        write_manifest(building)
        if path.exists():
            give_name(path, old, last="zarr.json")
        give_name(building, path, last="zarr.json")
        if old.exists():
            remove_folder(old)
    except OSError as error:
        if building.exists() and not old.exists():  # once the old one has been moved both are needed
            with suppress(OSError):
                remove_folder(building)
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); free space or rights there"
        ) from error
    return read_labels(store, name)


def describe_settings(store: Store) -> dict[str, Any]:
    """Mechanism, seed, contaminations and counts of every label setting of a store, by name; JSON-ready.

    One that cannot be read has its ``error`` instead.
    """
    keys = ("mechanism", "seed", "asked", "got", "n_by_reason")
    out: dict[str, Any] = {}
    for name in names(store):
        try:
            attributes = read_labels(store, name).attributes
            out[name] = {key: attributes[key] for key in keys}
        except InputError as error:
            out[name] = {"error": str(error)}
    return out


def settings_text(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The same as label and value lines for people."""
    lines = []
    for name, one in settings.items():
        if "error" in one:
            lines.append((f"labels {name}", one["error"]))
            continue
        got = one["got"]
        text = (
            f"{one['mechanism']}: {100 * got['mislabel_bogus']:.3g} % of {got['n_given_bogus']:,} given bogus"
            f" are real, {100 * got['mislabel_real']:.3g} % of {got['n_given_real']:,} given real are bogus"
        )
        lines.append((f"labels {name}", text))
    return lines


def check_free(store: Store, name: str, *, overwrite: bool) -> None:
    """Refuse a name that is taken.

    Raises
    ------
    InputError
        If there is a setting of this name and `overwrite` is not given.
    """
    if (store.path / FOLDER / check_name(name)).exists() and not overwrite:
        raise InputError(
            f"{store.path}: has a label setting {name!r} already; give --overwrite or another --name"
        )


def fingerprint(store: Store) -> str:
    """SHA-256 of what identifies the stamps: labels that belong to others are not read."""
    digest = hashlib.sha256()
    for column in ("kind", "injection_id", "label_given", "x_pix", "y_pix"):
        digest.update(store.column(column).tobytes())
    return digest.hexdigest()


def carry_over(old: Path, new: Store) -> None:
    """Copy those settings of a store that is to be replaced that belong to the same stamps.

    Parameters
    ----------
    old : Path
        A store, perhaps a damaged one.
    new : Store
        What takes its place.
    """
    folder = old / FOLDER
    if not folder.exists():
        return
    wanted = fingerprint(new)
    for inside in sorted(folder.iterdir(), key=lambda path: path.name):
        try:
            made_for = json.loads((inside / "zarr.json").read_bytes())["attributes"]["store"]
        except (OSError, ValueError, KeyError, TypeError):
            made_for = ""
        if made_for != wanted:
            log.warning("%s: is not kept: it does not belong to the new store", inside)
            continue
        for name in list_files(inside):
            target = new.path / FOLDER / inside.name / name
            target.parent.mkdir(parents=True, exist_ok=True)
            write_whole(target, (inside / name).read_bytes())


def _write_group(
    path: Path, store: Store, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any]
) -> None:
    group = zarr.create_group(zarr_store(path), zarr_format=3)
    with zarr.config.set(WRITE_ALL):
        for spec in ARRAYS:
            values = np.asarray(arrays[spec.name]).astype(spec.dtype)
            chunks = (max(len(values), 1),)
            create_array(group, spec, values.shape, chunks=chunks, dims=("stamp",))[:] = values
    head: dict[str, Any] = {"format": FORMAT_NAME, "version": FORMAT_VERSION, "store": fingerprint(store)}
    group.attrs.update({**head, **attributes})
    consolidate(path)
