"""A result as a DICOM spatial registration object, rigid or deformable, that refers to all images of both volumes."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from masr_registration import dicom_registration
from masr_registration.dicom_registration import DisplacementGrid, ImageSeries
from masr_registration.errors import InputError
from slicer.i18n import tr as _
from vtk.util.numpy_support import vtk_to_numpy

from .dicom_database import openDatabase
from .inputs import RAS_LPS
from .reslice import concatenated
from .results import FIXED_ROLE, MOVING_ROLE, storedResult

INSTANCES_ATTRIBUTE = "DICOM.instanceUIDs"
SPACINGS_MM = (4.0, 2.0, 1.0)
LARGEST_ERROR_MM = 0.1
_PLACE_TOLERANCE_MM, _AXIS_TOLERANCE = 0.1, 1e-3


def missingForExport(transformNode: Any) -> list[str]:
    """Sentences on what keeps a result from being exported; empty when nothing does."""
    return _described(transformNode)[1]


def exportSpatialRegistration(transformNode: Any, folder: str | Path) -> Path:
    """Write the object into `folder`; returns its file.

    A deformation is sampled on a grid along the patient's axes over the fixed volume, as fine as linear interpolation
    within `LARGEST_ERROR_MM` asks, but no finer than the last of `SPACINGS_MM`. Raises `InputError` with all that is
    missing, and `ResourceError` when the file cannot be written.
    """
    series, missing = _described(transformNode)
    if missing:
        raise InputError(" ".join(missing))
    fixedNode = transformNode.GetNodeReference(FIXED_ROLE)
    fixedToWorld = np.array(storedResult(transformNode)["scene"]["fixed"]["parentToWorld"])
    mapping: np.ndarray | DisplacementGrid
    if transformNode.IsLinear():
        matrix = vtk.vtkMatrix4x4()
        transformNode.GetMatrixTransformFromParent(matrix)
        mapping = RAS_LPS @ slicer.util.arrayFromVTKMatrix(matrix) @ fixedToWorld @ RAS_LPS
    else:
        mapping = _sampled(transformNode.GetTransformFromParent(), fixedNode, fixedToWorld)
    return dicom_registration.write(Path(folder), series[0], series[1], mapping, _("MASR registration"))


def _described(transformNode: Any) -> tuple[list[ImageSeries], list[str]]:
    """The series of the fixed and of the moving volume, and what is missing for an export."""
    if storedResult(transformNode) is None:
        return [], [_("This transform is not the result of a registration.")]
    series, missing = [], []
    for role, gone in (
        (FIXED_ROLE, _("The fixed volume is gone, and with it what the object would refer to.")),
        (MOVING_ROLE, _("The moving volume is gone, and with it what the object would refer to.")),
    ):
        node = transformNode.GetNodeReference(role)
        try:
            if node is None:
                raise InputError(gone)
            series.append(_seriesOf(node))
        except InputError as error:
            missing.append(str(error))
    if not missing:
        missing = dicom_registration.faults(*series)
    return series, missing


def _seriesOf(node: Any) -> ImageSeries:
    """Raises `InputError` when the node's voxels do not lie where those of a series of the database lie."""
    name = node.GetName()
    instances = (node.GetAttribute(INSTANCES_ATTRIBUTE) or "").split()
    if not instances or "Unknown" in instances:
        raise InputError(
            _('"{name}" was not loaded from the DICOM database; the object could not refer to it.').format(
                name=name
            )
        )
    database = openDatabase()
    first, last = (Path(database.fileForInstance(instances[index])) for index in (0, -1))
    if not (first.is_file() and last.is_file()):
        raise InputError(_('The files of "{name}" are not in the DICOM database.').format(name=name))
    series = ImageSeries.read(first, last, instances)
    if not _liesAs(node, series):
        raise InputError(
            _(
                '"{name}" does not lie as in its DICOM files (hardened, cropped or moved since it was loaded); '
                "the object would be wrong for them."
            ).format(name=name)
        )
    return series


def _liesAs(node: Any, series: ImageSeries) -> bool:
    """Whether the corners of the first and last slice and the axes of the slices are those of the files."""
    ends = series.ends()
    if ends is None:
        return False
    ijkToLps = _ijkToLps(node)
    axes = ijkToLps[:3, :2] / np.linalg.norm(ijkToLps[:3, :2], axis=0)
    positions, row, column = ends
    corners = [(ijkToLps @ (0, 0, k, 1))[:3] for k in (0, node.GetImageData().GetDimensions()[2] - 1)]
    return bool(
        np.allclose(axes.T, [row, column], atol=_AXIS_TOLERANCE)
        and any(np.allclose(corners, ends, atol=_PLACE_TOLERANCE_MM) for ends in (positions, positions[::-1]))
    )


def _sampled(worldToMoving: Any, fixedNode: Any, fixedToWorld: np.ndarray) -> DisplacementGrid:
    """The displacement over the box of the fixed volume; `worldToMoving` is a transform in RAS mm."""
    flip = slicer.util.vtkMatrixFromArray(RAS_LPS)
    whole = concatenated(flip, worldToMoving, slicer.util.vtkMatrixFromArray(fixedToWorld), flip)
    low, high = _box(fixedNode)
    for spacing in SPACINGS_MM:
        size = np.ceil((high - low) / spacing).astype(int) + 1
        vectors = _displacements(whole, low, spacing, size)
        corners = [
            vectors[k : k + size[2] - 1, j : j + size[1] - 1, i : i + size[0] - 1]
            for k in (0, 1) for j in (0, 1) for i in (0, 1)
        ]  # fmt: skip
        centres = _displacements(whole, low + spacing / 2, spacing, size - 1)
        if np.linalg.norm(centres - sum(corners) / 8, axis=-1).max() <= LARGEST_ERROR_MM:
            break
    return DisplacementGrid(tuple(low.tolist()), (spacing,) * 3, vectors)


def _box(node: Any) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest corner of a volume, each (3,) LPS mm, along the axes of the patient."""
    ends = [(-0.5, n - 0.5) for n in node.GetImageData().GetDimensions()]
    ijk = np.array(list(itertools.product(*ends, [1.0])))
    corners = (ijk @ _ijkToLps(node).T)[:, :3]
    return corners.min(axis=0), corners.max(axis=0)


def _ijkToLps(node: Any) -> np.ndarray:
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return RAS_LPS @ slicer.util.arrayFromVTKMatrix(matrix)


def _displacements(transform: Any, origin: np.ndarray, spacing: float, size: np.ndarray) -> np.ndarray:
    """(D, H, W, 3) float32 at the nodes of a grid, in the coordinates and units of `transform`."""
    sampler = vtk.vtkTransformToGrid()
    sampler.SetInput(transform)
    sampler.SetGridOrigin(origin.tolist())
    sampler.SetGridSpacing([spacing] * 3)
    sampler.SetGridExtent([limit for n in size.tolist() for limit in (0, n - 1)])
    sampler.SetGridScalarTypeToFloat()
    sampler.Update()
    return vtk_to_numpy(sampler.GetOutput().GetPointData().GetScalars()).reshape(*size[::-1], 3)
