"""Studies on dask: workers that die, a scheduler that dies, addresses, Slurm's job script. Processes only pretend."""

from __future__ import annotations

import json
import os
import shlex
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from batch_tools import Studies, studies
from masr_registration.batch import cluster, slurm
from masr_registration.batch.cluster import DaskEngine
from masr_registration.errors import CancelledError, InputError, ResourceError
from worker_tools import PACKAGE_FOLDER, alive, wait_until

__all__ = ["studies"]  # the fixture
SLURM = {
    "cores": 4,
    "memory": "8GB",
    "walltime": "04:00:00",
    "queue": "gpu",
    "account": "radiology",
    "gres": "gpu:1",
    "directives": ["--nice=100", "--constraint=a100"],
}


@pytest.fixture
def dask_studies(studies: Studies, monkeypatch: pytest.MonkeyPatch) -> Studies:
    """Workers of the cluster use the pretending server as well."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(studies.folder), str(PACKAGE_FOLDER)]))
    monkeypatch.setenv("DASK_DISTRIBUTED__WORKER__PRELOAD", "fake_preload")
    monkeypatch.syspath_prepend(str(studies.folder))
    from dask import config

    with config.set({"distributed.worker.preload": ["fake_preload"]}):
        yield studies  # type: ignore[misc]


def local(threads: int) -> DaskEngine:
    return DaskEngine(threads, 2)


def descendants() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def test_a_study_on_two_workers_that_listen_only_here(dask_studies: Studies) -> None:
    dask_studies.write(**{f"c{n}": "good" for n in range(6)}, bad="late")
    listening: set[str] = set()

    def watch() -> None:
        wait_until(lambda: len(dask_studies.pids()) > 0)
        for process in [psutil.Process(), *descendants()]:
            listening.update(c.laddr.ip for c in process.net_connections("inet") if c.status == "LISTEN")

    watcher = threading.Thread(target=watch)
    watcher.start()
    summary = dask_studies.run(engine=local)
    watcher.join()
    assert (summary.done, summary.failed) == (6, 1)
    assert (dask_studies.study.failure("bad") or {})["message"] == "It failed late."
    assert len(set(dask_studies.pids().values())) == 2
    assert listening == {"127.0.0.1"}
    assert wait_until(lambda: not [p for p in dask_studies.pids().values() if alive(p)])


def test_a_case_of_a_killed_worker_runs_elsewhere(dask_studies: Studies) -> None:
    mark = dask_studies.folder / "begun"
    dask_studies.write(a="good", b=f"mark {mark}", c="good", d="good")
    killed = []

    def kill() -> None:
        wait_until(mark.exists)
        server = psutil.Process(int(mark.read_text()))
        killed.append(server.pid)
        server.parent().kill()  # type: ignore[union-attr]  # the dask worker, in the middle of the case

    killer = threading.Thread(target=kill)
    killer.start()
    summary = dask_studies.run(engine=local)
    killer.join()
    assert (summary.done, summary.failed) == (4, 0)
    assert dask_studies.pids()["b"] != killed[0]
    assert wait_until(lambda: not alive(killed[0]))
    assert list(dask_studies.study.running.iterdir()) == []


@pytest.fixture
def scheduler(dask_studies: Studies) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A scheduler and one worker of their own, on this machine."""
    file = dask_studies.folder / "scheduler.json"
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    arguments = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(file)]
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0"]
    process = subprocess.Popen([*command, *arguments], **quiet)
    assert wait_until(file.exists)
    command = [sys.executable, "-m", "distributed.cli.dask_worker", "--nthreads", "1", "--no-nanny"]
    worker = subprocess.Popen([*command, *arguments], **quiet)
    try:
        assert wait_until(lambda: bool(file.read_text().strip()))
        yield json.loads(file.read_text())["address"], process
    finally:
        for started in (worker, process):
            started.kill()
            started.wait()


def test_a_lost_scheduler_ends_the_run_and_the_folder_is_resumed(
    dask_studies: Studies, scheduler: tuple[str, subprocess.Popen[bytes]]
) -> None:
    address, process = scheduler
    mark = dask_studies.folder / "begun"
    dask_studies.write(a="good", b="good", c=f"mark {mark}", d="good")

    def kill() -> None:
        wait_until(mark.exists)
        process.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(ResourceError, match="scheduler was lost"):
        dask_studies.run(engine=lambda threads: DaskEngine(threads, 1, address))
    killer.join()
    before = dask_studies.pids()
    assert sorted(before) == ["a", "b"]
    summary = dask_studies.run(resume=True)
    assert (summary.done, summary.failed) == (4, 0)
    assert {case: dask_studies.pids()[case] for case in "ab"} == before


def test_cancel_on_a_cluster(dask_studies: Studies) -> None:
    dask_studies.write(a="good", b="slow", c="slow")

    def watch() -> None:
        wait_until(lambda: "a" in dask_studies.pids())
        dask_studies.cancel.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    with pytest.raises(CancelledError, match="--resume"):
        dask_studies.run(engine=local)
    watcher.join()
    assert wait_until(lambda: not alive(dask_studies.pids()["a"]))


@pytest.mark.parametrize(
    "address", ["10.0.0.1:8786", "tcp://login1:8786", "ftp://localhost:1", "tls://", "ucx://127.0.0.1:1"]
)
def test_addresses_that_are_refused(address: str) -> None:
    with pytest.raises(InputError):
        cluster.check_address(address)


@pytest.mark.parametrize(
    "address", ["127.0.0.1:8786", "tcp://localhost:8786", "tls://login1:8786", "tcp://[::1]:8786"]
)
def test_addresses_that_are_safe(address: str) -> None:
    cluster.check_address(address)


def test_a_scheduler_that_is_not_there(dask_studies: Studies, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "SECONDS_TO_CONNECT", 1)
    dask_studies.write(a="good")
    with pytest.raises(ResourceError, match="cannot be reached"):
        dask_studies.run(engine=lambda threads: DaskEngine(threads, 1, "tcp://127.0.0.1:1"))


# Slurm


def write(folder: Path, **changes: Any) -> Path:
    content = {name: value for name, value in {**SLURM, **changes}.items() if value is not None}
    (folder / "slurm.json").write_text(json.dumps(content))
    return folder / "slurm.json"


def test_the_job_script(tmp_path: Path) -> None:
    script = slurm.job_script(slurm.read(write(tmp_path, shared_directory=str(tmp_path))))
    lines = script.splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    for option in ("-p gpu", "-A radiology", "-n 1", "--cpus-per-task=4", "-t 04:00:00", "--gres=gpu:1"):
        assert f"#SBATCH {option}" in lines
    for option in ("--nice=100", "--constraint=a100", "--mem=8G"):
        assert f"#SBATCH {option}" in lines
    command = shlex.split(next(line for line in lines if "dask" in line and not line.startswith("#")))
    assert command[0] == sys.executable
    assert " --nthreads 1 --no-dashboard" in script
    assert any(part.startswith("tls://") for part in command)
    assert "--tls-key" in command
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"queue": "gpu; rm -rf /"},
        {"queue": "gpu\n#SBATCH --wrap=x"},
        {"account": "$(id)"},
        {"gres": "gpu:1 --x"},
        {"directives": ["--a=b\nrm"]},
        {"directives": ["nice"]},
        {"directives": "x"},
        {"memory": "8"},
        {"memory": None},
        {"walltime": "4 hours"},
        {"cores": 0},
        {"cores": "4"},
        {"prologue": "module load x"},
    ],
)
def test_what_must_not_reach_a_job_script(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        slurm.read(write(tmp_path, **changes))


def test_a_study_by_slurm_jobs(dask_studies: Studies, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an sbatch that runs its script at once, as Slurm does later."""
    binaries = dask_studies.folder / "bin"
    binaries.mkdir()
    scripts = {
        "sbatch": f'cp "${{@: -1}}" {binaries}/job.sh\nbash {binaries}/job.sh >/dev/null 2>&1 &\n'
        f'echo $! >> {binaries}/pids\necho "Submitted batch job $!"',
        "scancel": "kill $@ 2>/dev/null; true",
    }
    for name, text in scripts.items():
        (binaries / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (binaries / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", os.pathsep.join([str(binaries), os.environ["PATH"]]))
    job = slurm.read(write(dask_studies.folder, shared_directory=str(dask_studies.folder), interface="lo"))
    dask_studies.write(a="good", b="good", c="good")
    summary = dask_studies.run(engine=lambda threads: DaskEngine(threads, 2, None, job))
    assert (summary.done, summary.failed) == (3, 0)
    assert len((binaries / "pids").read_text().split()) == 2
    assert "--gres=gpu:1" in (binaries / "job.sh").read_text()
