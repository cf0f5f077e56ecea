"""Work on dask workers: results, deaths, items that kill, schedulers, and what is asked of batch systems."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from enum import Enum
from pathlib import Path
from types import SimpleNamespace

import dask_jobqueue
import pytest
from dask.distributed import Client, LocalCluster

from rbsim import cluster as on_dask
from rbsim.batch import cluster_arguments, walltime_s
from rbsim.cluster import Parallel, run_partitions, workers_of
from rbsim.errors import InputError
from rbsim.jobs import ASK, ASK_S, GONE_S, QUIET_S, JobWatch, is_over, refusal


def add(shared, item):
    return shared["base"] + item


def die_once(shared, item):
    """Each item kills its worker the first time."""
    mark = shared / f"{item}"
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def die_always(_, item):
    if item == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return item


def slow(_, __):
    time.sleep(0.2)
    return os.getpid()


def fail(_, item):
    raise InputError(f"no {item}")


def threads(_, item):
    return item, os.environ.get("OMP_NUM_THREADS")


def collect(function, shared, items, parallel, **how):
    results = []
    run_partitions(function, shared, items, parallel=parallel, on_done=results.append, **how)
    return results


def test_two_workers_do_what_this_process_does():
    alone = collect(add, {"base": 5}, range(20), Parallel())
    assert alone == list(range(5, 25))
    assert sorted(collect(add, {"base": 5}, range(20), Parallel(2))) == alone
    assert collect(add, {"base": 5}, [], Parallel(2)) == []


def test_workers_have_one_thread_each():
    assert collect(threads, None, [1], Parallel(1)) == [(1, "1")]


@pytest.mark.slow
def test_the_death_of_every_worker_loses_nothing(tmp_path):
    assert sorted(collect(die_once, tmp_path, range(4), Parallel(2))) == [0, 1, 2, 3]


@pytest.mark.slow
def test_an_item_that_kills_its_workers_is_named_and_the_others_are_done():
    lost, done = [], []
    run_partitions(
        die_always,
        None,
        range(12),
        parallel=Parallel(2),
        on_done=done.append,
        on_lost=lambda item, reason: lost.append((item, reason)),
    )
    # No other item waits at the worker that dies: none shares the blame.
    assert lost == [(9, "killed its worker again and again (not enough memory?)")]
    assert sorted(done) == [item for item in range(12) if item != 9]
    with pytest.raises(InputError, match=r"1 of 1 parts were given up, first 9: .*run with --resume"):
        collect(die_always, None, [9], Parallel(1))


def too_long(shared, item):
    time.sleep(shared if item == 1 else 0.01)
    return item


@pytest.mark.slow
def test_an_item_that_outlasts_every_worker_is_named_and_the_others_are_done(monkeypatch):
    """The workers end as planned, as with --lifetime in a batch system: that counts as no death for dask."""
    monkeypatch.setattr(on_dask, "N_LIFETIMES", 2)
    lost, done = [], []
    with (
        LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",
            lifetime="1 s",
            lifetime_restart=True,
        ) as own,
        Client(own) as client,
    ):
        on_dask._distribute(
            on_dask._Workers(client, lambda _: None, str, own.scheduler),
            too_long,
            4.0,
            list(range(5)),
            on_done=done.append,
            on_lost=lambda item, reason: lost.append((item, reason)),
        )
        assert not [name for name in own.scheduler.plugins if name.startswith("rbsim")]
    assert lost == [(1, on_dask.LONGER)]
    assert "longer than the walltime" in on_dask.LONGER
    assert sorted(done) == [0, 2, 3, 4]


def test_only_planned_ends_of_workers_count():
    tasks = {key: SimpleNamespace(suspicious=0) for key in "ab"}
    told = []
    ends = on_dask._count_ends(SimpleNamespace(tasks=tasks), told.append)
    for _ in range(on_dask.N_LIFETIMES + 1):
        tasks["b"].suspicious += 1  # a death, which dask counts itself
        ends.transition("b", "processing", "released", stimulus_id="")
        ends.transition("a", "released", "waiting", stimulus_id="")
        ends.transition("a", "processing", "memory", stimulus_id="")
    assert told == []
    for _ in range(on_dask.N_LIFETIMES + 1):
        ends.transition("a", "processing", "released", stimulus_id="")
    assert told == ["a"]


def test_workers_stay_between_the_parts_of_a_run():
    pids = [set(), set()]
    with workers_of(Parallel(1)) as run:
        for part in pids:
            run(slow, None, [1, 2], on_done=part.add)
    assert pids[0] == pids[1]
    assert os.getpid() not in pids[0]


def test_never_more_workers_than_items():
    pids = []
    run_partitions(slow, None, [1], parallel=Parallel(64), on_done=pids.append)
    assert len(pids) == 1


def test_an_interrupted_run_ends_its_workers(tmp_path):
    """Ctrl-C on a terminal reaches the process that gives out the work."""
    (tmp_path / "long.py").write_text(
        "import sys, time\n"
        "from pathlib import Path\n"
        "from rbsim.cluster import Parallel, run_partitions\n"
        "def work(folder, item):\n"
        "    import os\n"
        "    (folder / str(os.getpid())).touch()\n"
        "    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    import long\n"
        "    run_partitions(long.work, Path(sys.argv[1]), range(4), parallel=Parallel(2), on_done=print)\n"
    )
    pids = tmp_path / "pids"
    pids.mkdir()
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[1]}"}
    command = [sys.executable, tmp_path / "long.py", pids]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as run:
        while len(list(pids.iterdir())) < 2:
            assert run.poll() is None, run.stderr.read()
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        said = run.communicate(timeout=60)[1]
    assert said.rstrip().endswith("KeyboardInterrupt")
    for pid in pids.iterdir():
        assert not Path("/proc", pid.name).exists()


def test_what_the_function_raises_ends_the_run():
    with pytest.raises(InputError, match="no 1"):
        collect(fail, None, [1], Parallel(1))


def test_a_scheduler_that_runs_already_is_used_and_left_running():
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
        address = cluster.scheduler_address
        assert sorted(collect(add, {"base": 1}, range(3), Parallel(scheduler=address))) == [1, 2, 3]
        assert sorted(collect(add, {"base": 7}, range(3), Parallel(scheduler=address))) == [7, 8, 9]
        with Client(address) as client:
            assert len(client.scheduler_info()["workers"]) == 1


@pytest.fixture
def scheduler():
    """A cluster with one worker, as somebody else may have started it."""
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
        yield cluster


def test_two_runs_on_one_scheduler_do_not_mix(scheduler):
    parallel, inner = Parallel(scheduler=scheduler.scheduler_address), []

    def begin_another(_):
        inner.extend(collect(add, {"base": 100}, range(3), parallel))

    outer = []
    run_partitions(
        add, {"base": 1}, range(4), parallel=parallel,
        on_done=lambda result: (outer.append(result), begin_another(result)),
    )  # fmt: skip
    assert sorted(outer) == [1, 2, 3, 4]
    assert sorted(inner) == sorted([100, 101, 102] * 4)
    assert not [name for name in scheduler.scheduler.worker_plugins if name.startswith("rbsim")]


def test_a_scheduler_that_ends_is_said(monkeypatch):
    monkeypatch.setattr("rbsim.cluster.ANSWER_S", 1)
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
        parallel = Parallel(scheduler=cluster.scheduler_address)
        with pytest.raises(InputError, match="the scheduler has gone"):
            run_partitions(slow, None, range(9), parallel=parallel, on_done=lambda _: cluster.close())


def test_workers_with_threads_are_refused():
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster,
        pytest.raises(InputError, match="have 2 threads; start them with --nthreads 1"),
    ):
        collect(add, {}, [1], Parallel(scheduler=cluster.scheduler_address))


def test_workers_of_another_version_are_refused(monkeypatch):
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        monkeypatch.setattr("rbsim.cluster.__version__", "0.0.1")
        with pytest.raises(InputError, match=r"workers have rbsim .*, this is rbsim 0.0.1 on Python 3"):
            collect(add, {}, [1], Parallel(scheduler=cluster.scheduler_address))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"workers": 2, "scheduler": "tcp://x:1"}, "--workers and --scheduler exclude each other"),
        ({"scheduler": "tcp://x:1", "cluster": "slurm"}, "--scheduler and --cluster exclude each other"),
        ({"workers": -1}, "workers is -1; it must be at least 0"),
        ({"cluster": "condor"}, "cluster is 'condor'; choose one of slurm, pbs, sge, lsf"),
    ],
)
def test_contradictions_are_refused(wrong, says):
    with pytest.raises(InputError, match=says):
        Parallel(**wrong)


def test_a_configuration_without_a_cluster_is_refused(tmp_path):
    with pytest.raises(InputError, match="needs --cluster"):
        Parallel(cluster_config=tmp_path / "c.toml")


def test_no_scheduler_there_is_one_line(monkeypatch):
    monkeypatch.setattr("rbsim.cluster.ANSWER_S", 1)
    with pytest.raises(InputError, match="no dask scheduler answers there"):
        collect(add, {}, [1], Parallel(scheduler="tcp://127.0.0.1:1"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("jobz = 3", "jobz is not known; allowed: jobs, lifetime"),
        ("jobs = '3'", "jobs is '3'; it must be of type int"),
        ("jobs = 0", "jobs is 0; it must be at least 1"),
        ("cores = 4\nprocesses = 2", "processes is 2 for 4 cores; a worker has one thread"),
        ("walltime = 'soon'", "walltime is 'soon'; write HH:MM:SS"),
        ("jobs =", "is not TOML"),
    ],
)
def test_configurations_that_make_no_sense_are_refused(tmp_path, content, says):
    path = tmp_path / "c.toml"
    path.write_text(content)
    with pytest.raises(InputError, match=says):
        cluster_arguments("slurm", path)


@pytest.mark.parametrize(
    ("text", "seconds"), [("01:00:00", 3600), ("2-03:00:00", 183600), ("02:30", 9000), ("00:00:40", 40)]
)
def test_walltimes(text, seconds):
    assert walltime_s(text, "") == seconds


def test_workers_go_before_their_walltime():
    *_, arguments = cluster_arguments("slurm", None)
    extra = dict(zip(arguments["worker_extra_args"][::2], arguments["worker_extra_args"][1::2], strict=True))
    lifetime, stagger = (int(extra[name].removesuffix("s")) for name in ("--lifetime", "--lifetime-stagger"))
    assert lifetime + stagger < 3600 - 300
    assert lifetime - stagger > 2700


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("slurm", ("#SBATCH -p long", "#SBATCH -A stars", "#SBATCH -t 02:00:00", "#SBATCH --gres=none")),
        ("pbs", ("#PBS -q long", "#PBS -A stars", "#PBS -l walltime=02:00:00", "#PBS --gres=none")),
        ("sge", ("#$ -q long", "#$ -l h_rt=02:00:00", "#$ --gres=none")),
        ("lsf", ("#BSUB -q long", "#BSUB -W 02:00", "#BSUB --gres=none")),
    ],
)
def test_job_scripts_say_what_the_file_says(tmp_path, name, lines):
    config = tmp_path / "c.toml"
    walltime = "02:00" if name == "lsf" else "02:00:00"
    account = "" if name in ("sge", "lsf") else "account = 'stars'\n"
    config.write_text(
        f"jobs = 3\nqueue = 'long'\n{account}walltime = '{walltime}'\ncores = 2\nmemory = '4 GB'\n"
        "job_extra_directives = ['--gres=none']\n"
    )
    class_name, n_jobs, arguments = cluster_arguments(name, config)
    arguments.pop("scheduler_options")
    if name == "lsf":
        arguments["use_stdin"] = True
    job = getattr(dask_jobqueue, class_name).job_cls(scheduler="tcp://x:1", name="w", **arguments)
    script = job.job_script()
    assert n_jobs == 3
    for line in lines:
        assert line in script, script
    for option in ("--lifetime", "--nthreads 1", "--nworkers 2"):
        assert option in script, script


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
