"""The class decorator parameterNodeWrapper."""

from __future__ import annotations

import types
import typing
import weakref
from dataclasses import dataclass
from typing import Any

import qt
import slicer
import vtk
from slicer.parameterNodeWrapper.annotations import Default
from slicer.parameterNodeWrapper.connectors import Connector, connector_for
from slicer.parameterNodeWrapper.storage import Storage, storage_for

SlicerParameterNamePropertyName = "SlicerParameterName"


@dataclass
class ParameterInfo:
    basename: str
    serializer: Storage
    default: Default
    unalteredType: Any


class _Values:
    """The values of one parameter node. They are cached, as in the application, and read again when it changes."""

    def __init__(self, node: Any, parameters: dict[str, ParameterInfo], prefix: str) -> None:
        self.node, self.parameters, self.prefix = node, parameters, prefix
        self.cache: dict[str, Any] = {}
        self.writing: str | None = None
        for name, parameter in parameters.items():
            if not parameter.serializer.contains(node, prefix + name):
                parameter.serializer.write(node, prefix + name, parameter.default.value)
            self.cache[name] = self.fetch(name)
        reference = weakref.ref(self)  # the observer must not keep this object alive
        self.tag = node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda caller, event: reference().refresh())

    def __del__(self) -> None:
        if hasattr(self, "tag"):
            self.node.RemoveObserver(self.tag)

    def fetch(self, name: str) -> Any:
        parameter, key = self.parameters[name], self.prefix + name
        if not parameter.serializer.contains(self.node, key):
            parameter.serializer.write(self.node, key, parameter.default.value)
        return parameter.serializer.read(self.node, key)

    def refresh(self) -> None:
        for name in self.parameters:
            if name != self.writing:
                self.cache[name] = self.fetch(name)

    def write(self, name: str, value: Any) -> None:
        self.writing = name
        try:
            with slicer.util.NodeModify(self.node):
                self.parameters[name].serializer.write(self.node, self.prefix + name, value)
                self.cache[name] = self.fetch(name)  # before any observer can ask for it
        finally:
            self.writing = None


class _Methods:
    """Methods that the decorator adds to a class of parameters."""

    allParameters: dict[str, ParameterInfo]
    parameterNode: Any
    _values: _Values

    def __init__(self, parameterNode: Any, prefix: str | None = None) -> None:
        self.parameterNode = parameterNode
        self._values = _Values(parameterNode, self.allParameters, prefix or "")
        self._connectors: dict[int, dict[str, Connector]] = {}
        self._observers: dict[int, int] = {}
        self._nextTag = 0
        self._updatingGui = False

    def default(self, name: str) -> Default:
        return self._known(name).default

    def isCached(self, name: str) -> bool:
        self._known(name)
        return True

    @classmethod
    def dataType(cls, name: str) -> Any:
        return cls._known(name).unalteredType

    def getValue(self, name: str) -> Any:
        self._known(name)
        return self._values.cache[name]

    def setValue(self, name: str, value: Any) -> None:
        self._known(name)
        self._values.write(name, value)

    def connectGui(self, gui: Any) -> int:
        """Connect every widget with the dynamic property SlicerParameterName; returns a tag for disconnectGui."""
        is_widget = getattr(gui, "isWidgetType", lambda: False)()
        widgets = gui.findChildren(qt.QWidget) if is_widget else list(vars(gui).values())
        named = {widget.property(SlicerParameterNamePropertyName): widget for widget in widgets}
        return self.connectParametersToGui({name: widget for name, widget in named.items() if name})

    def connectParametersToGui(self, mapping: dict[str, Any]) -> int:
        kinds = {name: self.dataType(name) for name in mapping}
        connectors = {name: connector_for(widget, kinds[name]) for name, widget in mapping.items()}
        tag, self._nextTag = self._nextTag, self._nextTag + 1
        self._connectors[tag] = connectors
        for name, connector in connectors.items():
            connector.write(self.getValue(name))
            connector.follow(lambda name=name, connector=connector: self._guiChanged(name, connector))
        self._observers[tag] = self.AddObserver(
            vtk.vtkCommand.ModifiedEvent, lambda caller, event: self._updateGui()
        )
        return tag

    def disconnectGui(self, guiTag: int) -> None:
        for connector in self._connectors.pop(guiTag, {}).values():
            connector.release()
        if guiTag in self._observers:
            self.RemoveObserver(self._observers.pop(guiTag))

    def StartModify(self) -> int:
        return self.parameterNode.StartModify()

    def EndModify(self, wasModified: int) -> int:
        return self.parameterNode.EndModify(wasModified)

    def AddObserver(self, event: Any, callback: Any, priority: float = 0.0) -> int:
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag: int) -> None:
        self.parameterNode.RemoveObserver(tag)

    def Modified(self) -> None:
        self.parameterNode.Modified()

    @classmethod
    def _known(cls, name: str) -> ParameterInfo:
        if name not in cls.allParameters:
            found = ", ".join(cls.allParameters)
            raise ValueError(f"Cannot find a param with the given name: {name} (there are {found})")
        return cls.allParameters[name]

    def _guiChanged(self, name: str, connector: Connector) -> None:
        if not self._updatingGui:
            self.setValue(name, connector.read())

    def _updateGui(self) -> None:
        if self._updatingGui:
            return
        self._updatingGui = True
        try:
            with slicer.util.NodeModify(self):
                for connectors in self._connectors.values():
                    for name, connector in connectors.items():
                        connector.write(self.getValue(name))
        finally:
            self._updatingGui = False


def _attribute(name: str) -> property:
    return property(
        lambda self: self._values.cache[name], lambda self, value: self._values.write(name, value)
    )


def _wrap(cls: type) -> type:
    parameters = {}
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        try:
            storage, annotated = storage_for(hint)
        except Exception as error:
            raise Exception(f"Unable to create serializer for {cls} member {name}") from error
        default = (
            Default(getattr(cls, name))
            if hasattr(cls, name)
            else annotated or Default(generator=storage.default)
        )
        parameters[name] = ParameterInfo(name, storage, default, hint)
        setattr(cls, name, _attribute(name))
    members = {"allParameters": parameters, "_is_parameter_node_wrapper": True} | {
        name: member
        for name, member in vars(_Methods).items()
        if isinstance(member, (types.FunctionType, classmethod))
    }
    for name, member in members.items():
        if hasattr(cls, name) and name != "__init__":
            raise ValueError(f"Cannot use reserved name '{name}' in a parameterNodeWrapper")
        setattr(cls, name, member)
    return cls


def parameterNodeWrapper(classtype: type | None = None) -> Any:
    """Turn the annotated attributes of a class into parameters of the vtkMRMLScriptedModuleNode given to it."""
    return _wrap if classtype is None else _wrap(classtype)


def isParameterNodeWrapper(classOrObj: Any) -> bool:
    return getattr(classOrObj, "_is_parameter_node_wrapper", False)


def findChildWidgetForParameter(widget: Any, parameter: str) -> Any:
    children = widget.findChildren(qt.QWidget)
    return next(
        (child for child in children if child.property(SlicerParameterNamePropertyName) == parameter), None
    )
