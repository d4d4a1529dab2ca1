"""A saved scene in a new process: what was found before is found again, and can be taken back."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import slicer
from harness.slicerapp import boot

ROOT = Path(__file__).resolve().parents[2]
boot().load_modules(ROOT / "MASRRegistration")

from application.module_case import SHIFT_RAS, ModuleCase  # noqa: E402

AFTERWARDS = """
import json, sys
from harness.slicerapp import boot
harness = boot()
harness.load_modules(sys.argv[1])
harness.start()
import slicer
from unittest import mock
with harness.mrml.layout() as layout:
    slicer.util.loadScene(sys.argv[2])
    tabs = slicer.util.getModuleWidget("MASRRegistration").tabs
    slicer.modules.masrregistration.widgetRepresentation().enter()
    parameters = tabs.binding.parameters
    seen = {
        "layout": layout.GetViewArrangement(),
        "verdict": tabs.check.ui.resultLabel.text,
        "provenance": tabs.result.ui.provenanceEdit.toPlainText(),
        "errors": [tabs.landmarks.ui.landmarkTable.item(0, column).text() for column in (3, 4)],
        "nodes": sorted(n.GetName() for n in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")),
    }
    tabs.check.ui.compareButton.click()
    harness.wait_until(lambda: tabs.check.comparison.map is not None)
    tabs.check.closeViews()
    with mock.patch("slicer.util.confirmOkCancelDisplay", return_value=True):
        tabs.result.ui.revertButton.click()
    seen["transforms"] = [
        n.GetName() for n in slicer.util.getNodesByClass("vtkMRMLTransformNode") if not n.GetHideFromEditors()
    ]
    seen["parent"] = parameters.movingVolume.GetTransformNodeID()
    slicer.modules.masrregistration.widgetRepresentation().exit()
assert not harness.slot_errors, harness.slot_errors
harness.stop()
print("SEEN", json.dumps(seen))
"""


@pytest.mark.slow
def test_a_new_process_finds_everything_again(slicer_app, tmp_path) -> None:
    case = _Registered("work")
    case.folder_ = tmp_path
    result = case.defaultTestResult()
    with slicer_app.mrml.layout():
        case.run(result)
    assert result.errors + result.failures == []
    path = ":".join([str(ROOT / "Testing"), str(ROOT / "MASRRegistration")])
    done = subprocess.run(
        [sys.executable, "-c", AFTERWARDS, str(ROOT / "MASRRegistration"), str(tmp_path / "scene.mrb")],
        env={**os.environ, "QT_QPA_PLATFORM": "offscreen", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("SEEN ")]
    assert lines, done.stderr[-3000:]
    seen = json.loads(lines[0].removeprefix("SEEN "))
    assert seen["verdict"] == case.verdict
    assert seen["provenance"] == case.provenance
    assert seen["errors"] == case.table
    assert seen["nodes"] == ["T1", "T2", "T2 registered to T1"]
    assert (seen["transforms"], seen["parent"]) == ([], None)
    assert seen["layout"] == case.layout


class _Registered(ModuleCase):
    """Registers, applies, places a landmark, saves; `folder_` is given from outside."""

    def work(self):
        _fixed, moving = self.choosePair()
        self.choosePreset()
        self.register()
        assert self.errors == []
        self.tabs.landmarks.ui.placeFixedButton.click()
        self.parameters.fixedLandmarks.AddControlPoint(-16.0, 12.0, -2.0)
        place = SHIFT_RAS + np.array([-16.0, 12.0, -2.0])
        self.parameters.movingLandmarks.SetNthControlPointPosition(0, *place)
        moving.SetAndObserveTransformNodeID(self.parameters.outputTransform.GetID())
        self.verdict = self.tabs.check.ui.resultLabel.text
        self.provenance = self.tabs.result.ui.provenanceEdit.toPlainText()
        table = self.tabs.landmarks.ui.landmarkTable
        self.table = [table.item(0, column).text() for column in (3, 4)]
        self.layout = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode").GetViewArrangement()
        assert slicer.util.saveScene(str(self.folder_ / "scene.mrb"))
        self.tabs.check.closeViews()
        self.tabs.landmarks.cleanup()
