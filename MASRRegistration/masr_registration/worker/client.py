"""Runs the background process from plain Python: command line, tests, scripts. Knows neither torch nor SimpleITK."""

from __future__ import annotations

import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ..case.monitor import CancelFlag
from ..errors import BY_CODE, CancelledError, MasrError, ResourceError
from .jobfolder import JobFolder
from .messages import (
    CANCEL,
    FINAL,
    Cancelled,
    Error,
    Hello,
    LineBuffer,
    Message,
    ProtocolError,
    Request,
    Result,
    decode,
    encode_object,
    encode_request,
)

WORKER = "masr_registration.worker"
SECONDS_TO_OBEY = 2.0
SECONDS_TO_LEAVE = 10.0
_POLL_SECONDS = 0.05
_LOG_LINES = 200
_KILLED = 9
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """A registration that succeeded: every file exists. `log` is the end of what the worker wrote to stderr."""

    files: dict[str, Path]
    metrics: dict[str, Any]
    warnings: list[str]
    verdict: dict[str, Any]
    provenance: dict[str, Any]
    timings: dict[str, Any]
    log: str = field(repr=False, default="")


def run(
    request: Request,
    on_message: Callable[[Message], None] = lambda message: None,
    cancel: CancelFlag | None = None,
    *,
    python: str | None = None,
    module: str = WORKER,
    environment: Mapping[str, str] | None = None,
) -> Outcome:
    """Do one job in a process of its own and wait for it.

    `on_message` gets every message as it comes, in the calling thread; when it raises, the worker is ended. After
    `cancel` is set the worker has two seconds to stop by itself. `python` is the interpreter (default: this one,
    looked up now, because inside Slicer `sys.executable` changes), `environment` adds to `os.environ`.

    Raises:
        InputError, ResourceError, CancelledError, MasrError: one sentence each; notes hold the details.
    """
    folder = JobFolder.create()
    try:
        job = _Run(request, on_message, cancel or threading.Event())
        return job.execute(folder, python or sys.executable, module, environment or {})
    finally:
        folder.remove()


def command(python: str, module: str = WORKER) -> list[str]:
    """The command line of the worker."""
    return [python, "-P", "-m", module]


def module_path(existing: str | None) -> str:
    """PYTHONPATH for the worker: the folder of this package before everything else."""
    here = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join([here, existing] if existing else [here])


def judge(
    final: Message | None, code: int, *, cancelled: bool, overdue: bool, log: Iterable[str] = ()
) -> Outcome:
    """The outcome of a worker that has ended: success is exit code 0 and a result and its files.

    Args:
        final: its final message, if any.
        code: its exit code; minus the signal's number when a signal ended it.
        cancelled: whether it was asked to stop.
        overdue: whether it had to be killed.
        log: the end of its log.

    Raises:
        MasrError: everything else, in one clear sentence; notes hold details and log.
    """
    text = "\n".join(log)
    try:
        return _judge(final, code, cancelled, overdue, text)
    except MasrError as error:
        details = final.details if isinstance(final, Error) else ""
        for title, note in (("Details", details), ("Log", text)):
            if note:
                error.add_note(f"{title}:\n{note}")
        raise


def _judge(final: Message | None, code: int, cancelled: bool, overdue: bool, log: str) -> Outcome:
    if isinstance(final, Error):
        raise BY_CODE.get(final.code, MasrError)(final.message)
    if isinstance(final, Cancelled):
        raise CancelledError
    if isinstance(final, Result) and code == 0:
        missing = sorted(name for name, path in final.files.items() if not Path(path).is_file())
        if missing or not final.files:
            names = ", ".join(missing) or "none at all"
            raise MasrError(f"The registration reported files that are not there: {names}.")
        return Outcome(
            files={name: Path(path) for name, path in final.files.items()},
            metrics=final.metrics,
            warnings=final.warnings,
            verdict=final.verdict,
            provenance=final.provenance,
            timings=final.timings,
            log=log,
        )
    if isinstance(final, Result):
        if overdue:
            raise MasrError("The registration process did not end after its result and was killed.")
        raise MasrError(f"The registration process ended with an error after its result ({_death(code)}).")
    if cancelled:
        raise CancelledError
    if overdue:
        raise MasrError("The registration process fell silent and was ended.")
    if code in (-_KILLED, 128 + _KILLED):
        raise ResourceError(
            "The registration process was killed from outside, most often because the memory ran out."
        )
    if code == 0:
        raise MasrError("The registration process ended without a result.")
    raise MasrError(f"The registration process crashed ({_death(code)}).")


class _Run:
    def __init__(self, request: Request, on_message: Callable[[Message], None], cancel: CancelFlag) -> None:
        self._request = request
        self._on_message = on_message
        self._cancel = cancel
        self._chunks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._log: deque[str] = deque(maxlen=_LOG_LINES)
        self._garbage: deque[str] = deque(maxlen=_LOG_LINES)
        self._worker_pid: int | None = None
        self._final: Result | Cancelled | Error | None = None
        self._cancelled = False
        self._overdue = False

    def execute(self, folder: JobFolder, python: str, module: str, environment: Mapping[str, str]) -> Outcome:
        self._process = process = _start(command(python, module), folder.path, environment)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        readers = [
            threading.Thread(target=self._read_output, args=(process.stdout,), daemon=True),
            threading.Thread(target=self._read_log, args=(process.stderr,), daemon=True),
        ]
        for reader in readers:
            reader.start()
        try:
            self._write(encode_request(self._request))
            self._converse()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=SECONDS_TO_LEAVE)
        finally:
            if process.poll() is None:
                self._overdue = True
                self._kill()
                process.wait()
            for reader in readers:
                reader.join(timeout=1.0)
            for pipe in (process.stdin, process.stdout, process.stderr):
                with suppress(OSError):
                    pipe.close()
        return self._outcome(process.returncode)

    def _converse(self) -> None:
        """Handle messages until the worker is gone, passing on a cancel and enforcing the deadlines."""
        lines = LineBuffer()
        deadline = float("inf")
        while True:
            if self._cancel.is_set() and not self._cancelled and self._final is None:
                self._cancelled = True
                self._write(encode_object(CANCEL))
                deadline = time.monotonic() + SECONDS_TO_OBEY
            if time.monotonic() > deadline:
                self._overdue = True
                self._kill()
                return
            try:
                chunk = self._chunks.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            unfinished = self._final is None
            for line in lines.feed(chunk) if chunk else lines.close():
                self._handle(line)
            if unfinished and self._final is not None:
                deadline = time.monotonic() + SECONDS_TO_LEAVE
            if not chunk:
                self._worker_pid = None  # gone: its number may belong to another process soon
                return

    def _handle(self, line: str) -> None:
        try:
            message = decode(line)
        except ProtocolError as error:
            _log.warning("Ignored a line of the worker: %s", error)
            self._garbage.append(line[:200])
            return
        if message is None:
            _log.warning("Ignored a message of a type that this version does not know.")
            return
        if isinstance(message, Hello):
            self._worker_pid = message.pid
        if isinstance(message, FINAL) and self._final is None:
            self._final = message
        self._on_message(message)

    def _outcome(self, code: int) -> Outcome:
        try:
            return judge(self._final, code, cancelled=self._cancelled, overdue=self._overdue, log=self._log)
        except MasrError as error:
            if self._garbage:
                error.add_note("Lines that were no messages:\n" + "\n".join(self._garbage))
            raise

    def _write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        rest = memoryview(data)
        with suppress(OSError):  # the worker is gone already: the end of its output tells how
            while rest:
                rest = rest[self._process.stdin.write(rest) :]

    def _kill(self) -> None:
        """The whole process group, and the process that said hello: PythonSlicer is only a launcher."""
        if sys.platform == "win32":
            if self._worker_pid is not None:
                with suppress(OSError):
                    os.kill(self._worker_pid, signal.SIGTERM)
            self._process.kill()
            return
        with suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)
        if self._worker_pid is not None:
            with suppress(OSError):
                os.kill(self._worker_pid, signal.SIGKILL)

    def _read_output(self, pipe: IO[bytes]) -> None:
        with suppress(OSError, ValueError):
            while chunk := pipe.read(65536):
                self._chunks.put(chunk)
        self._chunks.put(b"")

    def _read_log(self, pipe: IO[bytes]) -> None:
        lines = LineBuffer(limit=2000)
        with suppress(OSError, ValueError):
            while chunk := pipe.read(65536):
                self._log.extend(lines.feed(chunk))
        self._log.extend(lines.close())


def _start(arguments: list[str], folder: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """In a session of its own, so that Ctrl-C in a terminal reaches only the parent, which then cancels properly."""
    variables = {**os.environ, **environment}
    variables["PYTHONPATH"] = module_path(variables.get("PYTHONPATH"))
    options: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        options = {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP}
    pipe = subprocess.PIPE
    try:
        return subprocess.Popen(
            arguments, stdin=pipe, stdout=pipe, stderr=pipe, cwd=folder, env=variables, bufsize=0, **options
        )
    except OSError as error:
        name = Path(arguments[0]).name
        raise ResourceError(
            f"The registration process could not be started: no usable Python at {name!r}."
        ) from error


def _death(code: int) -> str:
    """An exit code in words."""
    number = -code if code < 0 else code - 128
    if 0 < number < 65:
        with suppress(ValueError):
            return signal.Signals(number).name
    return f"exit code {code & 0xFFFFFFFF:#x}" if code > 255 else f"exit code {code}"
