"""What a job sees of the outside: progress, warnings, cancellation and its folder."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping

from .. import __version__
from ..errors import CancelledError
from .jobfolder import JobFolder
from .messages import Hello, Message, Progress, Warn

_SECONDS_BETWEEN_MESSAGES = 0.1
_FIRST_ESTIMATE = 0.05
_SMOOTHING = 0.3


class Context:
    """Turns a job's calls into messages.

    Attributes:
        folder: the private folder of the job.
        started: `clock()` when the job began.
        warnings: every sentence that was sent with `warn`.
        uninterrupted: held while results are put in place; the process is not ended in between.
    """

    def __init__(
        self,
        send: Callable[[Message], None],
        folder: JobFolder,
        cancel: threading.Event,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.uninterrupted = threading.RLock()
        self.folder = folder
        self.started = clock()
        self.warnings: list[str] = []
        self._send = send
        self._cancel = cancel
        self._clock = clock
        self._stage = ""
        self._fraction = 0.0
        self._sent_at = float("-inf")
        self._first_progress: float | None = None
        self._total_s: float | None = None

    @property
    def elapsed_s(self) -> float:
        return self._clock() - self.started

    def hello(self, device: str) -> None:
        self._send(Hello(pid=os.getpid(), device=device, version=__version__))

    def check(self) -> None:
        """Raises `CancelledError` once the user has cancelled."""
        if self._cancel.is_set():
            raise CancelledError

    def warn(self, message: str) -> None:
        """A sentence that the user sees now and again with the result."""
        self.warnings.append(message)
        self._send(Warn(message))

    def progress(self, stage: str, fraction: float, metrics: Mapping[str, float] | None = None) -> None:
        """`fraction` of the whole job; it never falls and stays below 1. Sent about ten times a second at most,
        and whenever the stage changes. Raises `CancelledError`."""
        self.check()
        self._fraction = max(self._fraction, min(fraction, 0.999))
        now = self._clock()
        if self._first_progress is None:
            self._first_progress = now
        if stage == self._stage and now - self._sent_at < _SECONDS_BETWEEN_MESSAGES:
            return
        self._stage, self._sent_at = stage, now
        self._send(
            Progress(stage, self._fraction, self._eta(now - self._first_progress), dict(metrics or {}))
        )

    def finish(self) -> None:
        """The last progress: exactly 1."""
        self._fraction = 1.0
        self._send(Progress(self._stage, 1.0, 0.0))

    def _eta(self, elapsed: float) -> float | None:
        if self._fraction < _FIRST_ESTIMATE:
            return None
        total = elapsed / self._fraction
        self._total_s = (
            total if self._total_s is None else self._total_s + _SMOOTHING * (total - self._total_s)
        )
        return max(0.0, self._total_s - elapsed)
