"""Work on dask workers: results, deaths, items that kill, schedulers, and what is asked of batch systems."""

import os
import signal
import time

import dask_jobqueue
import pytest
from dask.distributed import Client, LocalCluster

from rbsim.batch import cluster_arguments, walltime_s
from rbsim.cluster import Parallel, run_partitions
from rbsim.errors import InputError


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
    if item == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return item


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
        range(5),
        parallel=Parallel(2),
        on_done=done.append,
        on_lost=lambda item, reason: lost.append((item, reason)),
    )
    assert 2 not in done
    names = {item for item, _ in lost}
    assert 2 in names
    # An item that was on a worker when another one killed it may share the blame; none is lost silently.
    assert names | set(done) == set(range(5))
    with pytest.raises(InputError, match=r"1 of 1 parts were given up, first 2: .*run with --resume"):
        collect(die_always, None, [2], Parallel(1))


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


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"workers": 2, "scheduler": "tcp://x:1"}, "--workers and --scheduler exclude each other"),
        ({"scheduler": "tcp://x:1", "cluster": "slurm"}, "--scheduler and --cluster exclude each other"),
        ({"cluster": "condor"}, "cluster is 'condor'; choose one of slurm, pbs, sge, lsf"),
    ],
)
def test_contradictions_are_refused(wrong, says):
    with pytest.raises(InputError, match=says):
        Parallel(**wrong)


def test_a_configuration_without_a_cluster_is_refused(tmp_path):
    with pytest.raises(InputError, match="needs --cluster"):
        Parallel(cluster_config=tmp_path / "c.toml")


def test_no_scheduler_there_is_one_line():
    with pytest.raises(InputError, match="no dask scheduler answers there"):
        collect(add, {}, [1], Parallel(scheduler="tcp://127.0.0.1:1"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("jobz = 3", "jobz is not known; allowed: jobs, lifetime"),
        ("jobs = '3'", "jobs is '3'; it must be of type int"),
        ("jobs = 0", "jobs is 0; it must be at least 1"),
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
