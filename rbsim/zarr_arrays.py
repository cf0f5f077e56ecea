"""One-dimensional and stamp arrays as all our Zarr groups have them. Knows no astronomy."""

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from rbsim.locations import zarr_store
from rbsim.truth_schema import ArraySpec

WRITE_ALL = {"array.write_empty_chunks": True}
"""Setting of zarr: a chunk of nothing but fill values is written too, since what is not there is lost."""


def create_array(
    group: zarr.Group,
    spec: ArraySpec,
    shape: tuple[int, ...],
    *,
    chunks: tuple[int, ...],
    dims: tuple[str, ...],
    shards: tuple[int, ...] | None = None,
    compressor: Any = None,
) -> zarr.Array:
    """An array with unit and description, compressed with zstd unless another codec is given."""
    return group.create_array(
        spec.name,
        shape=shape,
        dtype=spec.dtype,
        chunks=chunks,
        shards=shards,
        # crc32c per chunk: a flipped byte is an error on reading, not a wrong value.
        compressors=[compressor or ZstdCodec(level=1), Crc32cCodec()],
        fill_value=np.nan if np.dtype(spec.dtype).kind == "f" else 0,
        dimension_names=dims,
        attributes={"unit": spec.unit, "description": spec.description},
    )


def array_of(group: zarr.Group, name: str) -> zarr.Array:
    """An array of a group by its path; a group of that name is a bug."""
    array = group[name]
    assert isinstance(array, zarr.Array)
    return array


def consolidate(folder: Path, groups: Iterable[str] = ("",)) -> None:
    """Consolidate the metadata of groups, inner ones first.

    xarray warns without it, zarr while making it; the groups work either way.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        # Label settings that a killed process had brought over already.
        warnings.filterwarnings("ignore", message="Object at labels is not recognized")
        for group in groups:
            zarr.consolidate_metadata(zarr_store(folder), path=group)
