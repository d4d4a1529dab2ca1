"""qt.QUiLoader that refuses what the real application lacks, and makes the <connections> of the file itself."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

from PySide6 import QtCore, QtUiTools, QtWidgets

from harness.properties import has_property
from harness.pythonqt import qt
from harness.signals import connect
from harness.uifile import check_ui, connections
from harness.widgets import STAND_INS


class UiError(RuntimeError):
    """The .ui file would not work in the real application, or uses what the harness does not cover."""


class QUiLoader(QtUiTools.QUiLoader):
    def load(self, device: QtCore.QIODevice, parent: QtWidgets.QWidget | None = None) -> QtWidgets.QWidget:
        content = device.readAll().data()
        root = ElementTree.fromstring(content)
        complaints = check_ui(content) or _uncovered(root)
        if complaints:
            raise UiError("; ".join(complaints))
        wanted = connections(root)
        for tag in ("connections", "customwidgets"):
            for element in root.findall(tag):
                root.remove(element)
        for class_name in {widget.get("class", "") for widget in root.iter("widget")} & STAND_INS.keys():
            self.registerCustomWidget(STAND_INS[class_name])
        buffer = QtCore.QBuffer()
        buffer.setData(ElementTree.tostring(root))
        buffer.open(QtCore.QIODevice.ReadOnly)
        widget = super().load(buffer, parent)
        for sender, signal, receiver, slot in wanted:
            connect(_child(widget, sender), signal, _child(widget, receiver), slot)
        return widget


def _child(widget: Any, name: str) -> Any:
    return widget if widget.objectName == name else widget.findChild(QtCore.QObject, name)


def _uncovered(root: ElementTree.Element) -> list[str]:
    complaints = []
    for widget in root.iter("widget"):
        class_name = widget.get("class", "")
        cls = STAND_INS.get(class_name) or getattr(qt, class_name, None)
        if cls is None:
            complaints.append(f"{class_name} has no stand-in in harness/widgets.py")
            continue
        for element in widget.findall("property"):
            name = element.get("name", "")
            if element.get("stdset") != "0" and not has_property(cls, name):
                complaints.append(f"{widget.get('name')}: the stand-in {class_name} has no property {name}")
    return complaints


qt.QUiLoader = QUiLoader
