"""The background process under Qt's event loop: starts at once, reports by callbacks, never blocks."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import qt
from masr_registration.errors import MasrError, ResourceError
from masr_registration.worker import client
from masr_registration.worker.jobfolder import JobFolder
from masr_registration.worker.messages import (
    CANCEL,
    FINAL,
    Hello,
    LineBuffer,
    Message,
    ProtocolError,
    Request,
    decode,
    encode_object,
    encode_request,
)
from slicer.i18n import tr as _

MILLISECONDS_TO_OBEY = int(1000 * client.SECONDS_TO_OBEY)
MILLISECONDS_TO_LEAVE = int(1000 * client.SECONDS_TO_LEAVE)
MILLISECONDS_AT_QUIT = 1000
"""A killed process is waited for at most this long, and only when the application quits."""
LOG_LINES = 200
_leaving: set[Any] = set()
"""Killed processes that nobody else keeps, until they have ended: a QProcess must not be deleted before."""


def slicerPython() -> str:
    """The interpreter of the background processes. Raises `ResourceError` when it is not there."""
    python = shutil.which("PythonSlicer")
    if python is None:
        raise ResourceError(_("PythonSlicer, the Python of 3D Slicer, was not found; is Slicer complete?"))
    return python


ATTACHED = "masr_registration.attached"


def startModule(process: Any, python: str, module: str, *more: str) -> None:
    """Start `python -m module` in a QProcess, with `more` arguments, so that it imports this installation's package.

    A module that does not itself end with its standard input is run by `ATTACHED`.
    """
    environment = qt.QProcessEnvironment.systemEnvironment()
    environment.insert("PYTHONPATH", client.module_path(os.environ.get("PYTHONPATH")))
    process.setProcessEnvironment(environment)
    program, *arguments = client.command(python, module)
    process.start(program, [*arguments, *more])


def leaveBehind(process: Any, keeper: Any, *, quitting: bool) -> None:
    """Kill a QProcess without waiting for its end; `keeper` is kept until then.

    Its standard input ends, at which the process behind a launcher ends as well. When the application is `quitting`
    its end is waited for, shortly.
    """
    process.closeWriteChannel()
    process.kill()
    if quitting:
        process.waitForFinished(MILLISECONDS_AT_QUIT)
    else:
        leave(process, keeper)


def leave(process: Any, keeper: Any) -> None:
    """Keep `keeper` until its QProcess, which has been told to end, has ended."""
    if process.state() != qt.QProcess.NotRunning:
        _leaving.add(keeper)


def hasLeft(keeper: Any) -> None:
    """The process of `keeper` has ended; it is let go by the next event, since its own signal is being handled."""
    if keeper in _leaving:
        qt.QTimer.singleShot(0, lambda: _leaving.discard(keeper))


class WorkerProcess:
    """One job in a process of its own.

    `onMessage` gets every message, `onLog` every line of the log, `onEnd` exactly once the outcome or an error, never
    before `start` has returned. What the first two raise is printed, as in any slot, and does no harm.

    The interpreter is PythonSlicer, looked up on the PATH when the job starts (while modules are being loaded
    `sys.executable` is the application itself).

    Attributes:
        pid: of the worker once it has said hello, None before and afterwards.
    """

    def __init__(
        self,
        request: Request,
        onMessage: Callable[[Message], None],
        onLog: Callable[[str], None],
        onEnd: Callable[[client.Outcome | None, MasrError | None], None],
        module: str = client.WORKER,
    ) -> None:
        self._request, self._module = request, module
        self._onMessage, self._onLog, self._onEnd = onMessage, onLog, onEnd
        self._lines, self._logLines = LineBuffer(), LineBuffer(limit=2000)
        self._log: deque[str] = deque(maxlen=LOG_LINES)
        self.pid: int | None = None
        self._final: Message | None = None
        self._asked = self._cancelled = self._overdue = self._ended = False
        self._folder: JobFolder | None = None
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.connect("timeout()", self._onDeadline)
        self._process = process = qt.QProcess()
        process.connect("started()", self._onStarted)
        process.connect("readyReadStandardOutput()", self._onOutput)
        process.connect("readyReadStandardError()", self._onError)
        process.connect("errorOccurred(QProcess::ProcessError)", self._onProcessError)
        process.connect("finished(int,QProcess::ExitStatus)", self._onFinished)

    def start(self) -> None:
        """Raises `ResourceError` when there is no PythonSlicer or no temporary folder."""
        python = slicerPython()
        self._folder = JobFolder.create()
        self._process.setWorkingDirectory(str(self._folder.path))
        startModule(self._process, python, self._module)

    def cancel(self) -> None:
        """Ask the worker to stop; two seconds later it is killed."""
        if self._cancelled or self._ended:
            return
        self._cancelled = True
        if self._asked:
            self._send(encode_object(CANCEL))
        self._timer.start(MILLISECONDS_TO_OBEY)

    def abandon(self, *, quitting: bool = False) -> None:
        """Kill the worker now and call nobody back. Only when the application is `quitting` its end is waited for."""
        if self._ended:
            return
        self._tidy()
        self._killWorker()
        leaveBehind(self._process, self, quitting=quitting)
        self._removeFolder()

    def _send(self, line: bytes) -> None:
        self._process.write(qt.QByteArray(line))

    def _onStarted(self) -> None:
        self._send(encode_request(self._request))
        self._asked = True
        if self._cancelled:
            self._send(encode_object(CANCEL))

    def _onOutput(self) -> None:
        for line in self._lines.feed(self._process.readAllStandardOutput().data()):
            self._handle(line)

    def _onError(self) -> None:
        self._keep(self._logLines.feed(self._process.readAllStandardError().data()))

    def _keep(self, lines: list[str]) -> None:
        for line in lines:
            self._log.append(line)
            if not self._ended:
                _tell(self._onLog, line)

    def _handle(self, line: str) -> None:
        if self._ended:
            return
        try:
            message = decode(line)
        except ProtocolError as error:
            logging.warning("Ignored a line of the registration process: %s", error)
            return
        if message is None:
            logging.warning("Ignored a message of a type that this version does not know.")
            return
        if isinstance(message, Hello):
            self.pid = message.pid
        if isinstance(message, FINAL) and self._final is None:
            self._final = message
            self._timer.start(MILLISECONDS_TO_LEAVE)
        _tell(self._onMessage, message)

    def _onDeadline(self) -> None:
        self._overdue = True
        self._kill()

    def _kill(self) -> None:
        """The process that said hello, then PythonSlicer, which is only its launcher; one that has not said hello yet
        ends when its standard input does."""
        self._killWorker()
        self._process.closeWriteChannel()
        self._process.kill()

    def _killWorker(self) -> None:
        if self.pid is not None:
            with suppress(OSError):
                os.kill(self.pid, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)

    def _onProcessError(self, error: int) -> None:
        if error == qt.QProcess.FailedToStart:  # `finished` never comes
            hasLeft(self)
            sentence = _("The registration process could not be started: no usable PythonSlicer.")
            qt.QTimer.singleShot(0, lambda: self._end(None, ResourceError(sentence)))

    def _onFinished(self, exitCode: int, status: int) -> None:
        if self._ended:  # abandoned
            self._removeFolder()  # again: it may have been written to until now
            hasLeft(self)
            return
        self._onOutput()
        for line in self._lines.close():
            self._handle(line)
        self._onError()
        self._keep(self._logLines.close())
        crashed = status == qt.QProcess.CrashExit
        if crashed:
            self._kill()  # the launcher died, perhaps alone
        self.pid = None  # its number may belong to another process soon
        try:
            outcome = client.judge(
                self._final,
                _posixCode(exitCode) if crashed else exitCode,
                cancelled=self._cancelled,
                overdue=self._overdue,
                log=self._log,
            )
        except MasrError as error:
            self._end(None, error)
        else:
            self._end(outcome, None)

    def _end(self, outcome: client.Outcome | None, error: MasrError | None) -> None:
        if self._ended:
            return
        onEnd = self._onEnd
        self._tidy()
        self._removeFolder()
        onEnd(outcome, error)

    def _tidy(self) -> None:
        """Nobody is called any more, nor kept alive by the connections of the process, which Python cannot undo."""
        self._ended = True
        self._timer.stop()
        del self._onMessage, self._onLog, self._onEnd

    def _removeFolder(self) -> None:
        if self._folder is not None:
            self._folder.remove()


def _tell(listener: Callable[[Any], None], what: Any) -> None:
    """A listener that raises must not keep the end of the process from being seen; its error is printed."""
    try:
        listener(what)
    except Exception:
        sys.excepthook(*sys.exc_info())


def _posixCode(exitCode: int) -> int:
    """Qt gives the number of the signal, subprocess minus that number."""
    return -exitCode if 0 < exitCode < 65 else exitCode or 1
