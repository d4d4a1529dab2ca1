"""Results as DICOM spatial registration objects: what is handed to SlicerRT, and what is said where something lacks.

SlicerRT is not installed here; a stand-in asks of the nodes what its exporter asks of them.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from result_case import Result, slicer, vtk

from MASRRegistrationLib.mrml.spatial_registration import exportSpatialRegistration, missingForExport  # isort: skip
from masr_registration.errors import InputError, MasrError, ResourceError  # isort: skip


@pytest.fixture(autouse=True)
def scene():
    slicer.mrmlScene.Clear(False)
    yield
    slicer.mrmlScene.Clear(False)


class Exportable:
    directory = ""


class Plugin:
    """Reads the scene as SlicerRT's plugin and its exporter do, and writes what it found."""

    problem = ""
    offers = True

    def examineForExport(self, item):  # noqa: N802
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
        self.node = hierarchy.GetItemDataNode(item)
        kind = slicer.vtkMRMLTransformNode
        self.fixed = self.node.GetNodeReference(kind.GetFixedNodeReferenceRole())
        self.moving = self.node.GetNodeReference(kind.GetMovingNodeReferenceRole())
        return [Exportable()] if self.offers else []

    def export(self, exportables):
        for exportable in exportables:
            node = self.node
            if not node.IsLinear():
                node = slicer.modules.transforms.logic().ConvertToGridTransform(node, self.fixed)
            transform = vtk.vtkGeneralTransform()
            node.GetTransformFromWorld(transform)
            points = np.loadtxt(Path(exportable.directory).parent / "points.txt")
            moved = np.array([transform.TransformPoint(p) for p in points.tolist()])
            if not self.problem:
                np.savetxt(Path(exportable.directory) / "sro.dcm", moved)
        return self.problem


@pytest.fixture
def slicer_rt(monkeypatch):
    plugins = {"DicomSroImportExportPlugin": Plugin}
    monkeypatch.setattr(slicer.modules, "dicomPlugins", plugins, raising=False)
    for name in ("dicomsroimportexport", "plastimatch_slicer_bspline"):
        monkeypatch.setattr(slicer.modules, name, ModuleType(name), raising=False)
    return plugins


def in_hierarchy(node):
    """What Slicer's subject hierarchy plugin does by itself."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)
    return node


@pytest.mark.parametrize("linear", [True, False])
def test_the_object_is_written_and_means_the_same(tmp_path, slicer_rt, linear):
    case = Result(tmp_path, linear, parents=False)
    node = in_hierarchy(case.deliver().transformNode)
    points, expected = case.points()
    np.savetxt(tmp_path / "points.txt", points)
    assert missingForExport(node) == []
    (file,) = exportSpatialRegistration(node, tmp_path / "dicom")
    assert file == tmp_path / "dicom" / "sro.dcm"
    np.testing.assert_allclose(np.loadtxt(file), expected, atol=1e-4 if linear else 0.1)
    assert np.linalg.norm(expected - points, axis=1).min() > 0.5


def test_what_is_missing_is_said_all_at_once(tmp_path):
    case = Result(tmp_path)
    node = case.deliver().transformNode
    slicer.mrmlScene.RemoveNode(case.moving_node)
    missing = missingForExport(node)
    for sentence, words in zip(
        missing, ("SlicerRT is not installed", "moving volume is gone", "harden it"), strict=True
    ):
        assert words in sentence
    with pytest.raises(InputError, match=r"SlicerRT.*moving volume.*harden"):
        exportSpatialRegistration(node, tmp_path / "dicom")
    assert not (tmp_path / "dicom").exists()


def test_a_transform_of_another_origin(slicer_rt):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    assert missingForExport(node) == ["This transform is not the result of a registration."]


@pytest.mark.parametrize(
    ("change", "words"),
    [({"problem": "It broke.\n"}, "It broke"), ({"offers": False}, "offers no export")],
)
def test_a_failure_of_slicer_rt_is_told(tmp_path, slicer_rt, change, words):
    slicer_rt["DicomSroImportExportPlugin"] = type("Failing", (Plugin,), change)
    case = Result(tmp_path, linear=True, parents=False)
    np.savetxt(tmp_path / "points.txt", np.zeros((2, 3)))
    with pytest.raises(MasrError, match=words):
        exportSpatialRegistration(in_hierarchy(case.deliver().transformNode), tmp_path / "dicom")


def test_a_folder_that_cannot_be(tmp_path, slicer_rt):
    case = Result(tmp_path, linear=True, parents=False)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ResourceError, match="folder"):
        exportSpatialRegistration(case.deliver().transformNode, tmp_path / "file" / "dicom")
