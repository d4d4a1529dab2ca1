"""Every recipe of Docs/cookbook.md, run as it stands there, on a small scene that has what the recipes name."""

import contextlib
import io
import json
import os
from pathlib import Path
from unittest import mock

import numpy as np
import slicer
import vtk
from application.module_case import (
    CORNERS,
    SHIFT_RAS,
    ModuleCase,
    addLinearTransform,
    addPair,
    movedPoints,
    quickPreset,
    shiftError,
)
from dicom_tools import DicomDatabase, write_series
from docs_code import blocks
from masr_registration.errors import InputError
from masr_registration.presets import Preset

RECIPES = {}
for _block in blocks("cookbook.md", "python"):
    RECIPES[_block.heading.partition(".")[0]] = _block


class CookbookTest(ModuleCase):
    """Presets of the recipes are replaced by a quick rigid one, except where a recipe makes its own."""

    def setUp(self):
        super().setUp()
        quick = Preset.from_json(json.dumps(quickPreset()))
        load = mock.patch("MASRRegistrationLib.console.preset_library.load", return_value=quick)
        load.start()
        self.addCleanup(load.stop)
        here = Path.cwd()
        os.chdir(self.folder)
        slicer.mrmlScene.SetRootDirectory(
            str(self.folder)
        )  # another once a scene was saved: relative names lead there
        self.addCleanup(os.chdir, here)
        self.fixed, self.moving = addPair()

    def cook(self, number):
        """The names that a recipe leaves behind, and what it printed."""
        names = {"slicer": slicer}
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            RECIPES["Cookbook for Slicer's Python console"].run(names)
            RECIPES[str(number)].run(names)
        self.assertEqual(self.errors, [])
        return names, printed.getvalue()

    def test_the_example_of_the_readme(self):
        (block,) = (b for b in blocks("../README.md", "python") if b.heading == "In 3D Slicer")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            block.run({"slicer": slicer})
        self.assertEqual(self.errors, [])
        self.assertIn(printed.getvalue().split()[0], ("plausible", "doubtful", "failed"))

    def test_all_recipes_are_tested(self):
        numbers = {name for name in RECIPES if name.isdigit()}
        tested = {name.split("_")[2] for name in dir(self) if name.startswith("test_recipe_")}
        self.assertEqual(numbers, tested)
        self.assertEqual(len(numbers), 10)

    def test_recipe_1_register(self):
        names, printed = self.cook(1)
        self.assertIn(printed.split()[0], ("plausible", "doubtful", "failed"))
        self.assertIn("\n- ", printed)
        self.assertLess(shiftError(names["result"].transformNode), 2.0)

    def test_recipe_2_cancel(self):
        names, printed = self.cook(2)
        self.assertIn("True", printed)
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown):
            self.waitUntil(lambda: not names["job"].running)
        self.assertIn("finished: Cancelled.", shown.getvalue())
        self.assertFalse(names["logic"].running)
        self.assertFalse(names["logic"].cancel())
        self.assertEqual(slicer.util.getNodesByClass("vtkMRMLLinearTransformNode"), [])

    def test_recipe_3_use_the_transform(self):
        array = (slicer.util.arrayFromVolume(self.moving) > 30).astype(np.uint8)
        labels = slicer.util.addVolumeFromArray(
            array, name="T2 labels", nodeClassName="vtkMRMLLabelMapVolumeNode"
        )
        labels.CopyOrientation(self.moving)
        names, _printed = self.cook(3)
        self.assertIs(self.moving.GetParentTransformNode(), names["result"].transformNode)
        hardened = slicer.util.getNode("T2 labels registered to T1")
        still = slicer.util.arrayFromVolume(self.fixed) > 30
        inside = slicer.util.arrayFromVolume(hardened) > 0
        overlap = 2 * (inside & still).sum() / (inside.sum() + still.sum())
        self.assertGreater(overlap, 0.9)
        self.assertLess(np.abs(movedPoints(names["inverse"], CORNERS + SHIFT_RAS) - CORNERS).max(), 2.0)
        self.assertTrue((self.folder / "T2-to-T1.h5").is_file())

    def test_recipe_4_revert(self):
        _names, printed = self.cook(4)
        self.assertEqual(printed, "None\n")
        self.assertEqual(len(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")), 2)

    def test_recipe_5_masks(self):
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Head")
        node.SetReferenceImageGeometryParameterFromVolumeNode(self.fixed)
        segment = node.GetSegmentation().AddEmptySegment("body")
        array = (slicer.util.arrayFromVolume(self.fixed) > 10).astype(np.uint8)
        slicer.util.updateSegmentBinaryLabelmapFromArray(array, node, segment, self.fixed)
        names, printed = self.cook(5)
        self.assertIn("fixed_mask", printed)
        self.assertLess(shiftError(names["result"].transformNode), 2.0)

    def test_recipe_6_landmarks(self):
        self.addLandmarks("Moving points", SHIFT_RAS)
        self.addLandmarks("Fixed points")
        names, printed = self.cook(6)
        self.assertIn("5.8 mm before", printed)
        self.assertLess(names["errors"][1].mean(), 2.0)

    def test_recipe_7_sequence(self):
        self.addLandmarks("Fixed points")
        self.addSequence()
        names, _printed = self.cook(7)
        result, logic = names["result"], names["logic"]
        distances = logic.motion(result, names["landmarks"])
        expected = np.linalg.norm(SHIFT_RAS) * np.array([0, 1, 0.5])
        np.testing.assert_allclose(distances.mean(axis=1), expected, atol=1.0)
        for node in (result.transformSequence, result.volumeSequence):
            self.assertEqual([node.GetNthIndexValue(n) for n in range(3)], ["0", "0.4", "0.8"])
            self.assertEqual((node.GetIndexName(), node.GetIndexUnit()), ("time", "s"))
            self.assertIsNotNone(result.browserNode.GetProxyNode(node))
        self.assertIsInstance(result.transformSequence.GetNthDataNode(1), slicer.vtkMRMLTransformNode)
        chart = names["chart"]
        self.assertEqual(chart.GetXAxisTitle(), "time (s)")
        self.assertEqual(chart.GetNumberOfPlotSeriesNodes(), 3)
        table = chart.GetNthPlotSeriesNode(0).GetTableNode()
        column = chart.GetNthPlotSeriesNode(1).GetYColumnName()
        np.testing.assert_allclose(
            slicer.util.arrayFromTableColumn(table, column), distances[:, 1], rtol=1e-6
        )
        self.assertEqual(sorted(result.metrics), ["0001", "0002"])
        self.assertEqual(set(logic.provenance(result)["provenance"]["items"]), {"0001", "0002"})
        for call in (
            logic.createInverse,
            logic.revert,
            logic.missingForDicom,
            lambda what: logic.apply(what, self.moving),
        ):
            for what in (result, result.transformSequence, self.moving, None):
                with self.assertRaisesRegex(InputError, "result of a registration|before this registration"):
                    if call(what):
                        raise InputError(call(what)[0])

    def test_recipe_8_loop(self):
        for name in ("anna", "bert"):
            folder = self.folder / "patients" / name
            folder.mkdir(parents=True)
            for node in (self.fixed, self.moving):
                slicer.util.saveNode(node, str(folder / f"{node.GetName()}.nrrd"))
        (self.folder / "patients" / "bert" / "T2.nrrd").write_text("broken")
        _names, printed = self.cook(8)
        self.assertRegex(printed, "anna: (plausible|doubtful)")
        self.assertRegex(printed, "bert: .*T2")
        self.assertTrue((self.folder / "patients" / "anna" / "transform.h5").is_file())
        self.assertFalse((self.folder / "patients" / "bert" / "transform.h5").exists())

    def test_recipe_9_preset_and_start(self):
        matrix = np.eye(4)
        matrix[:3, 3] = -SHIFT_RAS / 2
        addLinearTransform("By hand", matrix)
        names, _printed = self.cook(9)
        made = names["logic"].provenance(names["result"])["provenance"]
        self.assertEqual((made["preset"]["name"], made["seed"]), ("stiff", 1))
        self.assertLess(shiftError(names["result"].transformNode), 2.0)
        self.assertEqual(Preset.from_json((self.folder / "stiff.json").read_text()).name, "stiff")

    def test_recipe_10_provenance_and_dicom(self):
        _names, printed = self.cook(10)
        self.assertTrue(printed.startswith("quick "))
        self.assertRegex(printed, r"[0-9a-f]{64}")
        self.assertIn("was not loaded from the DICOM database", printed)

    def addLandmarks(self, name, shift=(0, 0, 0)):
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
        for point in np.array([[0, 0, 0], [10, 5, -5], [-10, 0, 8]], float) + shift:
            node.AddControlPoint(*point.tolist())
        return node

    def addSequence(self):
        """Three items over time; the second is moved by the whole shift, the third by half of it."""
        sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "Breathing")
        sequence.SetIndexName("time")
        sequence.SetIndexUnit("s")
        origin = np.array(self.fixed.GetOrigin())
        for value, amount in (("0", 0.0), ("0.4", 1.0), ("0.8", 0.5)):
            self.fixed.SetOrigin(*(origin + amount * SHIFT_RAS).tolist())
            sequence.SetDataNodeAtValue(self.fixed, value)
        self.fixed.SetOrigin(*origin.tolist())
        return sequence


class DicomButtonTest(ModuleCase):
    """The button of the Result section."""

    def setUp(self):
        super().setUp()
        self.choosePair()
        self.chooseInstantPreset()
        self.register()
        self.resultUi = self.tabs.result.ui
        folder = mock.patch.object(self.tabs.result, "chooseFolder", return_value=str(self.folder / "out"))
        folder.start()
        self.addCleanup(folder.stop)

    def comeFromDicom(self):
        """The volumes as if they had been loaded from two series of the database."""
        for number, node in enumerate((self.parameters.fixedVolume, self.parameters.movingVolume)):
            matrix = vtk.vtkMatrix4x4()
            node.GetIJKToRASMatrix(matrix)
            ijkToLps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ slicer.util.arrayFromVTKMatrix(matrix)
            size, uid = slicer.util.arrayFromVolume(node).shape, f"1.2.{number}"
            write_series(self.folder / "dicom" / uid, ijkToLps, size, uid=uid)
            instances = (f"{uid}.{k + 1}" for k in range(size[0]))
            node.SetAttribute("DICOM.instanceUIDs", " ".join(instances))
        database = mock.patch.object(
            slicer, "dicomDatabase", DicomDatabase(self.folder / "dicom"), create=True
        )
        database.start()
        self.addCleanup(database.stop)
        self.tabs.result.update()

    def test_what_is_missing_is_told(self):
        self.assertIn("was not loaded from the DICOM database", self.resultUi.dicomButton.toolTip)
        self.resultUi.dicomButton.click()
        self.assertIn("was not loaded from the DICOM database", self.errors[0])
        self.assertFalse((self.folder / "out").exists())

    def test_it_is_written(self):
        self.comeFromDicom()
        self.assertIn("It names the patient", self.resultUi.dicomButton.toolTip)
        told = []
        with mock.patch("slicer.util.infoDisplay", lambda text, **options: told.append(text)):
            self.resultUi.dicomButton.click()
        (path,) = (self.folder / "out").iterdir()
        self.assertEqual((self.errors, told), ([], [f'"{path.name}" was written.']))
        self.assertEqual(path.read_bytes()[128:132], b"DICM")

    def test_a_failure_is_told(self):
        self.comeFromDicom()
        (self.folder / "out").write_text("mine")
        self.resultUi.dicomButton.click()
        self.assertEqual(self.errors, ['The DICOM object cannot be written into "out".'])
