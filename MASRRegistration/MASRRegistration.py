"""MASR Registration in 3D Slicer: module, widget, logic and test classes. What they do is in MASRRegistrationLib."""

import sys
import time

import slicer
from masr_registration.errors import CancelledError, MasrError, ResourceError
from MASRRegistrationLib.gui import preset_library
from MASRRegistrationLib.gui.job import RegistrationJob, RunOptions
from MASRRegistrationLib.gui.parameters import MASRRegistrationParameterNode
from MASRRegistrationLib.gui.tabs import ModuleTabs
from MASRRegistrationLib.mrml.setup import RegistrationSetup
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)


class MASRRegistration(ScriptedLoadableModule):
    def __init__(self, parent):
        super().__init__(parent)
        self.parent.title = _("MASR Registration")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Registration")]
        self.parent.contributors = ["MASR Registration maintainers"]
        self.parent.helpText = _(
            "Aligns two scans of one anatomy taken with different modalities by a smooth deformation, and says "
            "whether to trust the result. Research software, not a medical device."
        )
        self.parent.acknowledgementText = _(
            "The method follows Mok et al., CVPR 2024, and Heinrich et al., MICCAI 2013 and 2014. It may be covered "
            "by a patent application of its authors."
        )


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


class MASRRegistrationLogic(ScriptedLoadableModuleLogic):
    job = None

    @property
    def running(self):
        return self.job is not None and self.job.running

    def getParameterNode(self):
        return MASRRegistrationParameterNode(super().getParameterNode())

    def register(
        self,
        fixedNode,
        movingNode,
        presetName="general",
        outputTransformNode=None,
        outputVolumeNode=None,
        waitForCompletion=True,
        onProgress=None,
        onFinished=None,
        onLog=None,
        options=None,
        **others,
    ):
        """Register two volume nodes in a background process.

        Returns the `RegistrationResult` (`transformNode`, `volumeNode`, `verdict`, `metrics`, `warnings`), or without
        `waitForCompletion` at once the `RegistrationJob` (`cancel()`, `running`, `result`, `error`). `presetName` is
        the name of a preset or the path of a preset file (.json); outputs that are None are made.
        `onProgress(stage, fraction, secondsLeft)`, `onFinished(result, error)`, `onLog(line)`. `options` are
        `RunOptions` (device, threads, seed); `others` are fields of `RegistrationSetup` (fixedMask, fixedSegment,
        movingMask, movingSegment, initialTransform).

        Raises `MasrError` with one sentence for a person.
        """
        setup = RegistrationSetup(fixedNode, movingNode, outputTransformNode, outputVolumeNode, **others)
        preset = preset_library.load(presetName)
        job = self.start(setup, preset, options or RunOptions(), onProgress, onFinished, onLog)
        if not waitForCompletion:
            return job
        try:
            while job.running:  # also before the application's own event loop runs, as in --python-script
                slicer.app.processEvents()
                time.sleep(0.01)
        finally:
            job.abandon()  # does nothing unless interrupted
        if job.error is not None:
            raise job.error
        if job.result is None:
            raise CancelledError
        return job.result

    def start(self, setup, preset, options, onProgress=None, onFinished=None, onLog=None):
        """The running `RegistrationJob`. Raises `MasrError`; only one can run at a time."""

        def finish(result, error):
            self.job = None
            if onFinished is not None:
                onFinished(result, error)

        if self.running:
            raise ResourceError(_("A registration is running already; wait for it or cancel it."))
        job = RegistrationJob(setup, preset, options, onProgress, finish, onLog)
        job.start()
        self.job = job
        return job


class MASRRegistrationTest(ScriptedLoadableModuleTest):
    def setUp(self):
        slicer.mrmlScene.Clear(False)

    def runTest(self):
        self.setUp()
        self.test_refusal()

    def test_refusal(self):
        self.delayDisplay("A registration without volumes is refused with a sentence")
        try:
            MASRRegistrationLogic().register(None, None)
        except MasrError as error:
            self.assertIn("fixed volume", str(error))
        else:
            self.fail("It was not refused.")
