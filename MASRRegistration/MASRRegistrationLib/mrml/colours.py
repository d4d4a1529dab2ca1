"""Colour scales with a meaning: millimetres of displacement, and local volume."""

from __future__ import annotations

from typing import Any

import slicer

TOLERANCE_MEAN_MM, TOLERANCE_MAX_MM = 2.0, 5.0
"""Reference lines of AAPM TG-132 for the error of a registration; a convention, no claim about this result."""
_DISPLACEMENT = (
    (0.0, 0.0, 0.0, 0.2),
    (2.0, 0.1, 0.5, 0.9),
    (5.0, 0.2, 0.9, 0.4),
    (10.0, 1.0, 0.9, 0.2),
    (20.0, 0.9, 0.1, 0.1),
)
_JACOBIAN = (
    (0.0, 0.6, 0.0, 0.6),
    (0.5, 0.1, 0.2, 0.9),
    (1.0, 0.95, 0.95, 0.95),
    (1.5, 0.9, 0.3, 0.1),
    (2.0, 0.5, 0.0, 0.0),
)
_HEAT = ((0.0, 0.0, 0.0, 0.0), (0.5, 0.6, 0.1, 0.3), (0.8, 0.95, 0.5, 0.1), (1.0, 1.0, 1.0, 0.7))


def displacementColours() -> Any:
    return _node("Displacement (mm)", _DISPLACEMENT)


def jacobianColours() -> Any:
    return _node("Volume ratio", _JACOBIAN)


def heatColours() -> Any:
    return _node("Likeness", _HEAT)


def _node(name: str, points: tuple[tuple[float, float, float, float], ...]) -> Any:
    """A procedural colour node with (value, red, green, blue) in the units of the voxels; hidden, made once."""
    tag = f"MASR.{name}"
    node = slicer.mrmlScene.GetSingletonNode(tag, "vtkMRMLProceduralColorNode")
    if node is None:
        node = slicer.vtkMRMLProceduralColorNode()
        node.SetName(name)
        node.SetSingletonTag(tag)
        node.SetHideFromEditors(True)
        node.SetSaveWithScene(False)
        for value, *colour in points:
            node.GetColorTransferFunction().AddRGBPoint(value, *colour)
        node = slicer.mrmlScene.AddNode(node)
    return node


def colourRange(node: Any) -> tuple[float, float]:
    """The lowest and the highest value of a scale."""
    low, high = node.GetColorTransferFunction().GetRange()
    return float(low), float(high)
