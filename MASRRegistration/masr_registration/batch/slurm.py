"""Slurm jobs as workers of dask, through dask-jobqueue: the resources as a small JSON file, the job script from them.

The file is data only: no commands, and every value reaches the script quoted. The workers run this Python.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import InputError, ResourceError

_WORD = re.compile(r"[A-Za-z0-9._:,=@+/-]{1,200}")
_WALLTIME = re.compile(r"(\d+-)?\d{1,3}:\d\d:\d\d")
_MEMORY = re.compile(r"\d+(\.\d+)? ?[MGT]i?B")


@dataclass(frozen=True)
class SlurmJob:
    """What each job asks for; every job is one worker that takes one case at a time.

    Attributes:
        queue, account: partition and account; None for the site's default.
        cores, memory, walltime: for example 4, "8GB", "04:00:00".
        gres: for example "gpu:1".
        interface: network interface of this machine that the jobs can reach, for example "ib0".
        log_directory: where Slurm writes the output of the jobs.
        shared_directory: on a file system that the jobs share, for the certificates of the connection (0700).
        directives: more ``#SBATCH`` options, for example "--nice=100".
    """

    cores: int
    memory: str
    walltime: str
    queue: str | None = None
    account: str | None = None
    gres: str | None = None
    interface: str | None = None
    log_directory: str | None = None
    shared_directory: str | None = None
    directives: tuple[str, ...] = ()


def read(path: Path) -> SlurmJob:
    """The jobs of a JSON file. Raises `InputError` for anything that is not exactly one of these."""
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InputError(f'"{path.name}" is no JSON file that can be read.') from error
    names = {item.name for item in fields(SlurmJob)}
    if not isinstance(data, dict) or not set(data) <= names:
        raise InputError(f"The description of the Slurm jobs knows only: {', '.join(sorted(names))}.")
    directives = data.get("directives", [])
    cores = data.get("cores")
    if not isinstance(cores, int) or isinstance(cores, bool) or not 1 <= cores <= 1024:
        raise InputError("cores must be a whole number from 1 to 1024.")
    if not isinstance(directives, list):
        raise InputError("directives must be a list.")
    for name, value in data.items():
        if name not in ("cores", "directives"):
            _check(name, value, {"memory": _MEMORY, "walltime": _WALLTIME}.get(name, _WORD))
    for value in directives:
        _check("directives", value, re.compile("--" + _WORD.pattern))
    for name in ("memory", "walltime"):
        if name not in data:
            raise InputError(f"{name} is missing.")
    return SlurmJob(**{**data, "directives": tuple(directives)})


def _check(name: str, value: Any, allowed: re.Pattern[str]) -> None:
    if not isinstance(value, str) or not allowed.fullmatch(value):
        raise InputError(f"{value!r} is no value for {name} that can be passed on safely.")


def cluster(job: SlurmJob, jobs: int, **more: Any) -> Any:
    """A `dask_jobqueue.SLURMCluster` that has not started any job; its connections are encrypted.

    Raises `ResourceError` without dask-jobqueue.
    """
    try:
        from dask_jobqueue import SLURMCluster
        from distributed.security import Security
    except ImportError as error:
        raise ResourceError(
            "Slurm needs dask-jobqueue: install masr-registration with the extra [cluster]."
        ) from error
    directives = [shlex.quote(d) for d in job.directives]
    if job.gres is not None:
        directives.append(f"--gres={shlex.quote(job.gres)}")
    options: dict[str, Any] = {
        "queue": job.queue and shlex.quote(job.queue),
        "account": job.account and shlex.quote(job.account),
        "cores": job.cores,
        "processes": 1,
        "memory": job.memory,
        "walltime": job.walltime,
        "interface": job.interface,
        "log_directory": job.log_directory,
        "shared_temp_directory": job.shared_directory,
        "job_extra_directives": directives,
        "python": shlex.quote(sys.executable),
        "worker_extra_args": ["--nthreads", "1", "--no-dashboard"],
        "security": Security.temporary(),
        "protocol": "tls://",
        "scheduler_options": {"dashboard": False, "dashboard_address": "127.0.0.1:0"},
        "n_workers": 0,
    }
    return SLURMCluster(**options, **more)


def submitted(job: SlurmJob, jobs: int) -> Any:
    """The cluster with so many jobs submitted. Raises `ResourceError` without Slurm, or where it takes none."""
    if shutil.which("sbatch") is None:
        raise ResourceError(
            "Slurm's command sbatch is not there: start the study on a machine that submits jobs."
        )
    made = cluster(job, jobs)

    async def submit() -> None:
        made.scale(jobs=jobs)
        await made._correct_state()  # scale alone would not tell of a failure

    try:
        made.sync(submit)
    except (RuntimeError, OSError, ValueError) as error:
        with suppress(Exception):  # it may not know how to end jobs that never began
            made.close(timeout=10)
        reason = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise ResourceError(f"Slurm did not take the jobs: {reason[-1].strip()}") from error
    return made


def job_script(job: SlurmJob) -> str:
    """The script that would be submitted for one worker."""
    made = cluster(job, 1)
    try:
        script: str = made.job_script()
    finally:
        made.close()
    return script
