"""Volumes on other grids."""

from __future__ import annotations

from typing import Any

import slicer
import vtk


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
