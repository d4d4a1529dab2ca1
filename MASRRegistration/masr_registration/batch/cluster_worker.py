"""What runs in a worker of dask: cases in warm processes, one at a time on each CUDA device of a machine."""

from __future__ import annotations

import atexit
import hashlib
import os
import platform
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .. import __version__
from ..errors import MasrError, ResourceError
from .locks import locked
from .machine import Machine, Rehearsal, usable_cores, visible_device
from .tasks import Outcome, Task, failed, perform
from .warm import WarmProcess

_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Description:
    """What a worker is: the version of this program, the machine and the cores that it may use."""

    version: str
    host: str
    cores: int


def describe() -> Description:
    """Of this worker."""
    return Description(__version__, platform.node(), usable_cores())


def work(task: Task) -> Outcome:
    """One case; every error that is known is told in the outcome."""
    if not Path(task.folder, "running").is_dir():
        sentence = (
            "The worker does not see the study's folder: it must be on a file system that all workers share."
        )
        return failed(task, ResourceError(sentence))
    try:
        return _worker.do(task)
    except MasrError as error:
        return failed(task, error)


class Worker:
    """The warm processes of this worker: one, or one for each device that it has had so far."""

    def __init__(self) -> None:
        self._one_at_a_time = threading.Lock()
        self._asked: tuple[int, str] | None = None
        self._machine = Machine()
        self._processes: dict[int, WarmProcess] = {}
        self._last = 0

    def do(self, task: Task) -> Outcome:
        """Raises `MasrError` where no process can do cases at all."""
        with self._one_at_a_time:
            self._begin(task)
            with self._device() as number:
                return perform(task, self._processes[number])

    def close(self) -> None:
        for process in self._processes.values():
            process.close()
        self._processes, self._asked = {}, None

    def _begin(self, task: Task) -> None:
        """Compile and see what this machine has, before the first case of these threads and this device."""
        asked = task.request["threads"], task.request["device"]
        if asked == self._asked:
            return
        self.close()
        process = WarmProcess(asked[0])
        self._processes = {0: process}
        self._machine = Rehearsal(asked[1], [task.request["preset"]]).play(process)
        if len(self._machine.devices) > 1:
            process.close()
            shown = [visible_device(number) for number in range(len(self._machine.devices))]
            self._processes = {n: WarmProcess(asked[0], variables) for n, variables in enumerate(shown)}
        self._asked = asked

    @contextmanager
    def _device(self) -> Iterator[int]:
        """The number of a device on which no other worker of this machine has a case: the last one if it is free."""
        devices = self._machine.devices
        if not devices:
            yield 0
            return
        while True:
            for number in sorted(range(len(devices)), key=lambda n: n != self._last):
                with locked(lock_of(devices[number])) as held:
                    if held:
                        self._last = number
                        yield number
                        return
            time.sleep(_POLL_SECONDS)


def lock_of(device: str) -> Path:
    """The file that is locked while a case of this user runs on a device."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    name = hashlib.sha256(device.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir(), f"masr-device-{user}-{name}.lock")


_worker = Worker()
atexit.register(_worker.close)
