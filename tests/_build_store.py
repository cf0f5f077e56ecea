"""A small store of random numbers, and a process that starts processes that build one, to be killed."""

import json
import os
import sys
import threading
from pathlib import Path

import numpy as np

from rbsim import build, schema
from rbsim.lock import build_lock
from rbsim.pack import finalise
from rbsim.store import is_store

SEED = 3


def partition(index, n_stamps):
    """Some rows of every table; stars and their stamps agree."""
    rng = np.random.default_rng([SEED, index])
    n_truth = n_stamps // 2 + 3

    def fill(specs, length):
        return {s.name: rng.integers(0, 2, length).astype(s.dtype) for s in specs if s.name != "frame"}

    candidates, truth = fill(schema.CANDIDATE_COLUMNS, n_stamps), fill(schema.TRUTH_COLUMNS, n_truth)
    truth["injection_id"] = index * 1000 + np.arange(n_truth)
    truth["stamp"] = np.where(np.arange(n_truth) < n_stamps, np.arange(n_truth), -1)
    candidates["injection_id"] = np.where(
        np.arange(n_stamps) < n_truth, index * 1000 + np.arange(n_stamps), -1
    )
    return build.Partition(
        name=f"f{index}.fits",
        reason="" if n_stamps else "cloudy",
        frame={s.name: 1 for s in schema.FRAME_COLUMNS},
        stamps=rng.normal(size=(n_stamps, 3, 29, 29)).astype(np.float32),
        candidates=candidates,
        truth=truth,
    )


def plan_of(sizes):
    return build.make_plan({"a": 1}, [f"f{i}.fits {i:08x}" for i in range(len(sizes))], {"note": "x"})


def make(path, sizes, **how):
    """Build the store, or go on with it."""
    with build_lock(path):
        for index in build.begin(path, plan_of(sizes), **how):
            build.write_partition(path, index, partition(index, sizes[index]))
        return finalise(path, overwrite=how.get("overwrite", False) or how.get("resume", False))


def serve():
    """Start a builder for each line [store, sizes] of stdin and say its id; for a line null, how it ended.

    Each is a process of its own that has imported all it needs: importing takes longer than building.
    It is not reaped before it is asked for, so that its id stays its own.
    """
    assert threading.active_count() == 1  # a thread would be missing in the builders
    pid = 0
    for line in sys.stdin:
        asked = json.loads(line)
        if asked is None:
            answer = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        else:
            answer = pid = os.fork()
            if not pid:
                store, sizes = Path(asked[0]), asked[1]
                if not is_store(store):
                    make(store, sizes, resume=True)
                os._exit(0)
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
