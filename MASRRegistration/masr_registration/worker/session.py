"""One life of the background process: request in, one job, exactly one final message out, exit code."""

from __future__ import annotations

import errno
import logging
import os
import queue
import signal
import threading
import traceback
from collections.abc import Callable

from ..errors import (
    NOT_ENOUGH_MEMORY,
    CancelledError,
    InputError,
    MasrError,
    ResourceError,
    is_out_of_memory,
)
from .context import Context
from .jobfolder import JobFolder
from .messages import (
    Cancelled,
    Error,
    LineBuffer,
    Message,
    ProtocolError,
    Request,
    Result,
    decode_object,
    decode_request,
    encode,
)
from .staging import why

Job = Callable[[Request, Context], Result]

EXIT_ORPHAN = 130
_RESOURCE_ERRNOS = {
    getattr(errno, name)
    for name in ("ENOSPC", "EACCES", "EPERM", "EROFS", "EDQUOT", "EFBIG", "EIO", "EMFILE", "ENFILE", "ENOMEM")
    if hasattr(errno, name)
}
_log = logging.getLogger(__name__)


class Session:
    """`output` is the descriptor of the protocol (the worker's original standard output)."""

    def __init__(self, output: int, input_: int = 0) -> None:
        self._output = output
        self._input = input_
        self._finished = False
        self._cancel = threading.Event()
        self._request: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._folder: JobFolder | None = None
        self._uninterrupted = threading.RLock()

    def run(self, job: Job) -> int:
        """Serve one request; returns the exit code. The folder of the job is gone afterwards."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: self._cancel.set())
        try:
            self._folder = JobFolder.current()
            self._folder.collect_temporary()
            context = Context(self._send, self._folder, self._cancel)
            self._uninterrupted = context.uninterrupted
            threading.Thread(target=self._listen, daemon=True, name="stdin").start()
            line = self._request.get()
            if line is None:
                raise InputError("No request came in on the standard input.")
            final: Message = job(decode_request(line), context)
            context.finish()
            code = 0
        except BaseException as error:
            final, code = failure(error)
        with self._uninterrupted:
            self._finished = True
            if self._folder is not None:
                self._folder.remove()
        self._send(final)
        return code

    def _send(self, message: Message) -> None:
        data = memoryview(encode(message))
        try:
            while data:
                data = data[os.write(self._output, data) :]
        except OSError:
            _log.warning("The parent does not listen any more.")

    def _listen(self) -> None:
        """Thread: the request, cancel, and the parent's death (end of file)."""
        lines = LineBuffer()
        first = True
        while True:
            try:
                chunk = os.read(self._input, 65536)
            except OSError:
                chunk = b""
            for line in lines.feed(chunk):
                if first:
                    self._request.put(line)
                    first = False
                else:
                    self._obey(line)
            if not chunk:
                break
        if first:
            self._request.put(None)
        else:
            self._orphaned()

    def _obey(self, line: str) -> None:
        try:
            kind = decode_object(line).get("type")
        except ProtocolError:
            kind = None
        if kind == "cancel":
            self._cancel.set()
        else:
            _log.warning("Ignored a line that is no message of the protocol.")

    def _orphaned(self) -> None:
        """The parent died: nobody wants the result. Waits for a commit that is under way, never for the job."""
        with self._uninterrupted:
            if self._finished:
                return
            if self._folder is not None:
                self._folder.remove()
            os._exit(EXIT_ORPHAN)


def failure(error: BaseException) -> tuple[Message, int]:
    """The final message and the exit code for an error."""
    if isinstance(error, CancelledError):
        return Cancelled(), CancelledError.exit_code
    known = error if isinstance(error, MasrError) else _resource_error(error)
    details = "".join(traceback.format_exception(error))
    if known is not None:
        return Error(known.code, str(known), details), known.exit_code
    _log.error("Internal error", exc_info=error)
    sentence = f"An internal error stopped the registration ({type(error).__name__})."
    return Error(MasrError.code, sentence, details), MasrError.exit_code


def _resource_error(error: BaseException) -> ResourceError | None:
    if isinstance(error, OSError) and error.errno in _RESOURCE_ERRNOS:
        return ResourceError(f"The registration could not go on: {why(error)}.")
    if is_out_of_memory(error):
        return ResourceError(NOT_ENOUGH_MEMORY)
    return None
