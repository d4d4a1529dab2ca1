"""Stand-ins for the ctk and qMRML widgets that a registration module needs. They paint nothing.

A stand-in offers only members of the real widget (a test compares all of them with the record in harness.api),
and of those only the ones written here: anything else raises AttributeError, so that a gap cannot go unnoticed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import slicer
import vtk
from PySide6 import QtCore, QtGui, QtWidgets

from harness.properties import convert
from harness.pythonqt import ctk
from harness.signals import connect

Signal = QtCore.Signal
STAND_INS: dict[str, type] = {}
_TYPE_NAMES = {str: "QString", list: "QStringList", float: "double", int: "int", bool: "bool"}


def _stored(widget: Any) -> dict[object, Any]:
    return widget.__dict__.setdefault("_stored", {})


def prop(default: Any, changed: str | None = None, coerce: Callable[[Any, Any], Any] | None = None) -> Any:
    """A stored Q_PROPERTY of the default's type; `changed` names the signal or method told of a new value."""
    key = object()
    type_name = _TYPE_NAMES[type(default)]

    def get(self: Any) -> Any:
        value = _stored(self).get(key, default)
        return (
            tuple(value) if type_name == "QStringList" else value
        )  # PythonQt hands string lists out as tuples

    def set_(self: Any, value: Any) -> None:
        value = convert(value, type_name)
        if coerce is not None:
            value = coerce(self, value)
        if value != _stored(self).get(key, default):
            _stored(self)[key] = value
            if changed is not None:
                member = getattr(self, changed)
                (member.emit if isinstance(member, QtCore.SignalInstance) else member)(value)

    return QtCore.Property(type_name, get, set_)


def stand_in(cls: type) -> type:
    """Register a stand-in; from here on it counts as a C++ class."""
    cls.is_cpp_stand_in = True
    STAND_INS[cls.__name__] = cls
    setattr(ctk if cls.__name__.startswith("ctk") else slicer, cls.__name__, cls)
    return cls


# ctk


@stand_in
class ctkCollapsibleButton(QtWidgets.QAbstractButton):
    contentsCollapsed = Signal(bool)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        QtWidgets.QAbstractButton.setCheckable(self, True)
        QtWidgets.QAbstractButton.setChecked(self, True)
        connect(self, "toggled(bool)", self._onToggled)

    def _onToggled(self, expanded: bool) -> None:
        self.contentsCollapsed.emit(not expanded)

    def _setCollapsed(self, collapsed: bool) -> None:
        QtWidgets.QAbstractButton.setChecked(self, not collapsed)

    collapsed = QtCore.Property(bool, lambda self: not self.checked, _setCollapsed)
    flat = prop(False)
    collapsedHeight = prop(14)

    def paintEvent(self, event: QtGui.QPaintEvent) -> None:  # pure virtual in Qt
        pass


@stand_in
class ctkCollapsibleGroupBox(QtWidgets.QGroupBox):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.checkable = True

    def _setCollapsed(self, collapsed: bool) -> None:
        self.checked = not collapsed

    collapsed = QtCore.Property(bool, lambda self: not self.checked, _setCollapsed)
    collapsedHeight = prop(14)


def _clipped(self: Any, value: float) -> float:
    return min(max(value, self.minimum), self.maximum)


class _Number(QtWidgets.QWidget):
    """What ctkSliderWidget and ctkDoubleSpinBox share. Values are clipped but, unlike ctk's, not rounded."""

    valueChanged = Signal(float)
    decimalsChanged = Signal(int)

    def _clip(self, _bound: float) -> None:
        self.value = self.value

    minimum = prop(0.0, "_clip")
    maximum = prop(99.0, "_clip")
    value = prop(0.0, "valueChanged", _clipped)
    decimals = prop(2, "decimalsChanged")
    singleStep = prop(1.0)
    prefix = prop("")
    suffix = prop("")
    invertedControls = prop(False)

    def setValue(self, value: float) -> None:
        self.value = value

    def setDecimals(self, decimals: int) -> None:
        self.decimals = decimals


@stand_in
class ctkSliderWidget(_Number):
    valueIsChanging = Signal(float)
    pageStep = prop(10.0)
    tickInterval = prop(0.0)
    tracking = prop(True)
    spinBoxVisible = prop(True)
    popupSlider = prop(False)
    invertedAppearance = prop(False)

    def reset(self) -> None:
        self.value = self.minimum


@stand_in
class ctkDoubleSpinBox(_Number):
    readOnly = prop(False)
    frame = prop(True)


@stand_in
class ctkPathLineEdit(QtWidgets.QWidget):
    currentPathChanged = Signal(str)
    validInputChanged = Signal(bool)
    Files, Dirs, Drives, NoSymLinks = 1, 2, 4, 8
    Readable, Writable, Executable, Hidden = 16, 32, 64, 256

    currentPath = prop("", "currentPathChanged")
    nameFilters = prop([])
    settingKey = prop("")
    label = prop("")
    filters = prop(0)
    showBrowseButton = prop(True)
    showHistoryButton = prop(True)
    minimumContentsLength = prop(0)

    def setCurrentPath(self, path: str) -> None:
        self.currentPath = path

    def addCurrentPathToHistory(self) -> None:
        pass


@stand_in
class ctkComboBox(QtWidgets.QComboBox):
    defaultText = prop("")
    forceDefault = prop(False)


@stand_in
class ctkCheckBox(QtWidgets.QCheckBox):
    pass


@stand_in
class ctkPushButton(QtWidgets.QPushButton):
    pass


# qMRML


class _SceneHolder(QtWidgets.QWidget):
    """A widget with a MRML scene, which it announces when it changes."""

    mrmlSceneChanged = Signal(object)
    _scene: Any = None

    def setMRMLScene(self, scene: Any) -> None:
        if scene is not self._scene:
            self._scene = scene
            self.mrmlSceneChanged.emit(scene)


@stand_in
class qMRMLWidget(_SceneHolder):
    def mrmlScene(self) -> Any:
        return self._scene


@stand_in
class qSlicerWidget(_SceneHolder):
    pass


@stand_in
class qMRMLSliderWidget(ctkSliderWidget, _SceneHolder):
    quantity = prop("")


@stand_in
class qMRMLNodeComboBox(_SceneHolder):
    """Lists the nodes of the scene that pass its filters; disabled while it has no scene.

    As in Slicer, adding a node does not select it, removing the selected one selects the entry after it (or the
    last), and closing or importing a scene rebuilds the list, after which nothing is selected.
    """

    currentNodeChanged = Signal((object,), (bool,))
    currentNodeIDChanged = Signal(str)
    nodeAdded = Signal(object)
    nodeAddedByUser = Signal(object)
    nodeAboutToBeRemoved = Signal(object)

    nodeTypes = prop([], "_refilter")
    hideChildNodeTypes = prop([], "_refilter")
    showChildNodeTypes = prop(True, "_refilter")
    showHidden = prop(False, "_refilter")
    noneEnabled = prop(False)
    addEnabled = prop(True)
    removeEnabled = prop(True)
    editEnabled = prop(False)
    renameEnabled = prop(False)
    selectNodeUponCreation = prop(True)
    baseName = prop("")
    noneDisplay = prop("None")
    interactionNodeSingletonTag = prop("")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._node: Any = None
        self._requested: str | None = None  # asked for before there was a scene
        self._attributes: dict[tuple[str, str], str | None] = {}
        self._observers: list[tuple[Any, int]] = []
        connect(self, "destroyed()", functools.partial(_remove_observers, self._observers))
        self.enabled = False

    def setMRMLScene(self, scene: Any) -> None:
        if scene is self._scene:
            return
        _remove_observers(self._observers)
        if scene is not None:
            for event, observer, priority in (  # the priorities of Slicer's qMRMLSceneModel
                (scene.NodeAddedEvent, _with_node(self._onNodeAdded), 10.0),
                (scene.NodeAboutToBeRemovedEvent, _with_node(self._onNodeAboutToBeRemoved), -10.0),
                (scene.EndCloseEvent, lambda caller, event: self._select(None), 0.0),
                (scene.EndImportEvent, lambda caller, event: self._select(None), 0.0),
            ):
                self._observers.append((scene, scene.AddObserver(event, observer, priority)))
        super().setMRMLScene(scene)
        nodes = self._nodes()
        first = nodes[0].GetID() if nodes and not self.noneEnabled else ""
        self.setCurrentNodeID(self._requested or (self._node.GetID() if self._node in nodes else first))
        self._requested = None
        self.enabled = scene is not None

    def mrmlScene(self) -> Any:
        return self._scene

    def currentNode(self) -> Any:
        return self._node

    def setCurrentNode(self, node: Any) -> None:
        if isinstance(node, str):
            raise TypeError("setCurrentNode takes a node; there is setCurrentNodeID for its id")
        self.setCurrentNodeID(node.GetID() if node is not None else "")

    def setCurrentNodeID(self, node_id: str) -> None:
        if self._scene is None:
            self._requested = node_id
        self._select(next((node for node in self._nodes() if node.GetID() == node_id), None))

    currentNodeID = QtCore.Property(
        str, lambda self: self._node.GetID() if self._node else "", setCurrentNodeID
    )

    def setCurrentNodeIndex(self, index: int) -> None:
        nodes = self._nodes()
        self._select(nodes[index] if 0 <= index < len(nodes) else None)

    def nodeCount(self) -> int:
        return len(self._nodes())

    def nodeFromIndex(self, index: int) -> Any:
        nodes = self._nodes()
        return nodes[index] if 0 <= index < len(nodes) else None

    def addAttribute(self, nodeType: str, name: str, value: str | None = None) -> None:
        self._attributes[nodeType, name] = value
        self._refilter()

    def removeAttribute(self, nodeType: str, name: str) -> None:
        self._attributes.pop((nodeType, name), None)
        self._refilter()

    def addNode(self, nodeType: str | None = None) -> Any:
        node = self._scene.AddNewNodeByClass(nodeType or self.nodeTypes[0], self.baseName)
        for (_, name), value in self._attributes.items():
            node.SetAttribute(name, value or "")
        if self.selectNodeUponCreation:
            self.setCurrentNode(node)
        self.nodeAddedByUser.emit(node)
        return node

    def removeCurrentNode(self) -> None:
        self._scene.RemoveNode(self._node)

    def _nodes(self) -> list[Any]:
        scene = self._scene
        nodes = [scene.GetNthNode(index) for index in range(scene.GetNumberOfNodes())] if scene else []
        return [node for node in nodes if self._accepts(node)]

    def _accepts(self, node: Any) -> bool:
        if node.GetHideFromEditors() and not self.showHidden:
            return False
        if any(node.IsA(hidden) for hidden in self.hideChildNodeTypes):
            return False
        if not any(
            node.IsA(kind) if self.showChildNodeTypes else node.GetClassName() == kind
            for kind in self.nodeTypes
        ):
            return False
        for (kind, name), wanted in self._attributes.items():
            value = node.GetAttribute(name)
            if node.IsA(kind) and (value is None or (wanted is not None and value != wanted)):
                return False
        return True

    def _select(self, node: Any) -> None:
        if node is not self._node:
            self._node = node
            self.currentNodeChanged[object].emit(node)
            self.currentNodeChanged[bool].emit(node is not None)
            self.currentNodeIDChanged.emit(node.GetID() if node else "")

    def _refilter(self, _value: Any = None) -> None:
        if self._node is not None and not self._accepts(self._node):
            self._select(None)

    def _onNodeAdded(self, node: Any) -> None:
        if self._accepts(node):
            self.nodeAdded.emit(node)

    def _onNodeAboutToBeRemoved(self, node: Any) -> None:
        if self._scene.IsClosing() or not self._accepts(node):
            return
        self.nodeAboutToBeRemoved.emit(node)
        if node is self._node:
            entries = [None, *self._nodes()] if self.noneEnabled else self._nodes()
            position = entries.index(node)
            remaining = entries[:position] + entries[position + 1 :]
            self._select(remaining[min(position, len(remaining) - 1)] if remaining else None)


def _remove_observers(observers: list[tuple[Any, int]]) -> None:
    while observers:
        observed, tag = observers.pop()
        observed.RemoveObserver(tag)


def _with_node(handler: Callable[[Any], None]) -> Callable[..., None]:
    """A VTK observer that hands over the node of a scene event."""

    def observe(caller: Any, event: str, node: Any) -> None:
        handler(node)

    observe.CallDataType = vtk.VTK_OBJECT
    return observe
