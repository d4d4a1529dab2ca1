"""The Register tab: shows why it cannot register, what a running job does, and what came out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer
from masr_registration.errors import CancelledError, InputError, MasrError
from slicer.i18n import tr as _

from ..mrml.identity import doubts
from ..mrml.results import RegistrationResult
from ..mrml.setup import RegistrationSetup
from . import dependencies
from .advanced_panel import AdvancedPanel
from .help_panel import HelpPanel
from .job import RunOptions
from .mask_segments import SegmentChoice
from .messages import plain, showError
from .tab import Tab


class RegisterTab(Tab):
    """`logic` has `start`, `running` and `getParameterNode`; `onResult` gets what a registration left in the scene."""

    file = "RegisterTab.ui"

    def __init__(
        self,
        resourcePath: Callable[[str], str],
        logic: Any,
        onResult: Callable[[RegistrationResult], None],
    ) -> None:
        super().__init__(resourcePath)
        self.logic, self._onResult = logic, onResult
        self.job: Any = None
        ui = self.ui
        self.advanced = AdvancedPanel(resourcePath, ui.presetComboBox, ui.presetLabel)
        ui.advancedButton.layout().addWidget(self.advanced.widget)
        self.help = HelpPanel(resourcePath, self._register)
        ui.helpButton.layout().addWidget(self.help.widget)
        self._segments = (
            SegmentChoice(ui.fixedSegmentComboBox, "fixedMask", "fixedSegment"),
            SegmentChoice(ui.movingSegmentComboBox, "movingMask", "movingSegment"),
        )
        self.logic.onRunning = self.update  # also when the console starts one
        ui.applyButton.connect("clicked(bool)", self.onApply)
        ui.copyLogButton.connect("clicked(bool)", self.onCopyLog)
        self.update()

    def parametersChanged(self, parameters: Any) -> None:
        super().parametersChanged(parameters)
        for choice in self._segments:
            choice.show(parameters)
        self.update()

    @property
    def running(self) -> bool:
        return self.job is not None

    def resultReverted(self) -> None:
        self.ui.statusLabel.text = _("Reverted: the scene is as before the registration.")

    def update(self) -> None:
        """Show what can be done now, and if nothing, why."""
        reason = "" if self.running else self._reason()
        cancelling = self.running and self.job.cancelling
        ui = self.ui
        ui.applyButton.text = _("Cancel") if self.running else _("Register")
        ui.applyButton.enabled = not reason and not cancelling
        ui.reasonLabel.text = reason
        ui.reasonLabel.visible = bool(reason)
        ui.progressBar.visible = ui.stageLabel.visible = self.running
        for section in (ui.inputsButton, ui.masksButton, ui.outputsButton, ui.advancedButton):
            section.enabled = not self.running
        self.help.setBusy(self.logic.running)

    def onApply(self) -> None:
        """Register, or cancel what runs."""
        if self.running:
            self.job.cancel()
            self.ui.stageLabel.text = _("Cancelling…")
            self.update()
        else:
            self._register()

    def losses(self) -> list[str]:
        running = _("A registration is running; quitting ends it, and there will be no result.")
        return [running] if self.logic.running else []

    def cleanup(self) -> None:
        self.abandon()
        self.logic.onRunning = lambda: None

    def abandon(self) -> None:
        """End what runs, silently."""
        if self.job is not None:
            self.job.abandon()
            self.job = None

    def onCopyLog(self) -> None:
        slicer.app.clipboard().setText(self.ui.logEdit.toPlainText())

    def setup(self) -> RegistrationSetup:
        """What is chosen."""
        p = self.parameters
        return RegistrationSetup(
            p.fixedVolume,
            p.movingVolume,
            outputTransform=p.outputTransform,
            outputVolume=p.outputVolume,
            fixedMask=p.fixedMask,
            fixedSegment=p.fixedSegment,
            movingMask=p.movingMask,
            movingSegment=p.movingSegment,
            initialTransform=p.initialTransform,
            landmarks=(p.fixedLandmarks, p.movingLandmarks) if p.useLandmarks else None,
        )

    def options(self) -> RunOptions:
        """How it is to be run, as chosen under Advanced."""
        p = self.parameters
        return RunOptions(p.device, p.threads or None, p.seed, p.keepFiles)

    def _register(self) -> None:
        parameters, ui = self.parameters, self.ui
        found = doubts(parameters.fixedVolume, parameters.movingVolume)
        question = "\n".join([*found, _("Register them all the same?")])
        if found and not slicer.util.confirmOkCancelDisplay(plain(question)):
            return
        ui.logEdit.clear()
        ui.statusLabel.text = ""
        ui.progressBar.value = 0
        ui.stageLabel.text = _("Starting…")
        try:
            dependencies.ensure()
            with slicer.util.WaitCursor():
                self.job = self.logic.start(
                    self.setup(),
                    self.advanced.preset(),
                    self.options(),
                    onProgress=self._onProgress,
                    onFinished=self._onFinished,
                    onLog=ui.logEdit.appendPlainText,
                )
        except MasrError as error:
            self._showError(error)
        else:
            self.update()

    def _reason(self) -> str:
        if self.parameters is None:
            return _("Open the module to register.")
        if self.logic.running:
            return _("A registration that was started elsewhere is running; wait for it.")
        try:
            self.setup().check()
            self.advanced.preset()
        except InputError as error:
            return str(error)
        return ""

    def _onProgress(self, stage: str, fraction: float, remaining: float | None) -> None:
        self.ui.progressBar.value = round(100 * fraction)
        self.ui.stageLabel.text = f"{stageName(stage)}{remainingTime(remaining)}"

    def _onFinished(self, result: RegistrationResult | None, error: MasrError | None) -> None:
        self.job = None
        if result is not None:
            parameters = self.parameters or self.logic.getParameterNode()
            parameters.outputTransform = result.transformNode
            parameters.outputVolume = result.volumeNode
            self.ui.statusLabel.text = _('Done: "{name}".').format(name=result.transformNode.GetName())
            self.update()
            self._onResult(result)
        elif error is not None:
            self._showError(error)

    def _showError(self, error: MasrError) -> None:
        """Last of all: the message box has an event loop of its own, in which the module may be closed."""
        details = "\n".join(getattr(error, "__notes__", []))
        self.ui.statusLabel.text = str(error)
        if details:
            self.ui.logEdit.appendPlainText(details)
        self.update()
        if not isinstance(error, CancelledError):
            showError(error)


def stageName(stage: str) -> str:
    """A worker's stage for a person."""
    names = {
        "read": _("Reading the volumes"),
        "linear": _("Aligning position, rotation and size"),
        "discrete": _("Searching large deformations"),
        "continuous": _("Refining the deformation"),
        "check": _("Checking the result"),
        "write": _("Writing the result"),
        "report": _("Writing the report"),
    }
    return names.get(stage, stage)


def remainingTime(seconds: float | None) -> str:
    """What follows the stage's name; empty when nothing is known."""
    if seconds is None:
        return ""
    if seconds < 90:
        return _(" – about {n} s left").format(n=max(1, round(seconds)))
    return _(" – about {n} min left").format(n=round(seconds / 60))
