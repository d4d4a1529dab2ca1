"""Paired points in the fixed and in the moving volume, and how far apart a transform leaves them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from masr_registration.errors import InputError
from masr_registration.evaluation.landmarks import read_landmarks, write_landmarks_csv
from slicer.i18n import tr as _

from .inputs import InputVolume
from .results import storedResult

LPS = np.array([-1.0, -1.0, 1.0])
SUGGESTED = "suggested"
"""Description of a control point that nobody has accepted yet."""
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


def errors(fixedList: Any, movingList: Any, transformNode: Any, movingNode: Any) -> list[LandmarkError]:
    """One row for every pair, by index; without a result there is no error yet.

    Before: as the volumes lay when the result was made. After: between where the result takes the fixed point and the
    moving point. Both in mm, in the moving volume's own coordinates.
    """
    rows = []
    fixedPlaces, movingPlaces = points(fixedList), points(movingList)
    stored = storedResult(transformNode)
    for index in range(max(len(fixedPlaces), len(movingPlaces))):
        fixed, moving = (side[index] if index < len(side) else None for side in (fixedPlaces, movingPlaces))
        named = fixedList if index < len(fixedPlaces) else movingList
        before = after = None
        if fixed is not None and moving is not None and stored is not None:
            own = fromWorld(movingNode, moving)
            toWorld = np.array(stored["scene"]["moving"]["parentToWorld"])
            before = float(np.linalg.norm(fixed - toWorld[:3, :3] @ own - toWorld[:3, 3]))
            seen = transformNode.GetTransformFromParent().TransformPoint(*fixed)
            after = float(np.linalg.norm(seen - own))
        rows.append(LandmarkError(named.GetNthControlPointLabel(index), fixed, moving, before, after))
    return rows


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


def pairs(fixedList: Any, movingList: Any, movingNode: Any) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names, world RAS mm of the fixed points and RAS mm of the moving ones in their volume's own coordinates
    ``(N, 3)``, of the pairs that are complete and accepted."""
    names: list[str] = []
    places: list[tuple[np.ndarray, np.ndarray]] = []
    for index, (fixed, moving) in enumerate(zip(points(fixedList), points(movingList), strict=False)):
        waiting = any(
            node.GetNthControlPointDescription(index) == SUGGESTED for node in (fixedList, movingList)
        )
        if fixed is not None and moving is not None and not waiting:
            names.append(fixedList.GetNthControlPointLabel(index))
            places.append((fixed, fromWorld(movingNode, moving)))
    both = np.array(places).reshape(-1, 2, 3)
    return names, both[:, 0], both[:, 1]


def writePairs(fixedList: Any, movingList: Any, moving: InputVolume, folder: Path) -> tuple[str, str]:
    """Two .csv files for the worker, in the world in which it sees the volumes. Raises `ResourceError`."""
    names, fixed, own = pairs(fixedList, movingList, moving.node)
    seen = own @ moving.parentToWorld[:3, :3].T + moving.parentToWorld[:3, 3]
    numbered = [f"{number} {name}" for number, name in enumerate(names, start=1)]  # unique
    files = folder / "fixed_landmarks.csv", folder / "moving_landmarks.csv"
    for file, places in zip(files, (fixed, seen), strict=True):
        write_landmarks_csv(file, numbered, places * LPS)
    return str(files[0]), str(files[1])


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


def toWorld(node: Any, place: np.ndarray) -> np.ndarray:
    """World RAS of a point in the coordinates of a node."""
    return _apply(_between(node, None), place)


def fromWorld(node: Any, place: np.ndarray) -> np.ndarray:
    """In the coordinates of a node, of a world RAS point."""
    return _apply(_between(None, node), place)


def _between(source: Any, target: Any) -> Any:
    """From the coordinates of one node to those of another, RAS mm; None is the world."""
    general = vtk.vtkGeneralTransform()
    parents = (None if node is None else node.GetParentTransformNode() for node in (source, target))
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(*parents, general)
    return general


def _apply(transform: Any, place: np.ndarray) -> np.ndarray:
    return np.array(transform.TransformPoint(*place))
