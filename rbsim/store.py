"""Reading a finished store. Knows no astronomy."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from rbsim import schema
from rbsim.errors import InputError
from rbsim.locations import is_there, zarr_store
from rbsim.manifest import MANIFEST, missing_or_cut, read_manifest, sha256_of
from rbsim.pair_schema import ADDED_TO_5, BEFORE_5
from rbsim.shards import can_read, read_run
from rbsim.zarr_arrays import array_of

PLAN = "plan.json"
"""In a store, and in the folder of its build: what it is made with."""

BESIDE = ("labels/",)
"""Folders in a store that are not part of it: they come later and have manifests of their own."""

REPLACED = "replaced"
"""In the folder of a build: the store whose name it takes."""


@dataclass(frozen=True, eq=False)
class Store:
    """An open, finished store (read-only)."""

    path: Path
    root: zarr.Group

    @property
    def attributes(self) -> dict[str, Any]:
        """Format, configuration, code tables and counts."""
        return dict(self.root.attrs)

    @property
    def references(self) -> tuple[str, ...]:
        """Names of the references of a paired store, in the order of their codes; empty for any other."""
        return tuple(self.attributes.get("references", ()))

    @property
    def n_stamps(self) -> int:
        """Number of stamps."""
        return int(self._stamps.shape[0])

    @property
    def manifest_sha256(self) -> str:
        """What tells this store from every other: its manifest has the checksums of all its files."""
        return sha256_of(self.path / MANIFEST)

    @property
    def frame_names(self) -> list[str]:
        """Names of the frames, in the order of the frames group; in a paired store once per reference."""
        return list(self.root["frames"].attrs["names"])  # type: ignore[arg-type]

    @property
    def frame_reasons(self) -> list[str]:
        """Why each frame failed; empty for those that did not."""
        return list(self.root["frames"].attrs["reasons"])  # type: ignore[arg-type]

    def _array(self, name: str) -> zarr.Array:
        return array_of(self.root, name)

    @cached_property
    def _stamps(self) -> zarr.Array:
        return self._array("stamps")  # looking it up takes as long as reading thirty stamps

    @cached_property
    def _in_runs(self) -> bool:
        return can_read(self._stamps, self.path / "stamps")

    def column(self, name: str) -> np.ndarray:
        """One candidate column, e.g. ``snr``; ``truth/snr`` and ``frames/fwhm_pix`` for the other groups."""
        with self._readable(name):
            is_old = self.attributes["version"] < 5 or (name in ADDED_TO_5 and name not in self.root)
            if is_old and name in BEFORE_5:
                n_rows = self.n_stamps if "/" not in name else len(self.frame_names)
                return np.full(n_rows, BEFORE_5[name])
            array = self._array(name)
            values = np.asarray(array[:])
            self._refuse_lost(array, name, 0, values)
            return values

    def _refuse_lost(self, array: zarr.Array, name: str, first: int, values: np.ndarray) -> None:
        """Refuse fill values that zarr gives for a file that has gone since the store was opened.

        Whether a file is there is asked only where all that was read of it are fill values: elsewhere as
        many requests again would go to a server.
        """
        per_file = (array.shards or array.chunks)[0]
        for start in range(first - first % per_file, first + len(values), per_file):
            part = values[max(start - first, 0) : start - first + per_file]
            file = self.path.joinpath(name, "c", str(start // per_file), *("0" * (array.ndim - 1)))
            if _is_all(part, array.fill_value) and not is_there(file):
                raise OSError(f"{file.relative_to(self.path)} is missing")

    @contextmanager
    def _readable(self, name: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(
                f"{self.path}: {name} is damaged ({error}); rbsim verify names what is wrong,"
                f" {remedy_of(self.path)}"
            ) from error

    def read_stamps(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Stamps of the given rows, shape (n, channel, y, x), float32, in the order asked for."""
        stamps = self._stamps
        if isinstance(rows, slice):
            with self._readable("stamps"):
                some = np.asarray(stamps[rows])
                if rows.step in (None, 1):
                    self._refuse_lost(stamps, "stamps", rows.indices(stamps.shape[0])[0], some)
                return some
        # Whole shards are read once each: fancy indexing would decode a chunk per row.
        out = np.empty((len(rows), *stamps.shape[1:]), np.float32)
        for start in range(0, stamps.shape[0], schema.SHARD_STAMPS):
            here = np.flatnonzero((rows >= start) & (rows < start + schema.SHARD_STAMPS))
            if not here.size:
                continue
            with self._readable("stamps"):
                some = np.asarray(stamps[start : start + schema.SHARD_STAMPS])
                self._refuse_lost(stamps, "stamps", start, some)
                out[here] = some[rows[here] - start]
        return out

    def read_run(self, first: int, out: np.ndarray) -> None:
        """Fill `out`, shape (n, channel, y, x), float32, contiguous, with the stamps from row `first` on.

        Fast where `first` begins a chunk and the run is of whole chunks of one shard, on a disk.
        """
        array = self._stamps
        last, shard = first + len(out), (array.shards or array.chunks)[0]
        whole = first % array.chunks[0] == 0 and (last % array.chunks[0] == 0 or last == array.shape[0])
        with self._readable("stamps"):
            if whole and first // shard == (last - 1) // shard and self._in_runs:
                read_run(array, self.path / "stamps", first, out)
            else:
                out[:] = np.asarray(array[first:last])
                self._refuse_lost(array, "stamps", first, out)


def _is_all(values: np.ndarray, fill_value: Any) -> bool:
    """Whether all values are the fill value, which may be NaN."""

    def same(part: np.ndarray) -> bool:
        return bool(np.all((part == fill_value) | ((part != part) & (fill_value != fill_value))))  # noqa: PLR0124

    return values.size > 0 and same(values.reshape(-1)[:1]) and same(values)


def partial_path(path: Path) -> Path:
    """Where the unfinished build of a store lives."""
    return path.with_name(path.name + ".partial")


def converted_from(path: Path) -> str | None:
    """What a store or its unfinished build was converted from; None if it was not, or nothing tells."""
    for file in (path / PLAN, path / "zarr.json", partial_path(path) / PLAN):
        try:
            content = json.loads(file.read_bytes())
            found = content.get("attributes", content)["config"].get("converted_from")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # is damaged itself, or not there
        return None if found is None else str(found)
    return None


def remedy_of(path: Path) -> str:
    """What mends a damaged store, or goes on with an unfinished build, in words."""
    source = converted_from(path)
    if not path.exists():
        return f"rbsim {'inject' if source is None else 'convert'} with --resume goes on with it"
    if source is None:
        return "rbsim inject with --resume repairs it"
    return f"it was converted from {source}: rbsim convert with --overwrite makes it again"


def open_store(path: Path) -> Store:
    """Open a finished store.

    Raises
    ------
    InputError
        If there is none, if it is unfinished, not ours, or of another format version.
    """
    if not (path / "zarr.json").exists():
        if partial_path(path).exists():
            command = "inject" if converted_from(path) is None else "convert"
            raise InputError(f"{path}: is unfinished; run rbsim {command} again with --resume")
        if not path.exists():
            raise InputError(f"{path}: no such store")
    try:
        root = zarr.open_group(zarr_store(path), mode="r", zarr_format=3)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is not a Zarr v3 group; give a store made by rbsim inject") from error
    if root.attrs.get("format") != schema.FORMAT_NAME:
        raise InputError(f"{path}: is not an rbsim store; give a store made by rbsim inject")
    version = root.attrs.get("version")
    if version not in schema.READABLE_VERSIONS:
        newer = isinstance(version, int) and version > schema.FORMAT_VERSION
        remedy = "update rbsim" if newer else "use the rbsim that wrote it or inject again"
        raise InputError(
            f"{path}: has store version {version}, this rbsim reads version"
            f" {' and '.join(map(str, schema.READABLE_VERSIONS))}; {remedy}"
        )
    # A missing chunk would be read as fill values.
    files = read_manifest(path)["files"]
    wrong = {name: what for name, what in missing_or_cut(path, files).items() if name in files}
    if wrong:
        name, what = next(iter(wrong.items()))
        more = f" and {len(wrong) - 1} more files" if len(wrong) > 1 else ""
        raise InputError(
            f"{path}: its file {name} {what}{more}; rbsim verify names what is wrong, {remedy_of(path)}"
        )
    return Store(path, root)


def is_store(path: Path) -> bool:
    """Whether this is a store of any version, perhaps a damaged one, so that it may be replaced."""
    try:
        if zarr.open_group(zarr_store(path), mode="r").attrs.get("format") == schema.FORMAT_NAME:
            return True
    except (OSError, ValueError, KeyError, TypeError):
        pass
    try:
        return read_manifest(path)["format"] == schema.FORMAT_NAME
    except (InputError, KeyError):
        return False
