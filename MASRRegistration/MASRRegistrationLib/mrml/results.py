"""The files of a result -> nodes.

The worker's transform maps fixed world to moving world. The transform node maps fixed world to the moving volume's own
coordinates: it ends with the inverse of the parent transforms that the moving volume had. So the moving volume, and
whatever lies in its coordinates, observes the result directly, in place of those parents.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from masr_registration.errors import MasrError
from masr_registration.worker.client import Outcome
from slicer.i18n import tr as _

from .changes import ChangeRecord
from .inputs import InputVolume, voxelTime
from .judgement import lowered, store, storedResult
from .setup import RegistrationSetup

__all__ = ["RegistrationResult", "createOutput", "deliver", "storedResult"]
_NODE = slicer.vtkMRMLTransformNode
FIXED_ROLE, MOVING_ROLE = _NODE.GetFixedNodeReferenceRole(), _NODE.GetMovingNodeReferenceRole()


@dataclass
class RegistrationResult:
    """What a registration left in the scene.

    Attributes:
        transformNode: fixed world -> moving volume's coordinates (FromParent), with references and provenance.
        volumeNode: the moving volume on the fixed volume's grid, without a parent transform.
        verdict: level (plausible, doubtful, failed) and reasons.
        metrics, warnings: as in result.json; `warnings` also says what changed in the scene meanwhile.
        files: all of the result by name (inverse, displacement, ...); gone when `onFinished` has returned.
    """

    transformNode: Any
    volumeNode: Any
    verdict: dict[str, Any]
    metrics: dict[str, Any]
    warnings: list[str] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)


def deliver(
    outcome: Outcome, fixed: InputVolume, moving: InputVolume, setup: RegistrationSetup
) -> RegistrationResult:
    """Write a result into the setup's output nodes; None, deleted or unsuitable ones are made anew.

    `changes.revert` puts the scene back. Raises `MasrError` for files that cannot be read.
    """
    transformNode, volumeNode = setup.outputTransform, setup.outputVolume
    changed = [*_changes(fixed, moving), *setup.changes()]
    verdict, warnings = lowered(outcome.verdict, "doubtful", changed), [*outcome.warnings, *changed]
    transform, array = readTransform(outcome.files["transform"]), readVoxels(outcome.files["warped"])
    record = ChangeRecord.begin(transformNode, volumeNode)
    wanted = _present(transformNode)
    transformNode = wanted if wanted is not None and _canHold(wanted, transform) else None
    kind = "vtkMRMLLinearTransformNode" if transform.IsLinear() else "vtkMRMLTransformNode"
    transformNode = _output(record, transformNode, kind, f"{moving.name} to {fixed.name}")
    name = f"{moving.name} registered to {fixed.name}"
    volumeNode = _output(record, _present(volumeNode), "vtkMRMLScalarVolumeNode", name)
    if wanted is not None and transformNode is not wanted:
        sentence = _('"{old}" cannot hold this kind of transform; the result is in "{new}".')
        warnings.append(sentence.format(old=wanted.GetName(), new=transformNode.GetName()))
    record.belongsTo(transformNode)
    _setTransform(transformNode, transform, np.linalg.inv(moving.parentToWorld))
    _setVolume(volumeNode, array, fixed)
    if volumeNode.GetDisplayNode() is None:
        volumeNode.CreateDefaultDisplayNodes()
        record.created(volumeNode.GetDisplayNode())
    for node in (transformNode, volumeNode):
        _setReferences(node, fixed, moving)
    _describe(transformNode, outcome, verdict, warnings, fixed, moving, setup)
    return RegistrationResult(transformNode, volumeNode, verdict, outcome.metrics, warnings, outcome.files)


def createOutput(record: ChangeRecord | None, className: str, name: str) -> Any:
    """A new node of that name (or one like it), which reverting removes."""
    node = slicer.mrmlScene.AddNewNodeByClass(className, slicer.mrmlScene.GenerateUniqueName(name))
    if record is not None:
        record.created(node)
    return node


def _changes(fixed: InputVolume, moving: InputVolume) -> list[str]:
    """Sentences on what happened to the inputs meanwhile. The moving volume's parents do not matter to the result."""
    found = []
    for volume in (fixed, moving):
        if not volume.isInScene():
            sentence = _('"{name}" was deleted during the registration; the result belongs to it as it was.')
        elif _changed(volume, withParents=volume is fixed):
            sentence = _('"{name}" was changed during the registration; the result belongs to it as it was.')
        else:
            continue
        found.append(sentence.format(name=volume.name))
    return found


def _changed(volume: InputVolume, withParents: bool) -> bool:
    if voxelTime(volume.node) != volume.voxelTime:
        return True
    matrix, expected = vtk.vtkMatrix4x4(), volume.ijkToRas
    volume.node.GetIJKToRASMatrix(matrix)
    now = slicer.util.arrayFromVTKMatrix(matrix)
    if withParents:
        parent, expected = volume.node.GetParentTransformNode(), volume.ijkToWorld
        if parent is not None and not parent.IsTransformToWorldLinear():
            return True
        if parent is not None:
            parent.GetMatrixTransformToWorld(matrix)
            now = slicer.util.arrayFromVTKMatrix(matrix) @ now
    return not np.allclose(now, expected, atol=1e-6)


def _present(node: Any) -> Any:
    return node if node is not None and slicer.mrmlScene.IsNodePresent(node) else None


def _output(record: ChangeRecord, wanted: Any, className: str, name: str) -> Any:
    """`wanted`, whose content will be replaced, or a new node."""
    if wanted is None:
        return createOutput(record, className, name)
    record.willReplace(wanted)
    return wanted


def readTransform(path: Path) -> Any:
    """A transform node outside of the scene; FromParent, cubic interpolation as Slicer's reader makes it."""
    node, storage = slicer.vtkMRMLTransformNode(), slicer.vtkMRMLTransformStorageNode()
    storage.SetFileName(str(path))
    if not storage.ReadData(node):
        raise MasrError(_("The transform of the result could not be read."))
    return node


def readVoxels(path: Path) -> np.ndarray:
    """(D, H, W) in the type of the file."""
    import SimpleITK as sitk

    try:
        return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    except RuntimeError as error:
        raise MasrError(_("The warped volume of the result could not be read.")) from error


def _canHold(node: Any, transform: Any) -> bool:
    if node.GetClassName() == "vtkMRMLTransformNode":
        return True
    return node.GetClassName() == "vtkMRMLLinearTransformNode" and bool(transform.IsLinear())


def _setTransform(node: Any, transform: Any, worldToMoving: np.ndarray) -> None:
    """`node` gets ``worldToMoving . transform`` as its transform from parent (RAS mm)."""
    outer = slicer.util.vtkMatrixFromArray(worldToMoving)
    with slicer.util.NodeModify(node):
        node.SetAndObserveTransformNodeID(None)
        if transform.IsLinear():
            matrix = vtk.vtkMatrix4x4()
            transform.GetMatrixTransformFromParent(matrix)
            vtk.vtkMatrix4x4.Multiply4x4(outer, matrix, matrix)
            node.SetMatrixTransformFromParent(matrix)
            return
        fromParent = transform.GetTransformFromParent()
        if not np.allclose(worldToMoving, np.eye(4), atol=1e-12):
            whole = vtk.vtkGeneralTransform()
            whole.Concatenate(outer)
            whole.Concatenate(fromParent)
            fromParent = whole
        node.SetAndObserveTransformFromParent(fromParent)


def _setVolume(node: Any, array: np.ndarray, fixed: InputVolume) -> None:
    """Voxels (D, H, W) on the fixed world grid as it was sent."""
    node.SetAndObserveTransformNodeID(None)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(fixed.ijkToWorld))
    slicer.util.updateVolumeFromArray(node, array)


def _setReferences(node: Any, fixed: InputVolume, moving: InputVolume) -> None:
    """For DICOM export, and to find the inputs again."""
    for role, volume in ((FIXED_ROLE, fixed), (MOVING_ROLE, moving)):
        node.SetNodeReferenceID(role, volume.node.GetID() if volume.isInScene() else None)


def _describe(
    node: Any,
    outcome: Outcome,
    verdict: dict[str, Any],
    warnings: list[str],
    fixed: InputVolume,
    moving: InputVolume,
    setup: RegistrationSetup,
) -> None:
    """The whole result as JSON (names and hashes, no paths), and where the inputs lay (RAS mm)."""
    scene = {
        role: {"name": volume.name, "parentToWorld": volume.parentToWorld.tolist()}
        for role, volume in (("fixed", fixed), ("moving", moving))
    }
    storeResult(node, outcome, verdict, warnings, scene=scene, others=setup.described())


def storeResult(
    node: Any, outcome: Outcome, verdict: dict[str, Any], warnings: list[str], **more: Any
) -> None:
    """What the worker found, as it is judged here, in the node's attributes, and `more` beside it."""
    content = {
        "verdict": verdict,
        "metrics": outcome.metrics,
        "warnings": warnings,
        "timings": outcome.timings,
        "provenance": outcome.provenance,
        **more,
    }
    store(node, content)
