"""Asks before Slicer's window is closed while something runs that would be lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from .messages import plain


class QuitGuard(qt.QWidget):
    """An event filter of the main window, as Slicer's script repository shows it; `running` gives a sentence for
    everything that runs.

    Slicer's own question about unsaved data comes afterwards. Nothing is asked when a script ends the application.
    """

    def __init__(self, running: Callable[[], list[str]]) -> None:
        super().__init__()
        self._running = running
        self._window = slicer.util.mainWindow()
        if self._window is not None:
            self._window.installEventFilter(self)

    def remove(self) -> None:
        if self._window is not None:
            self._window.removeEventFilter(self)
            self._window = None

    def eventFilter(self, watched: Any, event: Any) -> bool:
        """True where the user stays."""
        if event.type() != qt.QEvent.Close:
            return False
        sentences = self._running()
        question = "\n".join([*sentences, _("Quit all the same?")])
        if not sentences or slicer.util.confirmOkCancelDisplay(
            plain(question), windowTitle=_("MASR Registration")
        ):
            return False
        event.ignore()
        return True
