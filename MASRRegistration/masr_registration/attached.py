"""``python -m masr_registration.attached MODULE ARGUMENTS`` runs a module that ends as soon as its parent is gone.

The parent holds the standard input. A launcher may lie in between: whoever kills that one leaves this process alive.
The watch begins before the module and what it needs is imported. Plain Python.
"""

from __future__ import annotations

import os
import runpy
import sys
import threading
from contextlib import suppress

EXIT_ORPHAN = 130


def end_with_standard_input() -> None:
    """From now on the end of the standard input ends this process, whatever it does."""

    def watch() -> None:
        with suppress(OSError):
            while os.read(0, 1024):
                pass
        os._exit(EXIT_ORPHAN)

    threading.Thread(target=watch, daemon=True, name="stdin").start()


if __name__ == "__main__":
    end_with_standard_input()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
