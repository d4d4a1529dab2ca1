"""Moving what belongs to the moving volume (contours, points, other volumes) along with it.

A node is either put under the result, or a hardened copy of it is made and the node itself stays as it is. Volumes are
hardened onto the fixed volume's grid, label maps by the nearest voxel.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import slicer
import vtk
from masr_registration.errors import InputError
from slicer.i18n import tr as _

from .changes import ChangeRecord
from .inputs import InputVolume, parentToWorld
from .reslice import concatenated, reslicedInSteps
from .results import FIXED_ROLE, MOVING_ROLE, createOutput, storedResult
from .segments import hardenSegments, hasLabelMaps

NODE_CLASSES = (
    "vtkMRMLSegmentationNode",
    "vtkMRMLLabelMapVolumeNode",
    "vtkMRMLScalarVolumeNode",
    "vtkMRMLModelNode",
    "vtkMRMLMarkupsNode",
    "vtkMRMLSequenceNode",
)
SAME_PLACE = 1e-6


def reasonsAgainst(transformNode: Any) -> list[str]:
    """Sentences to show before anything is moved by this result; empty when no check speaks against it."""
    content = storedResult(transformNode) or {}
    verdict = content.get("verdict", {})
    return list(verdict.get("reasons", [])) if verdict.get("level") == "failed" else []


def fixedNode(transformNode: Any) -> Any:
    """The fixed volume of a result; None when it was deleted."""
    return transformNode.GetNodeReference(FIXED_ROLE)


class Application:
    """A result that is applied to nodes. Raises `InputError` for a transform node that holds no result."""

    def __init__(self, transformNode: Any) -> None:
        content = storedResult(transformNode)
        if content is None:
            raise InputError(_("This transform is not the result of a registration."))
        self.transformNode = transformNode
        self._record = ChangeRecord.of(transformNode)
        self._fixedName = content["scene"]["fixed"]["name"]
        self._worldToMoving = np.linalg.inv(content["scene"]["moving"]["parentToWorld"])

    def check(self, node: Any, harden: bool) -> None:
        """Raises `InputError` with the reason why `node` cannot be moved."""
        name = node.GetName()
        if not any(node.IsA(kind) for kind in NODE_CLASSES):
            raise InputError(_('"{name}" is of a kind that cannot be moved.').format(name=name))
        if node is fixedNode(self.transformNode):
            raise InputError(_('"{name}" is the fixed volume, which stays where it is.').format(name=name))
        if self._record is not None and node in self._record.createdNodes():
            raise InputError(_('"{name}" was made by this registration and lies right.').format(name=name))
        if harden:
            self._fixed()
        if not node.IsA("vtkMRMLSequenceNode"):
            self._ownToMoving(node)
        elif not harden and not _proxies(node):
            raise InputError(
                _('"{name}" is shown by no sequence browser; open it in one, or harden it.').format(name=name)
            )

    def steps(self, node: Any, harden: bool) -> Iterator[float]:
        """Move `node`; yields how much of it is done (0 to 1), last of all 1.

        Closed early, it leaves nothing half done. Raises `InputError` as `check` does.
        """
        self.check(node, harden)
        name = _("{name} registered to {fixed}").format(name=node.GetName(), fixed=self._fixedName)
        if not harden:
            for moved in _proxies(node) if node.IsA("vtkMRMLSequenceNode") else [node]:
                self._place(moved)
        elif node.IsA("vtkMRMLSequenceNode"):
            yield from (0.99 * fraction for fraction in self._hardenItems(node, name))
        else:
            yield from (0.99 * fraction for fraction in self._hardenNode(node, name))
        yield 1.0

    def _ownToMoving(self, node: Any) -> np.ndarray:
        """4x4: a node's own coordinates to those that the result moves (the moving volume's own), RAS mm."""
        parent = node.GetParentTransformNode()
        if node is self.transformNode.GetNodeReference(MOVING_ROLE) or parent is self.transformNode:
            return np.eye(4)
        if parent is not None and parent.GetParentTransformNode() is self.transformNode and parent.IsLinear():
            return slicer.util.arrayFromTransformMatrix(parent)
        return self._worldToMoving @ parentToWorld(node)

    def _place(self, node: Any) -> None:
        """Under the result; through a linear transform of its own where it lay under other parents than the moving
        volume."""
        matrix, parent = self._ownToMoving(node), self.transformNode
        if node.GetParentTransformNode() in (parent, *_children(parent)):
            return
        if self._record is not None:
            self._record.willMove(node)
        if not np.allclose(matrix, np.eye(4), atol=SAME_PLACE):
            name = _("{name} before registration").format(name=node.GetName())
            parent = createOutput(self._record, "vtkMRMLLinearTransformNode", name)
            slicer.util.updateTransformMatrixFromArray(parent, matrix)
            parent.SetAndObserveTransformNodeID(self.transformNode.GetID())
        node.SetAndObserveTransformNodeID(parent.GetID())

    def _hardenNode(self, node: Any, name: str) -> Iterator[float]:
        """A new node with what `node` is under the result."""
        selection = slicer.app.applicationLogic().GetSelectionNode()
        placed = selection.GetActivePlaceNodeID()
        copy = createOutput(self._record, node.GetClassName(), name)
        selection.SetActivePlaceNodeID(placed)  # a new list of points would get the user's next clicks
        done = False
        try:
            yield from self._harden(node, copy, self._ownToMoving(node))
            _copyDisplay(node, copy)
            done = True
        finally:
            if not done:
                slicer.mrmlScene.RemoveNode(copy)

    def _harden(self, node: Any, copy: Any, ownToMoving: np.ndarray) -> Iterator[float]:
        """`copy` gets the content of `node`, moved into the world; yields how much of it is done."""
        copy.CopyContent(node, True)
        toMoving = slicer.util.vtkMatrixFromArray(ownToMoving)
        if node.IsA("vtkMRMLScalarVolumeNode"):
            yield from self._resample(copy, toMoving)
            return
        linear = self.transformNode.IsTransformToWorldLinear()
        if node.IsA("vtkMRMLSegmentationNode") and not linear and hasLabelMaps(node):
            yield from hardenSegments(copy, toMoving, self.transformNode)
            return
        toWorld = vtk.vtkGeneralTransform()
        self.transformNode.GetTransformToWorld(toWorld)
        copy.ApplyTransform(concatenated(toWorld, toMoving))

    def _resample(self, volume: Any, toMoving: vtk.vtkMatrix4x4) -> Iterator[float]:
        """The voxels of `volume` on the fixed volume's grid, in world coordinates."""
        fixed = self._fixed()
        rasToIjk, toOwn, fromWorld = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4(), vtk.vtkGeneralTransform()
        volume.GetRASToIJKMatrix(rasToIjk)
        self.transformNode.GetTransformFromWorld(fromWorld)
        vtk.vtkMatrix4x4.Invert(toMoving, toOwn)
        ijkToWorld = slicer.util.vtkMatrixFromArray(fixed.ijkToWorld)
        moved = vtk.vtkImageData()
        yield from reslicedInSteps(
            volume.GetImageData(),
            moved,
            concatenated(rasToIjk, toOwn, fromWorld, ijkToWorld),
            fixed.node.GetImageData().GetExtent(),
            nearest=bool(volume.IsA("vtkMRMLLabelMapVolumeNode")),
        )
        with slicer.util.NodeModify(volume):
            volume.SetIJKToRASMatrix(ijkToWorld)
            volume.SetAndObserveImageData(moved)

    def _hardenItems(self, sequence: Any, name: str) -> Iterator[float]:
        """A new sequence with every item hardened."""
        scene, count = slicer.mrmlScene, sequence.GetNumberOfDataNodes()
        proxy = next(iter(_proxies(sequence)), None)
        ownToMoving = self._worldToMoving if proxy is None else self._ownToMoving(proxy)
        result = createOutput(self._record, "vtkMRMLSequenceNode", name)
        done = 0
        try:
            result.SetIndexName(sequence.GetIndexName())
            result.SetIndexUnit(sequence.GetIndexUnit())
            result.SetIndexType(sequence.GetIndexType())
            for done in range(count):
                item = sequence.GetNthDataNode(done)
                if not any(item.IsA(kind) for kind in NODE_CLASSES):
                    raise InputError(
                        _('The items of "{name}" cannot be moved.').format(name=sequence.GetName())
                    )
                copy = scene.CreateNodeByClass(item.GetClassName())
                copy.UnRegister(None)  # Python owns it now
                copy.SetName(item.GetName())
                for fraction in self._harden(item, copy, ownToMoving):
                    yield (done + fraction) / count
                result.SetDataNodeAtValue(copy, sequence.GetNthIndexValue(done))
                done += 1
        finally:
            if done < count:
                scene.RemoveNode(result)

    def _fixed(self) -> InputVolume:
        node = fixedNode(self.transformNode)
        if node is None:
            raise InputError(_("The fixed volume is gone, and with it the grid to harden to."))
        return InputVolume.of(node)


def _proxies(sequence: Any) -> list[Any]:
    """The nodes that show the selected item of a sequence."""
    browsers = slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode")
    shown = [browser.GetProxyNode(sequence) for browser in browsers]
    return [node for node in shown if node is not None and node.IsA("vtkMRMLTransformableNode")]


def _children(transformNode: Any) -> list[Any]:
    nodes = slicer.util.getNodesByClass("vtkMRMLTransformNode")
    return [node for node in nodes if node.GetParentTransformNode() is transformNode]


def _copyDisplay(node: Any, copy: Any) -> None:
    if node.GetDisplayNode() is not None:
        copy.CreateDefaultDisplayNodes()
        copy.GetDisplayNode().CopyContent(node.GetDisplayNode(), True)
