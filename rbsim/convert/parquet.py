"""Candidates, truth and frames of a store as parquet files."""

import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rbsim import schema
from rbsim.errors import InputError
from rbsim.folder import new_folder
from rbsim.pair_schema import BEFORE_5
from rbsim.partition import TABLES
from rbsim.store import Store

ROWS_PER_GROUP = schema.COLUMN_CHUNK
"""A chunk of the store: a row group is read with one chunk of each column."""

PROOF = "candidates.parquet"


@dataclass(frozen=True)
class ParquetTables:
    """Number of rows of each table that was written."""

    n_rows: dict[str, int]


def export_parquet(
    store: Store, out: Path, *, overwrite: bool = False, rows_per_group: int = ROWS_PER_GROUP
) -> ParquetTables:
    """Write ``candidates.parquet``, ``truth.parquet`` and ``frames.parquet``; memory holds one row group.

    Every field has ``unit`` and ``description`` in its metadata; the files have the store's attributes
    (codes of kinds and flags, configuration) as JSON under ``rbsim``. Frames have ``name`` and ``reason``.

    Parameters
    ----------
    store : Store
    out : Path
        Folder to write.
    overwrite : bool
        Replace an older export.
    rows_per_group : int

    Raises
    ------
    InputError
        If pyarrow is not installed or nothing can be written.
    """
    try:
        arrow = importlib.import_module("pyarrow")
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise InputError('writing parquet needs pyarrow; pip install "rbsim[convert]"') from error
    attributes = {"rbsim": json.dumps(store.attributes)}
    n_rows = {}
    with new_folder(out, overwrite=overwrite, proof=PROOF, command="rbsim convert --to parquet") as work:
        for table, specs in TABLES.items():
            prefix = "" if table == "candidates" else f"{table}/"
            texts = {"name": store.frame_names, "reason": store.frame_reasons} if table == "frames" else {}
            fields = [arrow.field(name, arrow.string()) for name in texts]
            fields += [
                arrow.field(
                    spec.name,
                    arrow.from_numpy_dtype(np.dtype(spec.dtype)),
                    metadata={"unit": spec.unit, "description": spec.description},
                )
                for spec in specs
            ]
            described = arrow.schema(fields, metadata=attributes)
            n = int(_array(store, prefix + specs[0].name).shape[0])
            with parquet.ParquetWriter(work / f"{table}.parquet", described, compression="zstd") as writer:
                for start in range(0, max(n, 1), rows_per_group):
                    here = slice(start, min(start + rows_per_group, n))
                    columns = [arrow.array(text[here], arrow.string()) for text in texts.values()]
                    columns += [arrow.array(_read(store, prefix + spec.name, here)) for spec in specs]
                    writer.write_table(arrow.Table.from_arrays(columns, schema=described))
            n_rows[table] = n
    return ParquetTables(n_rows)


def _array(store: Store, name: str) -> Any:
    return store.root[name]


def _read(store: Store, name: str, rows: slice) -> np.ndarray:
    if name in BEFORE_5:
        return store.column(name)[rows]
    try:
        return np.asarray(_array(store, name)[rows])
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{store.path}: {name} is damaged ({error}); rbsim verify says more") from error
