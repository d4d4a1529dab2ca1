"""The warm process seen from its owner: commands in, results out, started again after a crash. No torch here."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import IO, Any

from ..case.monitor import CancelFlag
from ..errors import BY_CODE, CancelledError, MasrError, ResourceError
from ..worker import client
from ..worker.jobfolder import JobFolder
from ..worker.messages import (
    CANCEL,
    FINAL,
    PROTOCOL,
    Cancelled,
    Error,
    Hello,
    LineBuffer,
    Message,
    ProtocolError,
    Result,
    decode,
    encode_object,
)

SERVER = "masr_registration.batch.server"
_POLL_SECONDS = 0.05
_LOG_LINES = 100


class DiedError(ResourceError):
    """The process ended without an answer."""


class WarmProcess:
    """One process that does one command at a time. Not for several threads at once.

    `threads` are the CPU threads of its libraries, `environment` adds to `os.environ`; both are in the attribute of
    that name.
    """

    def __init__(self, threads: int, environment: Mapping[str, str] | None = None) -> None:
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
        self.environment = {**dict.fromkeys(names, str(threads)), **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: JobFolder | None = None
        self._log: deque[str] = deque(maxlen=_LOG_LINES)
        self.pid: int | None = None

    def do(
        self,
        command: Mapping[str, Any],
        on_message: Callable[[Message], None] = lambda message: None,
        cancel: CancelFlag | None = None,
    ) -> Result:
        """The answer to a command. Raises `MasrError` with what the process says, `DiedError` when it died."""
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._start()
        assert self._process is not None
        self._write({"protocol": PROTOCOL, **command})
        final = self._converse(on_message, cancel or threading.Event())
        if isinstance(final, Cancelled):
            raise CancelledError
        if isinstance(final, Error):
            error = BY_CODE.get(final.code, MasrError)(final.message)
            if final.details:
                error.add_note(final.details)
            raise error
        return final

    def close(self) -> None:
        """End the process: by itself when it is idle, by force when it is busy."""
        if self._process is not None:
            assert self._process.stdin is not None
            with suppress(OSError):
                self._process.stdin.close()
            try:
                self._process.wait(timeout=client.SECONDS_TO_OBEY)
            except subprocess.TimeoutExpired:
                self._kill()
            for pipe in (self._process.stdout, self._process.stderr):
                assert pipe is not None
                with suppress(OSError):
                    pipe.close()
            self._process = None
        if self._folder is not None:
            self._folder.remove()
            self._folder = None

    def _start(self) -> None:
        self._folder = JobFolder.create()
        variables = {**os.environ, **self.environment}
        variables["PYTHONPATH"] = client.module_path(variables.get("PYTHONPATH"))
        options: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            options = {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP}
        pipe = subprocess.PIPE
        try:
            self._process = process = subprocess.Popen(
                client.command(sys.executable, SERVER),
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                cwd=self._folder.path,
                env=variables,
                bufsize=0,
                **options,
            )
        except OSError as error:
            raise ResourceError("The registration process could not be started.") from error
        self.pid = process.pid
        self._log.clear()
        self._chunks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._lines = LineBuffer()
        assert process.stdout is not None
        assert process.stderr is not None
        threading.Thread(target=_read, args=(process.stdout, self._chunks.put), daemon=True).start()
        lines = LineBuffer(limit=2000)
        threading.Thread(
            target=_read,
            args=(process.stderr, lambda chunk: self._log.extend(lines.feed(chunk))),
            daemon=True,
        ).start()

    def _converse(
        self, on_message: Callable[[Message], None], cancel: CancelFlag
    ) -> Result | Cancelled | Error:
        deadline = float("inf")
        while True:
            if cancel.is_set() and deadline == float("inf"):
                self._write(CANCEL)
                deadline = time.monotonic() + client.SECONDS_TO_OBEY
            if time.monotonic() > deadline:
                self._kill()
                return Cancelled()
            try:
                chunk = self._chunks.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            if not chunk:
                if deadline < float("inf"):
                    return Cancelled()
                raise self._death()
            for line in self._lines.feed(chunk):
                with suppress(ProtocolError):
                    message = decode(line)
                    if isinstance(message, Hello):
                        self.pid = message.pid
                    if isinstance(message, FINAL):
                        return message
                    if message is not None:
                        on_message(message)

    def _death(self) -> DiedError:
        assert self._process is not None
        code = self._process.wait()
        if code == -signal.SIGKILL if sys.platform != "win32" else False:
            why = "was killed from outside, most often because the memory ran out"
        else:
            why = f"crashed (exit code {code})"
        error = DiedError(f"The registration process {why}.")
        if self._log:
            error.add_note("Log:\n" + "\n".join(self._log))
        return error

    def _write(self, command: Mapping[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        rest = memoryview(encode_object(command))
        with suppress(OSError):  # the process is gone: the end of its output tells how
            while rest:
                rest = rest[self._process.stdin.write(rest) :]

    def _kill(self) -> None:
        assert self._process is not None
        if sys.platform == "win32":
            self._process.kill()
        else:
            with suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _read(pipe: IO[bytes], take: Callable[[bytes], None]) -> None:
    """Thread: everything that comes, then an empty chunk."""
    with suppress(OSError, ValueError):
        while chunk := pipe.read(65536):
            take(chunk)
    take(b"")
