"""Every button of the module: when it can be pressed, and when not."""

from unittest import mock

import slicer
from application.module_case import ModuleCase

EMPTY, CHOSEN, RESULT = 1, 2, 4
ALWAYS = EMPTY | CHOSEN | RESULT
USABLE = {
    "register.applyButton": CHOSEN | RESULT,
    "register.copyLogButton": ALWAYS,
    "advanced.resetButton": 0,
    "advanced.saveButton": 0,
    "advanced.deleteButton": RESULT,  # an own preset is chosen then
    "help.sampleButton": ALWAYS,
    "help.diagnoseButton": ALWAYS,
    "help.copyDiagnosisButton": 0,
    "result.applyToButton": 0,
    "result.inverseButton": RESULT,
    "result.dicomButton": RESULT,
    "result.revertButton": RESULT,
    "result.copyButton": RESULT,
    "check.compareButton": RESULT,
    "check.oneUpButton": RESULT,
    "check.closeButton": RESULT,
    "check.measureButton": 0,
    "check.reportButton": RESULT,
    "landmarks.placeFixedButton": CHOSEN | RESULT,
    "landmarks.placeMovingButton": CHOSEN | RESULT,
    "landmarks.viewsButton": CHOSEN | RESULT,
    "landmarks.prepareButton": CHOSEN,  # a registration prepares them by itself
    "landmarks.acceptButton": 0,
    "landmarks.correctButton": 0,
    "landmarks.rejectButton": 0,
    "landmarks.importFixedButton": CHOSEN | RESULT,
    "landmarks.importMovingButton": CHOSEN | RESULT,
    "landmarks.exportButton": 0,
    "batch.makeButton": ALWAYS,
    "batch.runButton": 0,
    "batch.loadButton": 0,
    "batch.reportButton": 0,
    "batch.cohortButton": 0,
}
"""In an empty scene, with two volumes, and with their result. Each button is pressed in the tests of its tab."""


class ButtonTest(ModuleCase):
    def parts(self):
        tabs = self.tabs
        return {
            "register": tabs.register,
            "advanced": tabs.register.advanced,
            "help": tabs.register.help,
            "result": tabs.result,
            "check": tabs.check,
            "landmarks": tabs.landmarks,
            "batch": tabs.batch,
        }

    def buttons(self):
        return {
            f"{name}.{widget.name}": widget
            for name, part in self.parts().items()
            for widget in vars(part.ui).values()
            if getattr(widget, "className", str)() == "QPushButton"
        }

    def usable(self):
        hidden = {"result": self.tabs.result.ui.resultWidget, "check": self.tabs.check.ui.checkWidget}
        found = set()
        for name, button in self.buttons().items():
            container = hidden.get(name.partition(".")[0])
            if button.enabled and not button.isHidden() and not (container and container.isHidden()):
                found.add(name)
        return found

    def expected(self, state):
        return {name for name, states in USABLE.items() if states & state}

    def test_every_button_can_be_pressed_when_it_should_and_only_then(self):
        self.advancedUi.presetNameEdit.text = ""
        for edit in (self.tabs.batch.ui.manifestEdit, self.tabs.batch.ui.outputEdit):
            edit.currentPath = ""
        self.assertEqual(set(self.buttons()), set(USABLE))
        self.assertEqual(self.usable(), self.expected(EMPTY))
        self.choosePair()
        self.assertEqual(self.usable(), self.expected(CHOSEN))
        self.choosePreset()
        self.ui.applyButton.click()
        self.assertEqual(self.ui.applyButton.text, "Cancel")
        self.assertFalse(self.panel.help.ui.sampleButton.enabled)
        for section in ("inputsButton", "masksButton", "outputsButton", "advancedButton"):
            self.assertFalse(getattr(self.ui, section).enabled, section)
        self.waitUntilIdle()
        self.assertEqual(self.errors, [])
        self.assertEqual(self.usable(), self.expected(RESULT))
        self.check_close()
        with mock.patch("slicer.util.confirmOkCancelDisplay", return_value=True):
            self.tabs.result.ui.revertButton.click()
        slicer.app.processEvents()
        wanted = self.expected(CHOSEN) | {"advanced.deleteButton"}
        self.assertEqual(self.usable() - {"landmarks.prepareButton"}, wanted - {"landmarks.prepareButton"})

    def check_close(self):
        """The views can be closed while they are open."""
        check = self.tabs.check
        check.ui.closeButton.click()
        self.assertFalse(check.ui.closeButton.enabled)
        check.ui.compareButton.click()
        self.assertTrue(check.ui.closeButton.enabled)
