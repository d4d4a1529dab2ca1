"""Volume nodes -> the images of a request.

Both volumes go to the worker as they lie in the world, with every linear parent transform applied to their grids, so
that what it judges (rotation, scale, overlap) is what a person sees. The result maps fixed world to moving world; see
`results` for how it becomes a transform under which the moving node can be placed directly.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from masr_registration.errors import InputError, ResourceError
from slicer.i18n import tr as _

RAS_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
LARGEST_SHEAR = 1e-3


@dataclass(frozen=True)
class InputVolume:
    """A volume node as it was when the registration began.

    Attributes:
        node, name: the node and what it was called.
        ijkToRas: 4x4, voxel indices (i, j, k, 1) to the node's own RAS mm.
        parentToWorld: 4x4, all linear parent transforms together, RAS mm.
        voxelTime: modification time of the voxels.
    """

    node: Any
    name: str
    ijkToRas: np.ndarray
    parentToWorld: np.ndarray
    voxelTime: int

    @classmethod
    def of(cls, node: Any) -> InputVolume:
        """Raises `InputError` for a node without a scalar image and for one that lies under a deformation."""
        name = node.GetName()
        image = node.GetImageData()
        if image is None or image.GetPointData().GetScalars() is None:
            raise InputError(_('"{name}" holds no image.').format(name=name))
        if image.GetNumberOfScalarComponents() != 1:
            raise InputError(
                _('"{name}" has several values in every voxel (colour or vectors); one is needed.').format(
                    name=name
                )
            )
        ijkToRas = vtk.vtkMatrix4x4()
        node.GetIJKToRASMatrix(ijkToRas)
        volume = cls(node, name, _array(ijkToRas), parentToWorld(node), voxelTime(node))
        volume.worldGrid()
        return volume

    @property
    def ijkToWorld(self) -> np.ndarray:
        """4x4, voxel indices to world RAS mm."""
        return self.parentToWorld @ self.ijkToRas

    def worldGrid(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Spacing (3,), origin (3,) and direction (3, 3) in LPS mm. Raises `InputError` for a sheared grid."""
        matrix = RAS_LPS @ self.ijkToWorld
        spacing = np.linalg.norm(matrix[:3, :3], axis=0)
        if not np.all(np.isfinite(matrix)) or spacing.min() <= 0:
            raise InputError(
                _('"{name}" has a voxel size that is zero or not a number.').format(name=self.name)
            )
        direction = matrix[:3, :3] / spacing
        if np.abs(direction.T @ direction - np.eye(3)).max() > LARGEST_SHEAR:
            raise InputError(
                _(
                    'The axes of "{name}" are not at right angles (sheared), by itself or by its transforms; '
                    "harden them and resample the volume to a right-angled grid first."
                ).format(name=self.name)
            )
        return spacing, matrix[:3, 3], direction

    def write(self, path: Path) -> None:
        """Uncompressed NRRD on the world grid, LPS. Raises `ResourceError`."""
        writeImage(slicer.util.arrayFromVolume(self.node), self, path)

    def isInScene(self) -> bool:
        return slicer.mrmlScene.IsNodePresent(self.node) != 0


def writeImage(array: np.ndarray, like: InputVolume, path: Path) -> None:
    """Voxels (D, H, W) on the world grid of `like`, as uncompressed NRRD, LPS. Raises `ResourceError`."""
    import SimpleITK as sitk

    spacing, origin, direction = like.worldGrid()
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(origin.tolist())
    image.SetDirection(direction.ravel().tolist())
    try:
        sitk.WriteImage(image, str(path), useCompression=False)
    except RuntimeError as error:
        raise ResourceError(
            _("The images could not be handed over: is the disk of the temporary folder full?")
        ) from error


def checkRequest(fixed: Any, moving: Any, transform: Any = None, volume: Any = None) -> None:
    """Raises `InputError` with the reason why these nodes (None where not chosen) cannot be registered."""
    if fixed is None:
        raise InputError(_("Choose a fixed volume."))
    if moving is None:
        raise InputError(_("Choose a moving volume."))
    if not all(isinstance(node, slicer.vtkMRMLScalarVolumeNode) for node in (fixed, moving)):
        raise InputError(_("The fixed and the moving volume have to be scalar volume nodes."))
    if transform is not None and not isinstance(transform, slicer.vtkMRMLTransformNode):
        raise InputError(_("The output transform has to be a transform node."))
    if volume is not None and type(volume) is not slicer.vtkMRMLScalarVolumeNode:
        raise InputError(_("The output volume has to be a scalar volume node, and no label map."))
    if fixed is moving:
        raise InputError(_("The fixed and the moving volume are the same; choose two."))
    if volume is not None and volume in (fixed, moving):
        raise InputError(_("The output volume would overwrite an input; choose another."))
    for node in (fixed, moving):
        if transform is not None and _isUnder(node, transform):
            raise InputError(
                _(
                    '"{name}" is under the output transform; choose another output or take it out of there.'
                ).format(name=node.GetName())
            )
        InputVolume.of(node)


def voxelTime(node: Any) -> int:
    """A number that grows when voxels change; 0 without an image."""
    image = node.GetImageData()
    if image is None:
        return 0
    scalars = image.GetPointData().GetScalars()
    return max(image.GetMTime(), scalars.GetMTime() if scalars is not None else 0)


def _isUnder(node: Any, transform: Any) -> bool:
    parent = node.GetParentTransformNode()
    return parent is not None and (parent is transform or _isUnder(parent, transform))


def parentToWorld(node: Any) -> np.ndarray:
    parent = node.GetParentTransformNode()
    if parent is None:
        return np.eye(4)
    if not parent.IsTransformToWorldLinear():
        raise InputError(
            _(
                '"{name}" is under a transform that deforms it; take it out of there or harden it first.'
            ).format(name=node.GetName())
        )
    matrix = vtk.vtkMatrix4x4()
    parent.GetMatrixTransformToWorld(matrix)
    toWorld = _array(matrix)
    if abs(np.linalg.det(toWorld)) < 1e-12:
        raise InputError(_('"{name}" is under a transform that flattens it.').format(name=node.GetName()))
    return toWorld


def _array(matrix: vtk.vtkMatrix4x4) -> np.ndarray:
    return slicer.util.arrayFromVTKMatrix(matrix)
