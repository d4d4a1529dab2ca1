"""Mistakes that PythonQt would punish, or hide until a user meets them, fail at once on the harness."""

import re
import shutil
from pathlib import Path

import ctk
import harness
import pytest
import qt
import slicer
from harness import api
from harness.uiloader import UiError

DEMO = Path(harness.__file__).parent / "demo"


@pytest.mark.parametrize(
    ("mistake", "error"),
    [
        (lambda button: setattr(button, "tooltip", "x"), AttributeError),
        (lambda button: setattr(button, "click", None), AttributeError),
        (lambda button: setattr(button, "width", 3), AttributeError),
        (lambda button: button.enabeld, AttributeError),
        (lambda button: button.text(), TypeError),
        (lambda button: button.connect("cliked()", print), ValueError),
        (lambda button: button.connect("clicked(int)", print), ValueError),
        (lambda button: button.connect("clicked()", None), TypeError),
        (lambda button: qt.QPushButton("x", objectName="y"), TypeError),
        (lambda button: qt.QFile(Path("x")), TypeError),
        (lambda button: bytes(qt.QByteArray(b"x")), TypeError),
        (lambda button: qt.QPushButtom(), AttributeError),
        (lambda button: qt.QFileDialog.getOpenFileName(), RuntimeError),
        (lambda button: qt.QDesktopServices.openUrl(qt.QUrl("https://example.org")), RuntimeError),
        (lambda button: setattr(ctk.ctkSliderWidget(), "value", "high"), AttributeError),
        (lambda button: slicer.qMRMLNodeComboBox().nodeTypes.append("x"), AttributeError),
        (lambda button: slicer.qMRMLNodeComboBox().setCurrentNode("id"), TypeError),
        (lambda button: slicer.util.loadUi("x.ui"), AttributeError),
        (lambda button: slicer.arrayFromVolume(None), AttributeError),
        (lambda button: slicer.app.temporyPath, AttributeError),
    ],
)
def test_mistake_is_refused(mistake, error):
    with pytest.raises(error):
        mistake(qt.QPushButton("x"))


def test_what_pythonqt_allows():
    button, seen = qt.QPushButton("x"), []
    button.name = "apply"
    assert (button.objectName, button.text, button.isEnabled(), button.className()) == (
        "apply",
        "x",
        True,
        "QPushButton",
    )
    button.text = 3
    button.setToolTip("tip")
    assert (button.text, button.toolTip) == ("3", "tip")
    button.connect("clicked()", lambda *args: seen.append(args))
    button.connect("clicked(bool)", lambda: seen.append("none"))
    button.clicked.connect(lambda: seen.append("attribute"))
    button.click()
    assert seen == [(), "none", "attribute"]
    spin = qt.QSpinBox()
    spin.value = 3.7
    assert spin.value == 3
    assert spin.connect("valueChanged(int)", seen.append)
    assert spin.disconnect("valueChanged(int)", seen.append)
    assert not spin.disconnect("valueChanged(int)", seen.append)
    parent = qt.QWidget()
    child = qt.QLabel("y", parent)
    child.name = "status"
    parent.setProperty("SlicerParameterName", "a")
    assert (parent.status, parent.SlicerParameterName) == (child, "a")
    button.connect("clicked(bool)", child, "setHidden(bool)")
    button.checkable = True
    button.click()
    assert child.isHidden()

    class Panel(qt.QWidget):
        pass

    panel = Panel()
    panel.anything = 1  # a Python class may grow attributes
    assert panel.anything == 1


def test_errors_in_timers_and_observers_are_recorded(slicer_app):
    def fail(*args):
        raise KeyError("late")

    qt.QTimer.singleShot(0, fail)
    slicer_app.wait_until(lambda: slicer_app.slot_errors)
    slicer.mrmlScene.AddObserver(slicer.vtkMRMLScene.NodeAddedEvent, fail)
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode")
    slicer.mrmlScene.RemoveObservers(slicer.vtkMRMLScene.NodeAddedEvent)
    assert len(slicer_app.slot_errors) == 2
    slicer_app.slot_errors.clear()


def test_wait_until_gives_up(slicer_app):
    with pytest.raises(TimeoutError):
        slicer_app.wait_until(lambda: False, timeout=0.01)


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        ('class="QSpinBox"', 'class="QSpinBoxx"', "no widget class QSpinBoxx"),
        ('name="noneEnabled"', 'name="noneEnable"', "has no property noneEnable"),
        ('name="singleStep"', 'name="synchronizeSiblings"', "the stand-in ctkSliderWidget has no property"),
        ('name="stepsSpinBox"', 'name="applyButton"', "applyButton is used 2 times"),
        ("<receiver>inputSelector", "<receiver>inputSelecter", "inputSelecter, which is not a widget"),
        ("<signal>mrmlSceneChanged", "<signal>mrmlSceneChange", "among its signals"),
        ("<slot>setMRMLScene", "<slot>setMrmlScene", "among its slots"),
        ('class="QSpinBox"', 'class="ctkFontButton"', "no stand-in"),
    ],
)
def test_ui_mistake_is_refused(tmp_path, right, wrong, complaint):
    text = (DEMO / "Resources/UI/HarnessDemo.ui").read_text()
    assert right in text
    (tmp_path / "x.ui").write_text(text.replace(right, wrong, 1))
    with pytest.raises(UiError, match=re.escape(complaint)):
        slicer.util.loadUI(str(tmp_path / "x.ui"))


def test_wrong_parameter_name_is_refused(tmp_path, slicer_app):
    shutil.copytree(DEMO, tmp_path / "Other")
    for path in (tmp_path / "Other").rglob("HarnessDemo.*"):
        text = (
            path.read_text()
            .replace("HarnessDemo", "HarnessOther")
            .replace("<string>factor<", "<string>factr<")
        )
        path.with_name(path.name.replace("HarnessDemo", "HarnessOther")).write_text(text)
        path.unlink()
    slicer_app.load_modules(tmp_path / "Other")
    with pytest.raises(ValueError, match="factr"):
        slicer.util.getModuleWidget("HarnessOther")


def test_check_names_accepts_the_demo():
    assert api.check_names(DEMO) == []


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("qt.QProces()", "qt.QProces does not exist"),
        ("qt.QProcess.NotRuning", "qt.QProcess has no NotRuning"),
        ("qt.Qt.AlignmentFlag.AlignLeft", "write qt.Qt.AlignLeft"),
        ("qt.QLabel(parent=None)", "takes no keyword arguments"),
        ("slicer.qMRMLNodeComboBox(parent=None)", "takes no keyword arguments"),
        ("ctk.ctkSlider()", "ctk.ctkSlider does not exist"),
        ("slicer.getNode('x')", "slicer.getNode does not exist"),
        ("slicer.vtkMRMLVolumNode()", "slicer.vtkMRMLVolumNode does not exist"),
        ("slicer.util.arrayFromVolumes", "slicer.util.arrayFromVolumes does not exist"),
        ("slicer.app.mainWindow()", "slicer.app.mainWindow does not exist"),
        ("from slicer.util import loadUi", "slicer.util.loadUi does not exist"),
        ("from qt import QFoo as Q", "qt.QFoo does not exist"),
    ],
)
def test_check_names_finds(tmp_path, line, complaint):
    (tmp_path / "Module.py").write_text(f"import ctk, qt, slicer\n\n{line}\n")
    [found] = api.check_names(tmp_path)
    assert complaint in found
    assert "line 3" in found


def test_check_names_passes_good_lines(tmp_path):
    (tmp_path / "Module.py").write_text(
        "import qt, slicer, slicer.packaging\nfrom slicer import vtkMRMLScalarVolumeNode\n"
        "slicer.util.getNode('a'); slicer.app.processEvents(); slicer.modules.volumes.logic()\n"
        "qt.QProcess.NotRunning; qt.QTimer.singleShot(1, print); qt.Qt.AlignLeft; slicer.mrmlScene.Clear()\n"
    )
    assert api.check_names(tmp_path) == []
