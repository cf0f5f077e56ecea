"""A store of six partitions with several shards and chunks, of random numbers: to be damaged and repaired."""

from _build_store import make, partition, plan_of

from rbsim import build
from rbsim.lock import build_lock
from rbsim.pack import finalise
from rbsim.repair import is_finished
from rbsim.verify import verify

SIZES = (40, 0, 90, 7, 120, 31)
SMALL = {"SHARD_STAMPS": 64, "CHUNK_STAMPS": 16, "COLUMN_CHUNK": 100}
"""Values of `rbsim.schema` for tests of these stores: fixture `small_shards`."""


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
