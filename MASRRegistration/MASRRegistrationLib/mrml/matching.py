"""Suggested counterparts of points, from the features that the worker left, in the coordinates of the scene."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from masr_registration.matching.features import FeaturePair
from masr_registration.matching.suggest import Suggestion, suggest
from slicer.i18n import tr as _

from .colours import heatColours
from .helpers import helperVolume
from .pairs import LPS, fromWorld, toWorld

_FLIP = np.diag([*LPS, 1.0])
LEAST_SHOWN = 0.25
"""Likeness below which the map is transparent."""


@dataclass(frozen=True, eq=False)
class Suggested:
    """A counterpart in world RAS mm, and how sure it is ("clear", "unsure" or "none")."""

    place: np.ndarray
    level: str
    ratio: float
    found: Suggestion
    inMoving: bool


class Matcher:
    """Features of two volumes that lay where `movingToWorld` (4x4, RAS mm, the moving volume's own coordinates to the
    world) says when they were made."""

    def __init__(self, pair: FeaturePair, fixedNode: Any, movingNode: Any, movingToWorld: np.ndarray) -> None:
        self._pair, self.fixedNode, self.movingNode = pair, fixedNode, movingNode
        self._movingToWorld = movingToWorld

    def belongsTo(self, fixedNode: Any, movingNode: Any) -> bool:
        return fixedNode is self.fixedNode and movingNode is self.movingNode

    def suggest(self, place: np.ndarray, transformNode: Any, *, inMoving: bool = True) -> Suggested:
        """The counterpart of a world RAS point of the fixed volume in the moving one (or back without `inMoving`),
        around where the result, or without one the linear alignment, expects it. Raises `InputError`."""
        if inMoving:
            own = (
                None
                if transformNode is None
                else transformNode.GetTransformFromParent().TransformPoint(*place)
            )
            point, expected = (
                place * LPS,
                None if own is None else _move(self._movingToWorld, np.array(own)) * LPS,
            )
            if expected is None:
                expected = _move(self._pair.linear, point)
        else:
            own = fromWorld(self.movingNode, place)
            point = _move(self._movingToWorld, own) * LPS
            if transformNode is None:
                expected = _move(np.linalg.inv(self._pair.linear), point)
            else:
                expected = np.array(transformNode.GetTransformToParent().TransformPoint(*own)) * LPS
        found = suggest(self._pair, point, expected, from_fixed=inMoving)
        where = found.point * LPS
        if inMoving:
            where = toWorld(self.movingNode, _move(np.linalg.inv(self._movingToWorld), where))
        return Suggested(where, found.level, found.ratio, found, inMoving)

    def heatVolume(self, suggested: Suggested) -> Any:
        """A hidden volume with the likeness over the neighbourhood, lying like the volume it belongs to."""
        ijkToRas = _FLIP @ suggested.found.heat_to_lps
        if suggested.inMoving:
            ijkToRas = np.linalg.inv(self._movingToWorld) @ ijkToRas
        node = helperVolume(_("Likeness"), suggested.found.heat, ijkToRas, heatColours())
        node.GetDisplayNode().SetThreshold(LEAST_SHOWN, 1.0)
        node.GetDisplayNode().SetApplyThreshold(True)
        if suggested.inMoving and self.movingNode.GetParentTransformNode() is not None:
            node.SetAndObserveTransformNodeID(self.movingNode.GetTransformNodeID())
        return node


def confidence(suggested: Suggested) -> str:
    """How sure a suggestion is, in words."""
    sentences = {
        "clear": _("Clear: nothing else in the neighbourhood looks like this place."),
        "unsure": _("Likely, but another place looks similar: check it."),
        "none": _("Uncertain: several places look alike. Place the point by eye."),
    }
    return sentences[suggested.level]


def _move(matrix: np.ndarray, place: np.ndarray) -> np.ndarray:
    moved: np.ndarray = matrix[:3, :3] @ place + matrix[:3, 3]
    return moved
