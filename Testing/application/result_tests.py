"""What can be done with a result: see how it was made, move things along, invert it, take it back."""

import json
from unittest import mock

import numpy as np
import slicer
from application.module_case import CORNERS, SHIFT_RAS, ModuleCase, shiftError
from masr_registration.presets import Preset


class ResultTest(ModuleCase):
    def setUp(self):
        super().setUp()
        self.questions, self.answer = [], True
        ask = mock.patch("slicer.util.confirmOkCancelDisplay", self.onQuestion)
        ask.start()
        self.addCleanup(ask.stop)
        self.result, self.resultUi = self.tabs.result, self.tabs.result.ui

    def onQuestion(self, text, *args, **options):
        self.questions.append(text)
        return self.answer

    def registered(self):
        """A pair with a linear result, and points in the moving volume."""
        fixed, moving = self.choosePair()
        self.choosePreset()
        points = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Points")
        slicer.util.updateMarkupsControlPointsFromArray(points, CORNERS + SHIFT_RAS)
        self.register()
        self.assertEqual(self.errors, [])
        return fixed, moving, points

    def select(self, *nodes):
        """Click the nodes in the list, as it stands after the events of the scene."""
        slicer.app.processEvents()
        nodeList = self.resultUi.nodeList
        names = [nodeList.item(row).text() for row in range(nodeList.count)]
        for node in nodes:
            nodeList.item(names.index(node.GetName())).setSelected(True)
        return names

    def places(self, points):
        return slicer.util.arrayFromMarkupsControlPoints(points, world=True)

    def fail_(self, transform):
        """What a folded result looks like in the scene."""
        content = json.loads(transform.GetAttribute("MASR.Result"))
        content["verdict"] = {"level": "failed", "reasons": ["The transform folds in 3 places."]}
        transform.SetAttribute("MASR.Result", json.dumps(content))

    def test_nothing_without_a_result(self):
        self.choosePair()
        self.assertIn("no result yet", self.resultUi.verdictLabel.text)
        self.assertTrue(self.resultUi.resultWidget.isHidden())
        self.assertIn("not a medical device", self.resultUi.disclaimerLabel.text)
        self.assertFalse(self.resultUi.revertButton.enabled)
        self.assertFalse(self.resultUi.applyToButton.enabled)

    def test_how_it_was_made(self):
        self.registered()
        text = self.resultUi.provenanceEdit.toPlainText()
        for words in (
            "Fixed: T1, 32 x 32 x 32 voxels of 2.5 x 2.5 x 2.5 mm",
            "Preset: quick",
            "seed 0",
            "Date: ",
        ):
            self.assertIn(words, text)
        made = json.loads(text[text.index("{") :])
        self.assertEqual(
            made, json.loads(self.parameters.outputTransform.GetAttribute("MASR.Result"))["provenance"]
        )
        for key in (
            "preset",
            "plan",
            "seed",
            "threads",
            "device",
            "torch",
            "numpy",
            "masr_version",
            "fixed",
            "moving",
        ):
            self.assertIn(key, made)
        self.resultUi.copyButton.click()
        self.assertEqual(slicer.app.clipboard().text(), text)
        self.assertRegex(self.resultUi.verdictLabel.text, "^(Plausible|Doubtful|Failed)")

    def test_a_run_can_be_repeated_from_what_is_kept(self):
        fixed, moving, _points = self.registered()
        first = self.parameters.outputTransform
        made = json.loads(first.GetAttribute("MASR.Result"))["provenance"]
        preset = Preset.from_json(json.dumps({"masr_preset": 1, **made["preset"]}))
        options = {name: made[name] for name in ("seed", "threads", "device")}
        again = self.widget.logic.register(fixed, moving, preset, **options)
        self.assertIsNot(again.transformNode, first)
        np.testing.assert_array_equal(
            *(slicer.util.arrayFromTransformMatrix(node) for node in (first, again.transformNode))
        )
        repeated = json.loads(again.transformNode.GetAttribute("MASR.Result"))["provenance"]
        for volume in ("fixed", "moving"):
            self.assertEqual(repeated[volume]["sha256"], made[volume]["sha256"])

    def test_a_modified_preset_is_called_so(self):
        self.choosePair()
        self.chooseInstantPreset()
        self.parameters.preset = "general"
        for name, value in (
            ("linearModel", "none"),
            ("discreteEnabled", False),
            ("continuousEnabled", False),
        ):
            setattr(self.parameters, name, value)
        self.register()
        self.assertEqual(self.errors, [])
        self.assertIn("Preset: general (modified)", self.resultUi.provenanceEdit.toPlainText())

    def test_apply_to_points(self):
        _fixed, moving, points = self.registered()
        self.assertFalse(self.resultUi.applyToButton.enabled)
        self.assertIn("Select", self.resultUi.applyToLabel.text)
        names = self.select(points, moving)
        self.assertEqual(sorted(names), ["Points", "T2"])
        self.assertTrue(self.resultUi.applyToButton.enabled)
        self.resultUi.applyToButton.click()
        self.assertEqual((self.errors, self.questions), ([], []))
        for node in (moving, points):
            self.assertIs(node.GetParentTransformNode(), self.parameters.outputTransform)
        self.assertLess(np.abs(self.places(points) - CORNERS).max(), 2.0)

    def test_apply_hardened(self):
        _fixed, moving, points = self.registered()
        self.resultUi.hardenCheckBox.checked = True
        self.assertTrue(self.parameters.hardenApplied)
        self.select(points, moving)
        self.resultUi.applyToButton.click()
        self.assertEqual(self.errors, [])
        copy = slicer.util.getNode("Points registered to T1")
        self.assertLess(np.abs(self.places(copy) - CORNERS).max(), 2.0)
        np.testing.assert_allclose(self.places(points), CORNERS + SHIFT_RAS)
        hardened = slicer.util.getFirstNodeByName("T2 registered to T1_1")
        np.testing.assert_allclose(
            slicer.util.arrayFromVolume(hardened),
            slicer.util.arrayFromVolume(self.parameters.outputVolume),
            atol=1,
        )

    def test_what_is_applied_goes_where_simpleitk_takes_it(self):
        """By the transform as Slicer saves it."""
        import SimpleITK as sitk

        fixed, moving, points = self.registered()
        transform = self.parameters.outputTransform
        files = {}
        for name, node, ending in (("t", transform, "h5"), ("f", fixed, "nrrd"), ("m", moving, "nrrd")):
            files[name] = str(self.folder / f"{name}.{ending}")
            self.assertTrue(slicer.util.saveNode(node, files[name]))
        truth = sitk.ReadTransform(files["t"])
        image = sitk.ReadImage(files["m"])
        low = float(sitk.GetArrayViewFromImage(image).min())
        expected = sitk.Resample(image, sitk.ReadImage(files["f"]), truth, sitk.sitkLinear, low)
        self.resultUi.hardenCheckBox.checked = True
        self.select(points, moving)
        self.resultUi.applyToButton.click()
        self.assertEqual(self.errors, [])
        hardened = slicer.util.getFirstNodeByName("T2 registered to T1_1")
        difference = slicer.util.arrayFromVolume(hardened) - sitk.GetArrayFromImage(expected)
        self.assertLess(np.percentile(np.abs(difference), 99), 0.1)
        flip = np.array([-1.0, -1.0, 1.0])
        moved = self.places(slicer.util.getNode("Points registered to T1"))
        back = [truth.TransformPoint(place) for place in (moved * flip).tolist()]
        np.testing.assert_allclose(np.array(back) * flip, CORNERS + SHIFT_RAS, atol=0.01)

    def test_cancelled_half_way(self):
        _fixed, moving, points = self.registered()
        self.resultUi.hardenCheckBox.checked = True
        names = self.select(points, moving)
        nodes = slicer.mrmlScene.GetNumberOfNodes()
        with mock.patch("qt.QProgressDialog", CancelledAfter(1)):
            self.resultUi.applyToButton.click()
        self.assertEqual(self.errors, [])
        self.assertIn("Cancelled: 0 of 2 were moved", self.resultUi.appliedLabel.text)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), nodes)
        with mock.patch("qt.QProgressDialog", CancelledAfter(2)):  # when the volume has just been moved
            self.resultUi.applyToButton.click()
        self.assertIn("Cancelled: 1 of 2 were moved", self.resultUi.appliedLabel.text)
        slicer.app.processEvents()  # the list of what can be moved is made anew
        self.assertIn("Cancelled: 1 of 2", self.resultUi.appliedLabel.text)
        self.select(*[node for node in (points, moving) if node.GetName() in names])
        self.resultUi.applyToButton.click()
        self.assertEqual(self.resultUi.appliedLabel.text, "2 moved.")

    def test_a_failed_result_is_asked_about_before_anything_moves(self):
        _fixed, _moving, points = self.registered()
        self.fail_(self.parameters.outputTransform)
        self.select(points)
        self.answer = False
        self.resultUi.applyToButton.click()
        self.assertIn("folds in 3 places", self.questions[0])
        self.assertIsNone(points.GetParentTransformNode())
        self.answer = True
        self.resultUi.applyToButton.click()
        self.assertIs(points.GetParentTransformNode(), self.parameters.outputTransform)

    def test_one_that_cannot_be_moved_stops_all(self):
        _fixed, _moving, points = self.registered()
        other = slicer.util.addVolumeFromArray(np.zeros((4, 4, 4)), name="<Other>")
        warp = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode", "Warp")
        other.SetAndObserveTransformNodeID(warp.GetID())
        self.select(points, other)
        self.resultUi.applyToButton.click()
        self.assertIn("deforms it", self.errors[0])
        self.assertIn("&lt;Other&gt;", self.errors[0])
        self.assertIsNone(points.GetParentTransformNode())

    def test_inverse(self):
        fixed, _moving, _points = self.registered()
        self.resultUi.inverseButton.click()
        inverse = slicer.util.getNode("T1 to T2")
        fixed.SetAndObserveTransformNodeID(inverse.GetID())
        forth = self.parameters.outputTransform.GetTransformFromParent()
        for corner in CORNERS.tolist():
            moved = inverse.GetTransformToParent().TransformPoint(corner)
            np.testing.assert_allclose(moved, forth.TransformPoint(corner), atol=1e-6)

    def test_revert(self):
        _fixed, moving, points = self.registered()
        self.select(points, moving)
        self.resultUi.applyToButton.click()
        self.resultUi.inverseButton.click()
        self.answer = False
        self.resultUi.revertButton.click()
        self.assertIsNotNone(self.parameters.outputTransform)
        self.answer = True
        self.resultUi.revertButton.click()
        for name in ("T2 to T1", "T2 registered to T1", "T1 to T2"):
            self.assertIn(name, self.questions[-1])
            self.assertIsNone(slicer.util.getFirstNodeByName(name))
        self.assertIsNone(moving.GetParentTransformNode())
        np.testing.assert_allclose(self.places(points), CORNERS + SHIFT_RAS)
        self.assertIsNone(self.parameters.outputTransform)
        self.assertIsNone(self.parameters.outputVolume)
        self.assertIn("Reverted", self.ui.statusLabel.text)
        self.assertTrue(self.resultUi.resultWidget.isHidden())
        self.assertTrue(self.ui.applyButton.enabled)

    def test_revert_the_second_registration(self):
        _fixed, moving, _points = self.registered()
        transform = self.parameters.outputTransform
        first = slicer.util.arrayFromTransformMatrix(transform)
        warped = slicer.util.arrayFromVolume(self.parameters.outputVolume).copy()
        self.chooseInstantPreset()
        self.register()
        self.assertGreater(shiftError(transform), 4.0)
        self.resultUi.revertButton.click()
        self.assertIs(self.parameters.outputTransform, transform)
        np.testing.assert_array_equal(slicer.util.arrayFromTransformMatrix(transform), first)
        np.testing.assert_array_equal(slicer.util.arrayFromVolume(self.parameters.outputVolume), warped)
        self.assertIn("Preset: quick", self.resultUi.provenanceEdit.toPlainText())
        self.assertIsNone(moving.GetParentTransformNode())

    def test_saved_reopened_and_reverted(self):
        self.registered()
        self.select(slicer.util.getNode("Points"))
        self.resultUi.applyToButton.click()
        text = self.resultUi.provenanceEdit.toPlainText()
        path = str(self.folder / "scene.mrb")
        self.assertTrue(slicer.util.saveScene(path))
        slicer.mrmlScene.Clear(False)
        self.assertTrue(self.resultUi.resultWidget.isHidden())
        slicer.util.loadScene(path)
        self.assertEqual(self.resultUi.provenanceEdit.toPlainText(), text)
        self.resultUi.revertButton.click()
        points = slicer.util.getNode("Points")
        self.assertIsNone(points.GetParentTransformNode())
        self.assertIsNone(self.parameters.outputTransform)
        self.assertIsNone(slicer.util.getFirstNodeByName("T2 registered to T1"))


class CancelledAfter:
    """A progress dialog whose Cancel is pressed at the given step; it is its own class."""

    def __init__(self, step):
        self.left = step

    def __call__(self, *args):
        self.count = self.left
        return self

    @property
    def wasCanceled(self):
        self.count -= 1
        return self.count < 1

    def delete(self):
        pass
