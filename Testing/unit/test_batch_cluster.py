"""Studies on dask: workers that die, a scheduler that dies, addresses, Slurm's job script. Processes only pretend."""

from __future__ import annotations

import json
import os
import shlex
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from batch_tools import Studies, studies
from masr_registration.batch import cluster, slurm
from masr_registration.batch.cluster import DaskEngine
from masr_registration.batch.machine import usable_cores
from masr_registration.batch.manifest import FaultsError
from masr_registration.cli import app
from masr_registration.errors import CancelledError, InputError, ResourceError
from typer.testing import CliRunner
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
    import distributed  # noqa: F401  # dask reads the variable once, for the whole process: not this one
    from dask import config

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(studies.folder), str(PACKAGE_FOLDER)]))
    monkeypatch.setenv("DASK_DISTRIBUTED__WORKER__PRELOAD", "fake_preload")
    monkeypatch.syspath_prepend(str(studies.folder))

    with config.set({"distributed.worker.preload": ["fake_preload"]}):
        yield studies  # type: ignore[misc]


def descendants() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


@contextmanager
def listening(studies: Studies) -> Iterator[set[str]]:
    """At which addresses this process and its descendants listen, once a case is done."""
    addresses: set[str] = set()

    def watch() -> None:
        wait_until(lambda: len(studies.pids()) > 0)
        for process in [psutil.Process(), *descendants()]:
            addresses.update(c.laddr.ip for c in process.net_connections("inet") if c.status == "LISTEN")

    watcher = threading.Thread(target=watch)
    watcher.start()
    yield addresses
    watcher.join()


def test_a_study_on_two_workers_that_listen_only_here(dask_studies: Studies) -> None:
    dask_studies.write(**{f"c{n}": "good" for n in range(6)}, bad="late")
    with listening(dask_studies) as addresses:
        summary = dask_studies.run(engine=DaskEngine())
    assert (summary.done, summary.failed) == (6, 1)
    assert (dask_studies.study.failure("bad") or {})["message"] == "It failed late."
    assert len(set(dask_studies.pids().values())) == 2
    assert addresses == {"127.0.0.1"}
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
    summary = dask_studies.run(engine=DaskEngine())
    killer.join()
    assert (summary.done, summary.failed) == (4, 0)
    assert dask_studies.pids()["b"] != killed[0]
    assert wait_until(lambda: not alive(killed[0]))
    assert list(dask_studies.study.running.iterdir()) == []


class Scheduler:
    """A scheduler of its own on this machine, and its workers."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "scheduler.json"
        self.process = self._start("scheduler", "--port", "0")
        assert wait_until(lambda: self._file.exists() and bool(self._file.read_text().strip()))
        self.address = str(json.loads(self._file.read_text())["address"])
        self.workers: list[subprocess.Popen[bytes]] = []

    def add_worker(self, **variables: str) -> None:
        self.workers.append(self._start("worker", "--nthreads", "1", "--no-nanny", **variables))

    def close(self) -> None:
        for process in (*self.workers, self.process):
            process.kill()
            process.wait()

    def _start(self, what: str, *options: str, **variables: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.dask_{what}", *options]
        command += ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(self._file)]
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(command, env={**os.environ, **variables}, **quiet)


@pytest.fixture
def empty_scheduler(dask_studies: Studies) -> Iterator[Scheduler]:
    """One without workers."""
    made = Scheduler(dask_studies.folder)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def scheduler(empty_scheduler: Scheduler) -> Scheduler:
    """One with a worker."""
    empty_scheduler.add_worker()
    return empty_scheduler


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_scheduler_ends_the_run_and_the_folder_is_resumed(
    dask_studies: Studies, scheduler: Scheduler, how: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "SECONDS_TO_ANSWER", 2)
    mark = dask_studies.folder / "begun"
    dask_studies.write(a="good", b="good", c=f"mark {mark}", d="good")

    def kill() -> None:
        wait_until(mark.exists)
        scheduler.process.send_signal(how)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(ResourceError, match="scheduler was lost"):
        dask_studies.run(engine=DaskEngine(scheduler.address))
    killer.join()
    before = dask_studies.pids()
    assert sorted(before) == ["a", "b"]
    summary = dask_studies.run(resume=True)
    assert (summary.done, summary.failed) == (4, 0)
    assert {case: dask_studies.pids()[case] for case in "ab"} == before


def test_a_scheduler_without_workers(
    dask_studies: Studies, empty_scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "SECONDS_WITHOUT_WORKERS", 1)
    dask_studies.write(a="good")
    with pytest.raises(ResourceError, match="has no workers"):
        dask_studies.run(engine=DaskEngine(empty_scheduler.address))
    assert {(event.case, event.stage) for event in dask_studies.events} == {("", "waiting for workers")}
    dask_studies.cancel.set()
    with pytest.raises(CancelledError):
        dask_studies.run(engine=DaskEngine(empty_scheduler.address))


def test_the_command_line_says_that_it_waits(
    dask_studies: Studies, empty_scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "SECONDS_WITHOUT_WORKERS", 2)
    path = dask_studies.write(a="good")
    arguments = ["batch", str(path), "--output", str(dask_studies.output), "--engine", "dask"]
    ended = CliRunner().invoke(app, [*arguments, "--scheduler", empty_scheduler.address])
    assert ended.exit_code == 3
    lines = ended.stderr.splitlines()
    assert lines[0] == "Waiting for workers."
    assert len(lines) == 2


def test_workers_may_come_later_and_must_not_stay_away(
    dask_studies: Studies, empty_scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = dask_studies.folder / "begun"
    dask_studies.write(a="good", b=f"mark {mark}")

    def watch() -> None:
        wait_until(lambda: bool(dask_studies.events))
        empty_scheduler.add_worker()
        wait_until(mark.exists)
        monkeypatch.setattr(cluster, "SECONDS_WITHOUT_WORKERS", 1)
        empty_scheduler.workers[0].kill()

    watcher = threading.Thread(target=watch)
    watcher.start()
    with pytest.raises(ResourceError, match="has no workers"):
        dask_studies.run(engine=DaskEngine(empty_scheduler.address))
    watcher.join()
    assert list(dask_studies.pids()) == ["a"]
    summary = dask_studies.run(resume=True)
    assert (summary.done, summary.failed) == (2, 0)


def test_only_the_workers_need_the_device(
    dask_studies: Studies, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_ERROR", "This machine has no such device.")
    dask_studies.write(a="good")
    summary = dask_studies.run(engine=DaskEngine(scheduler.address), threads=None, jobs=None)
    assert summary.done == 1
    recorded = dask_studies.study.recorded()
    assert recorded is not None
    assert recorded[0].threads == usable_cores()  # all of the only worker's machine


def test_a_worker_that_cannot_do_cases_says_why(dask_studies: Studies, empty_scheduler: Scheduler) -> None:
    empty_scheduler.add_worker(FAKE_ERROR="This machine has no such device.")
    dask_studies.write(a="good")
    with pytest.raises(FaultsError, match=r"a: This machine has no such device\."):
        dask_studies.run(engine=DaskEngine(empty_scheduler.address))


def test_workers_of_another_version_are_refused(dask_studies: Studies, empty_scheduler: Scheduler) -> None:
    text = "from masr_registration.batch import cluster_worker\ncluster_worker.__version__ = '0.0'\n"
    (dask_studies.folder / "old_preload.py").write_text(text)
    empty_scheduler.add_worker(DASK_DISTRIBUTED__WORKER__PRELOAD="old_preload")
    dask_studies.write(a="good")
    with pytest.raises(ResourceError, match=r"version 0\.0 of this program"):
        dask_studies.run(engine=DaskEngine(empty_scheduler.address))


def test_every_worker_here_has_a_device_of_its_own(
    dask_studies: Studies, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_DEVICES", "2")
    hold = f"hold {dask_studies.folder / 'held'}"
    dask_studies.write(**{f"c{n}": hold for n in range(4)})
    summary = dask_studies.run(engine=DaskEngine(), jobs=None)
    assert (summary.done, summary.failed) == (4, 0)
    assert set(dask_studies.devices().values()) == {"0", "1"}
    dask_studies.write(**{f"c{n}": hold for n in range(5)})
    with pytest.raises(InputError, match="need 3 devices"):
        dask_studies.run(engine=DaskEngine(), jobs=3, resume=True)


@pytest.mark.parametrize(("devices", "visible"), [("1", None), ("2", "5,GPU-x")])
def test_workers_elsewhere_share_the_devices_of_their_machine(
    dask_studies: Studies, empty_scheduler: Scheduler, devices: str, visible: str | None
) -> None:
    variables = {"FAKE_DEVICES": devices, **({"CUDA_VISIBLE_DEVICES": visible} if visible else {})}
    for _ in range(2):
        empty_scheduler.add_worker(**variables)
    dask_studies.write(**{f"c{n}": f"hold {dask_studies.folder / 'held'}" for n in range(4)})
    summary = dask_studies.run(engine=DaskEngine(empty_scheduler.address))
    assert (summary.done, summary.failed) == (4, 0)
    assert set(dask_studies.devices().values()) == (set(visible.split(",")) if visible else {None})


def test_cancel_on_a_cluster(dask_studies: Studies) -> None:
    dask_studies.write(a="good", b="slow", c="slow")

    def watch() -> None:
        wait_until(lambda: "a" in dask_studies.pids())
        dask_studies.cancel.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    with pytest.raises(CancelledError, match="--resume"):
        dask_studies.run(engine=DaskEngine())
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
        dask_studies.run(engine=DaskEngine("tcp://127.0.0.1:1"))


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


def test_a_machine_without_slurm(dask_studies: Studies, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(dask_studies.folder))
    dask_studies.write(a="good")
    job = slurm.read(write(dask_studies.folder))
    with pytest.raises(ResourceError, match="sbatch is not there"):
        dask_studies.run(engine=DaskEngine(job=job))


def test_slurm_takes_no_job(dask_studies: Studies, monkeypatch: pytest.MonkeyPatch) -> None:
    binaries = dask_studies.folder / "bin"
    binaries.mkdir()
    (binaries / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: no such partition' >&2\nexit 1\n")
    (binaries / "sbatch").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", os.pathsep.join([str(binaries), os.environ["PATH"]]))
    dask_studies.write(a="good")
    job = slurm.read(write(dask_studies.folder, shared_directory=str(dask_studies.folder), interface="lo"))
    with pytest.raises(ResourceError, match="did not take the jobs: sbatch: error: no such partition"):
        dask_studies.run(engine=DaskEngine(job=job))


@pytest.fixture
def slurm_here(dask_studies: Studies, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of an sbatch that runs its script at once, as Slurm does later, and notes its process in `pids`."""
    binaries = dask_studies.folder / "bin"
    binaries.mkdir()
    scripts = {
        "sbatch": f'cp "${{@: -1}}" {binaries}/job.sh\nsetsid bash {binaries}/job.sh >/dev/null 2>&1 &\n'
        f'echo $! >> {binaries}/pids\necho "Submitted batch job $!"',
        "scancel": "kill -- -$1 2>/dev/null; true",
    }
    for name, text in scripts.items():
        (binaries / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (binaries / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", os.pathsep.join([str(binaries), os.environ["PATH"]]))
    yield binaries
    for pid in (binaries / "pids").read_text().split():
        with suppress(ProcessLookupError):
            os.killpg(int(pid), signal.SIGKILL)


def test_slurm_jobs_whose_time_is_up(
    dask_studies: Studies, slurm_here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = dask_studies.folder / "begun"
    dask_studies.write(a="good", b=f"mark {mark}")

    def watch() -> None:
        wait_until(mark.exists)
        monkeypatch.setattr(cluster, "SECONDS_WITHOUT_WORKERS", 1)
        os.killpg(int((slurm_here / "pids").read_text()), signal.SIGKILL)

    job = slurm.read(write(dask_studies.folder, shared_directory=str(dask_studies.folder), interface="lo"))
    watcher = threading.Thread(target=watch)
    watcher.start()
    with pytest.raises(ResourceError, match="has no workers"):
        dask_studies.run(engine=DaskEngine(job=job), jobs=1)
    watcher.join()
    assert list(dask_studies.pids()) == ["a"]


def test_a_study_by_slurm_jobs(dask_studies: Studies, slurm_here: Path) -> None:
    job = slurm.read(write(dask_studies.folder, shared_directory=str(dask_studies.folder), interface="lo"))
    dask_studies.write(a="good", b="good", c="good")
    with listening(dask_studies) as addresses:
        summary = dask_studies.run(engine=DaskEngine(job=job), threads=None)
    assert addresses == {"127.0.0.1"}  # that of the interface
    recorded = dask_studies.study.recorded()
    assert recorded is not None
    assert recorded[0].threads == SLURM["cores"]
    assert (summary.done, summary.failed) == (3, 0)
    assert len((slurm_here / "pids").read_text().split()) == 2
    assert "--gres=gpu:1" in (slurm_here / "job.sh").read_text()
