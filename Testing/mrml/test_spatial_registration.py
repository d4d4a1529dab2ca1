"""Results as DICOM spatial registration objects: what they say by the standard, and what keeps them from being made."""

from __future__ import annotations

import shutil

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_tools import DicomDatabase, write_series
from pydicom.uid import MRImageStorage
from result_case import FLIP, SIZE, Result, slicer, turn

from MASRRegistrationLib.mrml import spatial_registration  # isort: skip
from MASRRegistrationLib.mrml.spatial_registration import exportSpatialRegistration, missingForExport  # isort: skip
from masr_registration.dicom_registration import ImageSeries  # isort: skip
from masr_registration.errors import InputError, ResourceError  # isort: skip

RAS_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
FIXED, MOVING = "1.2.3.1", "1.2.4.1"


@pytest.fixture(autouse=True)
def scene():
    slicer.mrmlScene.Clear(False)
    yield
    slicer.mrmlScene.Clear(False)


class DicomResult(Result):
    """A result between two volumes that came from series of one patient, in two studies."""

    def __init__(self, folder, monkeypatch, linear=False, parents=True, reverse=False, **moving):
        super().__init__(folder, linear, parents)
        self.series = {}
        for node, uid, others in (
            (self.fixed_node, FIXED, {}),
            (self.moving_node, MOVING, {"study": "1.2.4", "frame": "1.2.4.9", **moving}),
        ):
            matrix = slicer.util.arrayFromVTKMatrix(_ijk_to_ras(node))
            self.series[uid] = write_series(folder / "dicom" / uid, RAS_LPS @ matrix, SIZE, uid=uid, **others)
            instances = [f"{uid}.{k + 1}" for k in range(SIZE[0])]
            node.SetAttribute("DICOM.instanceUIDs", " ".join(instances[:: -1 if reverse else 1]))
        monkeypatch.setattr(slicer, "dicomDatabase", DicomDatabase(folder / "dicom"), raising=False)
        self.node = self.deliver().transformNode

    def export(self, folder):
        return pydicom.dcmread(exportSpatialRegistration(self.node, folder / "out"))

    def own_points(self):
        """Points of the fixed volume and where they lie in the moving one, each in its DICOM coordinates (LPS)."""
        return [
            (np.column_stack([points, np.ones(len(points))]) @ np.linalg.inv(volume.parentToWorld).T)[:, :3]
            * FLIP
            for points, volume in zip(self.points(), (self.fixed, self.moving), strict=True)
        ]


def _ijk_to_ras(node):
    matrix = slicer.util.vtkMatrixFromArray(np.eye(4))
    node.GetIJKToRASMatrix(matrix)
    return matrix


def sampling(made):
    """Where in the source a point of the registered coordinates is sampled, as the standard has it (C.20.2, C.20.3)."""
    if made.SOPClassUID.name == "Spatial Registration Storage":
        _own, item = made.RegistrationSequence
        element = item.MatrixRegistrationSequence[0].MatrixSequence[0]
        matrix = np.linalg.inv(
            np.reshape(np.array(element.FrameOfReferenceTransformationMatrix, float), (4, 4))
        )
        return lambda p: (matrix @ (*p, 1))[:3]
    (item,) = made.DeformableRegistrationSequence
    (grid,) = item.DeformableRegistrationGridSequence
    vectors = np.frombuffer(grid.VectorGridData, "<f4").reshape(*grid.GridDimensions[::-1], 3)
    field = sitk.GetImageFromArray(vectors.astype(float), isVector=True)
    field.SetOrigin([float(v) for v in grid.ImagePositionPatient])
    field.SetSpacing([float(v) for v in grid.GridResolution])
    assert grid.ImageOrientationPatient == [1, 0, 0, 0, 1, 0]
    return sitk.DisplacementFieldTransform(field).TransformPoint


@pytest.mark.parametrize("parents", [True, False])
@pytest.mark.parametrize("linear", [True, False])
def test_the_object_means_what_the_result_means(tmp_path, monkeypatch, linear, parents):
    case = DicomResult(tmp_path, monkeypatch, linear, parents)
    assert missingForExport(case.node) == []
    sample = sampling(case.export(tmp_path))
    points, expected = case.own_points()
    found = np.array([sample(p) for p in points.tolist()])
    assert np.linalg.norm(found - expected, axis=1).max() < (1e-6 if linear else 0.15)
    assert np.linalg.norm(expected - points, axis=1).min() > 0.5


@pytest.mark.parametrize("linear", [True, False])
def test_it_refers_to_every_image_of_both(tmp_path, monkeypatch, linear):
    made = DicomResult(tmp_path, monkeypatch, linear).export(tmp_path)
    everything = {uid: {f"{uid}.{k + 1}" for k in range(SIZE[0])} for uid in (FIXED, MOVING)}
    (own,) = made.ReferencedSeriesSequence
    (study,) = made.StudiesContainingOtherReferencedInstancesSequence
    (other,) = study.ReferencedSeriesSequence
    assert (made.StudyInstanceUID, study.StudyInstanceUID) == ("1.2.3", "1.2.4")
    for item, uid in ((own, FIXED), (other, MOVING)):
        assert item.SeriesInstanceUID == uid
        assert {i.ReferencedSOPInstanceUID for i in item.ReferencedInstanceSequence} == everything[uid]
        assert {i.ReferencedSOPClassUID for i in item.ReferencedInstanceSequence} == {MRImageStorage}
    assert made.FrameOfReferenceUID == "1.2.3.9"
    items = made.RegistrationSequence if linear else made.DeformableRegistrationSequence
    frame = items[-1].FrameOfReferenceUID if linear else items[-1].SourceFrameOfReferenceUID
    assert frame == "1.2.4.9"
    assert {i.ReferencedSOPInstanceUID for i in items[-1].ReferencedImageSequence} == everything[MOVING]


def test_it_belongs_to_the_examination_of_the_fixed_volume(tmp_path, monkeypatch):
    case = DicomResult(tmp_path, monkeypatch, linear=True)
    first, second = case.export(tmp_path), case.export(tmp_path)
    assert (first.PatientName, first.PatientID, first.StudyDate, first.StudyID) == (
        "Doe^Jane",
        "17",
        "20260102",
        "5",
    )
    assert first.Modality == "REG"
    assert first.SeriesInstanceUID not in (FIXED, MOVING, second.SeriesInstanceUID)
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_volumes_of_one_series_of_images_in_one_frame(tmp_path, monkeypatch):
    made = DicomResult(tmp_path, monkeypatch, True, study="1.2.3", frame="1.2.3.9").export(tmp_path)
    assert [item.SeriesInstanceUID for item in made.ReferencedSeriesSequence] == [FIXED, MOVING]
    assert "StudiesContainingOtherReferencedInstancesSequence" not in made


def test_the_kind_of_matrix_is_said(tmp_path, monkeypatch):
    case = DicomResult(tmp_path, monkeypatch, linear=True, parents=False)
    kinds = []
    for matrix in (None, turn(30, (1, 2, 3), (4, 5, 6))):
        if matrix is not None:
            case.node.SetMatrixTransformFromParent(slicer.util.vtkMatrixFromArray(matrix))
        element = (
            case.export(tmp_path).RegistrationSequence[1].MatrixRegistrationSequence[0].MatrixSequence[0]
        )
        kinds.append(element.FrameOfReferenceTransformationMatrixType)
    assert kinds == ["AFFINE", "RIGID"]


@pytest.mark.parametrize(("error_mm", "spacing"), [(0.1, 4.0), (0.03, 2.0), (1e-9, 1.0)])
def test_the_grid_is_as_fine_as_interpolation_asks(tmp_path, monkeypatch, error_mm, spacing):
    monkeypatch.setattr(spatial_registration, "LARGEST_ERROR_MM", error_mm)
    (item,) = DicomResult(tmp_path, monkeypatch).export(tmp_path).DeformableRegistrationSequence
    (grid,) = item.DeformableRegistrationGridSequence
    assert list(grid.GridResolution) == [spacing] * 3


def test_slices_in_the_other_order_lie_where_they_lay(tmp_path, monkeypatch):
    assert missingForExport(DicomResult(tmp_path, monkeypatch, reverse=True).node) == []


def test_a_multi_frame_image_says_where_its_frames_are():
    def group(**macros):
        made = pydicom.Dataset()
        for name, values in macros.items():
            item = pydicom.Dataset()
            setattr(item, f"Image{name}Patient", values)
            setattr(made, f"Plane{name}Sequence", [item])
        return made

    header = pydicom.Dataset()
    assert ImageSeries(header, header, ("1.2",)).ends() is None
    header.SharedFunctionalGroupsSequence = [group(Orientation=[0, 1, 0, 0, 0, 1])]
    header.PerFrameFunctionalGroupsSequence = [group(Position=[x, 2, 3]) for x in (1, 5, 9)]
    positions, row, column = ImageSeries(header, header, ("1.2",)).ends()
    assert (positions.tolist(), row.tolist(), column.tolist()) == (
        [[1, 2, 3], [9, 2, 3]],
        [0, 1, 0],
        [0, 0, 1],
    )


class TestMissing:
    def test_volumes_of_another_origin(self, tmp_path):
        case = Result(tmp_path)
        missing = missingForExport(case.deliver().transformNode)
        assert [sentence[:34] for sentence in missing] == [
            '"T1" was not loaded from the DICOM',
            '"T2" was not loaded from the DICOM',
        ]
        with pytest.raises(InputError, match=r"T1.*T2"):
            exportSpatialRegistration(slicer.util.getNode("T2 to T1"), tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_a_transform_of_another_origin(self):
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        assert missingForExport(node) == ["This transform is not the result of a registration."]

    def test_a_volume_that_is_gone(self, tmp_path, monkeypatch):
        case = DicomResult(tmp_path, monkeypatch)
        slicer.mrmlScene.RemoveNode(case.moving_node)
        assert missingForExport(case.node) == [
            "The moving volume is gone, and with it what the object would refer to."
        ]

    def test_no_database(self, tmp_path, monkeypatch):
        case = DicomResult(tmp_path, monkeypatch)
        monkeypatch.setattr(slicer.dicomDatabase, "isOpen", False)
        assert set(missingForExport(case.node)) == {
            "The DICOM database is not open; open it in the module DICOM."
        }

    def test_files_that_are_gone(self, tmp_path, monkeypatch):
        case = DicomResult(tmp_path, monkeypatch)
        shutil.rmtree(tmp_path / "dicom" / FIXED)
        assert missingForExport(case.node) == ['The files of "T1" are not in the DICOM database.']

    @pytest.mark.parametrize("how", ["hardened", "cropped"])
    def test_a_volume_that_does_not_lie_as_its_files(self, tmp_path, monkeypatch, how):
        case = DicomResult(tmp_path, monkeypatch, parents=False)
        matrix = slicer.util.arrayFromVTKMatrix(_ijk_to_ras(case.moving_node))
        if how == "hardened":
            matrix = turn(0.5, (0, 0, 1)) @ matrix
        else:
            matrix[:3, 3] += matrix[:3, 2]
        case.moving_node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(matrix))
        (sentence,) = missingForExport(case.node)
        assert sentence.startswith('"T2" does not lie as in its DICOM files')

    def test_two_patients(self, tmp_path, monkeypatch):
        (sentence,) = missingForExport(DicomResult(tmp_path, monkeypatch, patient="18").node)
        assert "different patients" in sentence

    def test_no_frame_of_reference(self, tmp_path, monkeypatch):
        (sentence,) = missingForExport(DicomResult(tmp_path, monkeypatch, frame="").node)
        assert sentence == "The DICOM files of the moving volume have no FrameOfReferenceUID."

    def test_a_folder_that_cannot_be(self, tmp_path, monkeypatch):
        case = DicomResult(tmp_path, monkeypatch, linear=True)
        (tmp_path / "out").write_text("mine")
        with pytest.raises(ResourceError, match="out"):
            case.export(tmp_path)
