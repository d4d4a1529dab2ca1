"""MASR Registration in 3D Slicer: module, widget, logic and test classes. What they do is in MASRRegistrationLib."""

import sys

import slicer
from masr_registration import diagnosis
from masr_registration.errors import MasrError
from MASRRegistrationLib.console import ConsoleLogic
from MASRRegistrationLib.gui import sample
from MASRRegistrationLib.gui.parameters import MASRRegistrationParameterNode
from MASRRegistrationLib.gui.tabs import ModuleTabs
from MASRRegistrationLib.mrml import layouts
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)

DOCUMENTATION = "https://github.com/masr-registration/SlicerMASRRegistration/blob/main/Docs"


class MASRRegistration(ScriptedLoadableModule):
    def __init__(self, parent):
        super().__init__(parent)
        self.parent.title = _("MASR Registration")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Registration")]
        self.parent.contributors = ["MASR Registration maintainers"]
        self.parent.helpText = _(
            "Aligns two scans of one anatomy taken with different modalities by a smooth deformation, and says "
            "whether to trust the result. To see it, press <b>Load sample and register</b> under First steps and help. "
            "Nothing leaves the computer. Research software, not a medical device."
        )
        self.parent.helpText += f'<p><a href="{DOCUMENTATION}/tutorial.md">{_("Tutorial")}</a>, '
        self.parent.helpText += f'<a href="{DOCUMENTATION}/check.md">{_("how to read the Check tab")}</a>, '
        self.parent.helpText += f'<a href="{DOCUMENTATION}/troubleshooting.md">{_("troubleshooting")}</a></p>'
        self.parent.acknowledgementText = _(
            "The method follows Mok et al., CVPR 2024, and Heinrich et al., MICCAI 2013 and 2014. It may be covered "
            "by a patent application of its authors."
        )
        slicer.app.connect("startupCompleted()", lambda: sample.register(self.resourcePath))
        slicer.app.connect("startupCompleted()", layouts.register)


class MASRRegistrationWidget(ScriptedLoadableModuleWidget):
    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        self.logic = MASRRegistrationLogic()
        self.tabs = ModuleTabs(self.logic, self.resourcePath, lambda: self.parent.isEntered)
        self.layout.addWidget(self.tabs.widget)

    def cleanup(self):
        self.tabs.cleanup()

    def enter(self):
        self.tabs.enter()

    def exit(self):
        self.tabs.exit()

    def onReload(self):
        for name in list(sys.modules):
            if name.partition(".")[0] in ("MASRRegistrationLib", "masr_registration"):
                del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)


class MASRRegistrationLogic(ConsoleLogic, ScriptedLoadableModuleLogic):
    def getParameterNode(self):
        return MASRRegistrationParameterNode(super().getParameterNode())


class MASRRegistrationTest(ScriptedLoadableModuleTest):
    def setUp(self):
        slicer.mrmlScene.Clear(False)

    def runTest(self):
        for test in (self.test_refusal, self.test_registration):
            self.setUp()
            test()

    def test_refusal(self):
        self.delayDisplay("A registration without volumes is refused with a sentence")
        try:
            MASRRegistrationLogic().register(None, None)
        except MasrError as error:
            self.assertIn("fixed volume", str(error))
        else:
            self.fail("It was not refused.")

    def test_registration(self):
        self.delayDisplay("A known shift is found, points move by it, and it is taken back")
        nodes = [slicer.util.addVolumeFromArray(array) for array in diagnosis.blobs()]
        for node in nodes:
            node.SetSpacing(*[diagnosis.SPACING_MM] * 3)
        nodes[1].SetOrigin(*diagnosis.SHIFT_MM)
        logic = MASRRegistrationLogic()
        result = logic.register(*nodes, diagnosis.quick_preset())
        points = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
        points.AddControlPoint([39.0 + shift for shift in diagnosis.SHIFT_MM])
        logic.apply(result, points)
        for place in slicer.util.arrayFromMarkupsControlPoints(points, world=True)[0]:
            self.assertAlmostEqual(place, 39.0, delta=1.0)
        logic.revert(result)
        self.assertIsNone(points.GetParentTransformNode())
        self.assertEqual(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"), nodes)
