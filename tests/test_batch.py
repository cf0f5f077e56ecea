"""What is asked of batch systems: configurations, walltimes, job scripts."""

import urllib.request

import dask_jobqueue
import pytest

from rbsim.batch import cluster_arguments, walltime_s
from rbsim.cluster import _dashboard_link
from rbsim.errors import InputError
from rbsim.parallel import Parallel


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("jobz = 3", "jobz is not known; allowed: jobs, lifetime"),
        ("jobs = '3'", "jobs is '3'; it must be of type int"),
        ("jobs = 0", "jobs is 0; it must be at least 1"),
        ("cores = 4\nprocesses = 2", "processes is 2 for 4 cores; a worker has one thread"),
        ("walltime = 'soon'", "walltime is 'soon'; write HH:MM:SS"),
        ("jobs =", "is not TOML"),
        ("interface = 'nonet0'", "interface is 'nonet0'; this computer has .*lo"),
    ],
)
def test_configurations_that_make_no_sense_are_refused(tmp_path, content, says):
    path = tmp_path / "c.toml"
    path.write_text(content)
    with pytest.raises(InputError, match=says):
        cluster_arguments("slurm", path)
    with pytest.raises(InputError, match=says):
        Parallel(cluster="slurm", cluster_config=path)  # before a build begins


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


def test_the_dashboard_is_there_where_its_link_leads():
    """Workers reach the scheduler by another address than the one that the dashboard listens on."""
    class_name, _, arguments = cluster_arguments("slurm", None)
    with getattr(dask_jobqueue, class_name)(**arguments) as cluster:
        link = _dashboard_link(cluster)
        with urllib.request.urlopen(link, timeout=10) as page:
            assert page.status == 200
