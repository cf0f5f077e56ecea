"""Jobs of a batch system that are workers: started, watched, and replaced when they end. Knows no dask."""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from rbsim.errors import InputError

log = logging.getLogger(__name__)

ASK = {
    "slurm": (("squeue", "--noheader", "--jobs"), re.compile(r"^\s*$|Invalid job id")),
    "pbs": (("qstat",), re.compile(r"Unknown Job|has finished", re.IGNORECASE)),
    "sge": (("qstat", "-j"), re.compile(r"do not exist|does not exist")),
    "lsf": (("bjobs", "-noheader", "-o", "stat"), re.compile(r"^\s*(DONE|EXIT)|is not found")),
}
"""By batch system: how to ask for a job, and what says that it is over. Tried on a real Slurm only."""
ASK_S = 30.0
"""Between two questions on a job whose workers have not come yet."""
N_TRIES = 3
"""Jobs that may end without ever a worker before the run is given up."""
WATCH_S = 5.0
GONE_S = 15.0
"""A worker process that dies is started again by its job within seconds; later than this its job is over."""
QUIET_S = 60.0
"""Without any worker for so long, the user is told where to look."""


@dataclass
class JobWatch:
    """Keeps a number of jobs of a dask-jobqueue cluster alive.

    dask's own adaptive mode does not replace jobs with several workers, whose names it does not connect
    with the job (dask-jobqueue issues 611 and 691), and takes a submission that is refused for one that
    waits. All methods but `watch` are coroutines for the cluster's event loop.

    Attributes
    ----------
    cluster : dask_jobqueue.JobQueueCluster
        Without jobs.
    ask : callable
        Coroutine from the number of a job to whether it is over, such as `is_over` with its system.
    n_jobs : int
        Wanted.
    problem : str
        Why it is of no use to wait for workers, if it is so.
    """

    cluster: Any
    ask: Callable[[str], Awaitable[bool]]
    n_jobs: int = 0
    problem: str = ""
    _seen: set[str] = field(default_factory=set)
    """Numbers of jobs whose workers have come."""
    _absent_s: dict[str, float] = field(default_factory=dict)
    """By name of the job: since when it has had no worker, as seconds of the loop's clock."""
    _asked_s: dict[str, float] = field(default_factory=dict)
    """By number of the job: when the batch system was asked for it last."""
    _n_vain: int = 0
    _quiet_since_s: float | None = None
    _task: asyncio.Task[None] | None = None

    async def start(self, n_jobs: int) -> None:
        """Submit jobs up to this number and watch them from now on.

        Raises
        ------
        InputError
            If the batch system refuses a job.
        """
        self.n_jobs = max(n_jobs, self.n_jobs)
        refused = await self._submit()
        if refused:
            raise InputError(f"the batch system does not take the job: {refused}")
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._watch())

    async def stop(self) -> None:
        """Watch no more; the jobs go on."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def check(self, now_s: float) -> None:
        """Replace the jobs that have ended, and those whose submission had failed."""
        there = {str(worker.name) for worker in self.cluster.scheduler.workers.values()}
        self._complain(bool(there), now_s)
        ended = []
        for name, spec in list(self.cluster.worker_spec.items()):
            job = self.cluster.workers.get(name)
            if job is None:  # is being submitted
                continue
            if there & {f"{name}{suffix}" for suffix in spec.get("group", [""])}:
                self._seen.add(str(job.job_id))
                self._absent_s.pop(name, None)
                self._n_vain = 0
            elif job.job_id is not None and str(job.job_id) not in self._seen:
                if await self._is_over_in_vain(str(job.job_id), now_s):
                    ended.append(name)
            elif now_s - self._absent_s.setdefault(name, now_s) >= GONE_S:
                ended.append(name)
                log.info("job %s has ended; a new one takes its place", job.job_id or name)
        for name in ended:
            # The new one first: it must not get the name of the old one.
            self.cluster.worker_spec.update(self.cluster.new_worker_spec())
            del self.cluster.worker_spec[name]
            self._absent_s.pop(name, None)
        if ended:
            refused = await self._submit()
            if refused:
                log.warning("the batch system does not take the job now, it is tried again: %s", refused)

    async def _is_over_in_vain(self, job_id: str, now_s: float) -> bool:
        """Whether a job without workers so far is not waiting in the queue, but over."""
        if now_s - self._asked_s.setdefault(job_id, now_s) < ASK_S:
            return False
        self._asked_s[job_id] = now_s
        if not await self.ask(job_id):
            return False
        self._n_vain += 1
        log.warning("job %s is over, and no worker came from it; another one is tried", job_id)
        if self._n_vain >= N_TRIES and not self.cluster.scheduler.workers:
            self.problem = (
                f"{self._n_vain} jobs have ended before a worker came from them, the last is {job_id}: look"
                " into their output (log_directory), at python, interface, memory"
            )
        return True

    async def _submit(self) -> str:
        """Submit what is wanted, cancel what is not; what the batch system says against it, if anything."""
        while len(self.cluster.worker_spec) < self.n_jobs:
            self.cluster.worker_spec.update(self.cluster.new_worker_spec())
        refused = ""
        try:
            await self.cluster
        except (OSError, RuntimeError, ValueError) as error:
            refused = refusal(error)
        for job in self.cluster.workers.values():
            if job.job_id is None:
                # The cluster would submit it again whenever it looks, and could not be closed.
                job.status = type(job.status).closed
        return refused

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            if self.cluster.status.name != "running":
                return
            try:
                await self.check(asyncio.get_running_loop().time())
            except Exception:  # whatever it is, the next look may do better
                log.exception("jobs cannot be watched")

    def _complain(self, any_there: bool, now_s: float) -> None:
        if any_there:
            self._quiet_since_s = None
        elif self._quiet_since_s is None:
            self._quiet_since_s = now_s
        elif now_s - self._quiet_since_s >= QUIET_S:
            log.warning(
                "no worker has come for a minute: the jobs wait in the queue, or end at once; ask the batch"
                " system, or look into log_directory"
            )
            self._quiet_since_s = float("inf")


async def is_over(job_id: str, *, system: str) -> bool:
    """Ask the batch system whether a job is over; a system that does not answer has not said so.

    Parameters
    ----------
    job_id : str
    system : str
        Of `ASK`.
    """
    command, over = ASK[system]
    try:
        process = await asyncio.create_subprocess_exec(
            *command, job_id, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        said, _ = await process.communicate()
    except OSError:
        return False
    return over.search(said.decode(errors="replace")) is not None


def refusal(error: Exception) -> str:
    """What the batch system said, in one line."""
    if isinstance(error, FileNotFoundError):
        return f"there is no command {error.filename} here"
    said = str(error).partition("stderr:")[2] or str(error)
    return " ".join(said.split()) or type(error).__name__
