"""How each type of parameter lies in a vtkMRMLScriptedModuleNode: name and text form as in the application."""

from __future__ import annotations

import enum
import logging
import pathlib
import types
import typing
from typing import Any

import slicer
from slicer.parameterNodeWrapper.annotations import Default, IsInstance, IsNone, NotNone, Validator

NoneType = type(None)
PATH_TYPES = (
    pathlib.Path,
    pathlib.PosixPath,
    pathlib.WindowsPath,
    pathlib.PurePath,
    pathlib.PurePosixPath,
    pathlib.PureWindowsPath,
)


def split_annotations(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """Annotated[T, a, b] -> (T, (a, b)); T -> (T, ())."""
    if typing.get_origin(hint) is typing.Annotated:
        kind, *annotations = typing.get_args(hint)
        return kind, tuple(annotations)
    return hint, ()


def is_node(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, slicer.vtkMRMLNode)


class Storage:
    """Values kept as one text parameter."""

    def __init__(self, kind: Any, validators: tuple[Validator, ...]) -> None:
        self.kind = kind
        self.validators = (*self.own_validators(), *validators)

    def own_validators(self) -> tuple[Validator, ...]:
        return NotNone(), IsInstance((int, float) if self.kind is float else self.kind)

    def default(self) -> Any:
        return next(iter(self.kind)) if issubclass(self.kind, enum.Enum) else self.kind()

    def validate(self, value: Any) -> None:
        for validator in self.validators:
            validator.validate(value)

    def contains(self, node: Any, name: str) -> bool:
        return bool(node.HasParameter(name))

    def remove(self, node: Any, name: str) -> None:
        node.UnsetParameter(name)

    def write(self, node: Any, name: str, value: Any) -> None:
        self.validate(value)
        self.encode(node, name, value)

    def encode(self, node: Any, name: str, value: Any) -> None:
        node.SetParameter(name, value.name if isinstance(value, enum.Enum) else str(value))

    def read(self, node: Any, name: str) -> Any:
        text = node.GetParameter(name)
        if self.kind is bool:
            return text == "True"
        if not issubclass(self.kind, enum.Enum):
            return self.kind(text)
        try:
            return self.kind[text]
        except KeyError:
            raise ValueError(f"{text!r} is not a name in {self.kind!r}") from None


class NodeStorage(Storage):
    """A node reference, and an empty parameter of the same name to tell None from never set."""

    def own_validators(self) -> tuple[Validator, ...]:
        return (IsInstance(self.kind),)

    def default(self) -> None:
        return None

    def encode(self, node: Any, name: str, value: Any) -> None:
        node.SetParameter(name, "")
        node.SetNodeReferenceID(name, value.GetID() if value is not None else None)

    def read(self, node: Any, name: str) -> Any:
        return node.GetNodeReference(name)

    def remove(self, node: Any, name: str) -> None:
        super().remove(node, name)
        node.RemoveNodeReferenceIDs(name)


class NoneStorage(Storage):
    def own_validators(self) -> tuple[Validator, ...]:
        return (IsNone(),)

    def encode(self, node: Any, name: str, value: Any) -> None:
        node.SetParameter(name, "True")

    def read(self, node: Any, name: str) -> None:
        return None


class UnionStorage(Storage):
    """Each alternative has a name of its own, NAME.INDEX; the one that is there is the value."""

    def __init__(self, hint: Any, validators: tuple[Validator, ...]) -> None:
        self.parts = [storage_for(part)[0] for part in typing.get_args(hint)]
        super().__init__(hint, validators)

    def own_validators(self) -> tuple[Validator, ...]:
        return ()

    def default(self) -> Any:
        optional = len(self.parts) == 2 and isinstance(self.parts[1], NoneStorage)
        return None if optional else self.parts[0].default()

    def _found(self, node: Any, name: str) -> tuple[Storage, str] | None:
        named = ((part, f"{name}.{index}") for index, part in enumerate(self.parts))
        return next(((part, part_name) for part, part_name in named if part.contains(node, part_name)), None)

    def contains(self, node: Any, name: str) -> bool:
        return self._found(node, name) is not None

    def remove(self, node: Any, name: str) -> None:
        for index, part in enumerate(self.parts):
            part.remove(node, f"{name}.{index}")

    def encode(self, node: Any, name: str, value: Any) -> None:
        index, part = self._alternative(value)
        with slicer.util.NodeModify(node):
            self.remove(node, name)
            part.encode(node, f"{name}.{index}", value)

    def _alternative(self, value: Any) -> tuple[int, Storage]:
        problem: Exception = TypeError(f"Unable to write value {value!r} of type {type(value)}")
        for index, part in enumerate(self.parts):
            same_family = is_node(part.kind) and is_node(type(value))
            if same_family or part.kind is type(value) or isinstance(value, (enum.Enum, pathlib.PurePath)):
                try:
                    part.validate(value)
                    return index, part
                except (TypeError, ValueError) as error:
                    problem = error
        raise problem

    def read(self, node: Any, name: str) -> Any:
        found = self._found(node, name)
        if found is None:
            raise KeyError(f"Unable to find value for name: {name}")
        return found[0].read(node, found[1])


def _is_validator(item: Any) -> bool:
    return isinstance(item, Validator) or (isinstance(item, type) and issubclass(item, Validator))


def storage_for(hint: Any) -> tuple[Storage, Default | None]:
    """The storage of a type hint, and the default among its annotations."""
    kind, annotations = split_annotations(hint)
    defaults = [item for item in annotations if isinstance(item, Default)]
    validators = tuple(item for item in annotations if _is_validator(item))
    unused = [item for item in annotations if not isinstance(item, Default) and item not in validators]
    if unused:
        logging.warning(f"Unused annotations: {unused}")
    if len(defaults) > 1:
        raise Exception("Multiple defaults found")
    return _storage_class(kind)(kind, validators), (defaults[0] if defaults else None)


def _storage_class(kind: Any) -> type[Storage]:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return UnionStorage
    if is_node(kind):
        return NodeStorage
    if kind in (NoneType, None):
        return NoneStorage
    if kind in (int, float, bool, str, *PATH_TYPES) or (
        isinstance(kind, type) and issubclass(kind, enum.Enum)
    ):
        return Storage
    raise Exception(f"Unable to create serializer for type: {kind}")
