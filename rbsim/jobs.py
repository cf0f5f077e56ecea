"""Jobs of a batch system that are workers: started, watched, and replaced when they end. Knows no dask."""

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any

from rbsim.errors import InputError

log = logging.getLogger(__name__)

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
    n_jobs : int
        Wanted.
    """

    cluster: Any
    n_jobs: int = 0
    _seen: set[str] = field(default_factory=set)
    """Numbers of jobs whose workers have come."""
    _absent_s: dict[str, float] = field(default_factory=dict)
    """By name of the job: since when it has had no worker, as seconds of the loop's clock."""
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
            elif job.job_id is None or str(job.job_id) in self._seen:
                since_s = self._absent_s.setdefault(name, now_s)
                if now_s - since_s >= GONE_S:
                    ended.append(name)
                    log.info("job %s has ended; a new one takes its place", job.job_id or name)
        for name in ended:
            # The new one first: it must not get the name of the old one.
            self.cluster.worker_spec.update(self.cluster.new_worker_spec())
            del self.cluster.worker_spec[name], self._absent_s[name]
        if ended:
            refused = await self._submit()
            if refused:
                log.warning("the batch system does not take the job now, it is tried again: %s", refused)

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


def refusal(error: Exception) -> str:
    """What the batch system said, in one line."""
    if isinstance(error, FileNotFoundError):
        return f"there is no command {error.filename} here"
    said = str(error).partition("stderr:")[2] or str(error)
    return " ".join(said.split()) or type(error).__name__
