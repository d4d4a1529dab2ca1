"""Processes that work for another one and end when it is gone. Plain Python."""

from __future__ import annotations

import os
import threading
from contextlib import suppress

ATTACHED = "--attached"
"""The argument with which a module of this package is asked to end with its standard input."""
EXIT_ORPHAN = 130


def end_with_standard_input() -> None:
    """From now on the end of the standard input ends this process, whatever it does.

    Its parent may be a launcher: whoever kills that one leaves this process alive.
    """

    def watch() -> None:
        with suppress(OSError):
            while os.read(0, 1024):
                pass
        os._exit(EXIT_ORPHAN)

    threading.Thread(target=watch, daemon=True, name="stdin").start()
