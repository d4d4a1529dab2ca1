"""The warm process: ``python -P -m masr_registration.batch.server`` takes one command after another.

The libraries are imported once, not once for every case. Messages are those of the worker (`worker.messages`); each
command on standard input ends in exactly one result, cancelled or error. At the end of the input the process ends, in
the middle of a case as well: then nobody wants it.
"""

import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import InputError, MasrError
from ..worker.context import Context
from ..worker.job import register_files
from ..worker.jobfolder import JobFolder
from ..worker.messages import (
    PROTOCOL,
    Error,
    LineBuffer,
    Message,
    ProtocolError,
    Result,
    decode_object,
    encode,
    request_from,
)
from ..worker.session import EXIT_ORPHAN, failure

Command = Callable[[Mapping[str, Any], Context], Result]


class Server:
    """`output` is the descriptor of the protocol, `input_` that of the commands."""

    def __init__(self, commands: Mapping[str, Command], output: int, input_: int = 0) -> None:
        self._commands, self._output, self._input = commands, output, input_
        self._cancel = threading.Event()
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._folder: JobFolder | None = None
        self._guard = threading.RLock()
        self._uninterrupted = threading.RLock()
        self._busy = False

    def serve(self) -> None:
        """Until the end of the input."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: self._cancel.set())
        self._folder = JobFolder.current()
        self._folder.collect_temporary()
        threading.Thread(target=self._listen, daemon=True, name="stdin").start()
        while (line := self._lines.get()) is not None:
            self._send(self._answer(line, self._folder))
        self._folder.remove()

    def _answer(self, line: str, folder: JobFolder) -> Message:
        context = Context(self._send, folder, self._cancel)
        with self._guard:
            self._uninterrupted, self._busy = context.uninterrupted, True
        try:
            _forget_peak_memory()
            data = decode_object(line)
            command = self._commands.get(data.pop("command", ""))
            if command is None or data.pop("protocol", None) != PROTOCOL:
                raise InputError("The command is not one of this version of the program.")
            return command(data, context)
        except ProtocolError as error:
            return Error(InputError.code, "The command is no line of JSON.", str(error))
        except BaseException as error:
            return failure(error)[0]
        finally:
            with self._guard:
                self._busy = False

    def _send(self, message: Message) -> None:
        data = memoryview(encode(message))
        with suppress(OSError):  # nobody listens: the end of the input comes as well
            while data:
                data = data[os.write(self._output, data) :]

    def _listen(self) -> None:
        lines = LineBuffer()
        while True:
            try:
                chunk = os.read(self._input, 65536)
            except OSError:
                chunk = b""
            for line in lines.feed(chunk):
                if '"type":"cancel"' in line:
                    self._cancel.set()
                else:
                    self._cancel.clear()
                    self._lines.put(line)
            if not chunk:
                break
        self._lines.put(None)
        self._leave()

    def _leave(self) -> None:
        """In the middle of a case: at once, but never while results are being put in place."""
        while True:
            with self._guard:
                busy, uninterrupted = self._busy, self._uninterrupted
            if not busy:
                return
            with uninterrupted:
                if self._folder is not None:
                    self._folder.remove()
                os._exit(EXIT_ORPHAN)


def register(data: Mapping[str, Any], context: Context) -> Result:
    """One case: the request, then what a cohort's report needs besides; with `plan_only` its plan and checks."""
    request = request_from(data["request"])
    fixed_labels = data.get("fixed_labels")
    result = register_files(request, context)
    from . import extras

    if request.plan_only:
        if fixed_labels is not None:
            result.provenance["fixed_labels"] = extras.check_fixed_labels(request.fixed, fixed_labels)
        return result
    output = Path(request.output)
    if fixed_labels is not None:
        extras.write_overlap(request, fixed_labels, output)
    extras.write_thumbnail(request.fixed, output)
    return result


def rehearse(data: Mapping[str, Any], context: Context) -> Result:
    """Compile everything once, so that later processes load it, and tell what the machine has."""
    from .rehearsal import rehearse as play

    return Result({}, play(data["presets"], data["device"], context.check), [], {}, {}, {})


def _forget_peak_memory() -> None:
    """So that each case's peak is its own (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def main() -> None:
    protocol = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr

    import faulthandler

    faulthandler.enable()
    try:
        Server({"register": register, "rehearse": rehearse}, protocol).serve()
    except MasrError as error:
        os.write(protocol, encode(Error(error.code, str(error))))
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
