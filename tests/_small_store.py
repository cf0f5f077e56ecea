"""A store of six partitions with several shards and chunks, of random numbers: to be damaged and repaired."""

import numpy as np
from _build_store import make, partition, plan_of

from rbsim import build, schema
from rbsim.lock import build_lock
from rbsim.pack import finalise
from rbsim.partition import ROW_DTYPES, TABLES
from rbsim.repair import is_finished
from rbsim.verify import verify

SIZES = (40, 0, 90, 7, 120, 31)
SMALL = {"SHARD_STAMPS": 64, "CHUNK_STAMPS": 16, "COLUMN_CHUNK": 100}
FEW_COLUMNS = {
    "candidates": [
        "frame",
        "kind",
        "label_true",
        "label_true_source",
        "label_given",
        "injection_id",
        "snr",
        "x_pix",
        "y_pix",
    ],
    "truth": ["frame", "injection_id", "stamp", "snr", "flux_adu"],
    "frames": ["ok", "fwhm_pix"],
}
NAMES = {"candidates": "CANDIDATE_COLUMNS", "truth": "TRUTH_COLUMNS", "frames": "FRAME_COLUMNS"}


def few_columns(patch):
    """Stores of 17 arrays instead of 138: what holds for the files of a column holds for those of all."""
    for table, wanted in FEW_COLUMNS.items():
        kept = tuple(spec for spec in TABLES[table] if spec.name in wanted)
        assert len(kept) == len(wanted)
        whole = ROW_DTYPES[table]
        patch.setattr(schema, NAMES[table], kept)
        patch.setitem(TABLES, table, kept)
        dtype = np.dtype([(name, whole[name]) for name in whole.names if name in wanted])
        patch.setitem(ROW_DTYPES, table, dtype)


def shrink(patch):
    """Few columns, and several shards and chunks in a small store."""
    few_columns(patch)
    for name, value in SMALL.items():
        patch.setattr(schema, name, value)


def make_whole(path):
    """The undisturbed store."""
    make(path, SIZES)
    assert verify(path).problems == ()
    return path


def files(path):
    """Contents of all files below a folder, by name."""
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def repair(path):
    """What `rbsim inject --resume` does with a finished store; returns the frames that were done again."""
    again = []
    with build_lock(path):
        if is_finished(path, plan_of(SIZES)):
            return None
        for index in build.begin(path, plan_of(SIZES), resume=True):
            again.append(index)
            build.write_partition(path, index, partition(index, SIZES[index]))
        finalise(path, overwrite=True)
    return again
