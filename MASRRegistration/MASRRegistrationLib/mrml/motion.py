"""How far landmarks move over a registered sequence: numbers, a table and a plot."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import vtk
from masr_registration.errors import InputError
from slicer.i18n import tr as _

from .results import createOutput


def motion(transformSequence: Any, landmarks: Any) -> np.ndarray:
    """Displacement in mm of every control point of `landmarks`, placed on the reference, in every item: ``(T, N)``.

    Raises `InputError` for nodes of another kind and for a list without points.
    """
    if not isinstance(transformSequence, slicer.vtkMRMLSequenceNode) or not (
        transformSequence.GetNumberOfDataNodes()
        and isinstance(transformSequence.GetNthDataNode(0), slicer.vtkMRMLTransformNode)
    ):
        raise InputError(_("Choose a sequence of transforms."))
    if not isinstance(landmarks, slicer.vtkMRMLMarkupsNode) or not landmarks.GetNumberOfControlPoints():
        raise InputError(_("Choose a list of landmarks with at least one point."))
    points = slicer.util.arrayFromMarkupsControlPoints(landmarks, world=True)
    rows = []
    for number in range(transformSequence.GetNumberOfDataNodes()):
        transform = vtk.vtkGeneralTransform()
        transformSequence.GetNthDataNode(number).GetTransformFromWorld(transform)
        moved = np.array([transform.TransformPoint(point) for point in points.tolist()])
        rows.append(np.linalg.norm(moved - points, axis=1))
    return np.array(rows)


def plotMotion(transformSequence: Any, landmarks: Any) -> Any:
    """A new plot chart of `motion` over the index of the sequence, with its table. Raises `InputError`."""
    distances = motion(transformSequence, landmarks)
    axis, title = _axis(transformSequence)
    names = _columns(landmarks, title)
    name = _("Motion of {landmarks}").format(landmarks=landmarks.GetName())
    table = createOutput(None, "vtkMRMLTableNode", name)
    slicer.util.updateTableFromArray(table, [axis, *distances.T], [title, *names])
    chart = createOutput(None, "vtkMRMLPlotChartNode", name)
    chart.SetTitle(name)
    chart.SetXAxisTitle(title)
    chart.SetYAxisTitle(_("displacement (mm)"))
    for column in names:
        series = createOutput(None, "vtkMRMLPlotSeriesNode", column)
        series.SetAndObserveTableNodeID(table.GetID())
        series.SetXColumnName(title)
        series.SetYColumnName(column)
        series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
        series.SetMarkerStyle(slicer.vtkMRMLPlotSeriesNode.MarkerStyleCircle)
        series.SetUniqueColor()
        chart.AddAndObservePlotSeriesNodeID(series.GetID())
    return chart


def _axis(sequence: Any) -> tuple[np.ndarray, str]:
    """Index values, or numbers of the items where those are no numbers, and what they are called."""
    values = [sequence.GetNthIndexValue(n) for n in range(sequence.GetNumberOfDataNodes())]
    try:
        numbers = np.array([float(value) for value in values])
    except ValueError:
        return np.arange(len(values), dtype=float), _("item")
    unit = sequence.GetIndexUnit()
    return numbers, f"{sequence.GetIndexName()} ({unit})" if unit else sequence.GetIndexName() or _("item")


def _columns(landmarks: Any, taken: str) -> list[str]:
    """A name for every point that no other column has."""
    names: list[str] = []
    for number in range(landmarks.GetNumberOfControlPoints()):
        name = landmarks.GetNthControlPointLabel(number) or str(number + 1)
        names.append(name if name not in (taken, *names) else f"{name} ({number + 1})")
    return names
