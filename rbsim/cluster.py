"""Running one function over many items: in this process, or on dask workers. The only file with dask."""

import logging
import math
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias, TypeVar

from threadpoolctl import threadpool_limits

from rbsim import __version__
from rbsim.batch import cluster_arguments
from rbsim.errors import InputError
from rbsim.jobs import JobWatch, is_over
from rbsim.parallel import IN_PROCESS, Parallel, Run, run_here

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
KILLS = "killed its worker again and again (not enough memory?)"
LONGER = "was not done when the time of its worker was over, again and again (longer than the walltime?)"
MORE = "more memory, or a longer walltime"
N_LIFETIMES = 4
"""So often an item may be cut off by the planned end of its worker. One that takes half the life of a worker,
and begins at any moment of it, meets four ends in a row one time in sixteen."""
ANSWER_S = 10
"""For a scheduler that should run already to answer."""
WAIT_S = 60
"""For its first worker."""
LOOK_S = 2.0
"""Between two looks at whether it is still of use to wait."""


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
    up, and so is one that was not done at the planned end of several; the others go on.

    Parameters
    ----------
    function : callable
        Importable, so that workers find it. May be called twice with an item, also at the same time.
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
    with workers_of(parallel) as run:
        run(function, shared, items, on_done=on_done, on_lost=on_lost)


@contextmanager
def workers_of(parallel: Parallel) -> Iterator[Run]:
    """`run_partitions` with workers that stay between its calls; they are asked for when the first one comes.

    Jobs of a batch system may have waited for hours: nobody wants to wait for them twice.
    """
    if parallel.in_process:
        yield run_here
        return
    with ExitStack() as stack:
        workers: _Workers | None = None

        def run(
            function: Callable[[Any, Any], Any],
            shared: Any,
            items: Iterable[Any],
            *,
            on_done: Callable[[Any], None],
            on_lost: Callable[[Any, str], None] | None = None,
        ) -> None:
            nonlocal workers
            items = list(items)
            if not items:
                return
            if workers is None:
                workers = stack.enter_context(_workers(parallel))
            workers.grow(len(items))
            lost: list[str] = []
            _distribute(
                workers, function, shared, items,
                on_done=on_done, on_lost=on_lost or (lambda item, why: lost.append(f"{item}: {why}")),
            )  # fmt: skip
            if lost:
                raise InputError(
                    f"{len(lost)} of {len(items)} parts were given up, first {', '.join(lost[:5])}; give the"
                    f" workers {MORE}, and run with --resume, or leave these out"
                )

        yield run


def _distribute(
    workers: "_Workers",
    function: Callable[[Any, Any], Any],
    shared: Any,
    items: list[Any],
    *,
    on_done: Callable[[Any], None],
    on_lost: Callable[[Any, str], None],
) -> None:
    from dask.distributed import KilledWorker

    client = workers.client
    # A name of its own: on one scheduler there may be two runs at a time.
    name = f"rbsim-{uuid.uuid4()}"
    client.register_plugin(_make_plugin(shared), name=name)
    done: SimpleQueue[Any] = SimpleQueue()
    if workers.scheduler is not None:
        workers.scheduler.add_plugin(_count_ends(workers.scheduler, done.put), name=name)
    futures = {client.submit(_call, name, function, item, pure=False): item for item in items}
    of_key = {future.key: future for future in futures}
    for future in futures:
        future.add_done_callback(done.put)
    try:
        while futures:
            try:
                arrived = done.get(timeout=LOOK_S)
            except Empty:
                if workers.problem():
                    raise InputError(workers.problem()) from None
                continue
            future = of_key.get(arrived, arrived)
            if future not in futures:  # was given up
                continue
            item = futures.pop(future)
            if arrived is not future:  # its key: it is never done in time
                on_lost(item, LONGER)
                client.cancel([future])
                continue
            try:
                # A result may be lost with its worker after it was announced: this waits until it is back.
                result = future.result()
            except KilledWorker:
                on_lost(item, KILLS)
            except CancelledError as error:
                raise InputError(
                    "the scheduler has gone, and the work with it; what is finished is kept: start one and"
                    " run again with --resume"
                ) from error
            else:
                on_done(result)
            future.release()
    finally:
        # A scheduler that stays need not keep anything. If it has gone, there is nothing to keep.
        with suppress(Exception):
            client.cancel(list(futures))
            if workers.scheduler is not None:
                workers.scheduler.remove_plugin(name)
            client.unregister_worker_plugin(name)


def _call(name: str, function: Callable[[Any, Item], Result], item: Item) -> Result:
    from dask.distributed import get_worker

    with threadpool_limits(1):
        return function(get_worker().plugins[name].shared, item)


def _count_ends(scheduler: Any, tell: Callable[[str], None]) -> Any:
    """What tells the key of an item that several workers had to leave undone at their planned end.

    dask counts the deaths of workers only: an item that lasts longer than they do would be begun for ever.
    """
    from dask.distributed import SchedulerPlugin

    class Ends(SchedulerPlugin):
        def __init__(self) -> None:
            self.n_left: Counter[str] = Counter()

        def transition(self, key: Any, start: str, finish: str, *_: Any, **__: Any) -> None:
            if (start, finish) != ("processing", "released"):
                return
            self.n_left[key] += 1
            if self.n_left[key] - scheduler.tasks[key].suspicious == N_LIFETIMES:
                tell(key)

    return Ends()


def _make_plugin(shared: Any) -> Any:
    """Data that a scheduler keeps for its workers.

    Scattered data would be lost with the workers that hold it.
    """
    from dask.distributed import WorkerPlugin

    class Shared(WorkerPlugin):
        def __init__(self, shared: Any) -> None:
            self.shared = shared

    return Shared(shared)


@dataclass(frozen=True)
class _Workers:
    """A client, and how to ask for workers, never more than there are items."""

    client: Any
    grow: Callable[[int], None]
    problem: Callable[[], str] = str
    """Why no worker will come, if it is so."""
    scheduler: Any = None
    """Theirs, if it lives in this process."""


@contextmanager
def _workers(parallel: Parallel) -> Iterator[_Workers]:
    import dask
    from dask.distributed import Client

    # Importing distributed sets its logger to INFO: every worker's birth and death would be told.
    logging.getLogger("distributed").setLevel(logging.ERROR)
    settings: dict[str, Any] = {f"{ENVIRONMENT}.{name}": value for name, value in MALLOC.items()}
    settings |= {f"distributed.worker.memory.{name}": value for name, value in MEMORY.items()}
    # An item waits at the scheduler, not at a worker where it would share the blame for that one's death.
    settings["distributed.scheduler.worker-saturation"] = 1.0
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(settings))
        if parallel.scheduler is not None:
            yield _Workers(stack.enter_context(_existing(parallel.scheduler)), lambda _: None)
            return
        own = _jobs(parallel) if parallel.cluster else _processes(parallel)
        cluster, grow, problem = stack.enter_context(own)
        client = stack.enter_context(Client(cluster))
        log.info("dask dashboard: %s", _dashboard_link(cluster))
        yield _Workers(client, grow, problem, cluster.scheduler)


_Own: TypeAlias = tuple[Any, Callable[[int], None], Callable[[], str]]
"""A cluster that ends with the run, and `grow` and `problem` of its `_Workers`."""


@contextmanager
def _processes(parallel: Parallel) -> Iterator[_Own]:
    """Worker processes on this computer."""
    from dask.distributed import LocalCluster
    from distributed.system import MEMORY_LIMIT

    cluster = LocalCluster(
        n_workers=0,
        threads_per_worker=1,
        processes=True,
        memory_limit=MEMORY_LIMIT // parallel.workers,
        dashboard_address="127.0.0.1:0",
    )

    def grow(n_items: int) -> None:
        n_workers = min(parallel.workers, n_items)
        if n_workers > len(cluster.worker_spec):
            cluster.scale(n_workers)

    with cluster:
        yield cluster, grow, str


def _dashboard_link(cluster: Any) -> str:
    """Where the dashboard can be seen: it listens on this computer alone, whatever address workers use."""
    port = cluster.scheduler_info.get("services", {}).get("dashboard")
    return "none" if port is None else f"http://127.0.0.1:{port}/status"


@contextmanager
def _jobs(parallel: Parallel) -> Iterator[_Own]:
    """Jobs of a batch system; those that end are replaced."""
    import dask

    try:
        import dask_jobqueue
    except ImportError as error:
        raise InputError('--cluster needs dask-jobqueue; pip install "rbsim[cluster]"') from error
    assert parallel.cluster is not None
    class_name, n_jobs, arguments = cluster_arguments(parallel.cluster, parallel.cluster_config)
    exports = [f"export {name}={value}" for name, value in MALLOC.items()]
    exports += [
        f"export DASK_DISTRIBUTED__WORKER__MEMORY__{name.upper()}={value}" for name, value in MEMORY.items()
    ]
    arguments["job_script_prologue"] = [*exports, *arguments.get("job_script_prologue", [])]
    # dask would start lost jobs again itself, some of them; `JobWatch` does it for all.
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "1000 days"}):
        try:
            cluster = getattr(dask_jobqueue, class_name)(**arguments)
        except (TypeError, ValueError, RuntimeError, OSError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"{parallel.cluster_config or parallel.cluster}: {reason}") from error
        watch = JobWatch(cluster, partial(is_over, system=parallel.cluster))

        def grow(n_items: int) -> None:
            wanted = min(n_jobs, math.ceil(n_items / arguments["processes"]))
            if wanted > watch.n_jobs:
                cluster.sync(watch.start, wanted)
                log.info("%d jobs of %s asked for", wanted, parallel.cluster)

        with cluster:
            try:
                yield cluster, grow, lambda: watch.problem
            finally:
                cluster.sync(watch.stop)


@contextmanager
def _existing(address: str) -> Iterator[Any]:
    """A client of a scheduler that runs already, with workers of our version."""
    from dask.distributed import Client

    try:
        client = Client(address, timeout=ANSWER_S)
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
        others = sorted(set(versions.values()) - {_version()})
        if others:
            raise InputError(
                f"{address}: workers have {' and '.join(others)}, this is {_version()}; use one version"
            )
        threads = {worker["nthreads"] for worker in client.scheduler_info(n_workers=-1)["workers"].values()}
        if threads != {1}:
            # Parts of what we use are not safe with threads.
            raise InputError(
                f"{address}: workers have {max(threads)} threads; start them with --nthreads 1, and"
                " --nworkers for as many as there are cores"
            )
        log.info("dask dashboard: %s", client.dashboard_link)
        yield client


def _version() -> str:
    return f"rbsim {__version__} on Python {sys.version_info.major}.{sys.version_info.minor}"
