"""What the tests of the MRML layer share: volumes that lie obliquely, and results with a known transform."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from harness.slicerapp import boot

boot()  # slicer.i18n and slicer.util's scene
import slicer  # noqa: E402
import vtk  # noqa: E402
from masr_registration.worker.client import Outcome  # noqa: E402
from MASRRegistrationLib.mrml.inputs import InputVolume  # noqa: E402
from MASRRegistrationLib.mrml.results import deliver  # noqa: E402
from MASRRegistrationLib.mrml.setup import RegistrationSetup  # noqa: E402

FLIP = np.array([-1.0, -1.0, 1.0])
SIZE = (20, 24, 28)


def add_volume(name="CT", array=None, dtype=np.int16):
    """An oblique, anisotropic, left-handed volume with smooth content."""
    if array is None:
        k, j, i = np.indices(SIZE)
        array = (100 * np.sin(k / 5) * np.cos(j / 6) + 3 * i + 200).astype(dtype)
    node = slicer.util.addVolumeFromArray(array, name=name)
    matrix = turn(20, (1, 2, 3)) @ np.diag([1.5, 2.0, -2.5, 1.0])
    matrix[:3, 3] = (-30.0, 12.0, 40.0)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(matrix))
    return node


def turn(degrees, axis, translation=(0, 0, 0)):
    transform = vtk.vtkTransform()
    transform.Translate(translation)
    transform.RotateWXYZ(degrees, axis)
    return slicer.util.arrayFromVTKMatrix(transform.GetMatrix())


def add_linear(matrix, *children, name="L"):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
    slicer.util.updateTransformMatrixFromArray(node, matrix)
    for child in children:
        child.SetAndObserveTransformNodeID(node.GetID())
    return node


def world(node, points):
    """Points (N, 3) in a node's coordinates, RAS -> world RAS, through Slicer's own transforms."""
    general = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(node.GetParentTransformNode(), None, general)
    return np.array([general.TransformPoint(p) for p in np.asarray(points).tolist()])


def voxel_centres(node, ijk):
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return (np.column_stack([ijk, np.ones(len(ijk))]) @ slicer.util.arrayFromVTKMatrix(matrix).T)[:, :3]


class Result:
    """Files like the worker's, for a known transform between two volumes, both under parents of their own."""

    def __init__(self, folder: Path, linear=False, parents=True):
        self.fixed_node, self.moving_node = add_volume("T1"), add_volume("T2")
        if parents:
            add_linear(turn(15, (0, 0, 1), (3, 2, 1)), self.fixed_node, name="F")
            add_linear(turn(-40, (0, 1, 0), (1, 9, -4)), self.moving_node, name="M")
        self.fixed, self.moving = InputVolume.of(self.fixed_node), InputVolume.of(self.moving_node)
        for name in ("fixed", "moving"):
            getattr(self, name).write(folder / f"{name}.nrrd")
        image = sitk.ReadImage(folder / "fixed.nrrd")
        self.transform = self._transform(image, linear)
        moving = sitk.ReadImage(folder / "moving.nrrd", sitk.sitkFloat32)
        self.warped = sitk.Resample(moving, image, self.transform, sitk.sitkLinear, 0.0)
        sitk.WriteTransform(self.transform, folder / "transform.h5")
        sitk.WriteImage(self.warped, folder / "warped.nii.gz")
        self.outcome = Outcome(
            files={"transform": folder / "transform.h5", "warped": folder / "warped.nii.gz"},
            metrics={"folds": 0},
            warnings=["Look at it: <b>; 100 %"],
            verdict={"level": "doubtful", "reasons": ["A reason."]},
            provenance={"fixed": {"name": "fixed.nrrd"}},
            timings={"total": 1.5},
        )

    @staticmethod
    def _transform(image, linear):
        affine = sitk.AffineTransform(3)
        affine.SetMatrix((turn(8, (1, 1, 0))[:3, :3] * [1.1, 0.95, 1.0]).ravel().tolist())
        affine.SetTranslation((2.0, -3.0, 1.0))
        if linear:
            return affine
        fields = []
        centre = np.array(
            image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
        )
        for axis in range(2):
            grid = np.indices((31, 31, 31)).astype(float)
            field = np.zeros((31, 31, 31, 3))
            field[..., axis] = 3 * np.exp(-((grid - 15) ** 2).sum(axis=0) / 50)
            vectors = sitk.GetImageFromArray(field, isVector=True)
            vectors.SetSpacing((5.0, 5.0, 5.0))
            vectors.SetOrigin((centre - 75).tolist())
            fields.append(sitk.DisplacementFieldTransform(vectors))
        return sitk.CompositeTransform([affine, *fields])

    def deliver(self, transform=None, volume=None):
        return deliver(
            self.outcome,
            self.fixed,
            self.moving,
            RegistrationSetup(self.fixed_node, self.moving_node, transform, volume),
        )

    def points(self):
        """World RAS points of the fixed volume (N, 3), and where they lie in the moving one, world RAS."""
        rng = np.random.default_rng(0)
        points = world(
            self.fixed_node, voxel_centres(self.fixed_node, rng.uniform(4, np.array(SIZE)[::-1] - 5, (60, 3)))
        )
        return points, [self.transform.TransformPoint(p) for p in (points * FLIP).tolist()] * FLIP
