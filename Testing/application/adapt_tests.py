"""The Adapt tab: a model fine-tuned in the background, cancelled and gone on with, and the models that were kept."""

import json
import os
from unittest import mock

import slicer
from MASRRegistrationLib.gui import adapt_tab

from .module_case import ModuleCase


class AdaptTest(ModuleCase):
    def setUp(self):
        super().setUp()
        self.adapt = self.tabs.adapt
        self.form = self.adapt.ui
        self.models = self.folder / "models"
        environment = mock.patch.dict(os.environ, {"MASR_MODELS": str(self.models)})
        environment.start()
        self.addCleanup(environment.stop)
        runs = mock.patch.object(adapt_tab, "runFolder", lambda name: self.folder / "runs" / name)
        runs.start()
        self.addCleanup(runs.stop)
        self.form.dataEdit.currentPath = self.form.nameEdit.text = ""
        self.form.stepsSpinBox.value, self.form.spacingSpinBox.value = 1000, 1.5
        self.adapt.refreshModels()
        self.adapt.update()
        self.addCleanup(self.adapt.cleanup)

    def writeImage(self):
        """The T1 of the sample at 2 mm, alone in a folder."""
        place = self.folder / "images"
        place.mkdir()
        sample = adapt_tab.models.files("masr_registration").joinpath("data", "sample", "T1.nii.gz")
        node = slicer.util.loadVolume(str(sample))
        array = slicer.util.arrayFromVolume(node)[::2, ::2, ::2].copy()
        coarse = slicer.util.addVolumeFromArray(array)
        coarse.SetSpacing(2.0, 2.0, 2.0)
        slicer.util.saveNode(coarse, str(place / "T1.nrrd"))
        return place

    def writeModels(self, *names):
        """Entries of the list with files that need not be read."""
        self.models.mkdir(exist_ok=True)
        entries = {}
        for name in names:
            (self.models / f"{name}.safetensors").write_bytes(b"")
            (self.models / f"{name}.md").write_text(f"# {name}\n", encoding="utf-8")
            entries[name] = {
                "file": f"{name}.safetensors",
                "sha256": "0" * 64,
                "kind": "masr",
                "description": f"{name} of a test",
                "options": {},
                "card": f"{name}.md",
            }
        text = json.dumps({"masr_models": 1, "models": entries})
        (self.models / "models.json").write_text(text, encoding="utf-8")
        self.adapt.refreshModels()

    def test_nothing_can_be_done_before_images_and_a_name_are_chosen(self):
        self.assertFalse(self.form.adaptButton.enabled)
        self.assertEqual(self.form.stageLabel.text, "Choose the folder with your images.")
        self.form.dataEdit.currentPath = str(self.folder)
        self.assertEqual(self.form.stageLabel.text, "Give the model a name.")
        self.form.nameEdit.text = "mine"
        self.assertTrue(self.form.adaptButton.enabled)
        self.assertEqual(self.form.adaptButton.text, "Adapt to my data")
        self.assertEqual(self.form.baseComboBox.currentText, "masr")
        self.assertEqual(self.form.modelLabel.text, "No model is adapted on this computer.")
        self.assertFalse(self.form.useButton.enabled or self.form.removeButton.enabled)

    def test_what_cannot_be_used_is_said_in_one_sentence(self):
        self.form.dataEdit.currentPath, self.form.nameEdit.text = str(self.folder), "mine"
        self.form.adaptButton.click()
        self.waitUntil(lambda: not self.adapt.running)
        self.assertEqual(len(self.errors), 1)
        self.assertIn("There are no images", self.errors[0])
        self.assertIn("There are no images", self.form.stageLabel.text)
        self.assertTrue(self.form.adaptButton.enabled)

    def test_an_adaptation_is_cancelled_and_goes_on_where_it_was(self):
        form = self.form
        form.dataEdit.currentPath, form.nameEdit.text = str(self.writeImage()), "mine"
        form.stepsSpinBox.value, form.spacingSpinBox.value = 40, 2.0
        form.adaptButton.click()
        self.assertEqual(form.adaptButton.text, "Cancel")
        self.assertFalse(form.dataEdit.enabled or form.stepsSpinBox.enabled)
        self.waitUntil(lambda: form.stageLabel.text.startswith("Adapting: step "))
        self.assertGreaterEqual(form.progressBar.value, 7)
        form.adaptButton.click()
        self.waitUntil(lambda: not self.adapt.running)
        self.assertEqual(self.errors, [])
        self.assertEqual(form.stageLabel.text, "Cancelled; press Go on to continue where it was.")
        self.assertEqual(form.adaptButton.text, "Go on")
        self.assertTrue((self.folder / "runs" / "mine" / "checkpoint.pt").is_file())
        stages = []

        def onEvent(event, handle=self.adapt._onEvent):
            stages.append((event.get("stage"), event.get("step")))
            handle(event)

        with mock.patch.object(self.adapt, "_onEvent", onEvent):
            form.adaptButton.click()
            self.waitUntil(lambda: not self.adapt.running)
        self.assertEqual(self.errors, [])
        steps = [step for stage, step in stages if stage == "adapting"]
        self.assertGreater(steps[0], 1)
        self.assertEqual(steps[-1], 40)
        self.assertIn("were found before and", form.stageLabel.text)
        kept = (self.models / "models.json").is_file()
        self.assertEqual("The model is kept" in form.stageLabel.text, kept)
        self.assertEqual("nothing has changed" in form.stageLabel.text, not kept)
        self.assertEqual(form.modelComboBox.count, int(kept))

    def test_kept_models_are_used_and_removed(self):
        self.writeModels("first", "second")
        form = self.form
        self.assertEqual(
            [form.modelComboBox.itemText(n) for n in range(form.modelComboBox.count)], ["first", "second"]
        )
        self.assertEqual(form.baseComboBox.findText("second") >= 0, True)
        self.assertEqual(form.modelLabel.text, "first of a test. Not in use.")
        form.modelComboBox.setCurrentIndex(1)
        form.useButton.click()
        self.assertEqual((self.models / "in-use").read_text(), "second\n")
        self.assertEqual(form.modelLabel.text, "second of a test. In use as masr-adapted.")
        self.assertFalse(form.useButton.enabled)
        for answer, left in ((False, 2), (True, 1)):
            with mock.patch("slicer.util.confirmOkCancelDisplay", return_value=answer) as asked:
                form.removeButton.click()
            asked.assert_called_once_with('Remove the model "second"?')
            self.assertEqual(form.modelComboBox.count, left)
        self.assertEqual(
            sorted(p.name for p in self.models.iterdir()), ["first.md", "first.safetensors", "models.json"]
        )
        self.assertEqual(self.errors, [])

    def test_a_damaged_list_is_said(self):
        self.models.mkdir()
        (self.models / "models.json").write_text("[", encoding="utf-8")
        self.adapt.refreshModels()
        self.assertEqual(self.form.modelLabel.text, "The list of the weights (models.json) cannot be read.")
