"""How a result was made, as text for a person and for a log."""

from __future__ import annotations

import json
from typing import Any

from masr_registration import presets
from slicer.i18n import tr as _


def verdictText(content: dict[str, Any]) -> str:
    """The verdict of a stored result in words, its reasons, and every warning."""
    heads = {
        "plausible": _(
            "Plausible: no check speaks against this result. How exact it is, only looking can tell."
        ),
        "doubtful": _("Doubtful: look closely before you use this result."),
        "failed": _("Failed: do not use this result."),
    }
    verdict = content["verdict"]
    head = heads.get(str(verdict.get("level", "")), _("There is no verdict on this result."))
    return "\n".join(dict.fromkeys([head, *verdict.get("reasons", []), *content["warnings"]]))


def provenanceText(content: dict[str, Any]) -> str:
    """What a person asks first, then everything that repeating the run needs, as JSON."""
    made = content["provenance"]
    lines = [
        _("Fixed: {volume}").format(volume=_volumeText(content, "fixed")),
        _("Moving: {volume}").format(volume=_volumeText(content, "moving")),
        *(f"{_OTHERS[role]()}: {name}" for role, name in content["others"].items()),
        _("Preset: {preset}").format(preset=_presetText(made.get("preset", {}))),
        _("Device: {device}, {threads} threads, seed {seed}").format(
            device=made.get("device", "?"), threads=made.get("threads", "?"), seed=made.get("seed", "?")
        ),
        _("Duration: {seconds:.1f} s").format(seconds=content["timings"].get("total") or 0.0),
        _("Date: {date}").format(date=made.get("date", "?")),
        _("Version: {version}").format(version=made.get("masr_version", "?")),
        "",
        json.dumps(made, indent=2, ensure_ascii=False),
    ]
    return "\n".join(lines)


_OTHERS = {
    "fixed_mask": lambda: _("Fixed mask"),
    "moving_mask": lambda: _("Moving mask"),
    "initial_transform": lambda: _("Initial transform"),
}


def _presetText(preset: dict[str, Any]) -> str:
    """Its name, and whether it is what ships under that name."""
    name = str(preset.get("name", _("unknown")))
    shipped = json.loads(presets.load(name).to_json()) if name in presets.names() else None
    if shipped is not None:
        del shipped["masr_preset"]
    return _("{name} (modified)").format(name=name) if shipped is not None and shipped != preset else name


def _volumeText(content: dict[str, Any], role: str) -> str:
    volume = content["provenance"].get(role, {})
    name = content["scene"][role]["name"]
    if "size" not in volume:
        return name
    size = " x ".join(str(n) for n in volume["size"])
    spacing = " x ".join(f"{mm:.3g}" for mm in volume["spacing"])
    return _("{name}, {size} voxels of {spacing} mm, sha256 {digest}").format(
        name=name, size=size, spacing=spacing, digest=str(volume.get("sha256", "?"))[:12]
    )
