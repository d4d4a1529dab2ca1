"""The Check tab: what it says of a result, what its views show, what it measures and writes."""

import re
from unittest import mock

import numpy as np
import slicer
from application.module_case import ModuleCase, addPair
from MASRRegistrationLib.mrml import layouts


class CheckTest(ModuleCase):
    def setUp(self):
        super().setUp()
        self.check, self.checkUi = self.tabs.check, self.tabs.check.ui

    def close(self):
        self.check.closeViews()
        super().close()

    def waitForMap(self):
        self.waitUntil(lambda: self.check.comparison.map is not None)

    def composites(self, row):
        return [logic.GetSliceCompositeNode() for logic in layouts.sliceLogics(row)]

    def helpers(self):
        return [n for n in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") if n.GetHideFromEditors()]

    def test_nothing_to_check(self):
        self.choosePair()
        self.assertIn("no result to check", self.checkUi.resultLabel.text)
        self.assertTrue(self.checkUi.checkWidget.isHidden())
        self.assertIn("not a medical device", self.checkUi.disclaimerLabel.text)

    def test_opened_on_completion(self):
        fixed, _moving = self.registeredPair()
        self.assertEqual(self.tabs.widget.currentIndex, 1)
        self.assertFalse(self.checkUi.checkWidget.isHidden())
        text = self.checkUi.resultLabel.text
        for words in ("No folding", "there and back", "mm on average", "structures differed", "moving image"):
            self.assertIn(words, text)
        for sentence in text.split("\n"):
            self.assertRegex(sentence, r"[.:]$")
        self.assertIsNotNone(self.check.comparison)
        for composite in self.composites(layouts.AFTER):
            self.assertEqual(composite.GetBackgroundVolumeID(), fixed.GetID())
            self.assertEqual(composite.GetForegroundVolumeID(), self.parameters.outputVolume.GetID())
        self.waitForMap()
        self.assertIn("No fold", self.checkUi.foldsLabel.text)
        self.assertTrue(self.checkUi.foldsList.isHidden())

    def test_fade_and_flicker(self):
        self.registeredPair()
        rows = self.composites(layouts.BEFORE) + self.composites(layouts.AFTER)
        self.checkUi.fadeSlider.value = 0.2
        self.assertEqual({c.GetForegroundOpacity() for c in rows}, {0.2} if rows else set())
        self.checkUi.flickerCheckBox.checked = True
        self.assertFalse(self.checkUi.fadeSlider.enabled)
        seen = set()

        def bothSeen():
            seen.update(c.GetForegroundOpacity() for c in rows)
            return not rows or {0.0, 1.0} <= seen

        self.waitUntil(bothSeen, timeout=30)
        self.checkUi.flickerCheckBox.checked = False
        self.assertTrue(self.checkUi.fadeSlider.enabled)
        self.assertEqual({c.GetForegroundOpacity() for c in rows}, {0.2} if rows else set())

    def test_contents(self):
        self.registeredPair()
        self.waitForMap()
        names = []
        for index in range(self.checkUi.contentComboBox.count):
            self.checkUi.contentComboBox.currentIndex = index
            for composite in self.composites(layouts.AFTER)[:1]:
                names.append(slicer.mrmlScene.GetNodeByID(composite.GetForegroundVolumeID()).GetName())
        if names:
            self.assertEqual(
                names,
                ["T2 registered to T1", "Checkerboard", "Displacement in mm", "Volume ratio (Jacobian)"],
            )
        self.checkUi.gridCheckBox.checked = True
        self.assertTrue(self.parameters.outputTransform.GetDisplayNode().GetVisibility2D())
        self.checkUi.closeButton.click()
        self.assertFalse(self.parameters.outputTransform.GetDisplayNode().GetVisibility2D())
        self.assertEqual(self.helpers(), [])
        self.checkUi.oneUpButton.click()
        self.assertIsNotNone(self.check.comparison)
        self.checkUi.compareButton.click()
        self.assertEqual(self.errors, [])

    def test_the_window_lives_while_the_deformation_is_sampled(self):
        self.registeredPair()
        steps = 0
        while self.check.comparison.map is None:
            self.assertIn("Sampling the deformation" if steps else "", self.checkUi.mapLabel.text)
            self.check.sampler._onTimeout()
            steps += 1
        self.assertGreater(steps, 3)

    def foldedPair(self, place):
        """A result that folds at `place` as Slicer samples it, which the run did not see."""
        self.registeredPair()
        self.waitForMap()
        self.check.closeViews()
        foldAt(self.parameters.outputTransform, place)

    def test_folds_that_slicer_finds_lower_the_verdict(self):
        self.foldedPair(np.array([10.0, -5.0, 5.0]))
        transform, resultUi = self.parameters.outputTransform, self.tabs.result.ui
        self.assertTrue(self.checkUi.resultLabel.text.startswith("Plausible"))
        self.checkUi.compareButton.click()
        self.waitForMap()
        for text in (self.checkUi.resultLabel.text, resultUi.verdictLabel.text):
            self.assertTrue(text.startswith("Failed"), text)
            self.assertIn("Sampled in Slicer, the transform folds", text)
            self.assertNotIn("No folding", text)
        self.assertEqual(transform.GetAttribute("MASR.Verdict"), "failed")
        path = str(self.folder / "scene.mrb")
        self.assertTrue(slicer.util.saveScene(path))
        slicer.mrmlScene.Clear(False)
        slicer.util.loadScene(path)
        self.assertIn("Sampled in Slicer", self.checkUi.resultLabel.text)

    def test_folds_are_looked_for_before_anything_is_moved(self):
        self.foldedPair(np.array([10.0, -5.0, 5.0]))
        moving, resultUi, questions = self.parameters.movingVolume, self.tabs.result.ui, []

        def no(text, *args, **options):
            questions.append(text)
            return False

        slicer.app.processEvents()
        resultUi.nodeList.item(0).setSelected(True)
        with mock.patch("slicer.util.confirmOkCancelDisplay", no):
            resultUi.applyToButton.click()
            resultUi.inverseButton.click()
        self.assertEqual(len(questions), 2)
        for question in questions:
            self.assertIn("Sampled in Slicer, the transform folds", question)
        self.assertIsNone(moving.GetParentTransformNode())
        self.assertIn("nothing was moved", resultUi.appliedLabel.text)
        self.assertIsNone(slicer.util.getFirstNodeByName("T1 to T2"))

    def test_another_modules_layout_is_left_alone(self):
        self.choosePair()
        self.choosePreset()
        layout = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode")
        before, told = layout and layout.GetViewArrangement(), []
        self.ui.applyButton.click()
        self.representation.exit()
        with mock.patch("slicer.util.showStatusMessage", lambda text, *args: told.append(text)):
            self.waitUntilIdle()
        self.assertEqual(self.errors, [])
        self.assertIn('"T2 to T1" is ready to be checked', told[0])
        self.assertEqual(layout and layout.GetViewArrangement(), before)
        self.assertIsNone(self.check.comparison)
        self.waitUntil(lambda: self.check.sampler.map is not None)
        self.representation.enter()
        self.assertEqual(self.tabs.widget.currentIndex, 1)
        self.assertEqual(layout and layout.GetViewArrangement(), before)
        self.assertRegex(self.checkUi.resultLabel.text, "^(Plausible|Doubtful)")
        self.assertIn("No fold", self.checkUi.foldsLabel.text)
        self.assertIsNotNone(self.tabs.landmarks.matcher)
        self.assertIn("press Before and after", self.checkUi.mapLabel.text)
        self.checkUi.compareButton.click()
        self.assertEqual(self.checkUi.mapLabel.text, "")
        self.assertIsNotNone(self.check.comparison.map)

    def test_folds_are_listed_and_shown(self):
        place = np.array([10.0, -5.0, 5.0])
        self.foldedPair(place)
        self.checkUi.compareButton.click()
        self.waitForMap()
        folds = self.check.comparison.map.folds
        self.assertEqual(self.checkUi.foldsList.count, len(folds))
        self.assertIn("not one-to-one", self.checkUi.foldsLabel.text)
        self.assertLess(np.linalg.norm(folds[0].place - place), 10)
        self.checkUi.foldsList.setCurrentRow(0)
        for logic in layouts.sliceLogics(layouts.AFTER):
            toRas = slicer.util.arrayFromVTKMatrix(logic.GetSliceNode().GetSliceToRAS())
            seen = np.linalg.inv(toRas) @ [*folds[0].place, 1.0]
            np.testing.assert_allclose(seen[:3], 0, atol=1e-6)
        self.parameters.seed = 5
        self.assertEqual(self.checkUi.foldsList.currentRow, 0)

    def test_overlap_of_segments(self):
        fixed, moving = self.registeredPair()
        self.assertFalse(self.checkUi.measureButton.enabled)
        for name, volume in (("fixedSegmentation", fixed), ("movingSegmentation", moving)):
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
            node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
            node.GetSegmentation().AddEmptySegment("body", "body")
            body = (slicer.util.arrayFromVolume(volume) > 20).astype(np.uint8)
            slicer.util.updateSegmentBinaryLabelmapFromArray(body, node, "body", volume)
            setattr(self.parameters, name, node)
        self.assertTrue(self.checkUi.measureButton.enabled)
        self.checkUi.measureButton.click()
        table = self.checkUi.overlapTable
        self.assertEqual(table.rowCount, 1)
        texts = [table.item(0, column).text() for column in range(5)]
        self.assertEqual(texts[0], "body")
        self.assertGreater(float(texts[2]), float(texts[1]))
        self.assertGreater(float(texts[2]), 0.9)
        self.assertLess(float(texts[4]), float(texts[3]))

    def test_report(self):
        self.registeredPair()
        self.waitForMap()
        self.parameters.outputTransform.SetName("<b>T2</b> to T1")
        path, opened = self.folder / "report.html", []
        with (
            mock.patch("qt.QFileDialog.getSaveFileName", return_value=str(path)),
            mock.patch("qt.QDesktopServices.openUrl", lambda url: opened.append(url.toLocalFile())),
        ):
            self.checkUi.reportButton.click()
            self.assertEqual(opened, [])
            self.assertFalse(self.checkUi.reportButton.enabled)
            self.waitUntil(lambda: opened, timeout=60)
        self.assertTrue(self.checkUi.reportButton.enabled)
        self.assertEqual(opened, [str(path)])
        page = path.read_text(encoding="utf-8")
        self.assertIn("default-src 'none'", page)
        self.assertIn("&lt;b&gt;T2", page)
        self.assertNotIn("<b>T2", page)
        self.assertIn("not a medical device", page)
        self.assertIn("None was found", page)
        self.assertNotIn(str(self.folder), page)
        self.assertEqual(
            len(re.findall("data:image/png;base64,", page)), 6 if self.composites(layouts.AFTER) else 0
        )
        with mock.patch("qt.QFileDialog.getSaveFileName", return_value=""):
            self.checkUi.reportButton.click()
        with mock.patch(
            "qt.QFileDialog.getSaveFileName", return_value=str(self.folder / "no" / "report.html")
        ):
            self.checkUi.reportButton.click()
        self.waitUntil(lambda: self.errors, timeout=60)
        self.assertIn("could not be written", self.errors[0])

    def test_a_report_waits_for_the_views_and_for_the_folds(self):
        """Asked for while the views are closed and the deformation is not sampled yet."""
        self.registeredPair()
        self.check.closeViews()
        self.check.sampler.stop()
        path, opened, seen = self.folder / "report.html", [], []
        pictures = self.reportPictures(seen)
        with (
            mock.patch("qt.QFileDialog.getSaveFileName", return_value=str(path)),
            mock.patch("qt.QDesktopServices.openUrl", lambda url: opened.append(url.toLocalFile())),
            mock.patch("MASRRegistrationLib.mrml.check_report.pictures", pictures),
        ):
            self.checkUi.reportButton.click()
            for node in self.sliceNodes():  # the window lays the views out later
                node.SetDimensions(400, 300, 1)
            self.waitUntil(lambda: opened, timeout=60)
        self.assertIn("None was found", path.read_text(encoding="utf-8"))
        (fields,) = seen
        for node, (width, height, shown) in zip(self.sliceNodes(), fields, strict=True):
            self.assertEqual((width, height), (400, 300), node.GetName())
            self.assertGreaterEqual(shown, 80.0 - 1e-6)  # all of the volume is in sight

    def sliceNodes(self):
        rows = (layouts.BEFORE, layouts.AFTER)
        return [logic.GetSliceNode() for row in rows for logic in layouts.sliceLogics(row)]

    def reportPictures(self, seen):
        from MASRRegistrationLib.mrml import check_report

        def pictures(take=check_report.pictures):
            seen.append([(*n.GetDimensions()[:2], min(n.GetFieldOfView()[:2])) for n in self.sliceNodes()])
            return take()

        return pictures

    def test_a_report_that_nobody_waits_for_any_more(self):
        self.registeredPair()
        path, opened = self.folder / "report.html", []
        with (
            mock.patch("qt.QFileDialog.getSaveFileName", return_value=str(path)),
            mock.patch("qt.QDesktopServices.openUrl", lambda url: opened.append(url)),
        ):
            self.checkUi.reportButton.click()
            self.checkUi.closeButton.click()
            self.assertTrue(self.checkUi.reportButton.enabled)
            self.waitUntil(lambda: self.check.sampler.map is not None)
        self.assertEqual((opened, path.exists()), ([], False))

    def test_leaving_nothing_behind(self):
        self.registeredPair()
        self.waitForMap()
        self.assertTrue(self.helpers() or not self.composites(layouts.AFTER))
        with mock.patch("slicer.util.confirmOkCancelDisplay", return_value=True):
            self.tabs.result.ui.revertButton.click()
        self.assertIsNone(self.check.comparison)
        self.assertEqual(self.helpers(), [])
        self.assertIn("no result", self.checkUi.resultLabel.text)
        addPair()
        slicer.mrmlScene.Clear(False)
        self.assertEqual(self.helpers(), [])

    def test_a_scene_that_closes_while_the_views_are_open(self):
        self.registeredPair()
        slicer.mrmlScene.Clear(False)
        self.assertIsNone(self.check.comparison)
        self.waitUntil(lambda: True)
        self.assertIn("no result", self.checkUi.resultLabel.text)


def foldAt(transformNode, place):
    """Replace a transform by one that folds at `place` (RAS mm)."""
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk

    grid = vtk.vtkImageData()
    grid.SetDimensions(31, 31, 31)
    grid.SetSpacing(2, 2, 2)
    grid.SetOrigin(*(place - 30))
    k, j, i = np.indices((31, 31, 31)) - 15
    field = np.zeros((31, 31, 31, 3), np.float32)
    field[..., 0] = -30 * np.tanh(i / 2) * np.exp(-(i**2 + j**2 + k**2) / 8)
    grid.GetPointData().SetScalars(numpy_to_vtk(field.reshape(-1, 3), deep=1))
    warp = slicer.vtkOrientedGridTransform()
    warp.SetDisplacementGridData(grid)
    warp.SetInterpolationModeToCubic()
    transformNode.SetAndObserveTransformFromParent(warp)
