"""What can be set in the Register tab: every parameter both ways and through an .mrb, presets, masks, doubts."""

import json
from unittest import mock

import numpy as np
import slicer
from application.module_case import ModuleCase, addLinearTransform, addPair, quickPreset, rotation
from masr_registration import presets
from MASRRegistrationLib.gui.job import RegistrationJob

VALUES = {
    "linearModel": "rigid",
    "discreteEnabled": False,
    "continuousEnabled": False,
    "workingSpacing": 3.25,
    "regularisation": 7.5,
    "landmarkWeight": 20.0,
    "representation": "masr",
    "method": "amortized",
    "device": "cpu",
    "threads": 3,
    "seed": 11,
    "keepFiles": True,
    "hardenApplied": True,
    "useLandmarks": True,
}
"""Values of all parameters that are no nodes, other than the default."""


def addSegmentation(name, *segments):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    for segment in segments:
        node.GetSegmentation().AddEmptySegment(segment, segment)
    return node


class SettingsTest(ModuleCase):
    def setUp(self):
        super().setUp()
        self.advancedUi.presetNameEdit.text = ""  # inside Slicer the widget is that of the test before

    def widgetOf(self, name):
        """The widget of a parameter."""
        parts = (self.ui, self.advancedUi, self.tabs.result.ui, self.tabs.check.ui, self.tabs.landmarks.ui)
        widgets = [widget for part in parts for widget in vars(part).values()]
        (found,) = [w for w in widgets if w.property("SlicerParameterName") == name]
        return found

    def shown(self, name):
        """What the widget of a parameter shows."""
        widget = self.widgetOf(name)
        kind = widget.className()
        if kind == "QCheckBox":
            return widget.checked
        if kind == "QComboBox":
            return widget.currentText
        return widget.currentNode() if kind == "qMRMLNodeComboBox" else widget.value

    def enter(self, name, value):
        """Choose a value in the widget."""
        widget = self.widgetOf(name)
        kind = widget.className()
        if kind == "QCheckBox":
            widget.checked = value
        elif kind == "QComboBox":
            widget.currentIndex = widget.findText(value)
        elif kind == "qMRMLNodeComboBox":
            widget.setCurrentNode(value)
        else:
            widget.value = value

    def nodes(self):
        """A node for every parameter that is one."""
        fixed, moving = addPair()
        return {
            "fixedVolume": fixed,
            "movingVolume": moving,
            "fixedMask": addSegmentation("Organs", "Liver", "Spleen"),
            "movingMask": slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Mask"),
            "initialTransform": addLinearTransform("Start", rotation(5, (0, 0, 1))),
            "outputTransform": addLinearTransform("Result", np.eye(4)),
            "outputVolume": slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Warped"),
            "fixedSegmentation": addSegmentation("Fixed organs", "Liver"),
            "movingSegmentation": addSegmentation("Moving organs", "Liver"),
            "fixedLandmarks": slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "F"),
            "movingLandmarks": slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "M"),
        }

    def test_every_parameter_follows_its_widget_and_back(self):
        values = VALUES | self.nodes()
        others = {"preset", "fixedSegment", "movingSegment"}  # see the next test
        self.assertEqual(set(values) | others, set(self.parameters.allParameters))
        defaults = {name: getattr(self.parameters, name) for name in values}
        for name, value in values.items():
            with self.subTest(name):
                self.assertNotEqual(self.shown(name), value)
                self.enter(name, value)
                self.assertEqual(getattr(self.parameters, name), value)
                setattr(self.parameters, name, defaults[name])
                self.assertEqual(self.shown(name), defaults[name])
                setattr(self.parameters, name, value)
                self.assertEqual(self.shown(name), value)

    def test_preset_and_segments_follow_their_widgets_and_back(self):
        self.ui.presetComboBox.currentIndex = self.ui.presetComboBox.findText("brain-mr")
        self.assertEqual(self.parameters.preset, "brain-mr")
        self.parameters.preset = "general"
        self.assertEqual(self.ui.presetComboBox.currentText, "general")
        for side in ("fixed", "moving"):
            box = getattr(self.ui, f"{side}SegmentComboBox")
            self.assertTrue(box.isHidden())
            setattr(self.parameters, f"{side}Mask", addSegmentation("Organs", "Liver", "Spleen"))
            self.assertFalse(box.isHidden())
            self.assertEqual([box.itemText(n) for n in range(box.count)], ["All segments", "Liver", "Spleen"])
            box.currentIndex = 2
            self.assertEqual(getattr(self.parameters, f"{side}Segment"), "Spleen")
            setattr(self.parameters, f"{side}Segment", "Liver")
            self.assertEqual(box.currentText, "Liver")
            setattr(self.parameters, f"{side}Mask", addSegmentation("Other", "Kidney"))
            self.assertEqual(getattr(self.parameters, f"{side}Segment"), "")

    def test_every_parameter_survives_an_mrb(self):
        nodes = self.nodes()
        others = VALUES | {"preset": "brain-mr", "fixedSegment": "Spleen"}
        for name, value in (nodes | {"preset": "brain-mr"}).items():
            setattr(self.parameters, name, value)
        for name, value in others.items():
            setattr(self.parameters, name, value)
        path = str(self.folder / "scene.mrb")
        self.assertTrue(slicer.util.saveScene(path))
        slicer.mrmlScene.Clear(False)
        self.assertNotEqual(self.parameters.workingSpacing, VALUES["workingSpacing"])
        slicer.util.loadScene(path)
        for name, value in others.items():
            with self.subTest(name):
                self.assertEqual(getattr(self.parameters, name), value)
        for name, node in nodes.items():
            with self.subTest(name):
                self.assertEqual(getattr(self.parameters, name).GetName(), node.GetName())
                self.assertIs(self.shown(name), getattr(self.parameters, name))
        self.assertEqual(self.ui.fixedSegmentComboBox.currentText, "Spleen")
        self.assertEqual(self.advancedUi.modifiedLabel.text, "Modified.")

    def test_a_deleted_mask_or_start_leaves_an_empty_choice(self):
        nodes = self.nodes()
        for name in ("fixedMask", "movingMask", "initialTransform"):
            setattr(self.parameters, name, nodes[name])
            slicer.mrmlScene.RemoveNode(nodes[name])
            self.assertIsNone(getattr(self.parameters, name))

    # Presets

    def test_a_preset_fills_what_is_advanced(self):
        self.assertEqual(self.advancedUi.modifiedLabel.text, "As in the preset.")
        self.assertFalse(self.advancedUi.resetButton.enabled)
        for name in presets.names():
            self.ui.presetComboBox.currentIndex = self.ui.presetComboBox.findText(name)
            wanted = presets.load(name)
            self.assertEqual(self.parameters.workingSpacing, wanted.working_spacing_mm)
            self.assertEqual(self.parameters.representation, wanted.representation)
            self.assertEqual(self.panel.advanced.preset(), wanted)
            self.assertIn(wanted.description, self.ui.presetLabel.text)

    def test_modified_and_reset(self):
        self.enter("workingSpacing", 4.0)
        self.enter("linearModel", "none")
        self.assertEqual(self.advancedUi.modifiedLabel.text, "Modified.")
        self.assertIn("Modified under Advanced.", self.ui.presetLabel.text)
        preset = self.panel.advanced.preset()
        self.assertEqual((preset.working_spacing_mm, preset.linear.model), (4.0, "none"))
        self.advancedUi.resetButton.click()
        self.assertEqual(self.advancedUi.modifiedLabel.text, "As in the preset.")
        self.assertNotIn("Modified", self.ui.presetLabel.text)
        self.assertEqual(self.panel.advanced.preset(), presets.load("general"))
        self.assertEqual(self.shown("workingSpacing"), presets.load("general").working_spacing_mm)

    def test_the_run_gets_what_is_set(self):
        self.choosePair()
        self.chooseInstantPreset()
        for name in ("workingSpacing", "regularisation", "landmarkWeight", "device", "threads", "seed"):
            self.enter(name, VALUES[name])
        self.register()
        self.assertEqual(self.errors, [])
        made = json.loads(self.parameters.outputTransform.GetAttribute("MASR.Result"))["provenance"]
        self.assertEqual((made["seed"], made["threads"], made["device"]), (11, 3, "cpu"))
        self.assertEqual(made["preset"]["working_spacing_mm"], 3.25)
        self.assertEqual(made["preset"]["continuous"]["regularisation"], 7.5)
        self.assertEqual(made["preset"]["continuous"]["landmark_weight"], 20.0)

    def test_own_presets(self):
        self.enter("workingSpacing", 4.0)
        self.assertFalse(self.advancedUi.saveButton.enabled)
        self.assertFalse(self.advancedUi.deleteButton.enabled)
        self.advancedUi.presetNameEdit.text = " knee 4 mm "
        self.advancedUi.saveButton.click()
        self.assertEqual((self.errors, self.parameters.preset), ([], "knee 4 mm"))
        self.assertEqual(self.ui.presetComboBox.currentText, "knee 4 mm")
        self.assertEqual(self.advancedUi.modifiedLabel.text, "As in the preset.")
        stored = presets.load(self.folder / "settings" / "knee 4 mm.json")
        self.assertEqual((stored.name, stored.working_spacing_mm), ("knee 4 mm", 4.0))
        self.parameters.preset = "general"
        self.assertEqual(self.parameters.workingSpacing, 1.5)
        self.parameters.preset = "knee 4 mm"
        self.assertEqual(self.parameters.workingSpacing, 4.0)
        self.advancedUi.deleteButton.click()
        self.assertEqual(list((self.folder / "settings").iterdir()), [])
        self.assertEqual((self.parameters.preset, self.parameters.workingSpacing), ("general", 4.0))
        self.assertEqual(self.ui.presetComboBox.findText("knee 4 mm"), -1)

    def test_names_that_cannot_be_used(self):
        for name in ("general", "../evil", "a/b", "..", "x" * 65, "a:b"):
            self.advancedUi.presetNameEdit.text = name
            self.advancedUi.saveButton.click()
        self.assertEqual(len(self.errors), 6)
        self.assertIn("ships", self.errors[0])
        self.assertFalse((self.folder / "settings").exists())

    def test_a_file_becomes_an_own_preset(self):
        self.choosePair()
        self.choosePreset()
        self.assertEqual((self.errors, self.parameters.preset), ([], "quick"))
        self.assertEqual(self.advancedUi.presetFileEdit.currentPath, "")
        self.assertIn(quickPreset()["description"], self.ui.presetLabel.text)
        self.choosePreset(working_spacing_mm=6.0)
        self.assertEqual(self.parameters.workingSpacing, 6.0)
        broken = self.folder / "broken.json"
        broken.write_text("{}", encoding="utf-8")
        self.advancedUi.presetFileEdit.currentPath = str(broken)
        self.assertIn("not a preset", self.errors[0])
        self.assertEqual(self.parameters.preset, "quick")

    def test_a_preset_that_is_not_on_this_computer(self):
        self.choosePair()
        self.parameters.preset = "from elsewhere"
        self.assertEqual(self.ui.presetComboBox.currentText, "from elsewhere")
        self.assertIn('no preset "from elsewhere"', self.ui.reasonLabel.text)
        self.assertFalse(self.ui.applyButton.enabled)
        self.parameters.preset = "general"
        self.assertTrue(self.ui.applyButton.enabled)

    def test_a_folder_that_cannot_be_written(self):
        (self.folder / "settings").write_text("a file", encoding="utf-8")
        self.advancedUi.presetNameEdit.text = "mine"
        self.advancedUi.saveButton.click()
        self.assertIn("could not be written", self.errors[0])

    def test_what_a_run_costs_is_said_beforehand(self):
        self.assertNotIn("Expect", self.ui.presetLabel.text)
        self.choosePair()
        self.enter("threads", 2)
        first = self.ui.presetLabel.text
        self.assertRegex(
            first, r"Expect up to about \d+ (s|min) and \d\.\d GB of memory here, with 2 threads"
        )
        self.enter("device", "cpu")
        self.assertNotIn("graphics card", self.ui.presetLabel.text)

    # Reasons and doubts

    def test_reasons_of_masks(self):
        nodes = self.nodes()
        fixed, moving = nodes["fixedVolume"], nodes["movingVolume"]
        self.parameters.fixedVolume, self.parameters.movingVolume = fixed, moving
        self.assertEqual(self.ui.reasonLabel.text, "")
        self.parameters.fixedMask = addSegmentation("Empty")
        self.assertIn("no segments", self.ui.reasonLabel.text)
        self.parameters.fixedMask = nodes["movingMask"]
        self.assertIn("holds no image", self.ui.reasonLabel.text)
        self.parameters.fixedMask = nodes["fixedMask"]
        self.parameters.fixedSegment = "Liver"
        self.assertEqual(self.ui.reasonLabel.text, "")
        self.ui.applyButton.click()
        self.assertIn('mask "Organs" is empty', self.errors[0])
        self.assertFalse(self.panel.running)
        self.assertEqual(self.temporaryFolders(), [])

    def test_doubts_are_asked_about(self):
        fixed, moving = self.choosePair()
        self.chooseInstantPreset()
        questions = []
        fixed.SetAttribute("DICOM.PatientID", "<A>")
        moving.SetAttribute("DICOM.PatientID", "B")
        fixed.SetName("knee left")
        moving.SetName("Knee_R_T2")

        def ask(text, *args, **options):
            questions.append(text)
            return len(questions) > 1

        with mock.patch("slicer.util.confirmOkCancelDisplay", ask):
            self.ui.applyButton.click()
            self.assertFalse(self.panel.running)
            self.assertIn("&lt;A&gt;", questions[0])
            self.assertIn("left (fixed) and right (moving)", questions[0])
            self.ui.applyButton.click()
            self.assertTrue(self.panel.running)
            self.waitUntilIdle()
            moving.SetName("Knee left T2")
            moving.SetAttribute("DICOM.PatientID", "<A>")
            self.ui.applyButton.click()
        self.assertEqual(len(questions), 2)
        self.panel.job.cancel()
        self.waitUntilIdle()

    # Files

    def test_temporary_files_are_kept_on_request(self):
        self.choosePair()
        self.chooseInstantPreset()
        self.enter("keepFiles", True)
        with mock.patch.object(RegistrationJob, "keptFolder", return_value=self.folder / "kept"):
            self.register()
        self.assertEqual(self.errors, [])
        names = {path.name for path in (self.folder / "kept").rglob("*") if path.is_file()}
        self.assertLessEqual({"fixed.nrrd", "moving.nrrd", "transform.h5", "result.json"}, names)
        self.assertIn(str(self.folder / "kept"), self.ui.logEdit.toPlainText())
        self.ui.copyLogButton.click()
        self.assertEqual(slicer.app.clipboard().text(), self.ui.logEdit.toPlainText())
