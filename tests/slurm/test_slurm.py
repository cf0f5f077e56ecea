"""A real Slurm of one node: jobs as workers, job arrays, workers that are killed, walltimes that are hit.

Run by ``pytest -m slurm tests/slurm``, as root, with Debian's slurm-wlm and munge. Where it cannot start it
skips; with RBSIM_SLURM=required that is a failure.
"""

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rbsim.store import partial_path
from rbsim.verify import verify

pytestmark = pytest.mark.slurm

ROOT = Path(__file__).parents[2]
RBSIM = f"{sys.executable} {ROOT / 'cli.py'}"
OPTIONS = "--stars-per-frame 40 --realisations 24 --gain 2"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """Environment for commands of a running Slurm."""
    folder = tmp_path_factory.mktemp("slurm")
    script = Path(__file__).with_name("slurm.sh")
    started = subprocess.run([script, "start", folder], capture_output=True, text=True, check=False)
    if started.returncode:
        reason = f"Slurm cannot be started: {started.stderr.strip()}"
        if os.environ.get("RBSIM_SLURM") == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    environment = {
        **os.environ,
        "SLURM_CONF": str(folder / "slurm.conf"),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    try:
        yield environment
    finally:
        subprocess.run(["scancel", "--user=root"], env=environment, check=False)
        subprocess.run([script, "stop", folder], check=False)


@pytest.fixture(scope="module")
def inputs(tiny_night):
    return f"{tiny_night / 'science'} --reference {tiny_night / 'reference.fits'} {OPTIONS}"


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory):
    """The files of the store made in one process."""
    path = tmp_path_factory.mktemp("whole") / "s.zarr"
    subprocess.run(f"{RBSIM} inject {inputs} --out {path}", shell=True, check=True, env=os.environ)
    return files(path)


@pytest.fixture(scope="module", autouse=True)
def hits_walltime(slurm, inputs, tmp_path_factory):
    """A job that Slurm will end after its minute: store, log and number.

    It is stopped (SIGSTOP) after two frames, so that it costs nothing meanwhile; other tests run beside it.
    """
    folder = tmp_path_factory.mktemp("walltime")
    path, log = folder / "s.zarr", folder / "driver.log"
    code, job = batch(
        slurm,
        "--partition=short",
        "--time=1",
        f"--output={log}",
        script=f"""(
while [ $(ls {partial_path(path)}/partition_*.npz 2>/dev/null | wc -l) -lt 2 ]; do sleep 0.1; done
kill -STOP $$ ) &
exec {RBSIM} inject {inputs} --out {path} --resume""",
        wait=False,
    )
    assert code == 0
    return path, log, job


@pytest.fixture
def config(tmp_path):
    """Writes a file for --cluster-config with more lines."""

    def write(*lines, jobs=2, cores=1, queue="debug"):
        path = tmp_path / "cluster.toml"
        path.write_text(
            "\n".join(
                [
                    f"jobs = {jobs}",
                    f"cores = {cores}",
                    "memory = '2 GB'",
                    f"queue = '{queue}'",
                    "interface = 'lo'",
                    f"local_directory = '{tmp_path}'",
                    f"log_directory = '{tmp_path / 'log'}'",
                    f"python = '{sys.executable}'",
                    *lines,
                ]
            )
        )
        return path

    return write


def files(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def batch(slurm, *arguments, script, wait=True):
    """Submit a script; returns what sbatch says, and waits for the end of the job if wanted."""
    command = ["sbatch", "--parsable", "--mem=1500", *(["--wait"] if wait else []), *arguments]
    done = subprocess.run(
        command, input=f"#!/bin/bash\n{script}\n", env=slurm, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout.strip()


def n_written(path):
    return len(list(partial_path(path).glob("partition_*.npz")))


def jobs(slurm, name="dask-worker"):
    """Numbers of the jobs of this name that run."""
    listed = subprocess.run(
        ["squeue", "--noheader", f"--name={name}", "--states=RUNNING", "--format=%i"],
        env=slurm, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return listed.stdout.split()


def known_jobs(slurm):
    """Numbers of all jobs that have not ended."""
    command = ["squeue", "--noheader", "--format=%i"]
    listed = subprocess.run(command, env=slurm, capture_output=True, text=True, check=True)
    return listed.stdout.split()


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "does not happen"
        time.sleep(0.05)


def test_a_batch_job_builds_a_store_through_dask_jobqueue(slurm, inputs, whole, config, tmp_path):
    path, log = tmp_path / "s.zarr", tmp_path / "driver.log"
    code, job = batch(
        slurm,
        f"--output={log}",
        script=f"{RBSIM} inject {inputs} --out {path} --cluster slurm --cluster-config {config()}",
    )
    assert code == 0, (job, log.read_text())
    assert files(path) == whole
    assert "dask dashboard: http://127.0.0.1" in log.read_text()


def test_a_job_array_builds_a_store_without_any_scheduler_process(slurm, inputs, whole, tmp_path):
    path = tmp_path / "s.zarr"
    code, said = batch(
        slurm,
        "--array=1-3",
        f"--output={tmp_path}/%a.log",
        script=f"{RBSIM} inject {inputs} --out {path} --partition $SLURM_ARRAY_TASK_ID/3",
    )
    assert code == 0, said
    assert not path.exists()
    subprocess.run(f"{RBSIM} finalise {path}", shell=True, check=True, env=slurm)
    assert files(path) == whole


def test_a_worker_killed_half_way_changes_nothing(slurm, inputs, whole, config, tmp_path):
    path = tmp_path / "s.zarr"
    command = f"{RBSIM} inject {inputs} --out {path} --cluster slurm --cluster-config {config()}"
    with subprocess.Popen(command, shell=True, env=slurm, stderr=subprocess.PIPE, text=True) as driver:
        wait_until(lambda: n_written(path) >= 2)
        victim = jobs(slurm)[0]
        subprocess.run(["scancel", "--signal=KILL", "--full", victim], env=slurm, check=True)
        left_when_killed = n_written(path)
        said = driver.communicate(timeout=150)[1]
    assert driver.returncode == 0, said
    assert left_when_killed < 10, "the worker was killed too late to prove anything"
    assert files(path) == whole


def test_workers_at_the_end_of_their_lifetime_are_replaced(slurm, inputs, whole, config, tmp_path):
    """Lifetimes of some seconds, as walltimes would end them: a new job takes the place of two workers."""
    path = tmp_path / "s.zarr"
    text = config("lifetime = '5s'", "lifetime_stagger = '1s'", jobs=1, cores=2)
    # On a busy machine a frame may be cut off more often than a real walltime would.
    patient = "from rbsim import cluster; cluster.N_LIFETIMES = 50; from cli import app; app()"
    rbsim = f"{sys.executable} -c {shlex.quote(patient)}"
    command = f"{rbsim} inject {inputs} --out {path} --cluster slurm --cluster-config {text}"
    seen = set()
    with subprocess.Popen(command, shell=True, env=slurm, stderr=subprocess.PIPE, text=True) as driver:
        end = time.monotonic() + 240
        while driver.poll() is None:
            seen |= set(jobs(slurm))
            time.sleep(0.2)
            if time.monotonic() > end:
                driver.kill()
        said = driver.stderr.read()
    assert driver.returncode == 0, said
    assert len(seen) >= 2, "one job lived long enough to do everything"
    assert files(path) == whole


def test_a_job_that_slurm_refuses_is_one_line(slurm, inputs, config, tmp_path):
    text = config(queue="nosuch")
    command = f"{RBSIM} inject {inputs} --out {tmp_path / 's.zarr'} --cluster slurm --cluster-config {text}"
    done = subprocess.run(command, shell=True, env=slurm, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "error: the batch system does not take the job: sbatch: error: invalid partition" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_that_hits_its_walltime_is_resumed(slurm, inputs, whole, hits_walltime, tmp_path):
    path, log, job = hits_walltime
    wait_until(lambda: job not in known_jobs(slurm), seconds=180)
    assert "DUE TO TIME LIMIT" in log.read_text()
    assert verify(path).state == "unfinished"
    assert 2 <= n_written(path) < 10
    log = tmp_path / "driver.log"
    code, said = batch(
        slurm, f"--output={log}", script=f"{RBSIM} inject {inputs} --out {path} --resume --workers 2"
    )
    assert code == 0, said
    assert "are finished and are skipped" in " ".join(log.read_text().split())
    assert files(path) == whole
