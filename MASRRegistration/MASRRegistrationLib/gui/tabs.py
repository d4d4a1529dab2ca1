"""The module panel: the tabs, the parameter node of the scene bound to all of them, and what they tell each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
from slicer.i18n import tr as _

from ..mrml.results import RegistrationResult
from .binding import ParameterBinding
from .check_tab import CheckTab
from .landmarks_tab import LandmarksTab
from .register_tab import RegisterTab
from .tab import Tab


class ModuleTabs:
    """`logic` has `register` and `getParameterNode`; `isShown` tells whether the module is entered.

    Attributes:
        widget: the QTabWidget.
        register, check, landmarks: the tabs.
    """

    def __init__(self, logic: Any, resourcePath: Callable[[str], str], isShown: Callable[[], bool]) -> None:
        self.widget = qt.QTabWidget()
        self.register = RegisterTab(resourcePath, logic, self._onResult)
        self.check = CheckTab(resourcePath)
        self.landmarks = LandmarksTab(resourcePath)
        titles = _("Register"), _("Check"), _("Landmarks")
        self._tabs: tuple[Tab, ...] = self.register, self.check, self.landmarks
        for tab, title in zip(self._tabs, titles, strict=True):
            self.widget.addTab(tab.widget, title)
        uis = [tab.ui for tab in self._tabs]
        self.binding = ParameterBinding(uis, logic.getParameterNode, isShown, self._onParameters)
        self.binding.connect()

    def enter(self) -> None:
        self.binding.connect()

    def exit(self) -> None:
        self.binding.disconnect()

    def cleanup(self) -> None:
        for tab in self._tabs:
            tab.cleanup()
        self.binding.release()

    def _onParameters(self, parameters: Any) -> None:
        for tab in self._tabs:
            tab.parametersChanged(parameters)

    def _onResult(self, result: RegistrationResult) -> None:
        for tab in self._tabs:
            tab.resultArrived(result)
        self.widget.setCurrentWidget(self.check.widget)
