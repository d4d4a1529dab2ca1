"""A study, or an adaptation, in a background process under Qt's event loop: events by callback, never blocking."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import qt
from masr_registration.errors import BY_CODE, CancelledError, MasrError, ResourceError
from masr_registration.worker.messages import LineBuffer, ProtocolError, decode_object
from slicer.i18n import tr as _

from .process import hasLeft, leave, slicerPython, startModule

MODULE = "masr_registration.batch"
MILLISECONDS_TO_END, MILLISECONDS_AT_QUIT = 15_000, 3000


class BatchProcess:
    """``PythonSlicer -P -m masr_registration.batch`` with one request (see `masr_registration.batch.__main__`), or
    another `module` that speaks alike.

    `onEvent` gets every line as a dictionary; `onEnd` exactly once the error, None when the study came to its end.
    """

    def __init__(
        self,
        request: Mapping[str, Any],
        onEvent: Callable[[dict[str, Any]], None],
        onEnd: Callable[[MasrError | None], None],
        module: str = MODULE,
    ) -> None:
        self._request, self._onEvent, self._onEnd = dict(request), onEvent, onEnd
        self._module = module
        self._lines = LineBuffer()
        self._error: MasrError | None = None
        self._cancelled = self._complete = self._ended = False
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._process = process = qt.QProcess()
        self._timer.connect("timeout()", process.kill)
        process.connect("started()", self._onStarted)
        process.connect("readyReadStandardOutput()", self._onOutput)
        process.connect("readyReadStandardError()", self._onErrorOutput)
        process.connect("errorOccurred(QProcess::ProcessError)", self._onProcessError)
        process.connect("finished(int,QProcess::ExitStatus)", self._onFinished)

    def start(self) -> None:
        """Raises `ResourceError` when there is no PythonSlicer."""
        startModule(self._process, slicerPython(), self._module)

    def cancel(self) -> None:
        """The cases under way are given up, the finished ones stay."""
        if not self._ended:
            self._cancelled = True
            self._process.closeWriteChannel()
            self._timer.start(MILLISECONDS_TO_END)

    def abandon(self, *, quitting: bool = False) -> None:
        """The same, calling nobody back. Only when the application is `quitting` its end is waited for."""
        if self._ended:
            return
        self._tidy()
        self._process.closeWriteChannel()
        if not quitting:
            self._timer.start(MILLISECONDS_TO_END)
            leave(self._process, self)
        elif not self._process.waitForFinished(MILLISECONDS_AT_QUIT):
            self._process.kill()

    def _onStarted(self) -> None:
        if not self._cancelled:
            self._process.write(qt.QByteArray(json.dumps(self._request).encode() + b"\n"))

    def _onOutput(self) -> None:
        for line in self._lines.feed(self._process.readAllStandardOutput().data()):
            with suppress(ProtocolError):
                self._handle(decode_object(line))

    def _handle(self, event: dict[str, Any]) -> None:
        if self._ended:
            return
        if event.get("type") == "error":
            self._error = BY_CODE.get(event.get("code", ""), MasrError)(str(event.get("message", "")))
        self._complete = self._complete or event.get("type") == "end"
        try:
            self._onEvent(event)
        except Exception:
            sys.excepthook(*sys.exc_info())

    def _onErrorOutput(self) -> None:
        text = self._process.readAllStandardError().data().decode(errors="replace")
        logging.debug("Batch: %s", text)

    def _onProcessError(self, error: int) -> None:
        if error == qt.QProcess.FailedToStart:  # `finished` never comes
            sentence = _("The registration process could not be started: no usable PythonSlicer.")
            qt.QTimer.singleShot(0, lambda: self._end(ResourceError(sentence)))

    def _onFinished(self, exitCode: int, status: int) -> None:
        if self._ended:  # abandoned
            self._timer.stop()
            hasLeft(self)
            return
        self._onOutput()
        error = self._error
        if self._cancelled and not self._complete:
            error = CancelledError()
        elif error is None and not self._complete:
            error = MasrError(_("The background process ended early; run it again to go on."))
        self._end(error)

    def _end(self, error: MasrError | None) -> None:
        if self._ended:
            return
        onEnd = self._onEnd
        self._tidy()
        onEnd(error)

    def _tidy(self) -> None:
        self._ended = True
        self._timer.stop()
        del self._onEvent, self._onEnd
