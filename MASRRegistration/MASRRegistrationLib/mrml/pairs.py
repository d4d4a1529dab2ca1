"""Points of two lists as pairs (see `pairing`), in the coordinates that the volumes and the worker need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from masr_registration.evaluation.landmarks import write_landmarks_csv

from .inputs import InputVolume
from .pairing import Row, rows

LPS = np.array([-1.0, -1.0, 1.0])
SUGGESTED = "suggested"
"""Description of a control point that nobody has accepted yet."""
_DEFINED = slicer.vtkMRMLMarkupsNode.PositionDefined


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


def ownPoints(node: Any) -> list[np.ndarray | None]:
    """The same in the list's own coordinates, RAS mm."""
    return [
        None if place is None else np.array(node.GetNthControlPointPosition(index))
        for index, place in enumerate(points(node))
    ]


def pairs(fixedList: Any, movingList: Any, movingNode: Any) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names, world RAS mm of the fixed points and RAS mm of the moving ones in their volume's own coordinates
    ``(N, 3)``, of the pairs that are complete and accepted."""
    names: list[str] = []
    places: list[tuple[np.ndarray, np.ndarray]] = []
    fixedPlaces, movingPlaces = points(fixedList), points(movingList)
    for row in rows(fixedList, movingList):
        if row.fixed is None or row.moving is None or suggestionIn(row, fixedList, movingList) is not None:
            continue
        fixed, moving = fixedPlaces[row.fixed], movingPlaces[row.moving]
        if fixed is not None and moving is not None:
            names.append(row.name)
            places.append((fixed, fromWorld(movingNode, moving)))
    both = np.array(places).reshape(-1, 2, 3)
    return names, both[:, 0], both[:, 1]


def suggestionIn(row: Row, fixedList: Any, movingList: Any) -> bool | None:
    """Whether the moving (True) or the fixed (False) point is a suggestion nobody has answered; None if neither."""
    for inMoving, node in ((True, movingList), (False, fixedList)):
        index = row.index(inMoving)
        if index is not None and node.GetNthControlPointDescription(index) == SUGGESTED:
            return inMoving
    return None


def writePairs(fixedList: Any, movingList: Any, moving: InputVolume, folder: Path) -> tuple[str, str]:
    """Two .csv files for the worker, in the world in which it sees the volumes. Raises `ResourceError`."""
    names, fixed, own = pairs(fixedList, movingList, moving.node)
    seen = own @ moving.parentToWorld[:3, :3].T + moving.parentToWorld[:3, 3]
    numbered = [f"{number} {name}" for number, name in enumerate(names, start=1)]  # unique
    files = folder / "fixed_landmarks.csv", folder / "moving_landmarks.csv"
    for file, places in zip(files, (fixed, seen), strict=True):
        write_landmarks_csv(file, numbered, places * LPS)
    return str(files[0]), str(files[1])


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
