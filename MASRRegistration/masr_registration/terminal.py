"""What commands that take long share: the bar of progress, and ending cleanly."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn


@contextmanager
def cancel_on_signals() -> Iterator[threading.Event]:
    """Ctrl-C and SIGTERM set the event; a second one raises `KeyboardInterrupt`."""
    cancel = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if cancel.is_set():
            raise KeyboardInterrupt
        cancel.set()

    previous = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield cancel
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def progress_bar(console: Console, shown: bool) -> Progress:
    """A bar that goes when it ends; its tasks have a field `left`."""
    left = TextColumn("{task.fields[left]}")
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), left)
    return Progress(*columns, console=console, transient=True, disable=not shown)
