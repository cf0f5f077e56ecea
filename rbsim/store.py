"""Reading a finished store. Knows no astronomy."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from rbsim import schema
from rbsim.errors import InputError


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
    def n_stamps(self) -> int:
        """Number of stamps."""
        return int(self._array("stamps").shape[0])

    @property
    def frame_names(self) -> list[str]:
        """Names of the frames, in the order of the frames group."""
        return list(self.root["frames"].attrs["names"])  # type: ignore[arg-type]

    @property
    def frame_reasons(self) -> list[str]:
        """Why each frame failed; empty for those that did not."""
        return list(self.root["frames"].attrs["reasons"])  # type: ignore[arg-type]

    def _array(self, name: str) -> zarr.Array:
        array = self.root[name]
        assert isinstance(array, zarr.Array)
        return array

    def column(self, name: str) -> np.ndarray:
        """One candidate column, e.g. ``snr``; ``truth/snr`` and ``frames/fwhm_pix`` for the other groups."""
        with self._readable(name):
            return np.asarray(self._array(name)[:])

    @contextmanager
    def _readable(self, name: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(f"{self.path}: {name} is damaged ({error}); inject again") from error

    def read_stamps(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Stamps of the given rows, shape (n, channel, y, x), float32, in the order asked for."""
        stamps = self._array("stamps")
        if isinstance(rows, slice):
            with self._readable("stamps"):
                return np.asarray(stamps[rows])
        # Whole shards are read once each: fancy indexing would decode a chunk per row.
        out = np.empty((len(rows), *stamps.shape[1:]), np.float32)
        for start in range(0, stamps.shape[0], schema.SHARD_STAMPS):
            here = np.flatnonzero((rows >= start) & (rows < start + schema.SHARD_STAMPS))
            if not here.size:
                continue
            with self._readable("stamps"):
                out[here] = np.asarray(stamps[start : start + schema.SHARD_STAMPS])[rows[here] - start]
        return out


def partial_path(path: Path) -> Path:
    """Where the unfinished build of a store lives."""
    return path.with_name(path.name + ".partial")


def open_store(path: Path) -> Store:
    """Open a finished store.

    Raises
    ------
    InputError
        If there is none, if it is unfinished, not ours, or of another format version.
    """
    if not path.exists():
        if partial_path(path).exists():
            raise InputError(f"{path}: is unfinished; run rbsim inject again with --resume")
        raise InputError(f"{path}: no such store")
    try:
        root = zarr.open_group(path, mode="r", zarr_format=3)
    except (FileNotFoundError, ValueError, KeyError) as error:
        raise InputError(f"{path}: is not a Zarr v3 group; give a store made by rbsim inject") from error
    if root.attrs.get("format") != schema.FORMAT_NAME:
        raise InputError(f"{path}: is not an rbsim store; give a store made by rbsim inject")
    version = root.attrs.get("version")
    if version != schema.FORMAT_VERSION:
        raise InputError(
            f"{path}: has store version {version}, this rbsim reads version {schema.FORMAT_VERSION};"
            " use the rbsim that wrote it or inject again"
        )
    store = Store(path, root)
    _check_complete(store)
    return store


def is_store(path: Path) -> bool:
    """Whether this is a store of any version, so that it may be replaced."""
    try:
        return bool(zarr.open_group(path, mode="r").attrs.get("format") == schema.FORMAT_NAME)
    except (OSError, ValueError, KeyError):
        return False


def _check_complete(store: Store) -> None:
    """Refuse a store with missing arrays or chunks: zarr would read them as fill values."""
    tables = (
        ("", (schema.STAMPS, *schema.CANDIDATE_COLUMNS)),
        ("truth/", schema.TRUTH_COLUMNS),
        ("frames/", schema.FRAME_COLUMNS),
    )
    for prefix, specs in tables:
        for spec in specs:
            name = prefix + spec.name
            folder = store.path / name
            if not (folder / "zarr.json").exists() or name not in store.root:
                raise InputError(f"{store.path}: has lost its array {name}; inject again")
            array = store.root[name]
            assert isinstance(array, zarr.Array)
            per_file = (array.shards or array.chunks)[0]
            wanted = -(-array.shape[0] // per_file)
            found = sum(1 for _ in (folder / "c").iterdir()) if (folder / "c").exists() else 0
            if array.dtype != spec.dtype or found != wanted:
                raise InputError(f"{store.path}: {name} has {found} of {wanted} chunks; inject again")
