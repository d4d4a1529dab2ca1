"""The Batch tab: manifests from everywhere, a study in the background, its results."""

import json
import time
from pathlib import Path
from unittest import mock

import numpy as np
import slicer
from dicom_tools import DicomDatabase, write_series
from masr_registration.batch import manifest
from masr_registration.errors import InputError
from masr_registration.volume import read_volume
from MASRRegistrationLib.gui import batch_tab, preset_library
from MASRRegistrationLib.mrml import batch_cases

from .module_case import ModuleCase, addPair, quickPreset


class BatchTest(ModuleCase):
    def setUp(self):
        super().setUp()
        self.batch = self.tabs.batch
        self.form = self.batch.ui
        self.form.manifestEdit.currentPath = self.form.outputEdit.currentPath = ""
        self.form.keepGoingCheckBox.checked = False  # inside Slicer the widget is that of the test before
        self.addCleanup(self.batch.cleanup)

    def states(self):
        table = self.form.caseTable
        return {
            str(table.item(row, 0).text()): (str(table.item(row, 1).text()), str(table.item(row, 2).text()))
            for row in range(table.rowCount)
        }

    def writeManifest(self, *broken):
        """Two small pairs from the scene, and cases whose images are no images."""
        fixed, _moving = addPair()
        self.parameters.fixedVolume = fixed
        self.form.manifestEdit.currentPath = str(self.folder / "study.csv")
        self.form.sourceComboBox.setCurrentIndex(batch_tab.SCENE)
        self.form.makeButton.click()
        self.assertEqual(self.errors, [])
        preset = quickPreset() | {"linear": {"model": "none"}}
        (self.folder / "quick.json").write_text(json.dumps(preset), encoding="utf-8")
        images = self.folder / "study-images"
        pair = {"fixed": str(images / "fixed.nrrd"), "moving": str(images / "moving-001.nrrd")}
        rows = [{"id": name, **pair, "preset": "quick.json"} for name in ("first", "second")]
        for name in broken:
            (self.folder / f"{name}.nrrd").write_text("no image", encoding="utf-8")
            rows.append({"id": name, **pair, "fixed": f"{name}.nrrd", "preset": "quick.json"})
        (self.folder / "study.json").write_text(json.dumps(rows), encoding="utf-8")
        self.form.manifestEdit.currentPath = str(self.folder / "study.json")

    def run_(self):
        self.assertTrue(self.form.runButton.enabled, self.form.stageLabel.text)
        self.form.runButton.click()
        self.waitUntil(lambda: not self.batch.running)

    def test_nothing_can_be_run_before_manifest_and_folder_are_chosen(self):
        self.assertFalse(self.form.runButton.enabled)
        self.assertEqual(self.form.stageLabel.text, "Choose a manifest, or make one.")
        self.writeManifest()
        self.assertEqual(self.form.stageLabel.text, "Choose a folder for the results.")
        self.form.outputEdit.currentPath = str(self.folder / "results")
        self.assertTrue(self.form.runButton.enabled)
        self.assertEqual(self.states(), {"first": ("waiting", ""), "second": ("waiting", "")})

    def test_a_study_runs_in_the_background_and_its_results_are_opened(self):
        self.writeManifest("broken")
        self.form.outputEdit.currentPath = str(self.folder / "results")
        self.form.keepGoingCheckBox.checked = True
        self.run_()
        self.assertEqual(self.errors, [])
        states = self.states()
        self.assertEqual(
            [states[case][0] for case in ("first", "second", "broken")], ["done", "done", "failed"]
        )
        self.assertIn("broken.nrrd", states["broken"][1])
        self.assertEqual(self.form.stageLabel.text, "2 cases are done, 1 failed.")
        self.form.caseTable.selectRow(0)
        self.form.loadButton.click()
        transform = slicer.util.getNode("first transform")
        self.assertTrue(transform.IsA("vtkMRMLTransformNode"))
        self.assertEqual(slicer.util.arrayFromVolume(slicer.util.getNode("first warped")).ndim, 3)
        opened = []
        with mock.patch("qt.QDesktopServices.openUrl", lambda url: opened.append(url.toLocalFile())):
            self.form.reportButton.click()
            self.form.cohortButton.click()
        results = self.folder / "results"
        self.assertEqual(
            [Path(p) for p in opened], [results / "cases" / "first" / "report.html", results / "cohort.html"]
        )
        self.form.caseTable.selectRow(2)
        self.assertFalse(self.form.loadButton.enabled)
        before = (results / "cases" / "first" / "result.json").stat().st_mtime_ns
        self.run_()  # goes on: nothing is done again
        self.assertEqual((results / "cases" / "first" / "result.json").stat().st_mtime_ns, before)

    def test_faults_are_shown_at_once_and_nothing_runs(self):
        self.writeManifest("broken")
        self.form.outputEdit.currentPath = str(self.folder / "results")
        self.run_()
        self.assertEqual(len(self.errors), 1)
        self.assertIn("The manifest has 1 fault", self.errors[0])
        self.assertEqual(self.states()["broken"][0], "faulty")
        self.assertEqual(list((self.folder / "results" / "cases").iterdir()), [])

    def test_cancel_ends_the_study_at_once_and_while_it_runs(self):
        self.writeManifest()
        self.form.outputEdit.currentPath = str(self.folder / "results")
        for begun in (lambda: True, lambda: any("running" in state for state, _ in self.states().values())):
            self.form.runButton.click()
            self.assertEqual(self.form.runButton.text, "Cancel")
            self.waitUntil(begun)
            start = time.monotonic()
            self.form.runButton.click()
            self.waitUntil(lambda: not self.batch.running)
            self.assertLess(time.monotonic() - start, 60)
            self.assertEqual(self.errors, [])
            self.assertEqual(self.form.runButton.text, "Run")
        self.assertEqual(list((self.folder / "results" / "running").iterdir()), [])

    def test_manifests_from_folders(self):
        for patient in ("p1", "p2"):
            subject = self.folder / "bids" / f"sub-{patient}" / "anat"
            for path in (self.folder / "in" / patient / "T1.nii", self.folder / "in" / patient / "T2.nii"):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
            subject.mkdir(parents=True)
            for name in ("T1w", "T2w"):
                (subject / f"sub-{patient}_{name}.nii.gz").touch()
        for source, root, fixed, moving, ids in (
            (batch_tab.PATTERNS, "in", "{p}/T1.nii", "{p}/T2.nii", ["p1", "p2"]),
            (batch_tab.BIDS, "bids", "T1w", "T2w", ["sub-p1", "sub-p2"]),
        ):
            self.form.sourceComboBox.setCurrentIndex(source)
            self.form.rootEdit.currentPath = str(self.folder / root)
            self.form.fixedPatternEdit.text, self.form.movingPatternEdit.text = fixed, moving
            self.form.manifestEdit.currentPath = str(self.folder / f"{root}.csv")
            self.form.makeButton.click()
            self.assertEqual(self.errors, [])
            self.assertEqual(sorted(self.states()), ids)
        self.form.makeButton.click()
        self.assertEqual(self.errors, ['"bids.csv" is there already.'])

    def test_the_preset_is_written_into_the_manifest(self):
        fixed, _moving = addPair()
        self.parameters.fixedVolume = fixed
        own = self.folder / "settings" / "mine.json"
        own.parent.mkdir()
        own.write_text(json.dumps(quickPreset() | {"name": "mine"}), encoding="utf-8")
        with mock.patch.object(preset_library, "folder", return_value=own.parent):
            self.batch.parametersChanged(self.parameters)
            self.assertEqual(self.form.presetComboBox.currentText, "general")
            for preset in ("brain-mr", "mine"):
                self.form.presetComboBox.setCurrentText(preset)
                self.form.manifestEdit.currentPath = str(self.folder / f"{preset}.csv")
                self.form.sourceComboBox.setCurrentIndex(batch_tab.SCENE)
                self.form.makeButton.click()
                self.assertEqual(self.errors, [])
                read = manifest.read(self.folder / f"{preset}.csv")
                self.assertEqual((read.faults, read.cases[0].preset.name), ([], preset))

    def test_a_scene_that_cannot_be_written(self):
        fixed, _moving = addPair()
        self.parameters.fixedVolume = fixed
        (self.folder / "study-images").write_text("mine", encoding="utf-8")
        self.form.sourceComboBox.setCurrentIndex(batch_tab.SCENE)
        self.form.manifestEdit.currentPath = str(self.folder / "study.csv")
        self.form.makeButton.click()
        self.assertEqual(self.errors, ['The folder "study-images" cannot be made.'])

    def test_a_result_that_is_damaged(self):
        case = self.folder / "results" / "cases" / "first"
        case.mkdir(parents=True)
        for name in ("result.json", "transform.h5", "warped.nii.gz"):
            (case / name).write_text("{}", encoding="utf-8")
        self.writeManifest()
        self.form.outputEdit.currentPath = str(self.folder / "results")
        self.form.caseTable.selectRow(0)
        self.form.loadButton.click()
        self.assertEqual(self.errors, ['The result of "first" cannot be loaded.'])

    def test_without_a_dicom_database(self):
        self.form.sourceComboBox.setCurrentIndex(batch_tab.DICOM)
        self.form.manifestEdit.currentPath = str(self.folder / "dicom.csv")
        with mock.patch.object(slicer, "dicomDatabase", None, create=True):
            self.form.makeButton.click()
        self.assertEqual(self.errors, ["The DICOM database is not open; open it in the module DICOM."])

    def addSeries(self, folder, *descriptions, patient="17"):
        """Series of one study, a folder for each."""
        return [
            write_series(
                self.folder / "dicom" / folder / str(number),
                np.diag([1.0, 1.0, 2.0, 1.0]),
                (3, 4, 5),
                uid=f"1.2.{folder}.{number}",
                study=f"1.2.{folder}",
                patient=patient,
                description=description,
            )
            for number, description in enumerate(descriptions)
        ]

    def found(self, fixed="T1", moving="t2"):
        return batch_cases.fromDicomDatabase(DicomDatabase(self.folder / "dicom"), fixed, moving)

    def test_cases_from_the_dicom_database(self):
        t1, t2 = self.addSeries("1", "T1 axial", "T2 axial")
        self.addSeries("2", "T1", patient="18")
        self.addSeries("3", "T1 x", "t1 y", "T2", "", patient="19")
        with mock.patch.object(slicer, "dicomDatabase", DicomDatabase(self.folder / "dicom"), create=True):
            self.form.sourceComboBox.setCurrentIndex(batch_tab.DICOM)
            self.form.fixedPatternEdit.text, self.form.movingPatternEdit.text = "T1", "t2"
            self.form.manifestEdit.currentPath = str(self.folder / "dicom.csv")
            self.form.makeButton.click()
        self.assertEqual(self.errors, [])
        (case,) = manifest.read(self.folder / "dicom.csv").cases
        self.assertEqual(case.id, "study-001")
        self.assertEqual(
            (Path(case.files["fixed"]).parent, Path(case.files["moving"]).parent),
            (t1[0].parent, t2[0].parent),
        )
        self.assertEqual(
            self.form.remarkLabel.text.splitlines()[1:],
            [
                'Study 2 was left out: 0 of its series match "t2".',
                'Study 3 was left out: 2 of its series match "T1".',
            ],
        )

    def test_the_series_of_the_database_are_read_whole(self):
        files, _others = self.addSeries("1", "T1", "T2")
        ((row,),) = [self.found().rows]
        self.assertEqual(read_volume(row["fixed"]).array.shape, (3, 4, 5))
        self.assertNotEqual(files[0].suffix, ".dcm")

    def test_series_of_two_studies_of_one_patient(self):
        self.addSeries("1", "MR T2")
        self.addSeries("2", "CT abdomen")
        self.addSeries("3", "CT abdomen", patient="18")
        found = self.found("MR", "CT")
        self.assertEqual([row["id"] for row in found.rows], ["patient-001"])
        self.assertEqual(len(found.remarks), 2)

    def test_series_that_cannot_be_read(self):
        files, _others = self.addSeries("1", "T1", "T2")
        with self.assertRaisesRegex(InputError, "both texts match the same series"):
            self.found("T1", "1")
        files[0].rename(self.folder / "dicom" / "elsewhere")
        with self.assertRaisesRegex(InputError, "in several folders"):
            self.found()
        database = DicomDatabase(self.folder / "dicom")
        files[1].unlink()
        with self.assertRaisesRegex(InputError, "not on this computer"):
            batch_cases.fromDicomDatabase(database, "T1", "T2")
