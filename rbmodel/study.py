"""The benchmark: every method on the same splits and the same wrong labels, scored against the truth."""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from rbmodel import results
from rbmodel.benchmark_config import NEED_CLEANING, BenchmarkConfig
from rbmodel.point import STAGE_1, VERSIONS, Point, Work, lost_row, run_id_of, run_point
from rbmodel.train import Progress


class Run(Protocol):
    """Where points are worked on; `rbsim.cluster.run_partitions` with its workers is one."""

    def __call__(
        self,
        function: Callable[[Work, Point], dict[str, Any]],
        shared: Work,
        items: Iterable[Point],
        *,
        on_done: Callable[[dict[str, Any]], None],
        on_lost: Callable[[Point, str], None],
    ) -> None:
        """Call ``function(shared, item)`` for every item, and `on_done` or `on_lost` with its result."""


def run_benchmark(
    store_path: Path,
    out: Path,
    config: BenchmarkConfig,
    *,
    run: Run | None = None,
    progress: Progress | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> list[dict[str, Any]]:
    """Run all methods and seeds and write rows, scores and networks; see `rbmodel.results`.

    Parameters
    ----------
    store_path : Path
        A finished store.
    out : Path
        Folder of the results: ``study.json``, ``results.jsonl``, and in ``runs/`` per run its scores
        (``.npz``) and network (``.safetensors`` with ``.json``).
    config : BenchmarkConfig
    run : callable, optional
        Where the points are worked on; default: here, one after the other, with all threads of torch. Workers
        have one thread each, whose sums may differ in the last bits.
    progress : callable, optional
    resume : bool
        Continue: runs with a row that says ``ok`` are not repeated.
    overwrite : bool
        Replace the results of an earlier benchmark in `out`.

    Returns
    -------
    list of dict
        All rows of the benchmark. A method that failed has ``status`` failed and a ``reason``.

    Raises
    ------
    InputError
        If the store cannot be split or used, if `out` exists and neither `resume` nor `overwrite` allows
        it, or if the benchmark to resume had another configuration or store.
    """
    work = Work(store_path, out, config, progress if run is None else None)
    results.prepare_folder(out, _describe(work), resume=resume, overwrite=overwrite)
    rows = [row for row in results.read_rows(out) if row["status"] == "ok"]
    results.replace_rows(out, rows)
    finished = {row["run_id"] for row in rows}
    points = [
        point
        for seed in range(config.seed, config.seed + config.n_seeds)
        for method, network in config.entries
        if run_id_of(point := Point(method, network, seed), config) not in finished
    ]
    tell: Progress = progress if progress is not None and run is not None else lambda *_: None
    n_done = 0

    def keep(row: dict[str, Any]) -> None:
        nonlocal n_done
        rows.append(results.complete_row(row))
        results.append_row(out, rows[-1])
        n_done += 1
        tell("grid points", n_done, len(points))

    where = run or _one_by_one
    if run is not None:
        # Two workers must not both begin with what their points share.
        shared = sorted({(point.seed, point.network) for point in points if point.method in NEED_CLEANING})
        stages = [Point(STAGE_1, network, seed) for seed, network in shared]
        n_stages = 0

        def count(_: Any, *__: Any) -> None:
            nonlocal n_stages
            n_stages += 1
            tell("stage 1", n_stages, len(stages))

        where(run_point, work, stages, on_done=count, on_lost=count)
    where(
        run_point,
        work,
        points,
        on_done=keep,
        on_lost=lambda point, reason: keep(lost_row(work, point, reason)),
    )
    return rows


def _one_by_one(
    function: Callable[[Work, Point], dict[str, Any]],
    shared: Work,
    items: Iterable[Point],
    *,
    on_done: Callable[[dict[str, Any]], None],
    on_lost: Callable[[Point, str], None],  # noqa: ARG001
) -> None:
    for item in items:
        on_done(function(shared, item))


def _describe(work: Work) -> dict[str, Any]:
    """Contents of ``study.json``."""
    store, split, pools, label_set = work.store, work.split, work.pools, work.label_set
    return {
        "version": results.RESULTS_VERSION,
        "config": dataclasses.asdict(work.config),
        "store": {
            "path": str(store.path.resolve()),
            "name": store.path.name,
            "n_stamps": store.n_stamps,
            "manifest_sha256": store.manifest_sha256,
        },  # another store may come to have its name
        "counts": {
            "train": len(pools.training),
            "validation": len(pools.validation),
            "test": len(pools.test),
            "unused_by_split": split.n_unused,
        },
        "labels": None if label_set is None else dict(label_set.attributes),
        "block_roles": {str(block): role for block, role in split.block_roles.items()},
        "tile_roles": {str(tile): role for tile, role in split.tile_roles.items()},
        "versions": VERSIONS,
    }
