"""PythonQt's connect("signal(type)", slot) on PySide6, and the record of exceptions raised in slots."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable
from types import FunctionType, MethodType, TracebackType
from typing import Any

import shiboken6
from PySide6 import QtCore

from harness import api

slot_errors: list[BaseException] = []
"""Exceptions that the real application would print and forget: raised in slots, timers and VTK observers."""

_native_connect = QtCore.QObject.__dict__["connect"]
_native_disconnect = QtCore.QObject.__dict__["disconnect"]
_connections: dict[
    int, list[tuple[str, Any, Callable[..., Any]]]
] = {}  # C++ pointer -> (signature, slot, trampoline)


def record_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """sys.excepthook while tests run: Qt and VTK end there when a callback raises."""
    traceback.print_exception(kind, error, trace, file=sys.stderr)
    slot_errors.append(error)


def connect(sender: Any, *args: Any) -> Any:
    """sender.connect("signal(types)", callable) or sender.connect("signal(types)", receiver, "slot(types)")."""
    if _from_binding(args):
        return _native_connect(*_with_sender(sender, args))
    signature, *target = args
    key, trampoline = _trampoline(target)
    native = _native_signature(sender, signature)
    if _native_connect(sender, f"2{native}", trampoline):
        _connections_of(sender).append((native, key, trampoline))
        return True
    raise ValueError(f"could not connect {signature} of {type(sender).__name__}")


def disconnect(sender: Any, *args: Any) -> Any:
    """Undo connect() for one slot, or for all slots of a signal; False if there was no such connection."""
    if _from_binding(args):
        return _native_disconnect(*_with_sender(sender, args))
    signature, *target = args
    native = _native_signature(sender, signature)
    key = _trampoline(target)[0] if target else None
    connections = _connections_of(sender)
    found = [item for item in connections if item[0] == native and (key is None or item[1] == key)]
    for item in found if key is None else found[:1]:
        _native_disconnect(sender, f"2{native}", item[2])
        connections.remove(item)
    return bool(found)


def _from_binding(args: tuple[Any, ...]) -> bool:
    """signal.connect(...) arrives here too, with signatures that start with a digit."""
    return any(isinstance(argument, str) and argument[:1] == "2" for argument in args)


def _with_sender(sender: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return args if isinstance(args[0], QtCore.QObject) else (sender, *args)


def _connections_of(sender: Any) -> list[tuple[str, Any, Callable[..., Any]]]:
    pointer = shiboken6.getCppPointer(sender)[0]
    if pointer not in _connections:
        _connections[pointer] = []
        _native_connect(sender, "2destroyed()", lambda: _connections.pop(pointer, None))
    return _connections[pointer]


def _native_signature(sender: Any, signature: str) -> str:
    """The signature under which PySide6 knows a signal, after a check that the real class has that signal."""
    normal = QtCore.QMetaObject.normalizedSignature(signature).data().decode()
    meta = sender.metaObject()
    recorded = api.signatures(meta.className(), "signals")
    for candidate in (normal, re.sub(r"vtk\w+\*", "PyObject", normal)):
        if (recorded is None or normal in recorded) and meta.indexOfSignal(candidate) >= 0:
            return candidate
    gap = " in this harness" if recorded and normal in recorded else ""
    raise ValueError(f"signal {normal} does not exist on {meta.className()}{gap}")


def _trampoline(target: list[Any]) -> tuple[Any, Callable[..., Any]]:
    """(what identifies the slot, a function that passes on as many arguments as the slot takes)."""
    if len(target) == 1:
        slot, key = target[0], target[0]
        limit = _arity(slot)
    else:
        receiver, signature = target
        key = (receiver, signature)
        slot = getattr(receiver, signature.partition("(")[0])
        limit = len([name for name in signature.partition("(")[2].rstrip(")").split(",") if name.strip()])
    if not callable(slot):
        raise TypeError(f"{slot!r} is not callable")
    return key, lambda *args: slot(*args[:limit])


def _arity(slot: Any) -> int | None:
    """Positional arguments that a Python function takes; None for any number, or where that is unknown."""
    function = slot.__func__ if isinstance(slot, MethodType) else slot
    if not isinstance(function, FunctionType) or function.__code__.co_flags & 0x04:  # *args
        return None
    return function.__code__.co_argcount - isinstance(slot, MethodType)
