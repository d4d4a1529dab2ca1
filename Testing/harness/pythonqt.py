"""The modules qt and ctk with PythonQt's semantics, built on PySide6. README.md lists what differs.

Importing this module patches PySide6 for the whole process.
"""

from __future__ import annotations

import functools
import os
import sys
from types import MethodType, ModuleType
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import shiboken6
from PySide6 import QtCore, QtGui, QtNetwork, QtUiTools, QtWidgets

from harness import api, signals
from harness.properties import dynamic_names, is_cpp, patch_class

_SOURCES = (QtCore, QtGui, QtWidgets, QtUiTools, QtNetwork)
_ALWAYS = {"name", "exec_"} | {
    "emit",
    "connectNotify",
    "disconnectNotify",
}  # PythonQt has these two; the binding needs the rest
_INTERACTIVE = {  # static functions that need a person: a test replaces them with unittest.mock.patch
    QtGui.QDesktopServices: ("openUrl",),
    QtWidgets.QFileDialog: ("getOpenFileName", "getOpenFileNames", "getSaveFileName", "getExistingDirectory"),
    QtWidgets.QMessageBox: ("information", "question", "warning", "critical", "about"),
    QtWidgets.QInputDialog: ("getText", "getInt", "getDouble", "getItem"),
}


@functools.cache
def _members(cls: type) -> frozenset[str] | None:
    return api.members(cls.__name__) if is_cpp(cls) else None


def _hook_attributes(cls: type) -> None:
    """Intercept connect, which the binding resolves before any class attribute, and members Slicer lacks."""
    native = cls.__getattribute__

    def __getattribute__(self: Any, name: str) -> Any:
        if name == "connect":
            return MethodType(signals.connect, self)
        if name == "disconnect":
            return MethodType(signals.disconnect, self)
        if not name.startswith("_"):
            allowed = _members(type(self))
            if allowed is not None and name not in allowed and name not in _ALWAYS:
                raise AttributeError(name)  # goes on to _getattr
        return native(self, name)

    cls.__getattribute__ = __getattribute__


def _getattr(self: Any, name: str) -> Any:
    """Dynamic properties, then children by name."""
    if not name.startswith("_"):
        if not shiboken6.isValid(self):
            raise ValueError(f"trying to read '{name}' from a destroyed {type(self).__name__}")
        if name in dynamic_names(self):
            return self.property(name)
        for child in QtCore.QObject.children(self):
            if child.objectName == name:
                return child
    raise AttributeError(f"{type(self).__name__} has no attribute named '{name}'")


class _Name:
    """PythonQt's short form of objectName."""

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else instance.objectName

    def __set__(self, instance: Any, value: str) -> None:
        instance.objectName = value


def _without_keywords(cls: type) -> None:
    """PythonQt's constructors take neither keyword arguments nor pathlib paths."""
    original = cls.__dict__.get("__init__")
    if original is None:
        return

    def __init__(self: Any, *args: Any, **keywords: Any) -> None:
        if keywords:
            raise TypeError(f"{cls.__name__}: PythonQt takes no keyword arguments ({', '.join(keywords)})")
        if any(isinstance(argument, os.PathLike) for argument in args):
            raise TypeError(f"{cls.__name__}: PythonQt does not convert pathlib paths")
        original(self, *args)

    cls.__init__ = __init__


def _no_buffer(self: QtCore.QByteArray) -> bytes:
    raise TypeError("PythonQt's QByteArray has no buffer interface: use .data()")


_pending_timers: set[QtCore.QTimer] = set()


def _single_shot(milliseconds: int, receiver: Any, member: str | None = None) -> None:
    timer = QtCore.QTimer()
    _pending_timers.add(timer)
    slot = receiver if member is None else getattr(receiver, member.lstrip("1").partition("(")[0])

    def fire() -> None:
        _pending_timers.discard(timer)
        slot()

    timer.setSingleShot(True)
    timer.connect("timeout()", fire)
    timer.start(milliseconds)


def _blocked(name: str) -> staticmethod[..., None]:
    def refuse(*args: Any) -> None:
        raise RuntimeError(f"{name} needs a person; replace it in the test")

    return staticmethod(refuse)


def _install() -> ModuleType:
    module = ModuleType("qt", "Stand-in for PythonQt's qt module, limited to the names of a real Slicer.")
    members = [
        getattr(source, name) for source in _SOURCES for name in dir(source)
    ]  # the binding loads lazily
    for cls in {item for item in members if isinstance(item, type)}:
        patch_class(cls)
        if cls.__name__.startswith("Q"):
            _without_keywords(cls)
        if issubclass(cls, QtCore.QObject) and "__getattribute__" in cls.__dict__:
            _hook_attributes(cls)
    for name in api.data()["qt"]:
        found = [getattr(source, name) for source in _SOURCES if hasattr(source, name)]
        if found:
            setattr(module, name, found[0])
    base: Any = QtCore.QObject
    base.__getattr__ = _getattr
    base.name = _Name()
    base.className = lambda self: self.metaObject().className()
    base.delete = lambda self: shiboken6.delete(self)
    QtCore.QByteArray.__bytes__ = _no_buffer
    QtCore.QTimer.__dict__["singleShot"].static = _single_shot
    for cls, names in _INTERACTIVE.items():
        for name in names:
            setattr(cls, name, _blocked(f"{cls.__name__}.{name}()"))
    return module


qt = sys.modules["qt"] = _install()
ctk = sys.modules["ctk"] = ModuleType("ctk", "Stand-in for PythonQt's ctk module; harness.widgets fills it.")
