"""Waits until the views of a tab are laid out, and fits them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer

from ..mrml import layouts

MILLISECONDS = 50
MOST_TICKS = 60
"""After three seconds the views are taken as they are."""


class Settling:
    """New views get their size when the window has laid them out, some events after the layout was chosen.

    From `start` on the views of the rows are fitted at every new size; when it was the same twice, and they have been
    drawn, `onSettled` is called once.
    """

    def __init__(self, onSettled: Callable[[], None], *rows: str) -> None:
        self._onSettled, self._rows = onSettled, rows
        self._sizes: Any = None
        self._ticks = 0
        self._timer = qt.QTimer()
        self._timer.setInterval(MILLISECONDS)
        self._timer.connect("timeout()", self._onTick)

    def start(self) -> None:
        self._sizes, self._ticks = None, 0
        self._timer.start()

    def stop(self) -> None:
        self._timer.stop()

    def _onTick(self) -> None:
        self._ticks += 1
        sizes = layouts.sizes(*self._rows)
        same, self._sizes = sizes == self._sizes, sizes
        if not same:
            layouts.fit(*self._rows)
        if same or self._ticks >= MOST_TICKS:
            self._timer.stop()
            if slicer.app.layoutManager() is not None:
                slicer.util.forceRenderAllViews()
            self._onSettled()
