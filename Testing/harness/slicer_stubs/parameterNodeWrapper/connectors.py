"""Which widget can show which type of parameter, and how to read, write and follow it."""

from __future__ import annotations

import enum
import typing
from collections.abc import Callable
from dataclasses import dataclass
from types import UnionType
from typing import Any

from slicer.parameterNodeWrapper.annotations import (
    Choice,
    Decimals,
    Maximum,
    Minimum,
    SingleStep,
    WithinRange,
)
from slicer.parameterNodeWrapper.storage import PATH_TYPES, NoneType, is_node, split_annotations

_CHECK = {
    "QCheckBox": "stateChanged(int)",
    "ctkCheckBox": "stateChanged(int)",
    "QPushButton": "toggled(bool)",
}
_INTEGER = {"QSlider", "QSpinBox"}
_REAL = {"QDoubleSpinBox", "ctkSliderWidget", "ctkDoubleSpinBox", "qMRMLSliderWidget"}
_NEEDS_BOUNDS = {"QSlider", "ctkSliderWidget", "qMRMLSliderWidget"}
_COMBO = {"QComboBox", "ctkComboBox"}


@dataclass
class Connector:
    widget: Any
    signal: str
    """Empty where the widget tells of no changes (QLabel)."""
    read: Callable[[], Any]
    write: Callable[[Any], None]
    slot: Callable[[], None] | None = None

    def follow(self, callback: Callable[[], None]) -> None:
        if self.signal:
            self.slot = lambda: callback()
            self.widget.connect(self.signal, self.slot)

    def release(self) -> None:
        if self.slot is not None:
            self.widget.disconnect(self.signal, self.slot)
            self.slot = None


def connector_for(widget: Any, hint: Any) -> Connector:
    """Widgets are matched by their exact class, as in the application; RuntimeError where nothing fits."""
    kind, annotations = split_annotations(hint)
    name = type(widget).__name__
    is_enum = isinstance(kind, type) and issubclass(kind, enum.Enum)

    def bound(signal: str, attribute: str, convert: Callable[[Any], Any] = lambda value: value) -> Connector:
        return Connector(
            widget,
            signal,
            lambda: convert(getattr(widget, attribute)),
            lambda value: setattr(widget, attribute, value),
        )

    if kind is bool and name in _CHECK:
        if name == "QPushButton":
            widget.checkable = True
        return bound(_CHECK[name], "checked")
    if (kind in (int, float) and name in _REAL) or (kind is int and name in _INTEGER):
        _set_range(widget, kind, annotations)
        return bound("valueChanged(int)" if name in _INTEGER else "valueChanged(double)", "value", kind)
    if name in _COMBO and is_enum:
        label = getattr(kind, "label", lambda item: item.name)
        return _combo(widget, list(kind), [label(item) for item in kind])
    if name in _COMBO and kind in (int, float, str, bool):
        choice = _first(annotations, Choice)
        if choice is None:
            raise RuntimeError("A combo box needs the Choice annotation.")
        return _combo(widget, list(choice.choices), [str(item) for item in choice.choices])
    if kind is str and name == "QLineEdit":
        connector = bound("textChanged(QString)", "text")
        connector.write = lambda value: None if widget.text == value else setattr(widget, "text", value)
        return connector
    if kind is str and name == "QLabel":
        return bound("", "text")
    if kind is str and name == "QTextEdit":
        return Connector(widget, "textChanged()", widget.toPlainText, widget.setPlainText)
    if kind in PATH_TYPES and name == "ctkPathLineEdit":
        connector = bound("currentPathChanged(QString)", "currentPath", kind)
        connector.write = lambda value: setattr(widget, "currentPath", str(value))
        return connector
    nodes = _node_types(kind)
    if nodes and name == "qMRMLNodeComboBox":
        widget.nodeTypes = nodes
        return Connector(
            widget, "currentNodeChanged(vtkMRMLNode*)", widget.currentNode, widget.setCurrentNode
        )
    raise RuntimeError(
        f"Unable to create GUI connector from datatype '{hint}' to widget type '{type(widget)}'."
    )


def _first(annotations: tuple[Any, ...], kind: type) -> Any:
    return next((item for item in annotations if isinstance(item, kind)), None)


def _set_range(widget: Any, kind: type, annotations: tuple[Any, ...]) -> None:
    decimals, step = _first(annotations, Decimals), _first(annotations, SingleStep)
    if type(widget).__name__ in _REAL and (kind is int or decimals is not None):
        widget.decimals = 0 if kind is int else decimals.value
    if step is not None:
        widget.singleStep = step.value
    both = _first(annotations, WithinRange)
    low, high = both or _first(annotations, Minimum), both or _first(annotations, Maximum)
    if type(widget).__name__ in _NEEDS_BOUNDS and (low is None or high is None):
        raise RuntimeError("A slider needs a bounded parameter: add WithinRange.")
    whole = type(widget).__name__ in _INTEGER
    widget.minimum = low.minimum if low else (-(2**31) if whole else float("-inf"))
    widget.maximum = high.maximum if high else (2**31 - 1 if whole else float("inf"))


def _combo(widget: Any, values: list[Any], labels: list[str]) -> Connector:
    selected = widget.currentIndex
    widget.clear()
    for label in labels:
        widget.addItem(label)
    if 0 <= selected < len(values):
        widget.currentIndex = selected

    def write(value: Any) -> None:
        widget.currentIndex = values.index(value)

    return Connector(widget, "currentIndexChanged(int)", lambda: values[widget.currentIndex], write)


def _node_types(kind: Any) -> list[str]:
    """Class names of a node type or a union of node types (with None); empty for anything else."""
    parts = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, UnionType) else (kind,)
    if not all(is_node(part) or part is NoneType for part in parts):
        return []
    return [part.__name__ for part in parts if part is not NoneType]
