"""Segments under a deformation, hardened slab by slab, so that the window stays alive."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import slicer
import vtk

from .reslice import concatenated, reslicedInSteps

BOX_POINTS = 9
"""Along each axis of a label map, to see which box it moves to."""
MARGIN = 3


def hasLabelMaps(node: Any) -> bool:
    """Whether the segments of a segmentation node are label maps, and not drawn as surfaces."""
    return bool(node.GetSegmentation().GetSourceRepresentationName() == _labelMap())


def hardenSegments(node: Any, toMoving: vtk.vtkMatrix4x4, transformNode: Any) -> Iterator[float]:
    """Move the label maps of a segmentation node, in its own coordinates, by `toMoving` and then by the transform node
    to the world; each keeps its axes and voxel size. Yields how much is done; nothing is changed before the end."""
    segmentation, kind = node.GetSegmentation(), _labelMap()
    toWorld, fromWorld, toOwn = vtk.vtkGeneralTransform(), vtk.vtkGeneralTransform(), vtk.vtkMatrix4x4()
    transformNode.GetTransformToWorld(toWorld)
    transformNode.GetTransformFromWorld(fromWorld)
    vtk.vtkMatrix4x4.Invert(toMoving, toOwn)
    layers: dict[Any, list[Any]] = {}  # segments share label maps
    for name in segmentation.GetSegmentIDs():
        segment = segmentation.GetSegment(name)
        labels = segment.GetRepresentation(kind)
        if labels is not None and labels.GetNumberOfPoints() > 0:
            layers.setdefault(labels, []).append(segment)
    moved = {}
    for number, labels in enumerate(layers):
        toImage, fromImage = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
        labels.GetImageToWorldMatrix(fromImage)
        vtk.vtkMatrix4x4.Invert(fromImage, toImage)
        image, result = vtk.vtkImageData(), vtk.vtkImageData()
        image.ShallowCopy(labels)
        image.SetOrigin(0, 0, 0)
        image.SetSpacing(1, 1, 1)
        extent = _movedExtent(labels.GetExtent(), concatenated(toImage, toWorld, toMoving, fromImage))
        back = concatenated(toImage, toOwn, fromWorld, fromImage)
        for fraction in reslicedInSteps(image, result, back, extent, nearest=True):
            yield (number + fraction) / len(layers)
        moved[labels] = slicer.vtkOrientedImageData()
        moved[labels].ShallowCopy(result)
        moved[labels].SetImageToWorldMatrix(fromImage)
    names: list[str] = []
    segmentation.GetContainedRepresentationNames(names)
    for name in names:
        if name != kind:
            segmentation.RemoveRepresentation(name)
    for labels, segments in layers.items():
        for segment in segments:
            segment.AddRepresentation(kind, moved[labels])


def _labelMap() -> str:
    name: str = slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName()
    return name


def _movedExtent(extent: Any, ijkToIjk: vtk.vtkAbstractTransform) -> tuple[int, ...]:
    """The box of voxels that a box of voxels moves to."""
    low, high = np.array(extent[::2]), np.array(extent[1::2])
    axes = [np.linspace(a, b, BOX_POINTS) for a, b in zip(low, high, strict=True)]
    points = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 3)
    places = np.array([ijkToIjk.TransformPoint(point) for point in points.tolist()])
    first = np.floor(places.min(axis=0)).astype(int) - MARGIN
    last = np.ceil(places.max(axis=0)).astype(int) + MARGIN
    return tuple(int(n) for pair in zip(first, last, strict=True) for n in pair)
