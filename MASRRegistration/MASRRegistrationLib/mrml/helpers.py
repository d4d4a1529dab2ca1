"""Nodes that only help to show something: hidden, never saved, removed with the view that needed them."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer


def helperVolume(name: str, array: np.ndarray, ijkToRas: np.ndarray, colours: Any = None) -> Any:
    """A hidden scalar volume ``(D, H, W)``; with `colours` (a procedural node) shown by them over their whole range."""
    node = slicer.vtkMRMLScalarVolumeNode()
    node.SetName(name)
    hide(node)
    node = slicer.mrmlScene.AddNode(node)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(ijkToRas))
    slicer.util.updateVolumeFromArray(node, array)
    display = slicer.vtkMRMLScalarVolumeDisplayNode()
    hide(display)
    display = slicer.mrmlScene.AddNode(display)
    node.SetAndObserveDisplayNodeID(display.GetID())
    if colours is not None:
        from .colours import colourRange

        display.SetAndObserveColorNodeID(colours.GetID())
        display.SetAutoWindowLevel(False)
        display.SetWindowLevelMinMax(*colourRange(colours))
    return node


def hide(node: Any) -> None:
    node.SetHideFromEditors(True)
    node.SetSaveWithScene(False)


def remove(node: Any) -> None:
    """The node and its display nodes, where they are still in the scene."""
    if node is None or not slicer.mrmlScene.IsNodePresent(node):
        return
    displays = [node.GetNthDisplayNode(n) for n in range(node.GetNumberOfDisplayNodes())]
    for part in (node, *displays):
        if part is not None and slicer.mrmlScene.IsNodePresent(part):
            slicer.mrmlScene.RemoveNode(part)
