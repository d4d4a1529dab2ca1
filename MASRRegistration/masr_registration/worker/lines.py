"""The frame of a background process of 3D Slicer that takes one line and answers with many."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

Tell = Callable[[Mapping[str, Any]], None]


def run(serve: Callable[[str, Tell, threading.Event], int]) -> NoReturn:
    """Answer the first line of standard input by `serve` and exit with its code.

    `serve` gets the line, a function that writes an object as one line of ASCII JSON on standard output, which nothing
    else can reach, and an event that a further line sets, the end of the input because the parent died, or SIGTERM.
    """
    protocol = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    cancel, lock = threading.Event(), threading.Lock()
    signal.signal(signal.SIGTERM, lambda *_: cancel.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def tell(content: Mapping[str, Any]) -> None:
        with lock, os.fdopen(os.dup(protocol), "w", encoding="ascii") as stream:
            stream.write(json.dumps(content) + "\n")

    request = sys.stdin.readline()

    def listen() -> None:
        sys.stdin.readline()
        cancel.set()

    threading.Thread(target=listen, daemon=True).start()
    code = serve(request, tell, cancel)
    sys.stderr.flush()
    os._exit(code)
