"""The inverse of a result, on demand."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import vtk
from masr_registration.errors import InputError
from slicer.i18n import tr as _

from .changes import ChangeRecord
from .results import FIXED_ROLE, MOVING_ROLE, createOutput, storedResult


def createInverse(transformNode: Any) -> Any:
    """A new transform node under which the fixed volume, and whatever lies in its coordinates, matches the moving one.

    Slicer inverts the result point by point (within 0.01 mm), so that the two always fit together.

    Raises `InputError` for a node that holds no result.
    """
    content = storedResult(transformNode)
    if content is None:
        raise InputError(_("This transform is not the result of a registration."))
    fixed, moving = (content["scene"][role] for role in ("fixed", "moving"))
    name = f"{fixed['name']} to {moving['name']}"
    node = createOutput(ChangeRecord.of(transformNode), transformNode.GetClassName(), name)
    node.CopyContent(transformNode, True)
    outer, inner = (slicer.util.vtkMatrixFromArray(np.array(v["parentToWorld"])) for v in (moving, fixed))
    if node.IsLinear():
        matrix = vtk.vtkMatrix4x4()
        node.GetMatrixTransformFromParent(matrix)
        vtk.vtkMatrix4x4.Multiply4x4(outer, matrix, matrix)
        vtk.vtkMatrix4x4.Multiply4x4(matrix, inner, matrix)
        node.SetMatrixTransformToParent(matrix)
    else:
        toParent = vtk.vtkGeneralTransform()
        for step in (outer, node.GetTransformFromParent(), inner):
            toParent.Concatenate(step)
        node.SetAndObserveTransformToParent(toParent)
    for role, other in ((FIXED_ROLE, MOVING_ROLE), (MOVING_ROLE, FIXED_ROLE)):
        node.SetNodeReferenceID(role, transformNode.GetNodeReferenceID(other))
    return node
