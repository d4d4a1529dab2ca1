"""What the tests of the module share: the open module, small volumes with a known shift, waiting without blocking."""

import json
import os
import sys
import tempfile
import time
import unittest
from pathlib import Path
from unittest import mock

import numpy as np
import slicer
import vtk
from masr_registration import presets
from MASRRegistrationLib.gui import preset_library

SHIFT_RAS = np.array([4.0, -3.0, 3.0])
SIZE, SPACING_MM = 32, 2.5
CORNERS = np.array(np.meshgrid(*[[-20.0, 0.0, 20.0]] * 3)).reshape(3, -1).T
TIMEOUT_S = 1800.0


class ModuleCase(unittest.TestCase):
    """The module is open, the scene empty; `errors` are the messages that a user would have seen.

    A test fails when a slot, timer or observer raised meanwhile, which the application would only print.
    """

    def setUp(self):
        slicer.mrmlScene.Clear(False)
        self.errors = []
        display = mock.patch(
            "slicer.util.errorDisplay", lambda text, *args, **options: self.errors.append(text)
        )
        display.start()
        self.addCleanup(display.stop)
        self.slotErrors = []
        printError = sys.excepthook

        def onSlotError(kind, error, trace):
            self.slotErrors.append(error)
            printError(kind, error, trace)

        hook = mock.patch("sys.excepthook", onSlotError)
        hook.start()
        self.addCleanup(hook.stop)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        settings = mock.patch.object(preset_library, "folder", return_value=self.folder / "settings")
        settings.start()
        self.addCleanup(settings.stop)
        self.widget = slicer.util.getModuleWidget("MASRRegistration")
        self.tabs = self.widget.tabs
        self.tabs.widget.currentIndex = 0
        self.ui, self.panel = self.tabs.register.ui, self.tabs.register
        self.advancedUi = self.panel.advanced.ui
        self.representation = slicer.modules.masrregistration.widgetRepresentation()
        self.representation.enter()
        self.addCleanup(self.close)

    def close(self):
        self.panel.abandon()
        self.representation.exit()
        slicer.mrmlScene.Clear(False)
        self.assertEqual(self.temporaryFolders(), [])
        self.assertEqual(self.slotErrors, [])

    def waitUntil(self, condition, timeout=TIMEOUT_S):
        end = time.monotonic() + timeout
        while not condition():
            self.assertLess(time.monotonic(), end, f"it took too long: {self.ui.stageLabel.text}")
            slicer.app.processEvents()
            time.sleep(0.002)

    def waitUntilIdle(self):
        self.waitUntil(lambda: not self.panel.running)

    def waitForWorker(self):
        """Until the background process works on the images."""
        self.waitUntil(lambda: self.panel.job.workerPid is not None and self.ui.progressBar.value > 0)

    def temporaryFolders(self):
        return list(Path(tempfile.gettempdir()).glob(f"masr-*-{os.getpid()}-*"))

    @property
    def parameters(self):
        return self.tabs.binding.parameters

    def choosePair(self):
        fixed, moving = addPair()
        self.ui.fixedSelector.setCurrentNode(fixed)
        self.ui.movingSelector.setCurrentNode(moving)
        return fixed, moving

    def choosePreset(self, **changes):
        """One of the user's own presets, taken over from a file in the Advanced section."""
        path = self.folder / "preset.json"
        path.write_text(json.dumps(quickPreset() | changes), encoding="utf-8")
        self.advancedUi.presetFileEdit.currentPath = str(path)
        return path

    def chooseInstantPreset(self):
        """Leaves the volumes where they are."""
        return self.choosePreset(linear={"model": "none"})

    def chooseSlowPreset(self):
        self.choosePreset(continuous={"control_spacing_mm": 8.0, "iterations": [10_000, 10]})

    def registeredPair(self):
        """Both volumes of a registration that went well."""
        nodes = self.choosePair()
        self.choosePreset()
        self.register()
        self.assertEqual(self.errors, [])
        return nodes

    def register(self):
        self.assertTrue(self.ui.applyButton.enabled, self.ui.reasonLabel.text)
        self.ui.applyButton.click()
        self.waitUntilIdle()


def ownSeconds():
    """A clock that runs while this thread works or sleeps, and not while other processes have its processor (Linux;
    elsewhere it always runs)."""
    while True:
        waited, now = _nanosecondsWaited(), time.perf_counter()
        if waited == _nanosecondsWaited():
            return now - waited / 1e9


def _nanosecondsWaited():
    try:
        return int(Path("/proc/thread-self/schedstat").read_text(encoding="utf-8").split()[1])
    except OSError:
        return 0


def quickPreset():
    """Only a rigid alignment on a coarse grid."""
    preset = json.loads(presets.load("general").to_json())
    preset |= {"name": "quick", "description": "Rigid, for tests.", "working_spacing_mm": 4.0}
    preset["linear"] |= {"model": "rigid"}
    preset["discrete"] |= {"enabled": False}
    preset["continuous"] |= {"enabled": False}
    return preset


def addPair():
    """A fixed and a moving volume of another contrast; the second shows everything `SHIFT_RAS` mm further."""
    k, j, i = np.indices((SIZE, SIZE, SIZE)) - (SIZE - 1) / 2
    body = (k / 14) ** 2 + (j / 11) ** 2 + (i / 12) ** 2 < 1
    organs = (
        (((k - 4) / 4) ** 2 + ((j + 3) / 3) ** 2 + ((i - 2) / 5) ** 2 < 1, 80, 10),
        (((k + 5) / 3) ** 2 + ((j - 2) / 5) ** 2 + ((i + 4) / 3) ** 2 < 1, -40, 90),
        (((k + 1) / 3) ** 2 + ((j - 5) / 2) ** 2 + ((i - 5) / 2) ** 2 < 1, 40, -30),
    )
    fixed, moving = 100.0 * body, 60.0 * body
    for organ, first, second in organs:
        fixed[organ] += first
        moving[organ] += second
    rng = np.random.default_rng(0)
    nodes = []
    for name, array, shift in (("T1", fixed, np.zeros(3)), ("T2", moving, SHIFT_RAS)):
        noisy = (array + rng.normal(0, 1, array.shape) * body).astype(np.float32)
        node = slicer.util.addVolumeFromArray(noisy, name=name)
        node.SetSpacing(SPACING_MM, SPACING_MM, SPACING_MM)
        node.SetOrigin(*(shift - SPACING_MM * (SIZE - 1) / 2).tolist())
        nodes.append(node)
    return nodes


def movedPoints(transformNode, points):
    """RAS mm of `points` of the fixed volume (N, 3) in the moving one."""
    transform = transformNode.GetTransformFromParent()
    return np.array([transform.TransformPoint(point) for point in np.asarray(points).tolist()])


def shiftError(transformNode):
    """The largest error in mm of a transform between the volumes of `addPair`, over their body."""
    return np.linalg.norm(movedPoints(transformNode, CORNERS) - CORNERS - SHIFT_RAS, axis=1).max()


def addLinearTransform(name, matrix, parent=None):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
    slicer.util.updateTransformMatrixFromArray(node, np.asarray(matrix, dtype=float))
    if parent is not None:
        node.SetAndObserveTransformNodeID(parent.GetID())
    return node


def rotation(degrees, axis, translation=(0.0, 0.0, 0.0)):
    """4x4, about the origin."""
    transform = vtk.vtkTransform()
    transform.Translate(translation)
    transform.RotateWXYZ(degrees, axis)
    return slicer.util.arrayFromVTKMatrix(transform.GetMatrix())
