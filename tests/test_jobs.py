"""Jobs of a batch system that end, wait, are refused or give no worker, and what the system says of them."""

import asyncio
import os
from enum import Enum
from types import SimpleNamespace

import pytest

from rbsim.errors import InputError
from rbsim.jobs import ASK, ASK_S, GONE_S, QUIET_S, JobWatch, is_over, refusal


class Status(Enum):
    created = 1
    running = 2
    closed = 3


class BatchSystem:
    """A cluster of dask-jobqueue without the batch system: what `JobWatch` uses of it."""

    def __init__(self, n_per_job):
        self.n_per_job, self.refuses, self.cancelled, self.over = n_per_job, "", [], set()
        self.worker_spec, self.workers, self.n_submitted = {}, {}, 0
        self.scheduler = SimpleNamespace(workers={})
        self.status = Status.running

    def new_worker_spec(self):
        number = 0
        while f"job-{number}" in self.worker_spec:
            number += 1
        groups = {"group": [f"-{i}" for i in range(self.n_per_job)]} if self.n_per_job > 1 else {}
        return {f"job-{number}": groups}

    def __await__(self):
        return self._correct().__await__()

    async def _correct(self):
        for name in set(self.workers) - set(self.worker_spec):
            self.cancelled.append(self.workers.pop(name).job_id)
        for name in sorted(set(self.worker_spec) - set(self.workers)):
            self.workers[name] = SimpleNamespace(job_id=None, status=Status.created)
            if self.refuses:
                raise RuntimeError(f"Exit code: 1\nstdout:\n\nstderr:\n{self.refuses}\n\n")
            self.n_submitted += 1
            self.workers[name].job_id = str(self.n_submitted)

    def begin(self, name):
        for suffix in self.worker_spec[name].get("group", [""]):
            self.scheduler.workers[name + suffix] = SimpleNamespace(name=name + suffix)

    async def is_over(self, job_id):
        return job_id in self.over

    def end(self, *workers):
        for worker in workers:
            del self.scheduler.workers[worker]


def watched(n_per_job, *steps):
    """Run steps, each a function of (cluster, watch), 1 s after another and with a look after each."""

    async def play():
        cluster = BatchSystem(n_per_job)
        watch = JobWatch(cluster, cluster.is_over)
        await watch.start(2)
        for now_s, step in steps:
            step(cluster)
            await watch.check(now_s)
        await watch.stop()
        cluster.problem = watch.problem
        return cluster

    return asyncio.run(play())


def nothing(_):
    pass


@pytest.mark.parametrize("n_per_job", [1, 4])
def test_a_job_that_has_ended_is_replaced_whole(n_per_job):
    workers = [f"job-0-{i}" for i in range(n_per_job)] if n_per_job > 1 else ["job-0"]
    steps = [(0, lambda c: c.begin("job-0")), (1, lambda c: c.end(*workers)), (1 + GONE_S, nothing)]
    cluster = watched(n_per_job, *steps)
    assert cluster.n_submitted == 3
    assert cluster.cancelled == ["1"]
    assert set(cluster.worker_spec) == {"job-1", "job-2"}


def test_jobs_that_wait_or_start_a_worker_again_or_have_one_left_are_let_be():
    again = [
        (0, lambda c: c.begin("job-0")),
        (1, lambda c: c.end("job-0-0", "job-0-1")),
        (GONE_S, lambda c: c.begin("job-0")),
        (2 * GONE_S, lambda c: c.end("job-0-1")),
        (9 * GONE_S, nothing),
    ]
    cluster = watched(2, *again)
    assert (cluster.n_submitted, cluster.cancelled) == (2, [])


def test_a_new_job_may_wait_in_the_queue_as_long_as_it_must():
    steps = [(0, lambda c: c.begin("job-0")), (1, lambda c: c.end("job-0"))]
    cluster = watched(1, *steps, *((1 + GONE_S * n, nothing) for n in range(1, 20)))
    assert cluster.n_submitted == 3


def test_a_job_that_is_refused_at_first_ends_the_run():
    async def play():
        cluster = BatchSystem(1)
        cluster.refuses = "sbatch: error: invalid partition specified: nosuch"
        await JobWatch(cluster, cluster.is_over).start(1)

    with pytest.raises(InputError, match="does not take the job: sbatch: error: invalid partition"):
        asyncio.run(play())


def test_a_job_that_is_refused_later_is_tried_again(caplog):
    steps = [
        (0, lambda c: c.begin("job-0")),
        (1, lambda c: c.end("job-0")),
        (1 + GONE_S, lambda c: setattr(c, "refuses", "slurm_load_jobs error: Unable to contact")),
        (2 + GONE_S, lambda c: setattr(c, "refuses", "")),
        (2 + 2 * GONE_S, nothing),
    ]
    cluster = watched(1, *steps)
    assert "it is tried again: slurm_load_jobs error" in caplog.text
    assert cluster.n_submitted == 3
    assert all(job.job_id for job in cluster.workers.values())


def test_jobs_that_end_before_a_worker_comes_are_tried_again_and_then_given_up(caplog):
    # The second of two jobs was cancelled while it waited.
    steps = [(0, lambda c: c.begin("job-0")), (1, lambda c: c.over.add("2")), (1 + ASK_S, nothing)]
    cluster = watched(1, *steps)
    assert (cluster.n_submitted, cluster.cancelled, cluster.problem) == (3, ["2"], "")
    assert "job 2 is over, and no worker came from it" in caplog.text
    # Python is not where it should be: every job ends at once.
    cluster = watched(1, *((ASK_S * n, lambda c: c.over.update("123456789")) for n in range(4)))
    assert "jobs have ended before a worker came from them" in cluster.problem


@pytest.mark.parametrize(
    ("system", "over", "not_over"),
    [
        (
            "slurm",
            ("", "slurm_load_jobs error: Invalid job id specified\n"),
            (
                "   7   debug dask-wor root PD 0:00 1 (Resources)\n",
                "slurm_load_jobs error: Unable to contact",
            ),
        ),
        (
            "pbs",
            ("qstat: Unknown Job Id 7.head\n", "qstat: 7.head Job has finished, use -x or -H"),
            (
                "Job id  Name User Time S Queue\n7.head w me 0 Q long\n",
                "qstat: cannot connect to server head",
            ),
        ),
        (
            "sge",
            ("Following jobs do not exist: \n7\n",),
            ("job_number: 7\n", "error: commlib error: got select error"),
        ),
        ("lsf", ("DONE\n", "EXIT\n", "Job <7> is not found\n"), ("PEND\n", "RUN\n", "LSF is down")),
    ],
)
def test_answers_of_batch_systems_are_understood(tmp_path, monkeypatch, system, over, not_over):
    command, _ = ASK[system]
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    program, answer = tmp_path / command[0], tmp_path / "answer"
    program.write_text(f'#!/bin/sh\n[ "$*" = "{" ".join((*command[1:], "7"))}" ] && cat {answer}\nexit 1\n')
    program.chmod(0o755)
    for said in (*over, *not_over):
        answer.write_text(said)
        assert asyncio.run(is_over("7", system=system)) is (said in over), said


def test_a_system_that_cannot_be_asked_has_not_said_that_a_job_is_over(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert not asyncio.run(is_over("7", system="slurm"))


def test_that_no_worker_comes_is_told_once(caplog):
    watched(1, *((QUIET_S * n, nothing) for n in range(5)))
    assert caplog.text.count("no worker has come for a minute") == 1


def test_what_batch_systems_say_is_one_line():
    missing = FileNotFoundError(2, "No such file", "qsub")
    assert refusal(missing) == "there is no command qsub here"
    assert refusal(RuntimeError("Exit code: 1\nstderr:\na\nb\n")) == "a b"
    assert refusal(ValueError("no number")) == "no number"
