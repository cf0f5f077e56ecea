"""Running one function over many partitions: in this process, or on dask workers. The only file with dask."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Parallel:
    """Who does the work.

    Attributes
    ----------
    workers : int
        0: this process, one partition after the other. Otherwise so many dask worker processes here.
    """

    workers: int = 0


IN_PROCESS = Parallel()

# dask tells malloc to give every freed page back at once; for arrays of megabytes, made and dropped all the
# time, the workers would then spend a third of their time in page faults.
_ENVIRONMENT = "distributed.nanny.pre-spawn-environ"
WORKER_MEMORY = {
    f"{_ENVIRONMENT}.MALLOC_TRIM_THRESHOLD_": 2**28,
    f"{_ENVIRONMENT}.MALLOC_MMAP_THRESHOLD_": 2**28,
}


def run_partitions(
    function: Callable[[Any, Item], Result],
    shared: Any,
    items: Iterable[Item],
    *,
    parallel: Parallel = IN_PROCESS,
    on_done: Callable[[Result], None],
) -> None:
    """Call ``function(shared, item)`` for every item; results arrive in any order.

    Parameters
    ----------
    function : callable
        Importable, so that workers find it.
    shared : object
        What all calls need; sent to each worker once.
    items : iterable
    parallel : Parallel
    on_done : callable
        Called in this process with each result.
    """
    if parallel.workers == 0:
        # One BLAS thread, as on the workers: sums in another order give other bits.
        with threadpool_limits(1):
            for item in items:
                on_done(function(shared, item))
        return
    import dask
    from dask.distributed import Client, LocalCluster, as_completed

    # Importing distributed sets its logger to INFO: every worker's birth and death would be told.
    logging.getLogger("distributed").setLevel(logging.WARNING)
    with (
        dask.config.set(WORKER_MEMORY),
        LocalCluster(
            n_workers=parallel.workers, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as client,
    ):
        log.info("dask dashboard: %s", cluster.dashboard_link)
        everywhere = client.scatter(shared, broadcast=True)
        futures = [client.submit(_limited, function, everywhere, item, pure=False) for item in items]
        for future in as_completed(futures):
            on_done(future.result())
            future.release()


def _limited(function: Callable[[Any, Item], Result], shared: Any, item: Item) -> Result:
    with threadpool_limits(1):
        return function(shared, item)
