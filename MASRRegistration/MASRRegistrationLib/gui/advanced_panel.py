"""The preset, what it sets under Advanced, and the user's own presets."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from masr_registration.errors import InputError, MasrError
from masr_registration.presets import Preset
from slicer.i18n import tr as _

from ..mrml.expectation import Expectation
from . import preset_library, settings
from .messages import showError
from .tab import Tab


class AdvancedPanel(Tab):
    """`presetComboBox` and `presetLabel` (what the preset is for and what it costs) lie outside of the panel.

    A change of the parameter `preset` fills the Advanced values from it; a scene that is loaded brings its own.
    """

    file = "AdvancedPanel.ui"

    def __init__(self, resourcePath: Callable[[str], str], presetComboBox: Any, presetLabel: Any) -> None:
        super().__init__(resourcePath)
        self._comboBox, self._label = presetComboBox, presetLabel
        self._filledFrom = ""
        self._updating = False
        ui = self.ui
        ui.presetFileEdit.currentPath = ""  # it may have begun with a path of its history
        self._comboBox.connect("currentIndexChanged(int)", self.onPresetChosen)
        ui.resetButton.connect("clicked(bool)", self.onReset)
        ui.saveButton.connect("clicked(bool)", self.onSave)
        ui.deleteButton.connect("clicked(bool)", self.onDelete)
        ui.presetNameEdit.connect("textChanged(QString)", self.update)
        ui.presetFileEdit.connect("currentPathChanged(QString)", self.onFileChosen)

    def preset(self) -> Preset:
        """With the Advanced values in it. Raises `InputError` when it is not there (any more) or damaged."""
        return settings.effective(self.parameters, self._base())

    def parametersChanged(self, parameters: Any) -> None:
        again = parameters is not None and parameters is self.parameters
        super().parametersChanged(parameters)
        if parameters is None or self._updating:
            return
        changed = again and parameters.preset != self._filledFrom
        self._filledFrom = parameters.preset
        if changed:
            self.onReset()
        self.update()

    def update(self) -> None:
        """Show the presets there are, what the chosen one is for, and whether its values were changed."""
        if self.parameters is None:
            return
        ui, name = self.ui, self.parameters.preset
        self._listPresets(name)
        try:
            base: Preset | None = self._base()
            changed = settings.modified(self.parameters, base)
            note = _("Modified under Advanced.") if changed else ""
            self._label.text = " ".join(
                text for text in (base.description, note, self._expectation()) if text
            )
        except InputError as error:
            base, changed = None, []
            self._label.text = str(error)
        ui.modifiedLabel.text = _("Modified.") if changed else _("As in the preset.")
        ui.resetButton.enabled = bool(changed)
        ui.saveButton.enabled = base is not None and bool(ui.presetNameEdit.text.strip())
        ui.deleteButton.enabled = name in preset_library.own()

    def onPresetChosen(self) -> None:
        if self.parameters is not None and not self._updating and self._comboBox.currentIndex >= 0:
            self.parameters.preset = self._comboBox.currentText

    def onReset(self) -> None:
        """All values as in the preset."""
        try:
            preset = self._base()
        except InputError:
            return  # said in the label
        self._updating = True
        try:
            settings.fill(self.parameters, preset)
        finally:
            self._updating = False
        self.update()

    def onSave(self) -> None:
        """Keep the values as one of the user's own presets."""
        try:
            name = preset_library.save(self.preset(), self.ui.presetNameEdit.text)
        except MasrError as error:
            showError(error)
            return
        self.ui.presetNameEdit.text = ""
        self._choose(name)

    def onDelete(self) -> None:
        """Remove the chosen preset, one of the user's own; the values stay."""
        from .parameters import DEFAULT_PRESET

        preset_library.delete(self.parameters.preset)
        self._filledFrom = DEFAULT_PRESET  # so that the values stay
        self.parameters.preset = DEFAULT_PRESET
        self.update()

    def onFileChosen(self, path: str) -> None:
        """Take over the preset of a file as one of the user's own."""
        if not path:
            return
        try:
            name = preset_library.importFile(path)
        except MasrError as error:
            showError(error)
            return
        finally:
            self.ui.presetFileEdit.currentPath = ""
        self._choose(name)

    def _choose(self, name: str) -> None:
        """Choose a preset that was just written, also when one of that name was chosen already."""
        self._filledFrom = ""
        self.parameters.preset = name
        self.parametersChanged(self.parameters)

    def _base(self) -> Preset:
        return preset_library.load(self.parameters.preset)

    def _listPresets(self, name: str) -> None:
        """One that is not on this computer is listed as well, so that what the scene says is seen."""
        wanted = preset_library.names()
        wanted += [name] if name not in wanted else []
        box = self._comboBox
        self._updating = True
        try:
            if [box.itemText(row) for row in range(box.count)] != wanted:
                box.clear()
                box.addItems(wanted)
            box.currentIndex = wanted.index(name)
        finally:
            self._updating = False

    def _expectation(self) -> str:
        """What the run will cost on this computer, empty until both volumes are chosen."""
        parameters = self.parameters
        threads = parameters.threads or os.cpu_count() or 1
        expected = Expectation.of(parameters.fixedVolume, parameters.movingVolume, self.preset(), threads)
        if expected is None:
            return ""
        text = _(
            "Expect up to about {time} and {gigabytes:.1f} GB of memory here, with {threads} threads"
        ).format(time=_durationText(expected.seconds), gigabytes=expected.megabytes / 1000, threads=threads)
        faster = "" if parameters.device == "cpu" else _("; less time on a graphics card")
        return f"{text}{faster}."


def _durationText(seconds: float) -> str:
    if seconds < 90:
        return _("{n} s").format(n=max(1, round(seconds)))
    return _("{n} min").format(n=round(seconds / 60))
