"""A tab that has a background process of its own."""

from __future__ import annotations

from collections.abc import Callable

import slicer

from .batch_process import BatchProcess
from .tab import Tab


class BackgroundTab(Tab):
    """The process runs on when the module is left, and ends with Slicer or with the module."""

    def __init__(self, resourcePath: Callable[[str], str]) -> None:
        super().__init__(resourcePath)
        self._process: BatchProcess | None = None
        slicer.app.connect("aboutToQuit()", self.onQuit)

    @property
    def running(self) -> bool:
        return self._process is not None

    def cleanup(self) -> None:
        slicer.app.disconnect("aboutToQuit()", self.onQuit)
        self._abandon(quitting=False)

    def onQuit(self) -> None:
        """The application ends: nothing is left running."""
        self._abandon(quitting=True)

    def _abandon(self, *, quitting: bool) -> None:
        if self._process is not None:
            self._process.abandon(quitting=quitting)
            self._process = None
