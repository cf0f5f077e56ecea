"""Work on dask workers: results, deaths, items that kill, and schedulers that run already."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import dask
import pytest
from dask.distributed import Client, LocalCluster

from rbsim import cluster as on_dask
from rbsim.cluster import Parallel, run_partitions, workers_of
from rbsim.errors import InputError

FREE_PORT = "127.0.0.1:0"
"""Of the dashboard: that of dask's choice may be taken by another cluster."""


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
    """Given up after two deaths instead of four: an item that shared the blame for one would show sooner."""
    lost, done = [], []
    with dask.config.set({"distributed.scheduler.allowed-failures": 1}):
        run_partitions(
            die_always,
            None,
            range(12),
            parallel=Parallel(2),
            on_done=done.append,
            on_lost=lambda item, reason: lost.append((item, reason)),
        )
        with pytest.raises(InputError, match=r"1 of 1 parts were given up, first 9: .*run with --resume"):
            collect(die_always, None, [9], Parallel(1))
    # No other item waits at the worker that dies: none shares the blame.
    assert lost == [(9, "killed its worker again and again (not enough memory?)")]
    assert sorted(done) == [item for item in range(12) if item != 9]


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
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=FREE_PORT
    ) as cluster:
        address = cluster.scheduler_address
        assert sorted(collect(add, {"base": 1}, range(3), Parallel(scheduler=address))) == [1, 2, 3]
        assert sorted(collect(add, {"base": 7}, range(3), Parallel(scheduler=address))) == [7, 8, 9]
        with Client(address) as client:
            assert len(client.scheduler_info()["workers"]) == 1


@pytest.fixture
def scheduler():
    """A cluster with one worker, as somebody else may have started it."""
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=FREE_PORT
    ) as cluster:
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
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=FREE_PORT
    ) as cluster:
        parallel = Parallel(scheduler=cluster.scheduler_address)
        with pytest.raises(InputError, match="the scheduler has gone"):
            run_partitions(slow, None, range(9), parallel=parallel, on_done=lambda _: cluster.close())


def test_workers_with_threads_are_refused():
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address=FREE_PORT
        ) as cluster,
        pytest.raises(InputError, match="have 2 threads; start them with --nthreads 1"),
    ):
        collect(add, {}, [1], Parallel(scheduler=cluster.scheduler_address))


def test_workers_of_another_version_are_refused(monkeypatch):
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=FREE_PORT) as cluster:
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
