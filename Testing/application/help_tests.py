"""First steps and trouble: the sample pair, the packages that are installed after one question, the diagnosis."""

import importlib.metadata
import types
from pathlib import Path
from unittest import mock

import numpy as np
import slicer
from application.module_case import ModuleCase
from masr_registration import demo, presets
from masr_registration.errors import CancelledError, ResourceError
from MASRRegistrationLib.gui import dependencies, sample
from MASRRegistrationLib.gui.help_panel import diagnosisText


class HelpTest(ModuleCase):
    def setUp(self):
        super().setUp()
        self.helpUi = self.panel.help.ui

    # The sample pair

    def test_the_sample_pair_is_registered_in_sample_data(self):
        (source,) = slicer.modules.sampleDataSources[sample.CATEGORY]
        get = source.get if isinstance(source, dict) else lambda name: getattr(source, name)
        self.assertTrue(Path(get("thumbnailFileName")).is_file())
        uris = get("uris")
        uri = uris if isinstance(uris, str) else uris[0]
        self.assertTrue(Path(uri.removeprefix("file://")).is_file())
        with mock.patch("slicer.util.setSliceViewerLayers"):
            get("customDownloader")(source)
        names = [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")]
        self.assertEqual(sorted(names), ["MASR sample T1", "MASR sample T2 moved"])

    def test_the_sample_pair_has_no_file_that_is_gone(self):
        fixed, moving = sample.load()
        for node in (fixed, moving):
            self.assertIsNone(node.GetStorageNode())
            self.assertEqual(slicer.util.arrayFromVolume(node).ndim, 3)
        self.assertTrue(slicer.util.saveScene(str(self.folder / "scene.mrb")))

    def pressSample(self):
        """Until it registers; then it is stopped."""
        self.helpUi.sampleButton.click()
        self.waitUntil(lambda: self.panel.running or self.errors)
        job = self.panel.job
        job.cancel()
        return job

    def test_the_sample_starts_clean_and_is_loaded_once(self):
        """Nothing of the patient before is left, and a second press takes the same volumes."""
        fresh = {name: getattr(self.parameters, name) for name in self.parameters.allParameters}
        fixed, moving = self.choosePair()
        parameters = self.parameters
        for name, kind in (
            ("fixedLandmarks", "MarkupsFiducial"), ("movingLandmarks", "MarkupsFiducial"),
            ("fixedSegmentation", "Segmentation"), ("movingSegmentation", "Segmentation"),
            ("fixedMask", "Segmentation"), ("initialTransform", "LinearTransform"),
            ("outputTransform", "Transform"),
        ):  # fmt: skip
            setattr(parameters, name, slicer.mrmlScene.AddNewNodeByClass(f"vtkMRML{kind}Node"))
        parameters.preset = demo.PRESET
        parameters.hardenApplied = parameters.useLandmarks = parameters.keepFiles = True
        parameters.linearModel, parameters.workingSpacing, parameters.threads = "none", 7.0, 1
        parameters.fixedSegment, parameters.seed, parameters.device = "gone", 9, "cpu"
        job = self.pressSample()
        self.assertEqual(job.preset, presets.load(demo.PRESET))
        self.assertFalse(job.options.keepFiles)
        sample = {"fixedVolume", "movingVolume", "preset"}
        advanced = {"workingSpacing", "linearModel", "discreteEnabled", "continuousEnabled", "regularisation"}
        advanced |= {"landmarkWeight"}
        for name in fresh.keys() - sample - advanced - {"representation"}:
            self.assertEqual(getattr(parameters, name), fresh[name], name)
        pair = parameters.fixedVolume, parameters.movingVolume
        self.waitUntilIdle()
        count = len(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"))
        turned = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        pair[1].SetAndObserveTransformNodeID(turned.GetID())
        self.pressSample()
        self.assertEqual((parameters.fixedVolume, parameters.movingVolume), pair)
        self.assertIsNone(pair[1].GetParentTransformNode())
        self.waitUntilIdle()
        self.assertEqual(len(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")), count)
        slicer.util.arrayFromVolume(pair[0])[0] = 7  # it is the sample no more
        self.pressSample()
        self.assertIsNot(parameters.fixedVolume, pair[0])
        self.waitUntilIdle()
        self.assertEqual(self.errors, [])
        self.assertEqual(slicer.util.arrayFromVolume(fixed).shape, slicer.util.arrayFromVolume(moving).shape)

    def test_a_scene_that_closes_while_the_sample_is_loaded(self):
        self.helpUi.sampleButton.click()
        self.assertEqual(self.helpUi.sampleButton.text, "Loading the sample…")
        slicer.mrmlScene.Clear(False)
        self.assertEqual(self.helpUi.sampleButton.text, "Load sample and register")
        self.assertTrue(self.helpUi.sampleButton.enabled)
        self.assertEqual((self.temporaryFolders(), self.errors, self.panel.running), ([], [], False))

    def test_a_sample_that_cannot_be_made(self):
        with mock.patch("shutil.which", return_value=None):
            self.helpUi.sampleButton.click()
        with mock.patch("MASRRegistrationLib.gui.sample.MODULE", "masr_registration.no_such_module"):
            self.helpUi.sampleButton.click()
            self.waitUntil(lambda: self.helpUi.sampleButton.enabled)
        self.assertEqual(len(self.errors), 2)
        self.assertIn("PythonSlicer", self.errors[0])
        self.assertIn("sample pair could not be made", self.errors[1])

    def test_load_sample_and_register(self):
        self.parameters.hardenApplied = True
        self.helpUi.sampleButton.click()
        self.assertFalse(self.helpUi.sampleButton.enabled)
        self.waitUntil(lambda: self.panel.running or self.errors)
        self.assertFalse(self.helpUi.sampleButton.enabled)
        self.assertEqual(self.parameters.fixedVolume.GetName(), "MASR sample T1")
        self.assertEqual(self.parameters.movingVolume.GetName(), "MASR sample T2 moved")
        self.assertEqual(self.parameters.preset, demo.PRESET)
        self.assertEqual(self.panel.job.preset, presets.load(demo.PRESET))
        self.waitForWorker()
        self.panel.job.cancel()
        self.waitUntilIdle()
        self.assertEqual(self.errors, [])
        self.assertTrue(self.helpUi.sampleButton.enabled)

    # Packages

    def without(self, *names):
        """As if these packages were not installed, until the fake installers have 'installed' them."""
        self.absent, self.installed, self.questions = set(names), [], []
        version = importlib.metadata.version

        def fakeVersion(name):
            if name in self.absent:
                raise importlib.metadata.PackageNotFoundError(name)
            return version(name) if name in ("numpy", "SimpleITK") else "1"

        def install(requirements, constraints=None, **options):
            self.installed.append((list(requirements), Path(constraints).read_text(encoding="utf-8").split()))
            self.absent -= {requirement.partition(">")[0] for requirement in requirements}

        def installTorch(askConfirmation, torchVersionRequirement):
            self.installed.append(("torch", askConfirmation, torchVersionRequirement))
            self.absent.discard("torch")

        logic = types.SimpleNamespace(installTorch=installTorch)
        modules = {
            "slicer.packaging": types.SimpleNamespace(pip_install=install),
            "PyTorchUtils": types.SimpleNamespace(PyTorchUtilsLogic=lambda: logic),
        }
        importModule = importlib.import_module

        def fakeImport(name, *args):
            if name in modules and modules[name] is None:
                raise ImportError(name)
            return modules.get(name) or importModule(name, *args)

        def ask(text, **options):
            self.questions.append(text)
            return self.answer

        self.answer, self.modules = True, modules
        for target, replacement in (
            ("importlib.metadata.version", fakeVersion),
            ("MASRRegistrationLib.gui.dependencies.importlib.import_module", fakeImport),
            ("slicer.util.confirmOkCancelDisplay", ask),
        ):
            patch = mock.patch(target, replacement)
            patch.start()
            self.addCleanup(patch.stop)

    def test_nothing_is_asked_where_all_is_there(self):
        self.without()
        dependencies.ensure()
        self.assertEqual((self.questions, self.installed), ([], []))

    def test_nothing_is_asked_for_what_is_optional(self):
        self.without("numba", "matplotlib")
        dependencies.ensure()
        self.assertEqual((self.questions, self.installed), ([], []))

    def test_one_question_lists_and_installs_all(self):
        self.without("torch", "safetensors", "matplotlib", "numba")
        dependencies.ensure()
        (question,) = self.questions
        for words in (
            "- torch\n",
            "- safetensors\n",
            "- matplotlib (optional)",
            "- numba (optional)",
            "numpy",
        ):
            self.assertIn(words, question)
        torch, *others = self.installed
        self.assertEqual(torch, ("torch", False, ">=2.2"))
        self.assertEqual([name for names, _pins in others for name in names],
                         ["safetensors>=0.4", "matplotlib>=3.8", "numba>=0.59"])  # fmt: skip
        pins = [f"{name}=={importlib.metadata.version(name)}" for name in ("numpy", "SimpleITK")]
        for _names, constraints in others:
            self.assertEqual(constraints, pins)

    def test_older_slicer_without_packaging(self):
        self.without("safetensors")
        self.modules["slicer.packaging"] = None
        calls = []

        def pipInstall(arguments):
            calls.append(
                [*arguments[:1], Path(arguments[1]).read_text(encoding="utf-8").split()[0], *arguments[2:]]
            )
            self.absent.clear()

        with mock.patch("slicer.util.pip_install", pipInstall):
            dependencies.ensure()
        self.assertEqual(calls, [["--constraint", f"numpy=={np.__version__}", "safetensors>=0.4"]])

    def test_no_is_no(self):
        self.without("torch")
        self.answer = False
        with self.assertRaises(CancelledError):
            dependencies.ensure()
        self.assertEqual(self.installed, [])

    def test_guidance_without_the_extension(self):
        self.without("torch")
        self.modules["PyTorchUtils"] = None
        with self.assertRaisesRegex(ResourceError, "install the extension PyTorch in the Extensions Manager"):
            dependencies.ensure()
        self.assertEqual(self.questions, [])

    def test_what_is_optional_may_fail(self):
        self.without("safetensors", "numba")
        install = self.modules["slicer.packaging"].pip_install

        def failing(requirements, **options):
            if "numba>=0.59" in requirements:
                raise RuntimeError("no wheel")
            install(requirements, **options)

        self.modules["slicer.packaging"].pip_install = failing
        dependencies.ensure()
        self.assertEqual(self.absent, {"numba"})

    def test_a_failed_installation_is_one_sentence(self):
        self.without("safetensors")
        self.modules["slicer.packaging"].pip_install = mock.Mock(side_effect=OSError("no route"))
        with self.assertRaisesRegex(ResourceError, "connection to the internet"):
            dependencies.ensure()
        self.modules["slicer.packaging"].pip_install = lambda *args, **options: None
        with self.assertRaisesRegex(ResourceError, "safetensors could not be installed"):
            dependencies.ensure()

    def test_register_asks_and_goes_on(self):
        self.choosePair()
        self.chooseInstantPreset()
        self.without("torch")
        self.answer = False
        self.ui.applyButton.click()
        self.assertFalse(self.panel.running)
        self.assertIn("not installed", self.ui.statusLabel.text)
        self.answer = True
        self.register()
        self.assertEqual((self.errors, len(self.questions)), ([], 2))
        self.assertIsNotNone(self.parameters.outputTransform)

    # Diagnosis

    def test_diagnose(self):
        self.assertTrue(self.helpUi.diagnosisEdit.isHidden())
        self.helpUi.diagnoseButton.click()
        self.assertFalse(self.helpUi.diagnoseButton.enabled)
        self.waitUntil(lambda: self.helpUi.diagnoseButton.enabled)
        text = self.helpUi.diagnosisEdit.toPlainText()
        for words in (
            "3D Slicer ", "torch: 2", "torch and numpy: work together", "device: cpu", "usable memory: ",
            "weights masr: ok (sha256 ", "self-test: passed", "Packages that are missing in Slicer: none",
        ):  # fmt: skip
            self.assertIn(words, text)
        self.helpUi.copyDiagnosisButton.click()
        self.assertEqual(slicer.app.clipboard().text(), text)

    def test_diagnosis_without_an_interpreter(self):
        with mock.patch("shutil.which", return_value=None):
            self.helpUi.diagnoseButton.click()
        self.assertIn("PythonSlicer was not found", self.helpUi.diagnosisEdit.toPlainText())
        with mock.patch("shutil.which", return_value=str(self.folder / "PythonSlicer")):
            self.helpUi.diagnoseButton.click()
            self.waitUntil(lambda: self.helpUi.diagnoseButton.enabled)
        self.assertIn("could not be started", self.helpUi.diagnosisEdit.toPlainText())

    def test_what_is_broken_is_said(self):
        found = {
            "masr_version": "1", "python": "3", "platform": "p", "packages": {"torch": None, "numpy": "2"},
            "torch_and_numpy": "failed: ImportError: x", "devices": "failed: y", "free_memory_mb": 5,
            "weights": "failed: z", "self_test": "failed: ArithmeticError: a known shift was found 9 mm off",
        }  # fmt: skip
        text = diagnosisText(found)
        for words in ("torch: missing", "device: failed: y", "weights: failed: z", "found 9 mm off"):
            self.assertIn(words, text)
