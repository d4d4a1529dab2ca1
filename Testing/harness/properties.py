"""Qt properties as Python attributes, the way PythonQt has them, on PySide6 classes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from PySide6 import QtCore


def convert(value: Any, type_name: str) -> Any:
    """PythonQt's tolerant conversion of a value written to a property of this C++ type."""
    if value is None and type_name not in ("QString", "bool"):
        return value
    match type_name:
        case "int" | "uint":
            return math.floor(value) if isinstance(value, float) else int(value)
        case "bool":
            return bool(value)
        case "double" | "float":
            return float(value)
        case "QString":
            return str(value)
        case "QStringList":
            return [value] if isinstance(value, str) else [str(item) for item in value]
    return value


class QtProperty:
    """Descriptor of one Q_PROPERTY. It hides the getter of the same name; setX() and isX() stay methods."""

    def __init__(self, owner: type, meta: QtCore.QMetaProperty) -> None:
        self.name = meta.name()
        self.writable = meta.isWritable()
        self.type_name = "" if meta.isEnumType() else meta.typeName()
        capitalised = self.name[0].upper() + self.name[1:]
        raw = owner.__dict__.get(self.name)
        is_static = type(raw).__name__ in ("staticmethod", "builtin_function_or_method")
        self.static = raw.__get__(None, owner) if raw is not None and is_static else None  # QTimer.singleShot
        self.getter = (None if is_static else _method(owner, self.name)) or _method(owner, f"is{capitalised}")
        self.setter = _method(owner, f"set{capitalised}")

    def with_getter(self, getter: Callable[[Any], Any]) -> QtProperty:
        """The same property for a subclass that declares the getter again."""
        copy = QtProperty.__new__(QtProperty)
        copy.__dict__.update(self.__dict__, getter=getter)
        return copy

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self.static or self
        if self.getter is not None:
            try:
                return self.getter(instance)
            except TypeError:  # a method of that name which needs arguments
                pass
        return instance.property(self.name)

    def __set__(self, instance: Any, value: Any) -> None:
        if not self.writable:
            raise AttributeError(f"property '{self.name}' of {type(instance).__name__} is not writable")
        try:
            converted = convert(value, self.type_name)
            if self.setter is not None:
                self.setter(instance, converted)
                return
            accepted = instance.setProperty(self.name, converted)
        except (TypeError, ValueError):
            accepted = False
        if not accepted:
            raise _refused(self.name, value)


def _refused(name: str, value: Any) -> AttributeError:
    return AttributeError(
        f"property '{name}' does not accept an object of type {type(value).__name__} ({value!r})"
    )


def _method(owner: type, name: str) -> Callable[..., Any] | None:
    for base in owner.__mro__:
        found = base.__dict__.get(name)
        if found is not None:
            return found.getter if isinstance(found, QtProperty) else (found if callable(found) else None)
    return None


def is_cpp(cls: type) -> bool:
    """Whether the class is C++ in the real application: it comes from the binding or stands in for a C++ class."""
    return cls.__module__.startswith("PySide6") or "is_cpp_stand_in" in cls.__dict__


def strict_setattr(self: Any, name: str, value: Any) -> None:
    """PythonQt refuses attributes that a C++ object does not have; Python subclasses may grow them."""
    cls = type(self)
    if isinstance(value, QtCore.SignalInstance):  # the binding caches its signals on the instance
        self.__dict__[name] = value
        return
    found = next((base.__dict__[name] for base in cls.__mro__ if name in base.__dict__), None)
    if isinstance(found, QtCore.Property):
        if found.fset is None:
            raise AttributeError(f"property '{name}' of {cls.__name__} is not writable")
        try:
            found.fset(self, value)
        except (TypeError, ValueError):
            raise _refused(name, value) from None
    elif hasattr(type(found), "__set__"):
        type(found).__set__(found, self, value)
    elif not is_cpp(cls) or name.startswith("_"):
        self.__dict__[name] = value
    elif name in dynamic_names(self):
        self.setProperty(name, value)
    elif found is not None:
        raise AttributeError(f"slot or signal '{name}' of {cls.__name__} cannot be overwritten")
    else:
        raise AttributeError(f"{cls.__name__} has no '{name}', and C++ objects take no new attributes")


def has_property(cls: type, name: str) -> bool:
    found = next((base.__dict__[name] for base in cls.__mro__ if name in base.__dict__), None)
    return isinstance(found, (QtCore.Property, QtProperty))


def dynamic_names(instance: Any) -> list[str]:
    return [name.data().decode() for name in QtCore.QObject.dynamicPropertyNames(instance)]


_patched: set[type] = set()


def patch_class(cls: type) -> None:
    """Turn the properties of a QObject class, and of its bases first, into attributes."""
    if cls in _patched or not issubclass(cls, QtCore.QObject):
        return
    for base in cls.__bases__:
        patch_class(base)
    _patched.add(cls)
    meta = cls.staticMetaObject
    for index in range(meta.propertyOffset(), meta.propertyCount()):
        declared = QtProperty(cls, meta.property(index))
        setattr(cls, declared.name, declared)
    for base in cls.__mro__[1:]:
        for name, inherited in list(base.__dict__.items()):
            own = cls.__dict__.get(name)
            if isinstance(inherited, QtProperty) and own is not None and not isinstance(own, QtProperty):
                setattr(cls, name, inherited.with_getter(own))
    cls.__setattr__ = strict_setattr  # the binding gives each of its classes a __setattr__ of its own
