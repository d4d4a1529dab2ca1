"""The Landmarks tab: suggested counterparts, live errors, files, landmarks that pull a registration."""

import json
import time
from unittest import mock

import numpy as np
import slicer
import vtk
from application.module_case import SHIFT_RAS, ModuleCase
from MASRRegistrationLib.mrml import layouts
from MASRRegistrationLib.mrml.pairs import SUGGESTED

PLACE = np.array([-16.0, 12.0, -2.0])
"""World RAS, near the border between two organs of the pair."""


class LandmarksTest(ModuleCase):
    def setUp(self):
        super().setUp()
        self.landmarks, self.landmarksUi = self.tabs.landmarks, self.tabs.landmarks.ui

    def close(self):
        self.landmarks.cleanup()
        super().close()

    def place(self, node, place):
        """What a click in a view does."""
        index = node.AddControlPoint(vtk.vtkVector3d(*(float(x) for x in place)))
        slicer.app.processEvents()
        return index

    def position(self, node, index):
        place = [0.0, 0.0, 0.0]
        node.GetNthControlPointPositionWorld(index, place)
        return np.array(place)

    def cell(self, row, column):
        return self.landmarksUi.landmarkTable.item(row, column).text()

    def lists(self):
        self.landmarksUi.placeFixedButton.click()
        return self.parameters.fixedLandmarks, self.parameters.movingLandmarks

    def test_what_can_be_done_at_first(self):
        ui = self.landmarksUi
        self.assertIn("Choose a fixed", ui.resultLabel.text)
        for button in (ui.placeFixedButton, ui.acceptButton, ui.rejectButton, ui.exportButton):
            self.assertFalse(button.enabled)
        self.choosePair()
        self.assertTrue(ui.placeFixedButton.enabled and ui.prepareButton.enabled)
        self.assertFalse(ui.prepareButton.isHidden())
        self.assertFalse(ui.acceptButton.enabled)

    def test_a_counterpart_is_suggested_at_once(self):
        self.registeredPair()
        self.assertTrue(self.landmarksUi.prepareButton.isHidden())
        fixed, moving = self.lists()
        start = time.perf_counter()
        self.place(fixed, PLACE)
        print(f"from the click to the suggestion: {1e3 * (time.perf_counter() - start):.0f} ms")
        self.assertEqual(moving.GetNumberOfControlPoints(), 1)
        self.assertLess(np.linalg.norm(self.position(moving, 0) - PLACE - SHIFT_RAS), 4.0)
        self.assertEqual(moving.GetNthControlPointDescription(0), SUGGESTED)
        self.assertRegex(self.landmarksUi.suggestionLabel.text, "Clear|Likely|Uncertain")
        heat = [
            n for n in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") if n.GetName() == "Likeness"
        ]
        self.assertEqual(len(heat), 1)
        for logic in layouts.sliceLogics(layouts.MOVING):
            self.assertEqual(logic.GetSliceCompositeNode().GetForegroundVolumeID(), heat[0].GetID())
        self.assertTrue(self.landmarksUi.acceptButton.enabled)
        self.landmarksUi.acceptButton.click()
        self.assertEqual(moving.GetNthControlPointDescription(0), "")
        self.assertFalse(self.landmarksUi.acceptButton.enabled)
        self.assertFalse(slicer.mrmlScene.IsNodePresent(heat[0]))
        self.assertEqual([self.cell(0, 0), len(self.cell(0, 1).split(","))], ["1", 3])

    def test_a_counterpart_in_the_fixed_volume(self):
        self.registeredPair()
        self.landmarksUi.placeMovingButton.click()
        fixed, moving = self.parameters.fixedLandmarks, self.parameters.movingLandmarks
        self.place(moving, PLACE + SHIFT_RAS)
        self.assertLess(np.linalg.norm(self.position(fixed, 0) - PLACE), 4.0)

    def test_reject_and_correct(self):
        self.registeredPair()
        fixed, moving = self.lists()
        self.place(fixed, PLACE)
        self.landmarksUi.rejectButton.click()
        self.assertEqual((fixed.GetNumberOfControlPoints(), moving.GetNumberOfControlPoints()), (0, 0))
        self.place(fixed, PLACE)
        self.landmarksUi.correctButton.click()
        self.assertEqual(moving.GetNthControlPointPositionStatus(0), moving.PositionUndefined)
        self.assertEqual(self.cell(0, 2), "")
        moving.SetNthControlPointPosition(0, *(PLACE + SHIFT_RAS))
        self.assertEqual((fixed.GetNumberOfControlPoints(), moving.GetNumberOfControlPoints()), (1, 1))
        self.assertLess(float(self.cell(0, 4)), 2.5)

    def threePairs(self):
        """Accepted pairs 1, 2 and 3, each `SHIFT_RAS` apart but for 1, 2 and 3 mm along S."""
        self.registeredPair()
        fixed, moving = self.lists()
        for number in range(3):
            place = PLACE + np.array([8.0 * number, 0.0, 0.0])
            self.place(fixed, place)
            self.landmarksUi.acceptButton.click()
            moving.SetNthControlPointPosition(number, *(place + SHIFT_RAS + [0.0, 0.0, number + 1.0]))
        return fixed, moving

    def errorsAfter(self):
        table = self.landmarksUi.landmarkTable
        return {
            self.cell(row, 0): self.cell(row, 4) and round(float(self.cell(row, 4)))
            for row in range(table.rowCount)
        }

    def test_a_point_that_is_deleted_elsewhere_leaves_the_other_pairs_alone(self):
        """As in Slicer's module Markups: also while this module is not shown, and in a saved scene."""
        _fixed, moving = self.threePairs()
        before = self.errorsAfter()
        self.assertEqual(set(before), {"1", "2", "3"})
        moving.RemoveNthControlPoint(0)
        expected = {"1": "", "2": before["2"], "3": before["3"]}
        self.assertEqual(self.errorsAfter(), expected)
        path = str(self.folder / "scene.mrb")
        self.assertTrue(slicer.util.saveScene(path))
        slicer.mrmlScene.Clear(False)
        slicer.util.loadScene(path)
        self.assertEqual(self.errorsAfter(), expected)
        self.representation.exit()
        self.parameters_ = self.widget.logic.getParameterNode()
        self.parameters_.fixedLandmarks.RemoveNthControlPoint(1)
        self.representation.enter()
        self.assertEqual(self.errorsAfter(), {"1": "", "3": before["3"], "2": ""})
        self.place(self.parameters.movingLandmarks, PLACE + SHIFT_RAS)  # takes the place of the deleted one
        names = [name for name in self.errorsAfter() if name.startswith("1 / ")]
        self.assertEqual(len(names), 1)
        self.assertEqual(self.errorsAfter()["3"], before["3"])

    def test_a_suggestion_waits_until_it_is_answered(self):
        """Whatever is chosen, left, saved or opened meanwhile."""
        _fixed, moving = self.registeredPair()
        lists = self.lists()
        self.place(lists[0], PLACE)
        self.parameters.movingVolume = None
        self.assertTrue(self.landmarksUi.acceptButton.enabled)
        self.parameters.movingVolume = moving
        self.parameters.movingLandmarks = None
        self.assertFalse(self.landmarksUi.acceptButton.enabled)
        self.parameters.movingLandmarks = lists[1]
        self.assertTrue(self.landmarksUi.acceptButton.enabled)
        self.representation.exit()
        self.representation.enter()
        path = str(self.folder / "scene.mrb")
        self.assertTrue(slicer.util.saveScene(path))
        slicer.mrmlScene.Clear(False)
        self.assertFalse(self.landmarksUi.acceptButton.enabled)
        slicer.util.loadScene(path)
        self.assertTrue(self.landmarksUi.rejectButton.enabled)
        node = self.parameters.movingLandmarks
        self.landmarksUi.acceptButton.click()
        self.assertEqual(node.GetNthControlPointDescription(0), "")
        self.assertFalse(self.landmarksUi.acceptButton.enabled)

    def test_several_suggestions_wait_and_the_chosen_row_is_answered(self):
        self.registeredPair()
        fixed, moving = self.lists()
        for number in range(3):
            self.place(fixed, PLACE + np.array([8.0 * number, 0.0, 0.0]))
        self.landmarksUi.landmarkTable.setCurrentCell(1, 0)
        self.landmarksUi.rejectButton.click()
        self.assertEqual([self.cell(row, 0) for row in range(2)], ["1", "3"])
        moving.SetNthControlPointPosition(0, *(PLACE + SHIFT_RAS))  # dragging one accepts this one
        self.assertEqual([moving.GetNthControlPointDescription(n) for n in range(2)], ["", SUGGESTED])
        fixed.SetNthControlPointPosition(1, *PLACE)  # and no other
        self.assertEqual(moving.GetNthControlPointDescription(1), SUGGESTED)

    def test_suggestions_are_prepared_as_chosen_under_advanced(self):
        self.choosePair()
        self.parameters.representation = "masr-faithful"
        self.parameters.device, self.parameters.threads = "cpu", 1
        self.parameters.workingSpacing = 5.0
        seen = []
        with mock.patch(
            "MASRRegistrationLib.gui.feature_job.WorkerProcess",
            side_effect=lambda request, *rest: seen.append(request) or mock.Mock(),
        ):
            self.landmarksUi.prepareButton.click()
            self.landmarksUi.prepareButton.click()
        (request,) = seen
        self.assertEqual((request.device, request.threads), ("cpu", 1))
        self.assertEqual(request.preset["representation"], "masr-faithful")
        self.assertEqual(request.preset["working_spacing_mm"], 5.0)

    def test_errors_follow_a_point_that_is_dragged(self):
        self.registeredPair()
        fixed, moving = self.lists()
        self.place(fixed, PLACE)
        self.landmarksUi.acceptButton.click()
        for shift in (0.0, 3.0, 6.0):
            moving.SetNthControlPointPosition(0, *(PLACE + SHIFT_RAS + [0, 0, shift]))
            expected = np.linalg.norm(SHIFT_RAS + np.array([0, 0, shift]))
            self.assertAlmostEqual(float(self.cell(0, 3)), expected, delta=0.011)
            self.assertAlmostEqual(float(self.cell(0, 4)), shift, delta=2.0)
        self.assertIn("TG-132", self.landmarksUi.resultLabel.text)
        self.assertIn("no proof", self.landmarksUi.resultLabel.text)
        self.landmarks._jumpTo(0)
        for row, node in ((layouts.FIXED, fixed), (layouts.MOVING, moving)):
            for logic in layouts.sliceLogics(row):
                toRas = slicer.util.arrayFromVTKMatrix(logic.GetSliceNode().GetSliceToRAS())
                seen = np.linalg.inv(toRas) @ [*self.position(node, 0), 1.0]
                np.testing.assert_allclose(seen[:3], 0, atol=1e-6)

    def test_errors_do_not_depend_on_where_the_moving_volume_lies(self):
        _fixed, moving = self.registeredPair()
        points, others = self.lists()
        self.place(points, PLACE)
        self.landmarksUi.acceptButton.click()
        before = self.cell(0, 3), self.cell(0, 4)
        moving.SetAndObserveTransformNodeID(self.parameters.outputTransform.GetID())
        self.assertIs(others.GetParentTransformNode(), self.parameters.outputTransform)
        self.assertEqual((self.cell(0, 3), self.cell(0, 4)), before)
        self.place(points, -PLACE)  # seen in the warped volume, near where the first one was clicked
        self.assertLess(np.linalg.norm(self.position(others, 1) + PLACE), 4.0)
        self.landmarksUi.acceptButton.click()
        self.assertLess(float(self.cell(1, 4)), 4.0)

    def test_suggestions_without_a_registration(self):
        self.choosePair()
        fixed, moving = self.lists()
        self.place(fixed, PLACE)
        self.assertIn("Prepare suggestions", self.landmarksUi.suggestionLabel.text)
        np.testing.assert_allclose(self.position(moving, 0), PLACE)
        self.landmarksUi.rejectButton.click()
        self.landmarksUi.prepareButton.click()
        self.assertEqual(self.landmarksUi.prepareButton.text, "Stop preparing")
        self.waitUntil(lambda: self.landmarks.matcher is not None or self.errors)
        self.assertEqual(self.errors, [])
        self.place(fixed, PLACE)
        self.assertLess(np.linalg.norm(self.position(moving, 0) - PLACE - SHIFT_RAS), 5.0)
        self.assertEqual(self.temporaryFolders(), [])

    def test_suggestions_are_never_those_of_volumes_chosen_before(self):
        self.choosePair()
        self.choosePreset()  # one of the user's own
        self.landmarksUi.prepareButton.click()
        self.choosePair()
        self.waitUntil(lambda: self.landmarks._job is None)
        self.assertEqual(self.errors, [])
        self.assertIsNone(self.landmarks.matcher)

    def test_preparing_can_be_stopped(self):
        self.choosePair()
        self.landmarksUi.prepareButton.click()
        self.landmarksUi.prepareButton.click()
        self.assertEqual(self.landmarksUi.prepareButton.text, "Prepare suggestions")
        self.assertIsNone(self.landmarks.matcher)
        self.assertEqual(self.temporaryFolders(), [])

    def test_a_scene_that_closes_while_suggestions_are_prepared(self):
        self.choosePair()
        self.landmarksUi.prepareButton.click()
        slicer.mrmlScene.Clear(False)
        self.assertIsNone(self.landmarks._job)
        self.assertIsNone(self.landmarks.matcher)
        self.assertEqual((self.errors, self.temporaryFolders()), ([], []))

    def test_files(self):
        self.choosePair()
        fixed, moving = self.lists()
        for node, shift in ((fixed, np.zeros(3)), (moving, SHIFT_RAS)):
            for name, place in (("tip", PLACE), ("end", -PLACE)):
                self.landmarks._own = True
                node.SetNthControlPointLabel(self.place(node, place + shift), name)
                self.landmarks._own = False
        self.landmarks.update()
        for ending in (".csv", ".mrk.json"):
            paths = iter([str(self.folder / f"f{ending}"), str(self.folder / f"m{ending}")])
            with mock.patch("qt.QFileDialog.getSaveFileName", lambda *args, paths=paths: next(paths)):
                self.landmarksUi.exportButton.click()
            fixed.RemoveAllControlPoints()
            self.assertEqual(self.errors, [])
            with mock.patch(
                "qt.QFileDialog.getOpenFileName", lambda *args, e=ending: str(self.folder / f"f{e}")
            ):
                self.landmarksUi.importFixedButton.click()
            self.assertEqual([fixed.GetNthControlPointLabel(n) for n in range(2)], ["tip", "end"])
            np.testing.assert_allclose(self.position(fixed, 0), PLACE, atol=1e-4)
        (self.folder / "bad.csv").write_text("nothing", encoding="utf-8")
        with mock.patch("qt.QFileDialog.getOpenFileName", return_value=str(self.folder / "bad.csv")):
            self.landmarksUi.importMovingButton.click()
        self.assertEqual(len(self.errors), 1)
        self.assertEqual(moving.GetNumberOfControlPoints(), 2)

    def test_landmarks_that_pull_a_registration(self):
        self.choosePair()
        self.choosePreset()
        self.landmarksUi.useCheckBox.checked = True
        self.assertIn("no pair of landmarks", self.ui.reasonLabel.text)
        fixed, moving = self.lists()
        self.place(fixed, PLACE)
        moving.SetNthControlPointPosition(0, *(PLACE + SHIFT_RAS))
        self.assertEqual(self.ui.reasonLabel.text, "")
        self.register()
        self.assertEqual(self.errors, [])
        content = json.loads(self.parameters.outputTransform.GetAttribute("MASR.Result"))
        self.assertTrue(content["metrics"]["landmarks_used"])
        self.assertAlmostEqual(
            content["metrics"]["tre_before_mm"]["mean"], np.linalg.norm(SHIFT_RAS), delta=0.01
        )
        self.assertIn("proves nothing elsewhere", self.tabs.check.ui.resultLabel.text)
