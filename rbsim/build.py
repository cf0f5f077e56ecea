"""A store that is being built: its plan, what is finished of it, what is missing. Knows no astronomy.

A build lives in ``<store>.partial/`` next to the store-to-be: ``plan.json`` and one compact file per
partition. `rbsim.pack.finalise` packs them into shards and gives the store its name, so a store that
exists is whole.
"""

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rbsim import schema
from rbsim.errors import InputError
from rbsim.locations import is_local, list_files, remove_folder, temporary_name, write_whole
from rbsim.partition import Partition, count_rows, is_whole, load_partition, partition_path, save_partition
from rbsim.store import PLAN, REPLACED, is_store, partial_path

log = logging.getLogger(__name__)


def init(
    path: Path,
    *,
    config: Mapping[str, Any],
    inputs: Sequence[str],
    summary: Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> list[int]:
    """`begin` with the plan that consists of these parts.

    Parameters
    ----------
    path : Path
        Name of the finished store.
    config : mapping
        The resolved configuration, stored in the result; must be JSON.
    inputs : sequence of str
        What identifies each partition's input (name and checksum), one per partition.
    summary : mapping, optional
        More attributes of the result (versions, photon-transfer figures, ...); must be JSON and must not
        contain times, host names or worker counts.
    resume, overwrite
        See `begin`.

    Raises
    ------
    InputError
        See `begin`.
    """
    return begin(path, make_plan(config, inputs, summary or {}), resume=resume, overwrite=overwrite)


def begin(
    path: Path,
    plan: Mapping[str, Any],
    *,
    resume: bool = False,
    overwrite: bool = False,
    share: "Share | None" = None,
) -> list[int]:
    """Prepare a build and return the numbers of the partitions still to be written.

    Parameters
    ----------
    path : Path
        Name of the finished store.
    plan : mapping
        From `make_plan`.
    resume : bool
        Continue an unfinished build if configuration and inputs are the same. Partitions that cannot be
        read any more are to be written again.
    overwrite : bool
        Start anew; the old store stays until the new one is finished.
    share : Share, optional
        Take part with this share in a build that other processes may be at, or begin it. Partitions of the
        share that cannot be read any more are to be written again.

    Raises
    ------
    InputError
        If the store or an unfinished build exists and nothing allows to go on with it, if a build to go
        on with differs in configuration or inputs, or if the place is not writable.
    """
    join = share is not None
    if (resume or join) and overwrite:
        other = "--resume" if resume else "--partition"
        raise InputError(f"{other} and --overwrite exclude each other")
    work = partial_path(path)
    if path.exists() and join:
        raise InputError(
            f"{path}: exists already, and one of several jobs does not replace it; leave it, or give"
            " another --out"
        )
    if path.exists() and not overwrite and not (resume and work.exists()):
        raise InputError(f"{path}: exists already; give --overwrite to replace it, or another --out")
    n_partitions = len(plan["inputs"])
    try:
        _refuse_foreign(path, work)
        if overwrite and work.exists():
            _discard_build(path, work)
        if not work.exists():
            if _begin(work, plan):
                return list(range(n_partitions))
            join = True  # another process was faster
    except OSError as error:
        raise InputError(f"{path}: cannot write there ({error.strerror}); choose another --out") from error
    if not (resume or join):
        raise InputError(
            f"{work}: an unfinished build; give --resume to continue it or --overwrite to start anew"
        )
    remedy = f"give another --out, or remove {work.name} first" if share is not None else "give --overwrite"
    check_same_plan(read_plan(path), plan, str(work), remedy=remedy)
    done = set(range(n_partitions)) - set(still_missing(path, n_partitions))
    # Of a partition of another job, its job finds out, or packing, which refuses what cannot be read.
    mine = done if resume or share is None else set(share.of(done))
    damaged = {index for index in mine if not is_whole(work, index)}
    if damaged:
        numbers = ranges([index + 1 for index in sorted(damaged)])
        log.warning("%s: partitions %s are damaged and are done again", path, numbers)
    done -= damaged
    if done:
        log.warning("%s: %d of %d frames are finished and are skipped", path, len(done), n_partitions)
    return [index for index in range(n_partitions) if index not in done]


def _discard_build(path: Path, work: Path) -> None:
    """Remove an unfinished build; a store that it was to replace, and had moved already, is put back."""
    if (work / REPLACED).exists() and not path.exists():
        (work / REPLACED).rename(path)
    remove_folder(work)


def _refuse_foreign(path: Path, work: Path) -> None:
    """Refuse to replace, or to go on with, what is not ours."""
    if path.exists() and not is_store(path):
        raise InputError(f"{path}: is not an rbsim store and is not replaced; give another --out")
    if work.exists() and not (work / PLAN).exists() and any(work.iterdir()):
        raise InputError(f"{work}: is in the way and no unfinished store; move it or give another --out")


def make_plan(config: Mapping[str, Any], inputs: Sequence[str], summary: Mapping[str, Any]) -> dict[str, Any]:
    """All that the content of a store depends on, as it is kept with it."""
    plan = {
        "format": schema.FORMAT_NAME,
        "version": schema.FORMAT_VERSION,
        "config": dict(config),
        "summary": dict(summary),
        "inputs": list(inputs),
    }
    return dict(json.loads(json.dumps(plan)))


def plan_bytes(plan: Mapping[str, Any]) -> bytes:
    """The content of the plan's file."""
    return json.dumps(plan, indent=1).encode()


def write_plan(folder: Path, plan: Mapping[str, Any]) -> None:
    """Write the plan into the folder of a build or of a store."""
    write_whole(folder / PLAN, plan_bytes(plan))


def _begin(work: Path, plan: Mapping[str, Any]) -> bool:
    """Make the folder of a build with its plan in one step; False if another process did."""
    if not is_local(work):
        write_plan(work, plan)
        return True
    new = temporary_name(work)
    new.mkdir(parents=True)
    write_plan(new, plan)
    try:
        new.rename(work)
    except OSError:
        remove_folder(new)
        if not (work / PLAN).exists():
            raise
        return False
    return True


def read_plan(path: Path) -> dict[str, Any]:
    """The plan of the unfinished build of a store.

    Raises
    ------
    InputError
        If there is none, or it cannot be read.
    """
    work = partial_path(path)
    if not work.exists():
        raise InputError(f"{path}: there is no unfinished build of it; run rbsim inject first")
    try:
        plan = dict(json.loads((work / PLAN).read_bytes()))
        _ = plan["config"], plan["inputs"], plan["summary"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{work}: its {PLAN} cannot be read; give --overwrite to start anew") from error
    return plan


def check_same_plan(
    old: Mapping[str, Any], new: Mapping[str, Any], what: str, *, remedy: str = "give --overwrite"
) -> None:
    """Refuse to go on with what was begun with another plan.

    Raises
    ------
    InputError
    """
    if old.get("inputs") != new["inputs"]:
        gone = sorted(set(new["inputs"]) ^ set(old.get("inputs", ())))
        example = f", e.g. {gone[0].rsplit(' ', 1)[0]}" if gone else ""
        raise InputError(
            f"{what}: was begun with other frames or frames that have changed{example}; {remedy}"
        )
    for part in ("config", "summary"):
        before, now = old.get(part, {}), new[part]
        keys = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
        if keys:
            raise InputError(f"{what}: was begun with another {', '.join(keys)}; {remedy}")
    if old != new:
        raise InputError(f"{what}: was begun with another version of rbsim; {remedy}")


def write_partition(path: Path, index: int, *parts: Partition) -> None:
    """Write partition `index` of the build of store `path`; see `rbsim.partition.save_partition`."""
    save_partition(partial_path(path), index, *parts)


def still_missing(path: Path, n_partitions: int) -> list[int]:
    """Numbers of the partitions that are not written."""
    work = partial_path(path)
    there = list_files(work)
    return [index for index in range(n_partitions) if partition_path(work, index).name not in there]


def finished(path: Path, indices: Iterable[int]) -> list[tuple[str, int]]:
    """Reason (empty if it worked) and number of stamps of those partitions that are written."""
    work = partial_path(path)
    there = list_files(work)
    out = []
    for index in indices:
        if partition_path(work, index).name in there:
            reasons = load_partition(work, index, ("reason",))["reason"]
            out.append((str(reasons[0]), count_rows(work, index, "candidates")))
    return out


def discard(path: Path) -> None:
    """Remove the unfinished build of a store."""
    remove_folder(partial_path(path))


def ranges(numbers: Sequence[int]) -> str:
    """Compact text for sorted numbers: 0-3, 7."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], number]
        else:
            parts.append([number])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[1]}" for p in parts)


@dataclass(frozen=True)
class Share:
    """One of several jobs of a build: every `n_jobs`-th partition.

    Attributes
    ----------
    job : int
        From 1.
    n_jobs : int
    """

    job: int
    n_jobs: int

    def __contains__(self, index: int) -> bool:
        return index % self.n_jobs == self.job - 1

    def of(self, indices: Iterable[int]) -> list[int]:
        """The partitions of this job."""
        return [index for index in indices if index in self]


def parse_share(text: str) -> Share:
    """``2/8``: the second of eight jobs.

    Raises
    ------
    InputError
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise InputError(
            f"partition is {text!r}; give j/N with j from 1 to N, such as 1/4 for the first of four jobs"
        )
    return Share(int(match[1]), int(match[2]))
