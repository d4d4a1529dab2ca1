"""The dask engine: each worker of a dask cluster owns warm processes and takes one case at a time.

A worker that dies loses nothing: dask gives its case to another one, and only complete results get their name. Without
an address a cluster of processes on this machine is started, bound to 127.0.0.1; a scheduler on another machine must
use TLS (certificates as in dask's own configuration), and workers must share the file system of the study.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from .. import __version__
from ..case.monitor import CancelFlag
from ..errors import CancelledError, InputError, ResourceError
from . import slurm
from .cluster_worker import Description, describe, work
from .local import OnProgress
from .machine import Machine, Rehearsal, Shares
from .tasks import Outcome, Task
from .warm import WarmProcess

SECONDS_TO_CONNECT = 30
SECONDS_TO_ANSWER = 30
SECONDS_WITHOUT_WORKERS = 120
"""How long a cluster may have no workers; Slurm's first job may wait in its queue for as long as it has to."""
DEATHS_BEFORE_FAILURE = 3
WAITING = "waiting for workers"
_CALM = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "500ms",
    "distributed.admin.system-monitor.interval": "5s",
}
"""What nobody looks at here took 9 % of a core from the cases of two workers."""
_POLL_SECONDS = 0.5
_LOOK_SECONDS = 3.0
_HERE = ("127.0.0.1", "localhost", "::1")


class DaskEngine:
    """`address` of a running scheduler, or Slurm jobs, or else a cluster on this machine.

    Attributes:
        shares, machine: known while it is open; of workers elsewhere the machine is not known.
    """

    shares: Shares
    machine: Machine

    def __init__(self, address: str | None = None, job: slurm.SlurmJob | None = None) -> None:
        self._address, self._job = address, job
        if address is not None:
            check_address(address)
        self._client: Any = None
        self._seen = 0.0
        self._had_workers = False

    @contextmanager
    def opened(
        self,
        rehearsal: Rehearsal,
        jobs: int | None,
        threads: int | None,
        on_progress: OnProgress,
        cancel: CancelFlag,
    ) -> Iterator[None]:
        """Connected, with at least one worker.

        A cluster on this machine is as large as `jobs` says, or has a worker for each device; elsewhere the workers
        play the rehearsal themselves. Raises `ResourceError` without dask, a scheduler that answers, or workers, and
        `CancelledError`.
        """
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
            **_CALM,
        }
        with config.set(settings), ExitStack() as stack:
            self.machine = Machine()
            if self._address is None and self._job is None:
                self.machine = _rehearse_here(rehearsal, threads or 1, cancel)
                self.shares = Shares.of(self.machine, jobs, threads)
                cluster = _start_here(distributed, self.shares.jobs)
            else:
                cluster = None if self._job is None else slurm.submitted(self._job, jobs or 1)
            if cluster is not None:
                stack.callback(_quietly, cluster.close, timeout=10)
            self._client = self._connect(distributed, cluster)
            stack.callback(_quietly, self._client.close, timeout=2)
            workers = self._wait_for_workers(on_progress, cancel)
            described = self._describe(workers, cancel)
            if self._job is not None:
                self.shares = Shares(jobs or 1, threads or self._job.cores)
            elif self._address is not None:
                self.shares = Shares(len(described), threads or _cores_for_each(described))
            yield

    def run(self, tasks: Sequence[Task], on_progress: OnProgress, cancel: CancelFlag) -> Iterator[Outcome]:
        """The outcomes as they come.

        Raises:
            CancelledError: after `cancel`; cases under way are given up.
            ResourceError: the scheduler was lost, or has had no workers for too long.
        """
        waiting = {}
        looked = self._seen = time.monotonic()
        try:
            for n, task in enumerate(tasks):
                key = f"{task.id}-{secrets.token_hex(4)}"
                waiting[self._client.submit(work, task, pure=False, key=key, priority=-n)] = task.id
            while waiting:
                self._check(cancel)
                ended = [future for future in waiting if future.done()]
                for future in ended:
                    yield self._outcome(future, waiting[future])
                    del waiting[future]
                if time.monotonic() > looked + _LOOK_SECONDS:
                    self._look_for_workers(on_progress)
                    looked = time.monotonic()
                if not ended:
                    time.sleep(_POLL_SECONDS)
        finally:
            _quietly(self._client.cancel, list(waiting), force=True)

    def _check(self, cancel: CancelFlag) -> None:
        if cancel.is_set():
            raise CancelledError("Cancelled; the finished cases stay, and --resume goes on from there.")
        comm = self._client.scheduler_comm
        if self._client.status != "running" or comm is None or comm.comm.closed():
            raise _lost()

    def _wait_for_workers(self, on_progress: OnProgress, cancel: CancelFlag) -> list[str]:
        self._seen = time.monotonic()
        while True:
            self._check(cancel)
            workers = self._look_for_workers(on_progress)
            if workers:
                return workers
            time.sleep(_POLL_SECONDS)

    def _look_for_workers(self, on_progress: OnProgress) -> list[str]:
        """Addresses of those that are there. Raises `ResourceError` when there have been none for too long."""
        try:
            workers = list(
                self._client.sync(self._client.scheduler.ncores, callback_timeout=SECONDS_TO_ANSWER)
            )
        except (OSError, TimeoutError) as error:
            raise _lost() from error
        if workers:
            self._seen, self._had_workers = time.monotonic(), True
        else:
            on_progress("", WAITING, 0.0)
            queued = self._job is not None and not self._had_workers
            if not queued and time.monotonic() > self._seen + SECONDS_WITHOUT_WORKERS:
                raise ResourceError(
                    "The dask scheduler has no workers; start some, and go on with --resume if cases are done."
                )
        return workers

    def _describe(self, workers: Sequence[str], cancel: CancelFlag) -> list[Description]:
        """Of the workers that answer, at least one. Raises `ResourceError` where one is of another version."""
        asked = {
            self._client.submit(
                describe, pure=False, workers=[worker], key=f"describe-{secrets.token_hex(4)}"
            ): worker
            for worker in workers
        }
        deadline = time.monotonic() + SECONDS_TO_ANSWER
        while not all(future.done() for future in asked) and time.monotonic() < deadline:
            self._check(cancel)
            time.sleep(_POLL_SECONDS / 5)
        answers = []
        for future in asked:
            if future.status == "error":
                raise ResourceError(
                    f"A worker of the cluster cannot run this program ({type(future.exception()).__name__}): it "
                    "needs the same version of masr-registration."
                )
            if future.status == "finished":
                answers.append(self._result(future))
        other = sorted({answer.version for answer in answers} - {__version__})
        if other:
            raise ResourceError(
                f"Workers have version {other[0]} of this program, and this is {__version__}."
            )
        if not answers:
            raise ResourceError("The workers of the dask scheduler do not answer.")
        return answers

    def _result(self, future: Any) -> Any:
        from concurrent.futures import CancelledError as Forgotten

        try:
            return future.result(timeout=SECONDS_TO_ANSWER)
        except (OSError, TimeoutError, Forgotten) as error:  # its worker, or the scheduler, went meanwhile
            raise _lost() from error

    def _outcome(self, future: Any, case: str) -> Outcome:
        if future.status == "finished":
            outcome: Outcome = self._result(future)
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

    def _connect(self, distributed: Any, cluster: Any) -> Any:
        options: dict[str, Any] = {"timeout": SECONDS_TO_CONNECT}
        if self._address is not None and self._address.startswith("tls://"):
            options["security"] = distributed.Security()
        try:
            return distributed.Client(cluster or self._address, **options)
        except (OSError, TimeoutError, ValueError, RuntimeError, TypeError) as error:
            raise ResourceError(f"The dask scheduler cannot be reached ({type(error).__name__}).") from error


def check_address(address: str) -> None:
    """Raises `InputError` for an address of another machine that is not encrypted."""
    parts = urlsplit(address if "://" in address else f"tcp://{address}")
    if parts.scheme not in ("tcp", "tls") or not parts.hostname:
        raise InputError(f'"{address}" is no address of a dask scheduler; example: tls://login1:8786.')
    if parts.scheme != "tls" and parts.hostname not in _HERE:
        raise InputError("A scheduler on another machine needs an encrypted connection: tls://.")


def _rehearse_here(rehearsal: Rehearsal, threads: int, cancel: CancelFlag) -> Machine:
    """Compiled once, before the workers load it."""
    process = WarmProcess(threads)
    try:
        return rehearsal.play(process, cancel)
    finally:
        process.close()


def _start_here(distributed: Any, jobs: int) -> Any:
    return distributed.LocalCluster(
        n_workers=jobs,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address=None,
        memory_limit=0,
        silence_logs=50,
    )


def _cores_for_each(described: Sequence[Description]) -> int:
    """CPU cores for each worker, where the cores of every machine are shared out among its workers."""
    hosts = Counter(one.host for one in described)
    return max(1, min(one.cores // hosts[one.host] for one in described))


def _lost() -> ResourceError:
    return ResourceError(
        "The connection to the dask scheduler was lost; the finished cases stay, and --resume goes on from there."
    )


def _quietly(do: Any, *arguments: Any, **options: Any) -> None:
    """What ends a connection that may be broken already."""
    with suppress(Exception):
        do(*arguments, **options)
