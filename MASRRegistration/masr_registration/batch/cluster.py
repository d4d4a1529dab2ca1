"""The dask engine: each worker of a dask cluster owns one warm process and takes one case at a time.

A worker that dies loses nothing: dask gives its case to another one, and only complete results get their name. Without
an address a cluster of processes on this machine is started, bound to 127.0.0.1; a scheduler on another machine must
use TLS (certificates as in dask's own configuration), and workers must share the file system of the study.
"""

from __future__ import annotations

import atexit
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .. import __version__
from ..case.monitor import CancelFlag
from ..errors import CancelledError, InputError, ResourceError
from . import slurm
from .local import OnProgress
from .tasks import Outcome, Task, perform
from .warm import WarmProcess

SECONDS_TO_CONNECT = 30
DEATHS_BEFORE_FAILURE = 3
_POLL_SECONDS = 0.5
_HERE = ("127.0.0.1", "localhost", "::1")


class DaskEngine:
    """`address` of a running scheduler, or Slurm jobs, or else a cluster on this machine of `jobs` workers."""

    def __init__(
        self, threads: int, jobs: int, address: str | None = None, job: slurm.SlurmJob | None = None
    ) -> None:
        self._threads, self._jobs, self._address, self._job = threads, jobs, address, job
        if address is not None:
            check_address(address)
        self._client: Any = None

    @contextmanager
    def opened(self) -> Iterator[DaskEngine]:
        """Connected. Raises `ResourceError` without dask or without a scheduler that answers."""
        try:
            import distributed
        except ImportError as error:
            raise ResourceError(
                "The dask engine needs distributed: install masr-registration with the extra [cluster]."
            ) from error
        from dask import config

        settings = {
            "distributed.scheduler.allowed-failures": DEATHS_BEFORE_FAILURE,
            "distributed.comm.timeouts.connect": f"{SECONDS_TO_CONNECT}s",
        }
        with config.set(settings):
            cluster = self._start(distributed)
            try:
                self._client = self._connect(distributed, cluster)
                try:
                    yield self
                finally:
                    with suppress(Exception):  # the scheduler may be gone
                        self._client.close(timeout=2)
            finally:
                if cluster is not None:
                    with suppress(Exception):
                        cluster.close(timeout=10)

    def run(self, tasks: Sequence[Task], on_progress: OnProgress, cancel: CancelFlag) -> Iterator[Outcome]:
        """The outcomes as they come.

        Raises:
            CancelledError: after `cancel`; cases under way are given up.
            ResourceError: the scheduler was lost.
        """
        waiting = {}
        for n, task in enumerate(tasks):
            key = f"{task.id}-{secrets.token_hex(4)}"
            future = self._client.submit(work, task, self._threads, pure=False, key=key, priority=-n)
            waiting[future] = task.id
        try:
            while waiting:
                if cancel.is_set():
                    raise CancelledError(
                        "Cancelled; the finished cases stay, and --resume goes on from there."
                    )
                if not _connected(self._client):
                    raise _lost()
                ended = [future for future in waiting if future.done()]
                for future in ended:
                    yield self._outcome(future, waiting[future])
                    del waiting[future]
                if not ended:
                    time.sleep(_POLL_SECONDS)
        finally:
            with suppress(Exception):
                self._client.cancel(list(waiting), force=True)

    def _outcome(self, future: Any, case: str) -> Outcome:
        if future.status == "finished":
            outcome: Outcome = future.result()
            return outcome
        if future.status == "error":
            error = future.exception()
            sentence = (
                f"{DEATHS_BEFORE_FAILURE + 1} workers died while they had this case."
                if type(error).__name__ == "KilledWorker"
                else f"The worker could not do the case ({type(error).__name__}: {error})."
            )
            return Outcome(case, "failed", code=ResourceError.code, message=sentence)
        raise _lost()

    def _start(self, distributed: Any) -> Any:
        """The cluster that this run owns, None for one that is there already."""
        if self._address is not None:
            return None
        if self._job is not None:
            cluster = slurm.cluster(self._job, self._jobs)
            cluster.scale(jobs=self._jobs)
            return cluster
        return distributed.LocalCluster(
            n_workers=self._jobs,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            memory_limit=0,
            silence_logs=50,
        )

    def _connect(self, distributed: Any, cluster: Any) -> Any:
        options: dict[str, Any] = {"timeout": SECONDS_TO_CONNECT}
        if self._address is not None and self._address.startswith("tls://"):
            options["security"] = distributed.Security()
        try:
            client = distributed.Client(cluster or self._address, **options)
        except (OSError, TimeoutError, ValueError, RuntimeError, TypeError) as error:
            raise ResourceError(f"The dask scheduler cannot be reached ({type(error).__name__}).") from error
        versions = client.run(_version)
        other = sorted({version for version in versions.values() if version != __version__})
        if other:
            client.close()
            raise ResourceError(
                f"Workers have version {other[0]} of this program, and this is {__version__}."
            )
        return client


def check_address(address: str) -> None:
    """Raises `InputError` for an address of another machine that is not encrypted."""
    parts = urlsplit(address if "://" in address else f"tcp://{address}")
    if parts.scheme not in ("tcp", "tls") or not parts.hostname:
        raise InputError(f'"{address}" is no address of a dask scheduler; example: tls://login1:8786.')
    if parts.scheme != "tls" and parts.hostname not in _HERE:
        raise InputError("A scheduler on another machine needs an encrypted connection: tls://.")


def work(task: Task, threads: int) -> Outcome:
    """Runs in a worker of the cluster: one case in its warm process."""
    if not Path(task.folder, "running").is_dir():
        sentence = (
            "The worker does not see the study's folder: it must be on a file system that all workers share."
        )
        return Outcome(task.id, "failed", code=ResourceError.code, message=sentence)
    with _lock:
        return perform(task, _warm_process(task, threads))


_lock = threading.Lock()
_processes: dict[int, WarmProcess] = {}


def _warm_process(task: Task, threads: int) -> WarmProcess:
    """That of this worker. On a machine of its own the kernels are compiled first, by a process of their own."""
    if threads not in _processes:
        rehearsal = WarmProcess(threads)
        try:
            command = {
                "command": "rehearse",
                "device": task.request["device"],
                "presets": [task.request["preset"]],
            }
            rehearsal.do(command)
        finally:
            rehearsal.close()
        _processes[threads] = process = WarmProcess(threads)
        atexit.register(process.close)
    return _processes[threads]


def _version() -> str:
    return __version__


def _connected(client: Any) -> bool:
    comm = client.scheduler_comm
    return client.status == "running" and comm is not None and not comm.comm.closed()


def _lost() -> ResourceError:
    return ResourceError(
        "The connection to the dask scheduler was lost; the finished cases stay, and --resume goes on from there."
    )
