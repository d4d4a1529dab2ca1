"""The module panel: the tabs, the parameter node of the scene bound to all of them, and what they tell each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from ..mrml.results import RegistrationResult
from .adapt_tab import AdaptTab
from .batch_tab import BatchTab
from .binding import ParameterBinding
from .check_tab import CheckTab
from .landmarks_tab import LandmarksTab
from .quitting import QuitGuard
from .register_tab import RegisterTab
from .result_panel import ResultPanel
from .tab import Tab


class ModuleTabs:
    """`logic` is the module's; `isShown` tells whether the module is entered.

    Attributes:
        widget: the QTabWidget.
        register, check, landmarks, batch, adapt: the tabs; result: the section Result of the Register tab.
    """

    def __init__(self, logic: Any, resourcePath: Callable[[str], str], isShown: Callable[[], bool]) -> None:
        self.widget = qt.QTabWidget()
        self.register = RegisterTab(resourcePath, logic, self._onResult)
        self._isShown, self._unseen = isShown, False
        self.check = CheckTab(resourcePath, isShown, self._onJudged)
        self.landmarks = LandmarksTab(
            resourcePath,
            self.register.update,
            lambda: (self.register.advanced.preset(), self.register.options()),
        )
        self.batch = BatchTab(resourcePath)
        self.adapt = AdaptTab(resourcePath)
        for tab, title in (
            (self.register, _("Register")),
            (self.check, _("Check")),
            (self.landmarks, _("Landmarks")),
            (self.batch, _("Batch")),
            (self.adapt, _("Adapt")),
        ):
            self.widget.addTab(tab.widget, title)
        self.result = ResultPanel(resourcePath, self._onReverted, self.check.sampler.finish)
        self.register.ui.resultButton.layout().addWidget(self.result.widget)
        self._parts: tuple[Tab, ...] = (
            self.register.advanced,
            self.register.help,
            self.register,
            self.result,
            self.check,
            self.landmarks,
            self.batch,
            self.adapt,
        )
        uis = [part.ui for part in self._parts]
        self.binding = ParameterBinding(uis, logic.getParameterNode, isShown, self._onParameters)
        self.binding.connect()
        self._guard = QuitGuard(lambda: [loss for part in self._parts for loss in part.losses()])

    def enter(self) -> None:
        """Show the result that came while another module was shown, if any; its views are opened by the user."""
        self.binding.connect()
        if self._unseen:
            self._unseen = False
            if self.check.transformNode is not None:  # the scene may be another one by now
                self.widget.setCurrentWidget(self.check.widget)

    def exit(self) -> None:
        self.binding.disconnect()

    def cleanup(self) -> None:
        self._guard.remove()
        for part in self._parts:
            part.cleanup()
        self.binding.release()

    def _onParameters(self, parameters: Any) -> None:
        for part in self._parts:
            part.parametersChanged(parameters)

    def _onReverted(self) -> None:
        for part in self._parts:
            part.resultReverted()
        self.widget.setCurrentWidget(self.register.widget)

    def _onResult(self, result: RegistrationResult) -> None:
        with slicer.util.WaitCursor():
            for part in self._parts:
                part.resultArrived(result)
        if self._isShown():
            self.widget.setCurrentWidget(self.check.widget)
        else:
            self._unseen = True
            told = _(
                'The registration is done: "{name}" is ready to be checked in the module MASR Registration.'
            )
            slicer.util.showStatusMessage(told.format(name=result.transformNode.GetName()))

    def _onJudged(self) -> None:
        self.result.update()
