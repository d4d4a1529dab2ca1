"""What may happen while a registration runs, and what must be left afterwards: nothing."""

import os
import signal
import sys
from unittest import mock

import numpy as np
import slicer
from application.module_case import ModuleCase, addLinearTransform, addPair
from masr_registration.errors import MasrError


class LifecycleTest(ModuleCase):
    def test_cancel(self):
        self.choosePair()
        self.chooseSlowPreset()
        self.ui.applyButton.click()
        self.waitForWorker()
        pid = self.panel.job.workerPid
        self.ui.applyButton.click()
        self.assertFalse(self.ui.applyButton.enabled)
        self.waitUntilIdle()
        self.assertEqual((self.errors, self.ui.statusLabel.text), ([], "Cancelled."))
        self.assertIsNone(self.parameters.outputTransform)
        self.waitUntil(lambda: not alive(pid))
        self.assertEqual(self.temporaryFolders(), [])
        self.chooseInstantPreset()
        self.register()
        self.assertIsNotNone(self.parameters.outputTransform)

    def test_cancel_before_the_worker_is_ready(self):
        self.choosePair()
        self.chooseInstantPreset()
        self.ui.applyButton.click()
        self.ui.applyButton.click()
        self.waitUntilIdle()
        self.assertEqual((self.errors, self.ui.statusLabel.text), ([], "Cancelled."))

    def test_crash(self):
        self.choosePair()
        self.chooseSlowPreset()
        self.ui.applyButton.click()
        self.waitForWorker()
        os.kill(self.panel.job.workerPid, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
        self.waitUntilIdle()
        self.assertEqual(len(self.errors), 1)
        self.assertRegex(self.errors[0], "killed from outside|crashed")
        self.assertEqual(self.ui.statusLabel.text, self.errors[0])
        self.assertEqual(self.ui.applyButton.text, "Register")
        self.assertTrue(self.ui.applyButton.enabled)

    def test_missing_interpreter(self):
        self.choosePair()
        self.chooseInstantPreset()
        with mock.patch("shutil.which", return_value=None):
            self.ui.applyButton.click()
        self.assertFalse(self.panel.running)
        with mock.patch("shutil.which", return_value=str(self.folder / "PythonSlicer")):
            self.ui.applyButton.click()
            self.waitUntilIdle()
        self.assertEqual(len(self.errors), 2)
        for text in self.errors:
            self.assertIn("PythonSlicer", text)

    def test_scene_closed(self):
        self.choosePair()
        self.chooseSlowPreset()
        self.ui.applyButton.click()
        self.waitForWorker()
        slicer.mrmlScene.Clear(False)
        self.waitUntilIdle()
        self.assertEqual(self.errors, [])
        self.assertIn("scene was closed", self.ui.statusLabel.text)
        transforms = slicer.util.getNodesByClass("vtkMRMLTransformNode")
        self.assertEqual([node.GetName() for node in transforms if not node.GetHideFromEditors()], [])
        self.assertIn("fixed volume", self.ui.reasonLabel.text)

    def test_scene_changed(self):
        _fixed, moving = self.choosePair()
        self.chooseInstantPreset()
        self.ui.applyButton.click()
        slicer.mrmlScene.RemoveNode(moving)
        self.waitUntilIdle()
        self.assertEqual(self.errors, [])
        self.assertIn('"T2" was deleted', self.tabs.result.ui.verdictLabel.text)
        self.assertIsNone(self.parameters.outputTransform.GetNodeReference("spatialRegistrationMoving"))
        self.assertIsNone(self.parameters.movingVolume)

    def test_input_changed(self):
        fixed, _moving = self.choosePair()
        self.chooseInstantPreset()
        self.ui.applyButton.click()
        slicer.util.arrayFromVolume(fixed)[0] = 1
        slicer.util.arrayFromVolumeModified(fixed)
        self.waitUntilIdle()
        self.assertEqual(self.errors, [])
        self.assertIn('"T1" was changed', self.tabs.result.ui.verdictLabel.text)

    def test_output_deleted(self):
        self.choosePair()
        self.chooseInstantPreset()
        mine = addLinearTransform("Mine", np.eye(4))
        self.ui.outputTransformSelector.setCurrentNode(mine)
        self.ui.applyButton.click()
        slicer.mrmlScene.RemoveNode(mine)
        self.waitUntilIdle()
        self.assertEqual(self.errors, [])
        self.assertEqual(self.parameters.outputTransform.GetName(), "T2 to T1")

    def test_scene_imported(self):
        path = str(self.folder / "other.mrb")
        slicer.util.addVolumeFromArray(np.zeros((4, 4, 4)), name="Other")
        self.assertTrue(slicer.util.saveScene(path))
        slicer.mrmlScene.Clear(False)
        self.choosePair()
        self.chooseInstantPreset()
        self.ui.applyButton.click()
        slicer.util.loadScene(path)
        self.assertTrue(self.panel.running)
        self.waitUntilIdle()
        self.assertEqual(self.errors, [])
        self.assertIsNotNone(slicer.util.getFirstNodeByName("Other"))
        self.assertEqual(self.parameters.outputTransform.GetName(), "T2 to T1")

    def test_a_second_registration_meanwhile(self):
        """From the console while the tab registers, and the other way round."""
        fixed, moving = self.choosePair()
        preset = str(self.chooseInstantPreset())
        logic = self.widget.logic
        self.ui.applyButton.click()
        with self.assertRaisesRegex(MasrError, "running already"):
            logic.register(fixed, moving, preset)
        self.waitUntilIdle()
        job = logic.register(fixed, moving, preset, waitForCompletion=False)
        self.assertEqual((self.ui.applyButton.text, self.ui.applyButton.enabled), ("Register", False))
        self.assertIn("started elsewhere", self.ui.reasonLabel.text)
        self.assertFalse(self.panel.help.ui.sampleButton.enabled)
        self.waitUntil(lambda: not job.running)
        self.waitUntil(lambda: self.ui.applyButton.enabled)
        self.assertEqual((self.errors, self.ui.reasonLabel.text), ([], ""))

    def test_module_left(self):
        self.choosePair()
        self.chooseInstantPreset()
        self.ui.applyButton.click()
        self.representation.exit()
        self.waitUntilIdle()
        self.representation.enter()
        self.assertEqual(self.errors, [])
        self.assertEqual(self.parameters.outputTransform.GetName(), "T2 to T1")
        self.assertIs(self.ui.outputTransformSelector.currentNode(), self.parameters.outputTransform)

    def test_module_closed(self):
        self.choosePair()
        self.chooseSlowPreset()
        self.ui.applyButton.click()
        self.waitForWorker()
        pid = self.panel.job.workerPid
        self.panel.abandon()  # what cleanup() does
        self.assertFalse(self.panel.running)
        self.waitUntil(lambda: not alive(pid))
        self.assertEqual(self.temporaryFolders(), [])


class ChoiceTest(ModuleCase):
    """What can be chosen, without any run."""

    def reason(self):
        self.assertEqual(self.ui.applyButton.enabled, not self.ui.reasonLabel.text)
        return self.ui.reasonLabel.text

    def test_reasons(self):
        self.assertIn("fixed volume", self.reason())
        fixed, moving = addPair()
        self.ui.fixedSelector.setCurrentNode(fixed)
        self.assertIn("moving volume", self.reason())
        self.ui.movingSelector.setCurrentNode(fixed)
        self.assertIn("the same", self.reason())
        self.ui.movingSelector.setCurrentNode(moving)
        self.assertEqual(self.reason(), "")
        self.ui.outputVolumeSelector.setCurrentNode(moving)
        self.assertIn("overwrite", self.reason())
        self.ui.outputVolumeSelector.setCurrentNode(None)
        transform = addLinearTransform("Parent", np.eye(4))
        fixed.SetAndObserveTransformNodeID(transform.GetID())
        self.ui.outputTransformSelector.setCurrentNode(transform)
        self.assertIn("under the output transform", self.reason())

    def test_a_change_that_the_panel_does_not_see_is_refused_when_pressed(self):
        fixed, _moving = self.choosePair()
        warp = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode", "Warp")
        fixed.SetAndObserveTransformNodeID(warp.GetID())
        self.ui.applyButton.click()
        self.assertFalse(self.panel.running)
        self.assertIn("deforms it", self.errors[0])

    def test_a_deleted_node_is_not_replaced_by_another(self):
        fixed, moving = self.choosePair()
        slicer.util.addVolumeFromArray(np.zeros((4, 4, 4)), name="Other")
        outputs = [addLinearTransform(name, np.eye(4)) for name in ("A", "B", "C")]
        self.ui.outputTransformSelector.setCurrentNode(outputs[1])
        slicer.mrmlScene.RemoveNode(outputs[1])
        self.assertIsNone(self.parameters.outputTransform)
        self.assertIsNone(self.ui.outputTransformSelector.currentNode())
        slicer.mrmlScene.RemoveNode(moving)
        self.assertIsNone(self.parameters.movingVolume)
        self.assertIs(self.parameters.fixedVolume, fixed)
        self.ui.outputTransformSelector.setCurrentNode(outputs[2])
        self.assertIs(self.parameters.outputTransform, outputs[2])

    def test_what_is_shown_at_first(self):
        self.assertIn("not a medical device", self.tabs.result.ui.disclaimerLabel.text)
        self.assertTrue(self.ui.logButton.collapsed)
        self.assertTrue(self.ui.advancedButton.collapsed)
        self.assertTrue(self.ui.progressBar.isHidden())


def alive(pid):
    """Whether a process runs (POSIX; elsewhere it is taken to be gone)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
