"""The path of a new user: the steps of Docs/tutorial.md, in their order and with their names."""

import re
from pathlib import Path
from unittest import mock

import numpy as np
import slicer
import vtk
from application.module_case import ModuleCase, movedPoints
from masr_registration import demo
from MASRRegistrationLib.gui import sample
from MASRRegistrationLib.mrml import layouts

TUTORIAL = Path(__file__).resolve().parents[2] / "Docs" / "tutorial.md"
NEAR = np.array([0.0, 0.0, 12.0])
"""Where the landmark goes, from the middle of the fixed brain, RAS mm."""


class TutorialTest(ModuleCase):
    STEPS = (
        ("Load the sample", "loadSample"),
        ("Register", "registerSample"),
        ("Look", "look"),
        ("Drag a landmark", "dragLandmark"),
        ("Apply to a segmentation", "applyToSegmentation"),
        ("Save", "save"),
        ("Restart and open it again", "restart"),
        ("Revert", "revert"),
    )

    def close(self):
        self.tabs.check.closeViews()
        self.tabs.landmarks.cleanup()
        super().close()

    def test_the_tutorial_has_these_steps(self):
        headings = re.findall(r"^## (\d+)\. (.+)$", TUTORIAL.read_text(encoding="utf-8"), re.MULTILINE)
        self.assertEqual(headings, [(str(n), title) for n, (title, _step) in enumerate(self.STEPS, start=1)])

    def test_the_path_of_a_new_user(self):
        with mock.patch("slicer.util.confirmOkCancelDisplay", return_value=True):
            for title, step in self.STEPS:
                print(f"step: {title}")
                getattr(self, step)()
                self.assertEqual(self.errors, [], title)

    def loadSample(self):
        (source,) = slicer.modules.sampleDataSources[sample.CATEGORY]
        get = source.get if isinstance(source, dict) else lambda name: getattr(source, name)
        with mock.patch("slicer.util.setSliceViewerLayers"):
            get("customDownloader")(source)
        self.fixed = slicer.util.getNode("MASR sample T1")
        self.moving = slicer.util.getNode("MASR sample T2 moved")

    def registerSample(self):
        """At half the tutorial's resolution, which takes a seventh of the time."""
        self.ui.fixedSelector.setCurrentNode(self.fixed)
        self.ui.movingSelector.setCurrentNode(self.moving)
        self.parameters.preset = demo.PRESET
        self.parameters.workingSpacing = 2.0
        self.register()
        self.transform = self.parameters.outputTransform
        self.assertIsNotNone(self.transform, self.ui.statusLabel.text)

    def look(self):
        check = self.tabs.check
        self.assertEqual(self.tabs.widget.currentIndex, 1)
        self.verdict = check.ui.resultLabel.text
        self.assertTrue(self.verdict.startswith("Plausible"), self.verdict)
        self.waitUntil(lambda: check.comparison.map is not None)
        self.assertEqual(check.comparison.map.folds, [])
        self.assertGreater(check.comparison.map.magnitude.max(), 2.0)
        check.ui.contentComboBox.currentIndex = 2
        for logic in layouts.sliceLogics(layouts.AFTER):
            shown = slicer.mrmlScene.GetNodeByID(logic.GetSliceCompositeNode().GetForegroundVolumeID())
            self.assertEqual(shown.GetName(), "Displacement in mm")

    def dragLandmark(self):
        ui = self.tabs.landmarks.ui
        ui.placeFixedButton.click()
        fixedList, movingList = self.parameters.fixedLandmarks, self.parameters.movingLandmarks
        bounds = np.zeros(6)
        self.fixed.GetRASBounds(bounds)
        place = bounds.reshape(3, 2).mean(axis=1) + NEAR
        fixedList.AddControlPoint(vtk.vtkVector3d(*place.tolist()))
        self.assertEqual(movingList.GetNumberOfControlPoints(), 1)
        expected = movedPoints(self.transform, [place])[0]
        suggested = np.zeros(3)
        movingList.GetNthControlPointPositionWorld(0, suggested)
        print(f"suggested {np.linalg.norm(suggested - expected):.1f} mm from where the result leads")
        self.assertLess(np.linalg.norm(suggested - expected), 6.0)
        movingList.SetNthControlPointPositionWorld(0, *(expected + np.array([0.0, 3.0, 0.0])))
        self.assertAlmostEqual(float(ui.landmarkTable.item(0, 4).text()), 3.0, delta=0.02)
        self.assertFalse(ui.acceptButton.enabled)

    def applyToSegmentation(self):
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Brain of the T2")
        node.SetReferenceImageGeometryParameterFromVolumeNode(self.moving)
        node.GetSegmentation().AddEmptySegment("brain", "brain")
        brain = (slicer.util.arrayFromVolume(self.moving) > 0).astype(np.uint8)
        slicer.util.updateSegmentBinaryLabelmapFromArray(brain, node, "brain", self.moving)
        slicer.app.processEvents()
        result = self.tabs.result.ui
        items = [result.nodeList.item(row) for row in range(result.nodeList.count)]
        (item,) = [item for item in items if item.text() == "Brain of the T2"]
        item.setSelected(True)
        result.applyToButton.click()
        self.assertIs(node.GetParentTransformNode(), self.transform)
        mine = slicer.util.arrayFromVolume(self.fixed) > 0
        moved = slicer.util.arrayFromSegmentBinaryLabelmap(node, "brain", self.fixed) > 0
        overlap = 2 * (mine & moved).sum() / (mine.sum() + moved.sum())
        print(f"Dice of the moved brain {overlap:.3f}")
        self.assertGreater(overlap, 0.9)

    def save(self):
        self.path = str(self.folder / "sample.mrb")
        self.assertTrue(slicer.util.saveScene(self.path))

    def restart(self):
        """Inside one application a new scene stands for the new start."""
        slicer.mrmlScene.Clear(False)
        self.assertIn("no result", self.tabs.check.ui.resultLabel.text)
        self.reopen()

    def reopen(self):
        """Everything is found again; also in a new process."""
        slicer.util.loadScene(self.path)
        self.transform = self.parameters.outputTransform
        self.assertEqual(self.tabs.check.ui.resultLabel.text, self.verdict)
        self.assertEqual(self.parameters.fixedVolume.GetName(), "MASR sample T1")
        self.assertAlmostEqual(float(self.tabs.landmarks.ui.landmarkTable.item(0, 4).text()), 3.0, delta=0.02)
        node = slicer.util.getNode("Brain of the T2")
        self.assertIs(node.GetParentTransformNode(), self.transform)
        helpers = [n.GetName() for n in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")]
        self.assertEqual(
            sorted(helpers),
            ["MASR sample T1", "MASR sample T2 moved", self.parameters.outputVolume.GetName()],
        )

    def revert(self):
        names = [self.transform.GetName(), self.parameters.outputVolume.GetName()]
        self.tabs.result.ui.revertButton.click()
        self.assertIsNone(slicer.util.getNode("Brain of the T2").GetParentTransformNode())
        for name in names:
            self.assertEqual(slicer.mrmlScene.GetNodesByName(name).GetNumberOfItems(), 0)
        self.assertIsNone(self.parameters.outputTransform)
        self.assertEqual(self.parameters.fixedLandmarks.GetNumberOfControlPoints(), 1)
