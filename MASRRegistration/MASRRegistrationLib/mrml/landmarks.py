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

from .pairing import rows
from .pairs import LPS, fromWorld, points, toWorld
from .results import storedResult

BOUND = "MASR.FollowsVolume"
"""Attribute of a list that lies in the coordinates of the moving volume."""


@dataclass(frozen=True)
class LandmarkError:
    """One pair: its name, world RAS mm of both points (None where it has none yet), and TRE in mm."""

    name: str
    fixed: np.ndarray | None
    moving: np.ndarray | None
    before: float | None
    after: float | None


def errors(fixedList: Any, movingList: Any, transformNode: Any, movingNode: Any) -> list[LandmarkError]:
    """One for each of `pairing.rows`; without a result there is no error yet.

    Before: as the volumes lay when the result was made. After: between where the result takes the fixed point and the
    moving point. Both in mm, in the moving volume's own coordinates.
    """
    found = []
    fixedPlaces, movingPlaces = points(fixedList), points(movingList)
    stored = storedResult(transformNode)
    for row in rows(fixedList, movingList):
        fixed = None if row.fixed is None else fixedPlaces[row.fixed]
        moving = None if row.moving is None else movingPlaces[row.moving]
        before = after = None
        if fixed is not None and moving is not None and stored is not None:
            own = fromWorld(movingNode, moving)
            toWorld = np.array(stored["scene"]["moving"]["parentToWorld"])
            before = float(np.linalg.norm(fixed - toWorld[:3, :3] @ own - toWorld[:3, 3]))
            seen = transformNode.GetTransformFromParent().TransformPoint(*fixed)
            after = float(np.linalg.norm(seen - own))
        found.append(LandmarkError(row.name, fixed, moving, before, after))
    return found


def counterpart(
    transformNode: Any, place: np.ndarray, movingNode: Any, *, inMoving: bool = True
) -> np.ndarray:
    """Where the result takes a point of the fixed volume in the moving one, as that lies now; both world RAS mm.

    The other way round without `inMoving`. Without a result (None), where it is.
    """
    if transformNode is None:
        return place
    if inMoving:
        own = transformNode.GetTransformFromParent().TransformPoint(*place)
        return toWorld(movingNode, np.array(own))
    own = fromWorld(movingNode, place)
    return np.array(transformNode.GetTransformToParent().TransformPoint(*own))


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


def bind(node: Any, volumeNode: Any) -> None:
    """From now on the list lies in the coordinates of the volume, whatever that is put under; see `follow`."""
    node.SetAttribute(BOUND, "1")
    follow(node, volumeNode)


def follow(node: Any, volumeNode: Any) -> None:
    """A list that is bound gets the volume's parent transform; others stay as they are."""
    if node is None or volumeNode is None or node.GetAttribute(BOUND) is None:
        return
    if node.GetTransformNodeID() != volumeNode.GetTransformNodeID():
        node.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())


def importFile(path: str, node: Any) -> None:
    """Replace the points of a list, in its own coordinates, by those of a .mrk.json or .csv file.

    Raises `InputError`.
    """
    labels, places = read_landmarks(path)
    node.RemoveAllControlPoints()
    for name, place in zip(labels, places * LPS, strict=True):
        node.SetNthControlPointLabel(node.AddControlPoint(vtk.vtkVector3d(*place.tolist())), name)


def exportFile(path: str, node: Any) -> None:
    """Write a list as .mrk.json or .csv, by the ending, in its own coordinates as Slicer saves it.

    Raises `InputError`, `ResourceError`.
    """
    if path.lower().endswith(".csv"):
        chosen = [n for n, place in enumerate(points(node)) if place is not None]
        places = np.array([node.GetNthControlPointPosition(n) for n in chosen]).reshape(-1, 3) * LPS
        write_landmarks_csv(path, [node.GetNthControlPointLabel(n) for n in chosen], places)
        return
    if not path.lower().endswith(".mrk.json"):
        raise InputError(_("Landmarks are written as .mrk.json or .csv."))
    storage = slicer.vtkMRMLMarkupsJsonStorageNode()
    storage.SetFileName(path)
    if not storage.WriteData(node):
        raise InputError(_("The landmarks could not be written: is the folder there, and not read-only?"))
