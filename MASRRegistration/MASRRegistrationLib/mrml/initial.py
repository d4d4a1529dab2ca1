"""An initial transform of any kind (a chain, a warp, its inverse, thin plates) -> an ITK transform file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from masr_registration.errors import ResourceError
from slicer.i18n import tr as _

from .inputs import RAS_LPS, InputVolume
from .reslice import concatenated

MARGIN_MM = 40.0
FINEST_MM = 2.0
MOST_POINTS = 200_000
"""Of the grid on which a deformation is sampled."""


def writeInitialTransform(node: Any, fixed: InputVolume, moving: InputVolume, path: Path) -> None:
    """The start of the registration: the moving volume as if it lay under `node` instead of its own parents.

    Fixed world -> moving world, LPS mm. A deformation is sampled in the fixed volume's box and 40 mm around it, every
    2 mm or, in a large box, on 200,000 points; beyond, its affine part goes on. Raises `ResourceError`.
    """
    import SimpleITK as sitk

    fromWorld = vtk.vtkGeneralTransform()
    node.GetTransformFromWorld(fromWorld)
    toMoving = concatenated(slicer.util.vtkMatrixFromArray(moving.parentToWorld), fromWorld)
    if toMoving.IsA("vtkTransform"):
        transform = _affine(slicer.util.arrayFromVTKMatrix(toMoving.GetMatrix()))
    else:
        points, spacing, origin, shape = _grid(fixed)
        targets = _through(toMoving, points)
        matrix = _fittedAffine(points, targets)
        back = (np.column_stack([targets, np.ones(len(targets))]) @ np.linalg.inv(matrix).T)[:, :3]
        vectors = ((back - points) * np.diag(RAS_LPS)[:3]).reshape(*shape, 3)
        field = sitk.GetImageFromArray(vectors, isVector=True)
        field.SetSpacing([spacing] * 3)
        field.SetOrigin(origin.tolist())
        transform = sitk.CompositeTransform([_affine(matrix), sitk.DisplacementFieldTransform(field)])
    try:
        sitk.WriteTransform(transform, str(path))
    except RuntimeError as error:
        raise ResourceError(
            _("The initial transform could not be handed over: is the disk of the temporary folder full?")
        ) from error


def _affine(rasMatrix: np.ndarray) -> Any:
    import SimpleITK as sitk

    matrix = RAS_LPS @ rasMatrix @ RAS_LPS
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(matrix[:3, :3].ravel().tolist())
    transform.SetTranslation(matrix[:3, 3].tolist())
    return transform


def _grid(fixed: InputVolume) -> tuple[np.ndarray, float, np.ndarray, tuple[int, int, int]]:
    """RAS points (N, 3) along the LPS axes, k slowest; spacing in mm, LPS origin, and shape (D, H, W)."""
    dimensions = np.array(fixed.node.GetImageData().GetDimensions())
    corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in dimensions])).reshape(3, -1).T
    lps = (np.column_stack([corners, np.ones(8)]) @ (RAS_LPS @ fixed.ijkToWorld).T)[:, :3]
    low, high = lps.min(axis=0) - MARGIN_MM, lps.max(axis=0) + MARGIN_MM
    spacing = max(FINEST_MM, float(np.cbrt(np.prod(high - low) / MOST_POINTS)))
    size = np.ceil((high - low) / spacing).astype(int) + 1
    k, j, i = np.indices(size[::-1])
    points = low + spacing * np.stack([i, j, k], axis=-1).reshape(-1, 3)
    return points * np.diag(RAS_LPS)[:3], spacing, low, tuple(size[::-1].tolist())


def _through(transform: vtk.vtkAbstractTransform, points: np.ndarray) -> np.ndarray:
    from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

    source, target = vtk.vtkPoints(), vtk.vtkPoints()
    source.SetData(numpy_to_vtk(np.ascontiguousarray(points), deep=True))
    target.SetDataTypeToDouble()
    transform.TransformPoints(source, target)
    return vtk_to_numpy(target.GetData()).copy()


def _fittedAffine(points: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """4x4, least squares."""
    matrix = np.eye(4)
    homogeneous = np.column_stack([points, np.ones(len(points))])
    matrix[:3] = np.linalg.lstsq(homogeneous, targets, rcond=None)[0].T
    return matrix
