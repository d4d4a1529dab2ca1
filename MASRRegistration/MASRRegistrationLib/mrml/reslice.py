"""Volumes on other grids."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import slicer
import vtk

SLAB_VOXELS = 150_000
"""Resliced at a time, in well under 0.1 s also by a deformation."""


def concatenated(*steps: Any) -> vtk.vtkAbstractTransform:
    """All transforms and matrices, the last applied first; linear (and so much faster) where all of them are."""
    whole, linear = vtk.vtkGeneralTransform(), vtk.vtkTransform()
    for step in steps:
        whole.Concatenate(step)
    return linear if slicer.vtkMRMLTransformNode.IsGeneralTransformLinear(whole, linear) else whole


def resliced(
    image: vtk.vtkImageData, ijkToIjk: vtk.vtkAbstractTransform, extent: Any, *, nearest: bool
) -> vtk.vtkImageData:
    """`image` on a grid of another extent; `ijkToIjk` maps that grid's voxel indices to the image's.

    Outside the image a label (`nearest`) is 0 and an intensity the image's lowest.
    """
    reslice = vtk.vtkImageReslice()
    reslice.SetInputData(image)
    reslice.SetResliceTransform(ijkToIjk)
    if nearest:
        reslice.SetInterpolationModeToNearestNeighbor()
    else:
        reslice.SetInterpolationModeToLinear()
        lowest = image.GetScalarRange()[0]
        reslice.SetBackgroundColor(lowest, lowest, lowest, lowest)
    reslice.SetOutputOrigin(0, 0, 0)
    reslice.SetOutputSpacing(1, 1, 1)
    reslice.SetOutputExtent(extent)
    reslice.Update()
    return reslice.GetOutput()


def reslicedInSteps(
    image: vtk.vtkImageData,
    moved: vtk.vtkImageData,
    ijkToIjk: vtk.vtkAbstractTransform,
    extent: Any,
    *,
    nearest: bool,
) -> Iterator[float]:
    """The same into `moved`, slab by slab so that the window stays alive; yields how much is done, last of all 1."""
    moved.SetExtent(extent)
    moved.AllocateScalars(image.GetScalarType(), image.GetNumberOfScalarComponents())
    *plane, first, last = extent
    slices = max(1, SLAB_VOXELS // ((plane[1] - plane[0] + 1) * (plane[3] - plane[2] + 1)))
    for start in range(first, last + 1, slices):
        stop = min(start + slices - 1, last)
        part = resliced(image, ijkToIjk, (*plane, start, stop), nearest=nearest)
        moved.CopyAndCastFrom(part, part.GetExtent())
        yield (stop - first + 1) / (last - first + 1)
