"""Reading a finished store. Knows no astronomy."""

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
        return np.asarray(self._array(name)[:])

    def read_stamps(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Stamps of the given rows, shape (n, channel, y, x), float32, in the order asked for."""
        stamps = self._array("stamps")
        if isinstance(rows, slice):
            return np.asarray(stamps[rows])
        # Whole shards are read once each: fancy indexing would decode a chunk per row.
        out = np.empty((len(rows), *stamps.shape[1:]), np.float32)
        for start in range(0, stamps.shape[0], schema.SHARD_STAMPS):
            here = np.flatnonzero((rows >= start) & (rows < start + schema.SHARD_STAMPS))
            if here.size:
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
    return Store(path, root)
