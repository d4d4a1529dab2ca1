"""Which points of two lists belong together, whatever is added, deleted or moved in either.

The pairs are stored with the list of the fixed points (and so in an .mrb), as the identifiers of their control points.
Points that nobody has paired yet belong together when they have the same name; in two lists that never met, have no
name in common and are equally long, by their order. A point whose partner was deleted waits for another one.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer

PAIRS, PARTNER_ROLE = "MASR.Pairs", "MASR.PairedWith"
SAME_PLACE_MM = 1e-3
_MARKUPS = slicer.vtkMRMLMarkupsNode


@dataclass(frozen=True)
class Row:
    """A pair, or a point without a partner: its name, and the index of each point in its list (None without one)."""

    name: str
    fixed: int | None
    moving: int | None

    def index(self, inMoving: bool) -> int | None:
        return self.moving if inMoving else self.fixed


@dataclass(frozen=True)
class _Point:
    """A control point as it is recognised: identifiers are used again after a list was emptied."""

    id: str
    name: str
    place: tuple[float, ...]

    def isSame(self, other: _Point) -> bool:
        if self.id != other.id:
            return False
        near = np.allclose(self.place, other.place, rtol=0, atol=SAME_PLACE_MM)
        return self.name == other.name or bool(near)


def rows(fixedList: Any, movingList: Any) -> list[Row]:
    """All points but those that only follow the mouse: pairs in the order of the fixed list, then those without."""
    fixed, moving = _points(fixedList), _points(movingList)
    partner = _matched(fixedList, movingList, fixed, moving)
    found = []
    for index, point in fixed.items():
        other = partner.get(index)
        name = point.name
        if other is not None and moving[other].name != name:
            name = f"{name} / {moving[other].name}"
        found.append(Row(name, index, other))
    paired = set(partner.values())
    return found + [Row(p.name, None, index) for index, p in moving.items() if index not in paired]


def remember(fixedList: Any, movingList: Any) -> None:
    """Store the pairs as they are now; those that lost a point are remembered as well."""
    if fixedList is None or movingList is None:
        return
    fixed, moving = _points(fixedList), _points(movingList)
    partner = _matched(fixedList, movingList, fixed, moving)
    pairs = [(fixed[f], moving[m]) for f, m in partner.items()]
    used = ({p.id for p, _other in pairs}, {p.id for _other, p in pairs})
    alive = ({p.id for p in fixed.values()}, {p.id for p in moving.values()})
    for pair in _stored(fixedList, movingList):
        half = any(p.id in ids for p, ids in zip(pair, alive, strict=True))
        if half and not any(p.id in ids for p, ids in zip(pair, used, strict=True)):
            pairs.append(pair)
    text = json.dumps([[[p.id, p.name, *p.place] for p in pair] for pair in pairs])
    if fixedList.GetNodeReference(PARTNER_ROLE) is not movingList:
        fixedList.SetNodeReferenceID(PARTNER_ROLE, movingList.GetID())
    if fixedList.GetAttribute(PAIRS) != text:
        fixedList.SetAttribute(PAIRS, text)


def join(fixedList: Any, fixedIndex: int, movingList: Any, movingIndex: int) -> None:
    """These two points belong together, whatever they did before."""
    remember(fixedList, movingList)
    first, second = _points(fixedList)[fixedIndex], _points(movingList)[movingIndex]
    others = [p for p in _stored(fixedList, movingList) if p[0].id != first.id and p[1].id != second.id]
    pairs = [*others, (first, second)]
    fixedList.SetAttribute(PAIRS, json.dumps([[[p.id, p.name, *p.place] for p in pair] for pair in pairs]))


def forget(fixedList: Any) -> None:
    """Nothing is known of the pairs of this list: its points are others now."""
    if fixedList is not None:
        fixedList.RemoveAttribute(PAIRS)


def newName(fixedList: Any, movingList: Any) -> str:
    """A number that is no point's name yet."""
    names = {p.name for node in (fixedList, movingList) for p in _points(node).values()}
    return next(str(number) for number in range(1, len(names) + 2) if str(number) not in names)


def _points(node: Any) -> dict[int, _Point]:
    found: dict[int, _Point] = {}
    for index in range(0 if node is None else node.GetNumberOfControlPoints()):
        if node.GetNthControlPointPositionStatus(index) != _MARKUPS.PositionPreview:
            place = tuple(round(x, 6) for x in node.GetNthControlPointPosition(index))
            found[index] = _Point(
                node.GetNthControlPointID(index), node.GetNthControlPointLabel(index), place
            )
    return found


def _stored(fixedList: Any, movingList: Any) -> list[tuple[_Point, _Point]]:
    if fixedList is None or movingList is None or fixedList.GetNodeReference(PARTNER_ROLE) is not movingList:
        return []
    pairs = json.loads(fixedList.GetAttribute(PAIRS) or "[]")
    return [(_Point(f[0], f[1], tuple(f[2:])), _Point(m[0], m[1], tuple(m[2:]))) for f, m in pairs]


def _matched(
    fixedList: Any, movingList: Any, fixed: dict[int, _Point], moving: dict[int, _Point]
) -> dict[int, int]:
    """Index of the fixed point -> index of the moving point."""
    partner: dict[int, int] = {}
    known = False
    for first, second in _stored(fixedList, movingList):
        f = next((index for index, p in fixed.items() if first.isSame(p)), None)
        m = next((index for index, p in moving.items() if second.isSame(p)), None)
        known = known or f is not None or m is not None
        if f is not None and m is not None:
            partner[f] = m
    free = [f for f in fixed if f not in partner], [m for m in moving if m not in partner.values()]
    names = [
        Counter(points[index].name for index in side)
        for side, points in zip(free, (fixed, moving), strict=True)
    ]
    byName = {moving[m].name: m for m in free[1]}
    for f in free[0]:
        name = fixed[f].name
        if names[0][name] == names[1][name] == 1:
            partner[f] = byName[name]
    if not partner and not known and len(fixed) == len(moving):
        return dict(zip(fixed, moving, strict=True))
    return partner
