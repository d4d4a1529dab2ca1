"""A small scripted module, written like Slicer's template, with which the tests try the harness out."""

import enum
from pathlib import Path
from typing import Annotated

import qt
import slicer
import vtk
from slicer import vtkMRMLScalarVolumeNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin


class HarnessDemo(ScriptedLoadableModule):
    def __init__(self, parent):
        super().__init__(parent)
        self.parent.title = _("Harness demo")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Registration")]
        self.parent.contributors = ["MASR Registration"]
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData():
    from SampleData import SampleDataLogic

    SampleDataLogic.registerCustomSampleDataSource(
        category="HarnessDemo", sampleName="T1", fileNames="T1.nii.gz"
    )


class Quality(enum.Enum):
    FAST = "fast"
    FINE = "fine"


@parameterNodeWrapper
class HarnessDemoParameterNode:
    inputVolume: vtkMRMLScalarVolumeNode
    outputVolume: vtkMRMLScalarVolumeNode
    factor: Annotated[float, WithinRange(0, 10)] = 2
    steps: Annotated[int, WithinRange(1, 100)] = 3
    invert: bool = False
    quality: Quality = Quality.FINE
    preset: Annotated[str, Choice(["general", "brain"])] = "brain"
    note: str
    folder: Path
    seed: int | None


class HarnessDemoWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.parameterNode = None
        self.guiTag = None
        self.process = None

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/HarnessDemo.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = HarnessDemoLogic()
        scene = slicer.mrmlScene
        for event in (scene.StartCloseEvent, scene.StartImportEvent):  # selectors forget their nodes in both
            self.addObserver(scene, event, self.onSceneStartChange)
        for event in (scene.EndCloseEvent, scene.EndImportEvent):
            self.addObserver(scene, event, self.onSceneEndChange)
        self.ui.applyButton.connect("clicked(bool)", self.onApply)
        self.initializeParameterNode()

    def cleanup(self):
        self.removeObservers()
        if self.process:
            self.process.kill()

    def enter(self):
        self.initializeParameterNode()

    def exit(self):
        self.setParameterNode(None)

    def onSceneStartChange(self, caller, event):
        self.setParameterNode(None)

    def onSceneEndChange(self, caller, event):
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self):
        self.setParameterNode(self.logic.getParameterNode())

    def setParameterNode(self, parameterNode):
        if self.parameterNode:
            self.parameterNode.disconnectGui(self.guiTag)
            self.removeObserver(self.parameterNode, vtk.vtkCommand.ModifiedEvent, self.checkCanApply)
        self.parameterNode = parameterNode
        if self.parameterNode:
            self.guiTag = self.parameterNode.connectGui(self.ui)
            self.addObserver(self.parameterNode, vtk.vtkCommand.ModifiedEvent, self.checkCanApply)
            self.checkCanApply()

    def checkCanApply(self, caller=None, event=None):
        self.ui.applyButton.enabled = bool(self.parameterNode and self.parameterNode.inputVolume)

    def onApply(self):
        with slicer.util.tryWithErrorDisplay(_("Failed."), waitCursor=True):
            self.logic.scale(self.parameterNode)

    def runPython(self, code, onFinished):
        """Run a line of Python in a process of its own; onFinished gets the exit code, status and output."""
        self.process = process = qt.QProcess()
        output = []
        process.connect(
            "readyReadStandardOutput()", lambda: output.append(process.readAllStandardOutput().data())
        )
        process.connect(
            "finished(int,QProcess::ExitStatus)",
            lambda exitCode, status: onFinished(exitCode, status, b"".join(output).decode().strip()),
        )
        process.start("PythonSlicer", ["-c", code])


class HarnessDemoLogic(ScriptedLoadableModuleLogic):
    def getParameterNode(self):
        return HarnessDemoParameterNode(super().getParameterNode())

    def scale(self, parameterNode):
        """Write the input volume times the factor into the output volume."""
        array = slicer.util.arrayFromVolume(parameterNode.inputVolume) * parameterNode.factor
        if array.max() > 1e6:
            raise ValueError("too large")
        if not parameterNode.outputVolume:
            parameterNode.outputVolume = slicer.mrmlScene.AddNewNodeByClass(
                "vtkMRMLScalarVolumeNode", "scaled"
            )
        parameterNode.outputVolume.CopyOrientation(parameterNode.inputVolume)
        slicer.util.updateVolumeFromArray(
            parameterNode.outputVolume, -array if parameterNode.invert else array
        )


class HarnessDemoTest(ScriptedLoadableModuleTest):
    def setUp(self):
        slicer.mrmlScene.Clear()

    def test_parameter_node(self):
        self.delayDisplay("Parameter node")
        self.assertEqual(HarnessDemoLogic().getParameterNode().factor, 2)  # noqa: PT009
