"""A scripted module from loading to quitting, on the harness."""

import os
import shutil
import sys
from pathlib import Path
from unittest import mock

import harness
import numpy as np
import pytest
import qt
import slicer
from harness.modules import ModuleError

DEMO = Path(harness.__file__).parent / "demo"


@pytest.fixture
def widget(slicer_app):
    slicer_app.load_modules(DEMO)
    return slicer.util.getModuleWidget("HarnessDemo")


@pytest.fixture
def volume(slicer_app):
    return slicer.util.addVolumeFromArray(np.arange(24, dtype=np.float32).reshape(2, 3, 4), name="CT")


def test_module_is_registered(widget):
    module = slicer.modules.harnessdemo
    assert (module.name, module.title, module.categories) == (
        "HarnessDemo",
        "Harness demo",
        ("Registration",),
    )
    assert slicer.moduleNames.HarnessDemo == "HarnessDemo"
    assert slicer.util.modulePath("HarnessDemo") == str(DEMO / "HarnessDemo.py")
    assert module.widgetRepresentation().self() is widget is slicer.modules.HarnessDemoWidget
    assert slicer.util.getModuleLogic("HarnessDemo") is widget.logic
    assert module.logic().IsA("vtkSlicerScriptedLoadableModuleLogic")
    assert slicer.modules.sampleDataSources["HarnessDemo"][0]["fileNames"] == "T1.nii.gz"
    with pytest.raises(AttributeError, match="no 'titel'"):
        module.titel = "x"


def test_modules_own_test(widget):
    slicer.selfTests["HarnessDemo"]()


def test_apply(widget, volume):
    assert not widget.ui.applyButton.enabled
    widget.ui.inputSelector.setCurrentNode(volume)
    assert widget.ui.applyButton.enabled
    widget.ui.factorSlider.value = 3
    widget.ui.invertCheckBox.checked = True
    widget.ui.applyButton.click()
    scaled = widget.ui.outputSelector.currentNode()
    assert scaled.GetName() == "scaled"
    np.testing.assert_array_equal(
        slicer.util.arrayFromVolume(scaled), -3 * slicer.util.arrayFromVolume(volume)
    )


def test_exception_in_slot_is_recorded(widget, volume, slicer_app):
    slicer.util.arrayFromVolume(volume)[:] = 1e6
    widget.ui.inputSelector.setCurrentNode(volume)
    widget.ui.applyButton.click()
    assert [str(error) for error in slicer_app.slot_errors] == ["too large"]
    slicer_app.slot_errors.clear()


def test_parameters_follow_widgets_and_back(widget):
    parameters, ui = widget.parameterNode, widget.ui
    assert (ui.factorSlider.value, ui.factorSlider.maximum, ui.stepsSpinBox.value) == (2, 10, 3)
    assert (ui.qualityComboBox.currentText, ui.presetComboBox.currentText) == ("FINE", "brain")
    ui.stepsSpinBox.value = 7
    ui.qualityComboBox.currentIndex = 0
    ui.noteEdit.text = "hello"
    ui.folderEdit.currentPath = "/data"
    assert (parameters.steps, parameters.quality.value, parameters.note) == (7, "fast", "hello")
    assert parameters.folder == Path("/data")
    parameters.preset = "general"
    parameters.invert = True
    assert ui.presetComboBox.currentIndex == 0
    assert ui.invertCheckBox.checked
    with pytest.raises(ValueError, match="within"):
        parameters.factor = 11
    with pytest.raises(TypeError):
        parameters.steps = "many"
    with pytest.raises(TypeError):
        parameters.inputVolume = slicer.vtkMRMLTableNode()
    assert (parameters.seed, parameters.isCached("seed")) == (None, True)
    parameters.seed = 5
    assert parameters.seed == 5


def test_stored_as_in_the_application(widget, volume):
    widget.parameterNode.inputVolume = volume
    widget.parameterNode.seed = 5
    node = slicer.mrmlScene.GetSingletonNode("HarnessDemo", "vtkMRMLScriptedModuleNode")
    names = ("factor", "steps", "invert", "quality", "inputVolume", "seed.0", "seed.1")
    stored = [node.GetParameter(name) for name in names]
    assert stored == ["2", "3", "False", "FINE", "", "5", ""]
    assert node.GetNodeReferenceID("inputVolume") == volume.GetID()


def test_parameters_survive_mrb(widget, volume, tmp_path):
    widget.parameterNode.inputVolume = volume
    widget.parameterNode.steps = 9
    widget.parameterNode.seed = 4
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear(False)
    slicer.modules.harnessdemo.widgetRepresentation().enter()
    assert (widget.parameterNode.steps, widget.parameterNode.inputVolume) == (3, None)
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    parameters = widget.parameterNode
    assert (parameters.steps, parameters.seed, parameters.inputVolume.GetName()) == (9, 4, "CT")
    assert (widget.ui.stepsSpinBox.value, widget.ui.inputSelector.currentNode().GetName()) == (9, "CT")


def test_files(volume, tmp_path):
    slicer.util.saveNode(volume, str(tmp_path / "CT.nii.gz"))
    loaded = slicer.util.loadVolume(str(tmp_path / "CT.nii.gz"))
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(loaded), slicer.util.arrayFromVolume(volume))
    labels = slicer.util.loadLabelVolume(str(tmp_path / "CT.nii.gz"))
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "T")
    slicer.util.updateTransformMatrixFromArray(transform, np.diag([1.0, 2, 3, 1]))
    slicer.util.saveNode(transform, str(tmp_path / "T.h5"))
    matrix = slicer.util.arrayFromTransformMatrix(slicer.util.loadTransform(str(tmp_path / "T.h5")))
    assert (loaded.GetName(), labels.GetClassName()) == ("CT_1", "vtkMRMLLabelMapVolumeNode")
    assert matrix.diagonal().tolist() == [1, 2, 3, 1]
    with pytest.raises(RuntimeError, match="not found"):
        slicer.util.loadVolume(str(tmp_path / "missing.nrrd"))


def test_scene_closed(widget, volume):
    representation = slicer.modules.harnessdemo.widgetRepresentation()
    representation.enter()
    widget.ui.inputSelector.setCurrentNode(volume)
    slicer.mrmlScene.Clear(False)
    assert representation.isEntered
    assert widget.ui.inputSelector.currentNode() is None
    assert not widget.ui.applyButton.enabled
    representation.exit()
    assert widget.parameterNode is None


def test_worker_process(widget, slicer_app):
    results = []
    widget.runPython("print('hello'); raise SystemExit(3)", lambda *args: results.append(args))
    slicer_app.wait_until(lambda: results)
    assert results == [(3, qt.QProcess.NormalExit, "hello")]
    assert sys.executable == shutil.which("PythonSlicer")


def test_quit_kills_the_worker(widget, slicer_app):
    results = []
    widget.runPython("import time; time.sleep(60)", lambda *args: results.append(args))
    widget.process.waitForStarted()
    slicer_app.quit()
    slicer_app.wait_until(lambda: results)
    assert results[0][1] == qt.QProcess.CrashExit
    assert not hasattr(slicer.modules, "HarnessDemoWidget")


def test_killing_python_slicer_leaves_its_child(slicer_app, tmp_path):
    """The real PythonSlicer is a launcher, too."""
    code = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    process = qt.QProcess()
    process.start("PythonSlicer", ["-c", code])
    slicer_app.wait_until((tmp_path / "pid").exists)
    slicer_app.wait_until((tmp_path / "pid").read_text)
    pid = int((tmp_path / "pid").read_text())
    assert pid != process.processId()
    process.kill()
    process.waitForFinished()
    os.kill(pid, 9)  # raises if it were gone


def test_helper_beside_the_module_aborts_the_start(slicer_app, tmp_path):
    (tmp_path / "helper.py").write_text("x = 1\n")
    with pytest.raises(ModuleError, match="helper"):
        slicer_app.load_modules(tmp_path)


def test_sys_executable_is_the_application_while_modules_load(slicer_app, tmp_path):
    (tmp_path / "Early.py").write_text(
        "import sys\nfrom slicer.ScriptedLoadableModule import *\nearly = sys.executable\n"
        "class Early(ScriptedLoadableModule): pass\n"
    )
    slicer_app.load_modules(tmp_path)
    assert sys.modules["Early"].early == str(slicer_app.application) != sys.executable


def test_messages_are_recorded_and_not_shown(slicer_app):
    slicer.util.errorDisplay("broken")
    assert not slicer.util.confirmOkCancelDisplay("sure?")  # the real one says no in testing mode, too
    slicer.util.messageBox("done")
    slicer.util.delayDisplay("later", 5000)
    assert slicer_app.messages == [("error", "broken"), ("info", "sure?"), ("message", "done")]
    with mock.patch("slicer.util.errorDisplay") as display:
        slicer.util.errorDisplay("again")
    display.assert_called_once_with("again")


def test_slicer_package_holds_what_the_application_has():
    assert not hasattr(slicer, "getNode")
    assert slicer.util.mainWindow() is None
    assert slicer.app.layoutManager() is None
    assert slicer.app.mrmlScene() is slicer.mrmlScene
    with pytest.raises(AttributeError):
        slicer.app.mainWindow()


def test_settings_are_private(slicer_app):
    slicer.app.settings().setValue("MASR/Test", "1")
    assert qt.QSettings().value("MASR/Test") == "1"
    assert Path(qt.QSettings().fileName()).is_relative_to(slicer.app.temporaryPath)
