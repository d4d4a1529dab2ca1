"""Masks (segments, label maps, volumes) -> images on the grid of the volume that they belong to."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from masr_registration.errors import InputError
from slicer.i18n import tr as _
from vtk.util.numpy_support import vtk_to_numpy

from .inputs import InputVolume, voxelTime, writeImage
from .reslice import concatenated, resliced

ALL_SEGMENTS = ""


def checkMask(node: Any, segmentId: str = ALL_SEGMENTS) -> None:
    """Raises `InputError` with the reason why this node, or this segment of it, is no mask."""
    name = node.GetName()
    if node.IsA("vtkMRMLSegmentationNode"):
        segmentation = node.GetSegmentation()
        if segmentation.GetNumberOfSegments() == 0:
            raise InputError(_('The mask "{name}" has no segments.').format(name=name))
        if segmentId != ALL_SEGMENTS and segmentation.GetSegment(segmentId) is None:
            raise InputError(
                _('The chosen segment of the mask "{name}" is gone; choose another.').format(name=name)
            )
    elif not node.IsA("vtkMRMLScalarVolumeNode"):
        raise InputError(_('"{name}" is neither a segmentation nor a volume: no mask.').format(name=name))
    elif node.GetImageData() is None or node.GetImageData().GetNumberOfScalarComponents() != 1:
        raise InputError(
            _('The mask "{name}" holds no image with one value in every voxel.').format(name=name)
        )


def maskState(node: Any, segmentId: str = ALL_SEGMENTS) -> tuple[Any, ...]:
    """A value that is another one once the mask says something else."""
    if not node.IsA("vtkMRMLSegmentationNode"):
        matrix = vtk.vtkMatrix4x4()
        node.GetIJKToRASMatrix(matrix)
        return voxelTime(node), slicer.util.arrayFromVTKMatrix(matrix).tobytes()
    segmentation = node.GetSegmentation()
    ids = [segmentId] if segmentId != ALL_SEGMENTS else segmentation.GetSegmentIDs()
    shown = [segmentation.GetSegment(name) for name in ids]
    kind = segmentation.GetSourceRepresentationName()
    return tuple(None if segment is None else _segmentState(segment, kind) for segment in shown)


def _segmentState(segment: Any, kind: str) -> tuple[Any, ...]:
    """Other segments may share the label map, and do not count."""
    shape = segment.GetRepresentation(kind)
    if shape is None or not shape.IsA("vtkOrientedImageData"):
        return (0 if shape is None else shape.GetMTime(),)
    scalars, matrix = shape.GetPointData().GetScalars(), vtk.vtkMatrix4x4()
    shape.GetImageToWorldMatrix(matrix)
    inside = b"" if scalars is None else np.packbits(vtk_to_numpy(scalars) == segment.GetLabelValue())
    return shape.GetExtent(), slicer.util.arrayFromVTKMatrix(matrix).tobytes(), zlib.crc32(inside)


def writeMask(node: Any, segmentId: str, volume: InputVolume, path: Path) -> None:
    """Uncompressed NRRD on the world grid of `volume`: 1 inside, 0 outside, or probabilities as they are.

    Raises `InputError` for a mask that is empty there, `ResourceError`.
    """
    checkMask(node, segmentId)
    array = (
        _ofSegments(node, segmentId, volume)
        if node.IsA("vtkMRMLSegmentationNode")
        else _ofVolume(node, volume)
    )
    if not array.any():
        raise InputError(
            _('The mask "{mask}" is empty where "{volume}" lies.').format(
                mask=node.GetName(), volume=volume.name
            )
        )
    writeImage(array, volume, path)


def _ofSegments(node: Any, segmentId: str, volume: InputVolume) -> np.ndarray:
    segmentation = node.GetSegmentation()
    ids = [segmentId] if segmentId != ALL_SEGMENTS else segmentation.GetSegmentIDs()
    inside = np.zeros(slicer.util.arrayFromVolume(volume.node).shape, bool)
    layers: dict[Any, list[int]] = {}  # segments share label maps
    for name in ids:
        labels = node.GetBinaryLabelmapInternalRepresentation(name)
        if labels is None:  # drawn as a surface
            inside |= slicer.util.arrayFromSegmentBinaryLabelmap(node, name, volume.node) > 0
        elif labels.GetNumberOfPoints() > 0:
            layers.setdefault(labels, []).append(segmentation.GetSegment(name).GetLabelValue())
    for labels, values in layers.items():
        inside |= np.isin(_ofLabels(node, labels, volume), values)
    return inside.astype(np.uint8)


def _ofLabels(node: Any, labels: Any, volume: InputVolume) -> np.ndarray:
    rasToIjk, image = vtk.vtkMatrix4x4(), vtk.vtkImageData()
    labels.GetWorldToImageMatrix(rasToIjk)
    image.ShallowCopy(labels)
    image.SetOrigin(0, 0, 0)
    image.SetSpacing(1, 1, 1)
    return _onGrid(node, image, rasToIjk, volume, nearest=True)


def _ofVolume(node: Any, volume: InputVolume) -> np.ndarray:
    rasToIjk, image = vtk.vtkMatrix4x4(), node.GetImageData()
    node.GetRASToIJKMatrix(rasToIjk)
    probabilities = image.GetScalarType() in (vtk.VTK_FLOAT, vtk.VTK_DOUBLE)
    array = _onGrid(node, image, rasToIjk, volume, nearest=not probabilities)
    return array if probabilities else (array != 0).astype(np.uint8)


def _onGrid(
    node: Any, image: vtk.vtkImageData, rasToIjk: vtk.vtkMatrix4x4, volume: InputVolume, *, nearest: bool
) -> np.ndarray:
    """Voxels (D, H, W) of an image in the coordinates of `node`, on the world grid of `volume`."""
    from vtk.util.numpy_support import vtk_to_numpy

    fromWorld = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(None, node.GetParentTransformNode(), fromWorld)
    ijkToWorld = slicer.util.vtkMatrixFromArray(volume.ijkToWorld)
    through = concatenated(rasToIjk, fromWorld, ijkToWorld)
    moved = resliced(image, through, volume.node.GetImageData().GetExtent(), nearest=nearest)
    return vtk_to_numpy(moved.GetPointData().GetScalars()).reshape(moved.GetDimensions()[::-1])
