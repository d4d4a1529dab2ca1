"""Paired points in the fixed and in the moving volume, and how far apart a transform leaves them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
import vtk
from masr_registration.errors import InputError
from masr_registration.evaluation.landmarks import read_landmarks, write_landmarks_csv
from slicer.i18n import tr as _

LPS = np.array([-1.0, -1.0, 1.0])
_DEFINED = slicer.vtkMRMLMarkupsNode.PositionDefined


@dataclass(frozen=True)
class LandmarkError:
    """One pair: its name, world RAS mm of both points (None where it has none yet), and TRE in mm."""

    name: str
    fixed: np.ndarray | None
    moving: np.ndarray | None
    before: float | None
    after: float | None


def points(node: Any) -> list[np.ndarray | None]:
    """World RAS of every control point of a list, None for those that have no place yet."""
    if node is None:
        return []
    found: list[np.ndarray | None] = []
    for index in range(node.GetNumberOfControlPoints()):
        place = [0.0, 0.0, 0.0]
        node.GetNthControlPointPositionWorld(index, place)
        found.append(np.array(place) if node.GetNthControlPointPositionStatus(index) == _DEFINED else None)
    return found


def errors(fixedList: Any, movingList: Any, transformNode: Any, fixedNode: Any, movingNode: Any) -> list[LandmarkError]:
    """One row for every pair, by index.

    Before: between the points as the volumes lie in the world. After: from where the result takes the fixed point to
    the moving point, in the moving volume; None without a result.
    """
    rows = []
    places = points(fixedList), points(movingList)
    for index in range(max(map(len, places))):
        fixed, moving = (side[index] if index < len(side) else None for side in places)
        named = fixedList if fixedList is not None and index < len(places[0]) else movingList
        before = after = None
        if fixed is not None and moving is not None:
            before = float(np.linalg.norm(fixed - moving))
            if transformNode is not None:
                seen = counterpart(transformNode, fixed, movingNode)
                after = float(np.linalg.norm(seen - moving))
        rows.append(LandmarkError(named.GetNthControlPointLabel(index), fixed, moving, before, after))
    return rows


def counterpart(transformNode: Any, place: np.ndarray, movingNode: Any) -> np.ndarray:
    """Where the result takes a world RAS point of the fixed volume: world RAS of the moving one, as it lies now."""
    return _toWorld(np.array(transformNode.GetTransformFromParent().TransformPoint(*place)), movingNode, transformNode)


def counterpartInFixed(transformNode: Any, place: np.ndarray, movingNode: Any) -> np.ndarray:
    """The other way round: world RAS of the fixed volume for a world RAS point of the moving one."""
    own = _fromWorld(place, movingNode, transformNode)
    return np.array(transformNode.GetTransformToParent().TransformPoint(*own))


def label(node: Any, index: int, name: str) -> None:
    node.SetNthControlPointLabel(index, name)


def addPoint(node: Any, place: np.ndarray, name: str) -> int:
    """A control point at a world RAS place; returns its index."""
    index = node.AddControlPointWorld(vtk.vtkVector3d(*(float(x) for x in place)))
    node.SetNthControlPointLabel(index, name)
    return int(index)


def newList(name: str, colour: tuple[float, float, float]) -> Any:
    node = slicer.mrmlScene.AddNewNodeByClass(
        "vtkMRMLMarkupsFiducialNode", slicer.mrmlScene.GenerateUniqueName(name)
    )
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetSelectedColor(*colour)
    return node


def importFile(path: str, node: Any) -> None:
    """Replace the points of a list by those of a .mrk.json or .csv file. Raises `InputError`."""
    labels, places = read_landmarks(path)
    node.RemoveAllControlPoints()
    for name, place in zip(labels, places * LPS, strict=True):
        addPoint(node, place, name)


def exportFile(path: str, node: Any) -> None:
    """Write a list as .mrk.json or .csv, by the ending. Raises `InputError`, `ResourceError`."""
    if path.lower().endswith(".csv"):
        pairs = [(node.GetNthControlPointLabel(n), p) for n, p in enumerate(points(node)) if p is not None]
        places = np.array([p for _name, p in pairs]).reshape(-1, 3) * LPS
        write_landmarks_csv(path, [name for name, _place in pairs], places)
        return
    if not path.lower().endswith(".mrk.json"):
        raise InputError(_("Landmarks are written as .mrk.json or .csv."))
    storage = slicer.vtkMRMLMarkupsJsonStorageNode()
    storage.SetFileName(path)
    if not storage.WriteData(node):
        raise InputError(_("The landmarks could not be written: is the folder there, and not read-only?"))


def _parentToWorld(movingNode: Any, transformNode: Any) -> Any:
    """The transform from the moving volume's own coordinates to the world in which its points lie; None when they are
    the same. A volume under the result itself is seen in its own coordinates."""
    parent = None if movingNode is None else movingNode.GetParentTransformNode()
    if parent is None or parent is transformNode:
        return None
    general = vtk.vtkGeneralTransform()
    parent.GetTransformToWorld(general)
    return general


def _toWorld(place: np.ndarray, movingNode: Any, transformNode: Any) -> np.ndarray:
    general = _parentToWorld(movingNode, transformNode)
    return place if general is None else np.array(general.TransformPoint(*place))


def _fromWorld(place: np.ndarray, movingNode: Any, transformNode: Any) -> np.ndarray:
    general = _parentToWorld(movingNode, transformNode)
    return place if general is None else np.array(general.GetInverse().TransformPoint(*place))
