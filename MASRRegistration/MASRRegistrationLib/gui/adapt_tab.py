"""The Adapt tab: a model fine-tuned to the user's own images in the background, and the models that were kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ctk
import slicer
from masr_registration.errors import MasrError
from masr_registration.representation import models
from slicer.i18n import tr as _

from . import dependencies
from .background_tab import BackgroundTab
from .batch_process import BatchProcess
from .messages import showError

MODULE = "masr_registration.training"


def runFolder(name: str) -> Path:
    """Where a run keeps its checkpoint, in the folder of Slicer's user settings."""
    return Path(slicer.app.slicerUserSettingsFilePath).parent / "MASRRegistration" / "adaptations" / name


class AdaptTab(BackgroundTab):
    """The process runs on when the module is left, and ends with Slicer; its checkpoint stays, to go on from."""

    file = "AdaptTab.ui"

    def __init__(self, resourcePath: Callable[[str], str]) -> None:
        super().__init__(resourcePath)
        self._end: dict[str, Any] = {}
        ui = self.ui
        ui.dataEdit.filters = ctk.ctkPathLineEdit.Dirs
        ui.dataEdit.connect("currentPathChanged(QString)", self.update)
        ui.nameEdit.connect("textChanged(QString)", self.update)
        ui.adaptButton.connect("clicked(bool)", self.onAdapt)
        ui.modelComboBox.connect("currentIndexChanged(int)", self._onModel)
        ui.useButton.connect("clicked(bool)", self.onUse)
        ui.removeButton.connect("clicked(bool)", self.onRemove)
        self.refreshModels()
        self.update()

    def losses(self) -> list[str]:
        running = _(
            "A model is being adapted; quitting ends it. What was learned stays, and it can be gone on with."
        )
        return [running] if self.running else []

    def update(self, *_ignored: Any) -> None:
        """What can be done now, and why not."""
        ui, name = self.ui, self.ui.nameEdit.text.strip()
        reason = ""
        if not Path(ui.dataEdit.currentPath or "-").is_dir():
            reason = _("Choose the folder with your images.")
        elif not name:
            reason = _("Give the model a name.")
        ui.adaptButton.enabled = self.running or not reason
        begun = bool(name) and not reason and (runFolder(name) / "checkpoint.pt").is_file()
        ui.adaptButton.text = _("Cancel") if self.running else _("Go on") if begun else _("Adapt to my data")
        for widget in (ui.dataEdit, ui.nameEdit, ui.baseComboBox, ui.stepsSpinBox, ui.spacingSpinBox):
            widget.enabled = not self.running
        if reason and not self.running:
            ui.stageLabel.text = reason

    def onAdapt(self) -> None:
        """Start or go on, or cancel what runs."""
        ui = self.ui
        if self._process is not None:
            ui.stageLabel.text = _("Cancelling; what was learned so far stays for the next time.")
            ui.adaptButton.enabled = False
            self._process.cancel()
            return
        name = ui.nameEdit.text.strip()
        request = {
            "data": ui.dataEdit.currentPath,
            "folder": str(runFolder(name)),
            "name": name,
            "base": ui.baseComboBox.currentText,
            "steps": ui.stepsSpinBox.value,
            "spacing_mm": ui.spacingSpinBox.value,
        }
        self._end = {}
        try:
            dependencies.ensure()
            process = BatchProcess(request, self._onEvent, self._onEnd, MODULE)
            process.start()
        except MasrError as error:
            showError(error)
            return
        self._process = process
        ui.stageLabel.text = _("Starting")
        ui.progressBar.value = 0
        self.update()

    def _onEvent(self, event: dict[str, Any]) -> None:
        if event["type"] == "end":
            self._end = event
        if event["type"] != "progress":
            return
        ui, left = self.ui, event["eta_s"]
        ui.progressBar.value = round(100 * event["fraction"])
        told = {
            "reading": _("Reading the images"),
            "measuring before": _("Measuring the model as it is"),
            "adapting": _("Adapting: step {step}").format(step=event["step"]),
            "measuring after": _("Measuring the adapted model"),
            "done": _("Done"),
        }[event["stage"]]
        if left:
            told += _(", about {minutes} min left").format(minutes=max(1, round(left / 60)))
        ui.stageLabel.text = told

    def _onEnd(self, error: MasrError | None) -> None:
        self._process = None
        self.refreshModels()
        self.update()
        label = self.ui.stageLabel
        if error is None:
            label.text = self._sentence()
        elif error.code == "cancelled":
            label.text = _("Cancelled; press Go on to continue where it was.")
        else:
            label.text = str(error).partition("\n")[0]
            showError(error)

    def _sentence(self) -> str:
        joined = self._end["numbers"]["masr"]
        found = _(
            "Of the places that were held back, {before:.1f} % were found before and {after:.1f} % after."
        ).format(before=100 * joined["hits_before"], after=100 * joined["hits_after"])
        if self._end["kept"]:
            return f"{found} " + _("The model is kept; choose the representation masr-adapted to use it.")
        return f"{found} " + _(
            "That is no clear improvement: the model was not kept, and nothing has changed."
        )

    # The models

    def refreshModels(self) -> None:
        """Show what there is."""
        ui = self.ui
        try:
            own, shipped, used = models.adapted(), models.shipped(), models.in_use()
        except MasrError as error:
            ui.modelLabel.text = str(error)
            return
        chosen, base = ui.modelComboBox.currentText, ui.baseComboBox.currentText
        ui.modelComboBox.clear()
        ui.modelComboBox.addItems(list(own))
        ui.baseComboBox.clear()
        ui.baseComboBox.addItems([*(n for n, m in shipped.items() if m.kind == "masr"), *own])
        for box, text in ((ui.modelComboBox, chosen or used or ""), (ui.baseComboBox, base)):
            if text and box.findText(text) >= 0:
                box.currentIndex = box.findText(text)
        self._onModel()

    def _onModel(self, *_ignored: Any) -> None:
        ui, name = self.ui, self.ui.modelComboBox.currentText
        used = models.in_use()
        ui.useButton.enabled = bool(name) and name != used
        ui.removeButton.enabled = bool(name)
        if not name:
            ui.modelLabel.text = _("No model is adapted on this computer.")
            return
        model = models.adapted()[name]
        note = _("In use as masr-adapted.") if name == used else _("Not in use.")
        ui.modelLabel.text = f"{model.description}. {note}"

    def onUse(self) -> None:
        self._change(models.use)

    def onRemove(self) -> None:
        """Remove the chosen model and its card."""
        name = self.ui.modelComboBox.currentText
        if slicer.util.confirmOkCancelDisplay(_('Remove the model "{name}"?').format(name=name)):
            self._change(models.remove)

    def _change(self, change: Callable[[str], None]) -> None:
        try:
            change(self.ui.modelComboBox.currentText)
        except MasrError as error:
            showError(error)
        self.refreshModels()
