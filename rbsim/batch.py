"""What jobs of a batch system need: a TOML file in words of dask-jobqueue. Knows no dask."""

import re
import socket
import tomllib
from pathlib import Path
from typing import Any

from rbsim.errors import InputError

CLUSTERS = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "sge": "SGECluster", "lsf": "LSFCluster"}
"""Names of batch systems and of the classes of dask-jobqueue."""

OWN_KEYS = {"jobs": int, "lifetime": str, "lifetime_stagger": str}
KEYS = {
    "cores": int,
    "processes": int,
    "memory": str,
    "walltime": str,
    "queue": str,
    "account": str,
    "project": str,
    "interface": str,
    "local_directory": str,
    "log_directory": str,
    "python": str,
    "job_cpu": int,
    "job_mem": str,
    "ncpus": int,
    "mem": int,
    "resource_spec": str,
    "job_extra_directives": list,
    "job_directives_skip": list,
    "job_script_prologue": list,
    "worker_extra_args": list,
    "death_timeout": int,
}
DEFAULT_WALLTIME = "01:00:00"
MARGIN = 0.1
"""Share of the walltime before its end by which a worker hands over what it holds, and goes."""


def cluster_arguments(name: str, config: Path | None) -> tuple[str, int, dict[str, Any]]:
    """Class of dask-jobqueue, number of jobs, and the arguments of that class.

    Parameters
    ----------
    name : str
        Of `CLUSTERS`.
    config : Path or None
        TOML file with ``jobs`` (how many), ``lifetime`` and ``lifetime_stagger`` (default: from the
        walltime), and arguments of the class. Without ``cores`` and ``memory`` a job has one core and
        2 GB per core; every core has a worker process with one thread.

    Returns
    -------
    class_name : str
    n_jobs : int
    arguments : dict

    Raises
    ------
    InputError
        If the file cannot be read, has an unknown key, a value of the wrong type, or a walltime that
        cannot be understood, or an interface that this computer does not have.
    """
    given = _read(config)
    where = config or f"--cluster {name}"
    cores = given.get("cores", 1)
    n_jobs = given.get("jobs", 1)
    for key, value in (("cores", cores), ("jobs", n_jobs)):
        if value < 1:
            raise InputError(f"{where}: {key} is {value}; it must be at least 1")
    if given.get("processes", cores) != cores:
        raise InputError(
            f"{where}: processes is {given['processes']} for {cores} cores; a worker has one thread, so leave"
            " processes out"
        )
    walltime = given.get("walltime", DEFAULT_WALLTIME)
    arguments: dict[str, Any] = {
        "cores": cores,
        "processes": cores,
        "memory": f"{2 * cores} GB",
        "walltime": walltime,
    } | {key: value for key, value in given.items() if key not in OWN_KEYS}
    seconds = walltime_s(walltime, str(where))
    stagger_s = round(seconds * MARGIN / 2)
    lifetime = given.get("lifetime", f"{round(seconds * (1 - MARGIN)) - stagger_s}s")
    extra = ["--lifetime", lifetime, "--lifetime-stagger", given.get("lifetime_stagger", f"{stagger_s}s")]
    arguments["worker_extra_args"] = [*extra, *arguments.get("worker_extra_args", [])]
    arguments["scheduler_options"] = {"dashboard_address": "127.0.0.1:0"}
    if "interface" in given:
        known = [name for _, name in socket.if_nameindex()]  # the scheduler listens here
        if given["interface"] not in known:
            raise InputError(
                f"{where}: interface is {given['interface']!r}; this computer has {', '.join(known)}"
            )
        arguments["scheduler_options"]["interface"] = given["interface"]
    return CLUSTERS[name], n_jobs, arguments


def _read(config: Path | None) -> dict[str, Any]:
    if config is None:
        return {}
    try:
        given = tomllib.loads(config.read_text())
    except OSError as error:
        raise InputError(f"{config}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{config}: is not TOML ({error})") from error
    allowed = OWN_KEYS | KEYS
    for key, value in given.items():
        if key not in allowed:
            raise InputError(f"{config}: {key} is not known; allowed: {', '.join(allowed)}")
        if not isinstance(value, allowed[key]) or isinstance(value, bool):
            raise InputError(f"{config}: {key} is {value!r}; it must be of type {allowed[key].__name__}")
    return given


def walltime_s(text: str, where: str) -> int:
    """Seconds of ``[D-]HH:MM:SS`` or ``HH:MM``.

    Raises
    ------
    InputError
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d{2})(?::(\d{2}))?", text.strip())
    seconds = 0
    if match is not None:
        days, hours, minutes, rest = (int(part or 0) for part in match.groups())
        seconds = ((days * 24 + hours) * 60 + minutes) * 60 + rest
    if seconds < 1:
        raise InputError(f"{where}: walltime is {text!r}; write HH:MM:SS or D-HH:MM:SS")
    return seconds
