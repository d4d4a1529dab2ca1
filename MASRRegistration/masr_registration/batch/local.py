"""The local engine: some warm processes on this machine, each with a thread that feeds it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from ..case.monitor import CancelFlag
from ..errors import CancelledError
from .machine import Machine, Rehearsal, Shares, visible_device
from .tasks import Outcome, Task, perform
from .warm import WarmProcess

OnProgress = Callable[[str, str, float], None]
"""Called with the case, the stage and the fraction of the case, from any thread; with no case for the whole."""


class LocalEngine:
    """One warm process for each case at once; the one that played the rehearsal is the first where it can be.

    Attributes:
        shares, machine: known while it is open.
    """

    shares: Shares
    machine: Machine

    def __init__(self) -> None:
        self._processes: list[WarmProcess] = []

    @contextmanager
    def opened(
        self,
        rehearsal: Rehearsal,
        jobs: int | None,
        threads: int | None,
        on_progress: OnProgress,
        cancel: CancelFlag,
    ) -> Iterator[None]:
        """The kernels compiled, the processes ready; None for what nobody asked for. Raises `MasrError`."""
        first = WarmProcess(Shares.of(Machine(), jobs, threads).threads)
        self._processes = [first]
        try:
            self.machine = rehearsal.play(first, cancel)
            self.shares = Shares.of(self.machine, jobs, threads)
            shared = len(self.machine.devices) > 1
            self._processes = [
                WarmProcess(self.shares.threads, visible_device(number) if shared else {})
                for number in range(self.shares.jobs)
            ]
            if first.environment == self._processes[0].environment:
                self._processes[0] = first
            else:
                first.close()
            yield
        finally:
            for process in {first, *self._processes}:
                process.close()

    def run(self, tasks: Sequence[Task], on_progress: OnProgress, cancel: CancelFlag) -> Iterator[Outcome]:
        """The outcomes as they come. Raises `CancelledError` when all processes have stopped after `cancel`."""
        waiting: queue.SimpleQueue[Task] = queue.SimpleQueue()
        for task in tasks:
            waiting.put(task)
        ended: queue.SimpleQueue[Outcome | BaseException | None] = queue.SimpleQueue()

        def feed(process: WarmProcess) -> None:
            try:
                while not cancel.is_set():
                    try:
                        task = waiting.get_nowait()
                    except queue.Empty:
                        break
                    ended.put(perform(task, process, partial(on_progress, task.id), cancel))
            except CancelledError:
                pass
            except BaseException as error:
                ended.put(error)
            ended.put(None)

        threads = [
            threading.Thread(target=feed, args=(process,), daemon=True)
            for process in self._processes[: len(tasks)]
        ]
        for thread in threads:
            thread.start()
        running = len(threads)
        while running:
            item = ended.get()
            if item is None:
                running -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield item
        if cancel.is_set():
            raise CancelledError("Cancelled; the finished cases stay, and --resume goes on from there.")
