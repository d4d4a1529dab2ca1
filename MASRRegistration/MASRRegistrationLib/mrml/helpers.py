"""Nodes that only help to show something: hidden, never saved, removed with the view that needed them."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer

from .colours import colourRange


def helperVolume(name: str, array: np.ndarray, ijkToRas: np.ndarray, colours: Any = None) -> Any:
    """A hidden scalar volume ``(D, H, W)``, shown in grey from 0 to 255, or by `colours` (a procedural node) over their
    whole range."""
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
    display.SetAutoWindowLevel(False)
    if colours is None:
        display.SetDefaultColorMap()
        display.SetWindowLevelMinMax(0, 255)
    else:
        display.SetAndObserveColorNodeID(colours.GetID())
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
