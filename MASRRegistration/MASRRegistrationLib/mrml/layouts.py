"""The layouts of the module: three planes before and after, one view alone, and fixed over moving for landmarks."""

from __future__ import annotations

from typing import Any

import slicer

PLANES = ("Axial", "Coronal", "Sagittal")
COMPARE, ONE_UP, LANDMARKS = 16180, 16181, 16182
"""Numbers of the layouts; Slicer's own stay below 1000."""
BEFORE, AFTER, FIXED, MOVING = "MASRBefore", "MASRAfter", "MASRFixed", "MASRMoving"
_GROUPS = {BEFORE: 16180, AFTER: 16180, FIXED: 16181, MOVING: 16182}
"""Views of a group move together."""
_COLOURS = {"Axial": "#F34A33", "Coronal": "#6EB04B", "Sagittal": "#EDD54C"}


def register() -> None:
    """Make the layouts known, so that a saved scene with one of them opens as it was."""
    node = _layoutNode()
    if node is None:
        return
    for number, description in (
        (COMPARE, _rows(BEFORE, AFTER)),
        (ONE_UP, _view(AFTER, "Axial")),
        (LANDMARKS, _rows(FIXED, MOVING)),
    ):
        if not node.IsLayoutDescription(number):
            node.AddLayoutDescription(number, f'<layout type="vertical">{description}</layout>')


def show(layout: int) -> int | None:
    """Show a layout of this module; returns the number of the one shown before, None where there are no views."""
    register()
    node = _layoutNode()
    if node is None:
        return None
    before = node.GetViewArrangement()
    node.SetViewArrangement(layout)
    return int(before)


def restore(layout: int | None) -> None:
    """Show what `show` replaced, unless another layout was chosen meanwhile."""
    node = _layoutNode()
    if node is not None and layout is not None and node.GetViewArrangement() in (COMPARE, ONE_UP, LANDMARKS):
        node.SetViewArrangement(layout)


def shown() -> bool:
    """Whether the views of the Check tab are those that are shown."""
    node = _layoutNode()
    return node is not None and node.GetViewArrangement() in (COMPARE, ONE_UP)


def sizes(*rows: str) -> list[tuple[int, ...]]:
    """Width and height in pixels of the views of these rows."""
    return [tuple(logic.GetSliceNode().GetDimensions()[:2]) for row in rows for logic in sliceLogics(row)]


def sliceLogics(row: str) -> list[Any]:
    """The logics of the views of a row that exist."""
    logics = slicer.app.applicationLogic().GetSliceLogics()
    found = []
    for plane in PLANES:
        for index in range(logics.GetNumberOfItems() if logics is not None else 0):
            logic = logics.GetItemAsObject(index)
            node = logic.GetSliceNode()
            if node is not None and node.GetLayoutName() == f"{row}{plane}":
                found.append(logic)
    return found


def fit(*rows: str) -> None:
    """Put all of the background volume in sight; again once new views have their size."""
    for row in rows:
        for logic in sliceLogics(row):
            logic.FitSliceToBackground()


def jumpTo(place: Any, *rows: str) -> None:
    """The views of these rows (of the Check tab where none is named) to a world point (RAS mm)."""
    for row in rows or (BEFORE, AFTER):
        for logic in sliceLogics(row):
            logic.GetSliceNode().JumpSliceByCentering(*(float(x) for x in place))


def _layoutNode() -> Any:
    return slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode")


def _rows(*names: str) -> str:
    rows = ["".join(_view(row, plane) for plane in PLANES) for row in names]
    return "".join(f'<item><layout type="horizontal">{row}</layout></item>' for row in rows)


def _view(row: str, plane: str) -> str:
    properties = {
        "orientation": plane,
        "viewlabel": f"{row.removeprefix('MASR')[0]}-{plane[0]}",
        "viewcolor": _COLOURS[plane],
        "viewgroup": str(_GROUPS[row]),
    }
    inner = "".join(
        f'<property name="{name}" action="default">{value}</property>' for name, value in properties.items()
    )
    return f'<item><view class="vtkMRMLSliceNode" singletontag="{row}{plane}">{inner}</view></item>'
