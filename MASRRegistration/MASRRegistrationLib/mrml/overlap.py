"""Dice and HD95 of segments of the same name, before and after a result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
from masr_registration.errors import InputError
from masr_registration.evaluation.metrics import dice, hd95
from slicer.i18n import tr as _

from .helpers import remove
from .results import FIXED_ROLE, storedResult


@dataclass(frozen=True)
class Overlap:
    """One segment: Dice (0 to 1) and HD95 in mm, before and after; None where a side is empty."""

    name: str
    diceBefore: float | None
    diceAfter: float | None
    hd95Before: float | None
    hd95After: float | None


def overlaps(transformNode: Any, fixedSegmentation: Any, movingSegmentation: Any) -> list[Overlap]:
    """On the fixed volume's grid. Raises `InputError` with the reason why nothing can be compared."""
    fixed, stored = transformNode.GetNodeReference(FIXED_ROLE), storedResult(transformNode)
    if fixed is None or stored is None:
        raise InputError(_("The fixed volume of this result was deleted."))
    pairs = _pairs(fixedSegmentation, movingSegmentation)
    if not pairs:
        raise InputError(_("The two segmentations have no segment of the same name."))
    before = np.array(stored["scene"]["moving"]["parentToWorld"])
    spacing = fixed.GetSpacing()
    found = []
    with (
        _Placed(movingSegmentation, before, None) as unmoved,
        _Placed(movingSegmentation, None, transformNode) as moved,
    ):
        for name, fixedId, movingId in pairs:
            reference = _mask(fixedSegmentation, fixedId, fixed)
            values: list[float | None] = []
            for node in (unmoved, moved):
                other = _mask(node, movingId, fixed)
                values += [dice(reference, other, [1])[1], hd95(reference, other, spacing)]
            found.append(Overlap(name, values[0], values[2], values[1], values[3]))
    return found


class _Placed:
    """A hidden copy of a segmentation in its own coordinates, hardened under a matrix or a transform node."""

    def __init__(self, segmentation: Any, matrix: np.ndarray | None, transformNode: Any) -> None:
        self._source, self._matrix, self._transformNode = segmentation, matrix, transformNode

    def __enter__(self) -> Any:
        scene = slicer.mrmlScene
        self._node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
        self._node.SetHideFromEditors(True)
        self._node.GetSegmentation().DeepCopy(self._source.GetSegmentation())
        self._linear = None
        if self._matrix is not None:
            self._linear = self._transformNode = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
            slicer.util.updateTransformMatrixFromArray(self._linear, self._matrix)
        self._node.SetAndObserveTransformNodeID(self._transformNode.GetID())
        self._node.HardenTransform()
        return self._node

    def __exit__(self, *unused: Any) -> None:
        remove(self._node)
        remove(self._linear)


def _pairs(fixed: Any, moving: Any) -> list[tuple[str, str, str]]:
    """Name, fixed id and moving id of the segments that both have."""
    sides = []
    for node in (fixed, moving):
        segmentation = node.GetSegmentation()
        ids = [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())]
        sides.append({segmentation.GetSegment(id_).GetName(): id_ for id_ in ids})
    return [(name, id_, sides[1][name]) for name, id_ in sides[0].items() if name in sides[1]]


def _mask(node: Any, segmentId: str, reference: Any) -> np.ndarray:
    return (slicer.util.arrayFromSegmentBinaryLabelmap(node, segmentId, reference) > 0).astype(np.uint8)
