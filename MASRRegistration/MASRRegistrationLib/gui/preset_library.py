"""The presets that ship, and the user's own: JSON files in the folder of Slicer's user settings."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import slicer
from masr_registration import presets
from masr_registration.errors import InputError, ResourceError
from masr_registration.presets import Preset
from slicer.i18n import tr as _

_NAME = re.compile(r"[\w.()+-][\w .()+-]{0,62}[\w.()+-]|\w")


def folder() -> Path:
    return Path(slicer.app.slicerUserSettingsFilePath).parent / "MASRRegistration" / "presets"


def own() -> list[str]:
    """Names of the user's presets."""
    return sorted(path.stem for path in folder().glob("*.json")) if folder().is_dir() else []


def names() -> list[str]:
    """All presets, the user's own last."""
    shipped = presets.names()
    return [*shipped, *(name for name in own() if name not in shipped)]


def load(nameOrFile: str) -> Preset:
    """A preset by its name, or from a JSON file. Raises `InputError` when there is none, or it is damaged."""
    if nameOrFile in own() and nameOrFile not in presets.names():
        return presets.load(_file(nameOrFile))
    return presets.load(nameOrFile)


def inManifest(name: str) -> str:
    """What a manifest calls a preset: its name, or the file of one of the user's own."""
    return name if name in presets.names() else str(_file(name))


def save(preset: Preset, name: str) -> str:
    """Keep `preset` as one of the user's own; returns the name. Raises `InputError` for a name that cannot be used,
    `ResourceError`."""
    name = name.strip()
    if not _NAME.fullmatch(name) or name.strip(".") == "":
        raise InputError(_("Give a name of letters, digits, spaces and . - _ ( ) +, 64 at most."))
    if name in presets.names():
        raise InputError(_('"{name}" is a preset that ships; give another name.').format(name=name))
    try:
        folder().mkdir(parents=True, exist_ok=True)
        _file(name).write_text(replace(preset, name=name).to_json(), encoding="utf-8")
    except OSError as error:
        raise ResourceError(
            _("The preset could not be written into the folder of Slicer's settings.")
        ) from error
    return name


def importFile(path: str) -> str:
    """Keep the preset of a JSON file under the name in it; returns the name. Raises as `load` and `save`."""
    preset = presets.load(path)
    return save(preset, preset.name)


def delete(name: str) -> None:
    """Remove one of the user's own presets."""
    if name in own():
        _file(name).unlink()


def _file(name: str) -> Path:
    return folder() / f"{name}.json"
