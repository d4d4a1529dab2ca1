"""Checks of a Qt Designer file that need no Qt: classes, properties, names and connections."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections import Counter


def check_ui(content: bytes) -> list[str]:
    """What would fail, or be ignored silently, when the real application loads this .ui file."""
    from harness import api

    root = ElementTree.fromstring(content)
    complaints = []
    classes: dict[str, str] = {}
    for widget in root.iter("widget"):
        class_name, name = widget.get("class", ""), widget.get("name", "")
        classes[name] = class_name
        if class_name not in api.data()["uiLoaderWidgets"]:
            complaints.append(f"{name}: no widget class {class_name}")
            continue
        known = api.properties(class_name)
        for element in widget.findall("property"):
            if known and element.get("stdset") != "0" and element.get("name") not in known:
                complaints.append(f"{name}: {class_name} has no property {element.get('name')}")
    elements = [*root.iter("widget"), *root.iter("layout"), *root.iter("action")]
    repeated = Counter(element.get("name") for element in elements)
    complaints += [
        f"the name {name} is used {count} times" for name, count in repeated.items() if name and count > 1
    ]
    for sender, signal, receiver, slot in connections(root):
        for name, signature, kind in ((sender, signal, "signals"), (receiver, slot, "slots")):
            if name not in classes:
                complaints.append(f"a connection names {name}, which is not a widget of this file")
                continue
            known_signatures = api.signatures(classes[name], kind)
            if known_signatures is not None and signature not in known_signatures:
                complaints.append(f"{name}: {classes[name]} has no {signature} among its {kind}")
    return complaints


def connections(root: ElementTree.Element) -> list[tuple[str, str, str, str]]:
    """(sender, signal, receiver, slot) of every <connection>."""
    keys = ("sender", "signal", "receiver", "slot")
    found = []
    for element in root.iter("connection"):
        sender, signal, receiver, slot = (element.findtext(key, "") for key in keys)
        found.append((sender, signal, receiver, slot))
    return found
