"""The local engine: some warm processes on this machine, each with a thread that feeds it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from ..case.monitor import CancelFlag
from ..errors import CancelledError
from .tasks import Outcome, Task, perform
from .warm import WarmProcess

OnProgress = Callable[[str, str, float], None]
"""Called with the case, the stage and the fraction of the case, from any thread."""


class LocalEngine:
    """As many cases at once as there are environments; one warm process for each.

    `environments` are added to the processes' variables (which device each of them sees). A process that is `warm`
    already takes the first place where it has these threads and variables, and is closed where it has not.
    """

    def __init__(
        self, threads: int, environments: Sequence[Mapping[str, str]], warm: WarmProcess | None = None
    ) -> None:
        self._processes = [WarmProcess(threads, environment) for environment in environments]
        if warm is not None and warm.environment == self._processes[0].environment:
            self._processes[0] = warm
        elif warm is not None:
            warm.close()

    @contextmanager
    def opened(self) -> Iterator[LocalEngine]:
        try:
            yield self
        finally:
            for process in self._processes:
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
