"""Running one function over many items: in this process, or on dask workers. The only file with dask."""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits

from rbsim import __version__
from rbsim.batch import CLUSTERS, cluster_arguments
from rbsim.errors import InputError

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

# dask tells malloc to give every freed page back at once; for arrays of megabytes, made and dropped all the
# time, the workers would then spend a third of their time in page faults.
MALLOC = {"MALLOC_TRIM_THRESHOLD_": 2**28, "MALLOC_MMAP_THRESHOLD_": 2**28}
ENVIRONMENT = "distributed.nanny.pre-spawn-environ"
# Nothing of ours can be spilled: a worker that pauses for want of memory would pause for ever. Above 95 %
# of its limit it is ended, and what it did is done again.
MEMORY: dict[str, float | bool] = {"target": False, "spill": False, "pause": False, "terminate": 0.95}
SHARED = "rbsim-shared"
WAIT_S = 60
"""For the first worker of a scheduler that runs already."""


@dataclass(frozen=True)
class Parallel:
    """Who does the work; at most one of the three is given.

    Attributes
    ----------
    workers : int
        0: this process, one item after the other. Otherwise so many dask worker processes here.
    scheduler : str or None
        Address of a dask scheduler that runs already, such as ``tcp://10.0.0.1:8786``.
    cluster : str or None
        Batch system whose jobs are the workers, of `rbsim.batch.CLUSTERS`.
    cluster_config : Path or None
        TOML file with what its jobs need, see `rbsim.batch.cluster_arguments`.
    """

    workers: int = 0
    scheduler: str | None = None
    cluster: str | None = None
    cluster_config: Path | None = None

    def __post_init__(self) -> None:
        """Refuse what excludes each other or is not known."""
        given = [
            name
            for name, value in (
                ("--workers", self.workers),
                ("--scheduler", self.scheduler),
                ("--cluster", self.cluster),
            )
            if value
        ]
        if len(given) > 1:
            raise InputError(f"{' and '.join(given)} exclude each other; give one of them")
        if self.cluster is not None and self.cluster not in CLUSTERS:
            raise InputError(f"cluster is {self.cluster!r}; choose one of {', '.join(CLUSTERS)}")
        if self.cluster_config is not None and self.cluster is None:
            raise InputError(f"--cluster-config {self.cluster_config}: needs --cluster {'|'.join(CLUSTERS)}")

    @property
    def in_process(self) -> bool:
        """No dask at all."""
        return not (self.workers or self.scheduler or self.cluster)


IN_PROCESS = Parallel()


def run_partitions(
    function: Callable[[Any, Item], Result],
    shared: Any,
    items: Iterable[Item],
    *,
    parallel: Parallel = IN_PROCESS,
    on_done: Callable[[Result], None],
    on_lost: Callable[[Item, str], None] | None = None,
) -> None:
    """Call ``function(shared, item)`` for every item; results arrive in any order.

    An item whose worker dies is done again by another one. One that has killed several workers is given
    up, and the others go on.

    Parameters
    ----------
    function : callable
        Importable, so that workers find it.
    shared : object
        What all calls need; sent to each worker once, also to those that come later.
    items : iterable
    parallel : Parallel
    on_done : callable
        Called in this process with each result.
    on_lost : callable, optional
        Called with an item that was given up and the reason; without it, `InputError` ends the run when
        all else is done.

    Raises
    ------
    InputError
        If there are no workers, or items were given up.
    Exception
        What `function` raises; the rest is cancelled.
    """
    items = list(items)
    if parallel.in_process:
        # One BLAS thread, as on the workers: sums in another order give other bits.
        with threadpool_limits(1):
            for item in items:
                on_done(function(shared, item))
        return
    if not items:
        return
    from dask.distributed import KilledWorker, as_completed

    lost: list[Item] = []
    with _client(parallel, len(items)) as client:
        client.register_plugin(_make_plugin(shared))
        futures = {client.submit(_call, function, item, pure=False): item for item in items}
        for future in as_completed(list(futures)):
            item = futures.pop(future)
            error = future.exception() if future.status == "error" else None
            if isinstance(error, KilledWorker):
                log.warning("%s: killed its worker again and again and is given up", item)
                lost.append(item)
            elif error is not None:
                client.cancel(list(futures))
                raise error
            else:
                on_done(future.result())
            future.release()
        client.unregister_worker_plugin(SHARED)  # a scheduler that stays need not keep it
    reason = "killed its worker again and again (not enough memory?)"
    if on_lost is not None:
        for item in lost:
            on_lost(item, reason)
    elif lost:
        names = ", ".join(str(item) for item in lost[:5])
        raise InputError(
            f"{len(lost)} of {len(items)} parts were given up, first {names}: each {reason}; give the workers"
            " more memory and run with --resume, or leave these frames out"
        )


def _call(function: Callable[[Any, Item], Result], item: Item) -> Result:
    from dask.distributed import get_worker

    with threadpool_limits(1):
        return function(get_worker().plugins[SHARED].shared, item)


def _make_plugin(shared: Any) -> Any:
    """Data that a scheduler keeps for its workers.

    Scattered data would be lost with the workers that hold it.
    """
    from dask.distributed import WorkerPlugin

    class Shared(WorkerPlugin):
        name = SHARED

        def __init__(self, shared: Any) -> None:
            self.shared = shared

    return Shared(shared)


@contextmanager
def _client(parallel: Parallel, n_items: int) -> Iterator[Any]:
    import dask
    from dask.distributed import Client

    # Importing distributed sets its logger to INFO: every worker's birth and death would be told.
    logging.getLogger("distributed").setLevel(logging.ERROR)
    settings: dict[str, Any] = {f"{ENVIRONMENT}.{name}": value for name, value in MALLOC.items()}
    settings |= {f"distributed.worker.memory.{name}": value for name, value in MEMORY.items()}
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(settings))
        if parallel.scheduler is not None:
            client = stack.enter_context(_existing(parallel.scheduler))
        else:
            cluster = stack.enter_context(_own(parallel, n_items))
            client = stack.enter_context(Client(cluster))
            log.info("dask dashboard: %s", cluster.dashboard_link)
        yield client


def _own(parallel: Parallel, n_items: int) -> Any:
    """A cluster that lives as long as the run: processes here, or jobs of a batch system."""
    if parallel.cluster is None:
        from dask.distributed import LocalCluster

        return LocalCluster(
            n_workers=min(parallel.workers, n_items),
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",
        )
    try:
        import dask_jobqueue
    except ImportError as error:
        raise InputError('--cluster needs dask-jobqueue; pip install "rbsim[cluster]"') from error
    class_name, n_jobs, arguments = cluster_arguments(parallel.cluster, parallel.cluster_config)
    exports = [f"export {name}={value}" for name, value in MALLOC.items()]
    exports += [
        f"export DASK_DISTRIBUTED__WORKER__MEMORY__{name.upper()}={value}" for name, value in MEMORY.items()
    ]
    arguments["job_script_prologue"] = [*exports, *arguments.get("job_script_prologue", [])]
    try:
        cluster = getattr(dask_jobqueue, class_name)(**arguments)
    except (TypeError, ValueError) as error:
        raise InputError(f"{parallel.cluster_config or parallel.cluster}: {error}") from error
    n_jobs = min(n_jobs, n_items)
    # Between equal limits it is adaptive in one thing only: jobs that have ended are replaced.
    cluster.adapt(minimum_jobs=n_jobs, maximum_jobs=n_jobs)
    log.info("%d jobs of %s asked for", n_jobs, parallel.cluster)
    return cluster


@contextmanager
def _existing(address: str) -> Iterator[Any]:
    """A client of a scheduler that runs already, with workers of our version."""
    from dask.distributed import Client

    try:
        client = Client(address, timeout="10s")
    except (OSError, ValueError, TimeoutError) as error:
        raise InputError(
            f"{address}: no dask scheduler answers there; give its address, tcp://..."
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=WAIT_S)
        except TimeoutError as error:
            raise InputError(f"{address}: has no workers; start some with `dask worker {address}`") from error
        try:
            versions = client.run(_version)
        except Exception as error:
            raise InputError(
                f"{address}: its workers cannot import rbsim ({error}); install it there"
            ) from error
        others = sorted({version for version in versions.values() if version != __version__})
        if others:
            raise InputError(
                f"{address}: workers have rbsim {', '.join(others)}, this is {__version__}; use one version"
            )
        threads = {worker["nthreads"] for worker in client.scheduler_info(n_workers=-1)["workers"].values()}
        if threads - {1}:
            log.warning("%s: workers with several threads; one each is faster (--nthreads 1)", address)
        log.info("dask dashboard: %s", client.dashboard_link)
        yield client


def _version() -> str:
    return __version__
