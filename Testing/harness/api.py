"""Names that exist in a real Slicer 5.12.3, and a check of a module's sources against them."""

from __future__ import annotations

import ast
import functools
import gzip
import json
from pathlib import Path
from typing import Any

from harness.uifile import check_ui

_DATA = Path(__file__).with_name("data") / "slicer-5.12.3-api.json.gz"
_SUBMODULES = {
    "packaging",
    "testing",
}  # parts of the slicer package that the application imports only when asked
_APPLICATION = "qSlicerApplication"


@functools.cache
def data() -> dict[str, Any]:
    """Everything that was read off the application: see the key "about"."""
    return json.loads(gzip.decompress(_DATA.read_bytes()))


def _class_entry(class_name: str) -> dict[str, list[Any]] | None:
    api = data()
    if class_name in api["qtClasses"]:
        return api["qtClasses"][class_name]
    if class_name not in api["widgets"]:
        return None
    own, base = api["widgets"][class_name], api["widgetBase"]
    has_scene = not class_name.startswith("ctk")  # the common list was taken from widgets with a MRML scene
    return {
        key: own[key] + [item for item in base[key] if has_scene or "mrmlscene" not in str(item).lower()]
        for key in ("properties", "signals", "slots", "python")
    }


@functools.cache
def members(class_name: str) -> frozenset[str] | None:
    """Python attributes of a class in the real application; None where they were not recorded."""
    if class_name == _APPLICATION:
        return frozenset(data()["slicer.app"])
    entry = _class_entry(class_name)
    return None if entry is None else frozenset(entry["python"]) | properties(class_name).keys()


@functools.cache
def properties(class_name: str) -> dict[str, str]:
    """Q_PROPERTY name -> C++ type name (empty for a class that was not recorded)."""
    entry = _class_entry(class_name)
    return {} if entry is None else {name: type_name for name, type_name, _writable in entry["properties"]}


@functools.cache
def signatures(class_name: str, kind: str) -> frozenset[str] | None:
    """Normalised C++ signatures of the "signals" or "slots" of a class; None where they were not recorded."""
    entry = _class_entry(class_name)
    return None if entry is None else frozenset(entry[kind])


def check_names(path: str | Path) -> list[str]:
    """Complaints about the Python and .ui files of a module (a file or a folder), one sentence each.

    Every name read from qt, ctk, slicer, slicer.util and slicer.app, every enum or static member of a recorded
    class and every class, property, signal and slot in a .ui file must exist in the real application. Keyword
    arguments to C++ constructors and scoped enums (qt.Qt.AlignmentFlag.AlignLeft), which PythonQt lacks, are
    reported too.
    """
    path = Path(path)
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    complaints = []
    for file in files:
        if file.suffix == ".py":
            found = _check_python(ast.parse(file.read_text(encoding="utf-8")))
        elif file.suffix == ".ui":
            found = check_ui(file.read_bytes())
        else:
            continue
        complaints += [f"{file.name}: {complaint}" for complaint in found]
    return complaints


def _check_python(tree: ast.AST) -> list[str]:
    names: dict[str, str] = {}  # local name -> dotted name it stands for
    complaints: list[str] = []

    def check(node: Any, dotted: str) -> None:
        problem = _problem(dotted)
        if problem:
            complaints.append(f"line {node.lineno}: {problem}")

    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in ("qt", "ctk", "slicer"):
                    names[alias.asname or alias.name.split(".")[0]] = (
                        alias.name if alias.asname else alias.name.split(".")[0]
                    )
                    check(node, alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module in ("qt", "ctk", "slicer", "slicer.util"):
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                if alias.name != "*":
                    check(node, f"{node.module}.{alias.name}")
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and id(node) not in inner:
            dotted = _dotted(node, names)
            if dotted:
                check(node, dotted)
        elif isinstance(node, ast.Call) and any(keyword.arg for keyword in node.keywords):
            dotted = _dotted(node.func, names) or ""
            root, _, name = dotted.partition(".")
            if root in ("qt", "ctk") or (root == "slicer" and name.startswith("q") and name != "quit"):
                complaints.append(f"line {node.lineno}: {dotted}() takes no keyword arguments under PythonQt")
    return complaints


def _dotted(node: ast.expr, names: dict[str, str]) -> str | None:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in names:
        return None
    return ".".join([names[node.id], *parts])


def _problem(dotted: str) -> str | None:
    """What is wrong with a dotted name such as qt.QProcess.NotRunning, or None."""
    root, *parts = dotted.split(".")
    if not parts:
        return None
    if root == "slicer" and parts[0] in ("util", "app"):
        known = frozenset(data()[f"slicer.{parts[0]}"])
        return f"{dotted} does not exist" if parts[1:] and parts[1] not in known else None
    if root == "slicer" and parts[0] in _SUBMODULES:
        return None
    if parts[0] not in data()[root] and not (root == "slicer" and _is_mrml(parts[0])):
        return f"{root}.{parts[0]} does not exist"
    if len(parts) < 2 or parts[1].startswith("_"):
        return None
    recorded = members(parts[0])
    if recorded is not None and parts[1] not in recorded and parts[1] != "staticMetaObject":
        return f"{root}.{parts[0]} has no {parts[1]}"
    if root == "qt" and len(parts) > 2 and parts[1][0].isupper():
        return f"{dotted} is a scoped enum, which PythonQt lacks: write qt.{parts[0]}.{parts[2]}"
    return None


def _is_mrml(name: str) -> bool:
    """Whether real MRML (slicer-core) has this class; the record lists only what is not VTK."""
    import slicer

    return name.startswith("vtk") and hasattr(slicer, name)
