"""What a registration changed in the scene, kept in the scene (and so in an .mrb), and putting it back.

A hidden scripted node holds it, as node references, which scenes keep right when they are imported into others:
the nodes that were made, hidden copies of output nodes whose content was replaced, and which node was under which
transform before. Only the last registration into an output node can be taken back.
"""

from __future__ import annotations

from typing import Any

import slicer
from masr_registration.errors import InputError
from slicer.i18n import tr as _

RECORD_ROLE = "MASR.Changes"
_TRANSFORM, _CREATED, _CHILD, _PARENT, _TARGET, _COPY, _BEFORE = (
    f"MASR.{name}" for name in ("Transform", "Created", "Child", "Parent", "Replaced", "Copy", "Before")
)
_OUTPUTS = ("transform", "volume")


class ChangeRecord:
    """The record of one registration; begun right before its result is put into the scene."""

    def __init__(self, node: Any) -> None:
        self._node = node

    @classmethod
    def begin(cls, transformNode: Any, volumeNode: Any) -> ChangeRecord:
        """`transformNode` and `volumeNode` are the outputs that were chosen, None where none was."""
        _sweep()
        scene = slicer.mrmlScene
        node = scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode", "MASR Registration: changes")
        node.SetAttribute(RECORD_ROLE, "1")
        for name, output in zip(_OUTPUTS, (transformNode, volumeNode), strict=True):
            if output is not None and scene.IsNodePresent(output):
                node.SetNodeReferenceID(f"{_BEFORE}.{name}", output.GetID())
        children = [child for child in _transformableNodes() if child.GetParentTransformNode() is not None]
        for index, child in enumerate(children):
            node.SetNodeReferenceID(f"{_CHILD}.{index}", child.GetID())
            node.SetNodeReferenceID(f"{_PARENT}.{index}", child.GetParentTransformNode().GetID())
        return cls(node)

    @classmethod
    def of(cls, transformNode: Any) -> ChangeRecord | None:
        """The record of the registration that made what `transformNode` holds."""
        node = None if transformNode is None else transformNode.GetNodeReference(RECORD_ROLE)
        return None if node is None else cls(node)

    def belongsTo(self, transformNode: Any) -> None:
        """From now on `of` finds the record by the transform, and it goes when the transform does."""
        transformNode.SetNodeReferenceID(RECORD_ROLE, self._node.GetID())
        self._node.SetNodeReferenceID(_TRANSFORM, transformNode.GetID())

    def created(self, node: Any) -> None:
        """`node` was not there before."""
        self._node.AddNodeReferenceID(_CREATED, node.GetID())

    def willMove(self, node: Any) -> None:
        """`node` is about to be put under the result: reverting puts it back where it is now.

        It may have come into the scene, or under another transform, after the registration.
        """
        for role in self._roles(_CHILD):
            if self._node.GetNodeReference(role) is node:
                self._node.SetNodeReferenceID(role, None)
        parent = node.GetParentTransformNode()
        if parent is not None:
            numbers = [int(role.rpartition(".")[2]) for role in self._roles(_CHILD)]
            number = max(numbers, default=-1) + 1
            self._node.SetNodeReferenceID(f"{_CHILD}.{number}", node.GetID())
            self._node.SetNodeReferenceID(f"{_PARENT}.{number}", parent.GetID())

    def willReplace(self, node: Any) -> None:
        """The content of `node` is about to be replaced: keep it. Earlier content that is still kept is given up."""
        earlier = ChangeRecord.of(node)
        if earlier is not None and earlier._replaced():
            earlier._remove()
        copy = slicer.mrmlScene.AddNewNodeByClass(
            node.GetClassName(), _("{name} before registration").format(name=node.GetName())
        )
        copy.SetHideFromEditors(True)
        _copyState(node, copy)
        index = len(self._replaced())
        self._node.SetNodeReferenceID(f"{_TARGET}.{index}", node.GetID())
        self._node.SetNodeReferenceID(f"{_COPY}.{index}", copy.GetID())

    def createdNodes(self) -> list[Any]:
        count = self._node.GetNumberOfNodeReferences(_CREATED)
        return [self._node.GetNthNodeReference(_CREATED, index) for index in range(count)]

    def revert(self) -> tuple[Any, Any]:
        """Put the scene back as it was; the record is gone afterwards.

        Nodes under a transform of this registration return to the transform that they were under, also those that the
        user put there. Returns the output transform and volume that had been chosen before (or None).
        """
        made, replaced = self.createdNodes(), self._replaced()
        before = tuple(self._node.GetNodeReference(f"{_BEFORE}.{name}") for name in _OUTPUTS)
        result = self._node.GetNodeReference(_TRANSFORM)
        parents = dict(self._pairs(_CHILD, _PARENT))
        for node in _transformableNodes():
            parent = node.GetParentTransformNode()
            target = any(node is target for target, _copy in replaced)
            if target or (parent is not None and (parent is result or parent in made)):
                earlier = parents.get(node)
                node.SetAndObserveTransformNodeID(earlier.GetID() if earlier is not None else None)
        for target, copy in replaced:
            _copyState(copy, target)
        for node in made:
            _removeWithHelpers(node)
        self._remove()
        return before[0], before[1]

    def _replaced(self) -> list[tuple[Any, Any]]:
        return self._pairs(_TARGET, _COPY)

    def _pairs(self, first: str, second: str) -> list[tuple[Any, Any]]:
        """The nodes referred to as FIRST.n and SECOND.n, without pairs of which one was deleted."""
        node = self._node
        numbers = [role.rpartition(".")[2] for role in self._roles(first)]
        pairs = [
            (node.GetNodeReference(f"{first}.{n}"), node.GetNodeReference(f"{second}.{n}")) for n in numbers
        ]
        return [(a, b) for a, b in pairs if a is not None and b is not None]

    def _roles(self, kind: str) -> list[str]:
        """The numbered roles of this kind that have a node."""
        node = self._node
        roles = [node.GetNthNodeReferenceRole(index) for index in range(node.GetNumberOfNodeReferenceRoles())]
        return [
            role for role in roles if role.startswith(f"{kind}.") and node.GetNodeReference(role) is not None
        ]

    def _remove(self) -> None:
        for role in self._roles(_COPY):
            _removeWithHelpers(self._node.GetNodeReference(role))
        slicer.mrmlScene.RemoveNode(self._node)


def revert(transformNode: Any) -> tuple[Any, Any]:
    """See `ChangeRecord.revert`. Raises `InputError` when there is nothing to go back to."""
    record = ChangeRecord.of(transformNode)
    if record is None:
        raise InputError(_("Nothing is known about the scene before this registration."))
    return record.revert()


def _sweep() -> None:
    """Forget records whose transform the user deleted."""
    for node in slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode"):
        if node.GetAttribute(RECORD_ROLE) and node.GetNodeReference(_TRANSFORM) is None:
            ChangeRecord(node)._remove()


def _transformableNodes() -> list[Any]:
    return list(slicer.util.getNodesByClass("vtkMRMLTransformableNode"))


def _copyState(source: Any, target: Any) -> None:
    """Content, attributes, and what the transform refers to; not the name, the parent, storage and display."""
    with slicer.util.NodeModify(target):
        target.CopyContent(source, True)
        for name in target.GetAttributeNames():
            target.RemoveAttribute(name)
        for name in source.GetAttributeNames():
            target.SetAttribute(name, source.GetAttribute(name))
        kind = slicer.vtkMRMLTransformNode
        for role in (kind.GetFixedNodeReferenceRole(), kind.GetMovingNodeReferenceRole(), RECORD_ROLE):
            target.SetNodeReferenceID(role, source.GetNodeReferenceID(role))


def _removeWithHelpers(node: Any) -> None:
    """The node and its display and storage nodes, which the scene would keep."""
    helpers = [node.GetStorageNode()] if node.IsA("vtkMRMLStorableNode") else []
    if node.IsA("vtkMRMLDisplayableNode"):
        helpers += [node.GetNthDisplayNode(index) for index in range(node.GetNumberOfDisplayNodes())]
    slicer.mrmlScene.RemoveNode(node)
    for helper in helpers:
        if helper is not None and slicer.mrmlScene.IsNodePresent(helper):
            slicer.mrmlScene.RemoveNode(helper)
