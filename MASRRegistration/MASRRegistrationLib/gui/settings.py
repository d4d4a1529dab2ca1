"""The preset and the Advanced values of the parameter node <-> what a run is given."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import slicer
from masr_registration.presets import Preset

_FIELDS: dict[str, tuple[str, ...]] = {
    "linearModel": ("linear", "model"),
    "discreteEnabled": ("discrete", "enabled"),
    "continuousEnabled": ("continuous", "enabled"),
    "workingSpacing": ("working_spacing_mm",),
    "regularisation": ("continuous", "regularisation"),
    "landmarkWeight": ("continuous", "landmark_weight"),
    "representation": ("representation",),
    "method": ("method",),
}
"""Parameter -> where it stands in a preset."""


def valuesOf(preset: Preset) -> dict[str, Any]:
    """The Advanced parameters as the preset has them."""
    values = {}
    for name, path in _FIELDS.items():
        value: Any = preset
        for step in path:
            value = getattr(value, step)
        values[name] = value
    return values


def fill(parameters: Any, preset: Preset) -> None:
    """Set the Advanced parameters to what the preset has."""
    with slicer.util.NodeModify(parameters):
        for name, value in valuesOf(preset).items():
            setattr(parameters, name, value)


def clean(parameters: Any) -> None:
    """Every parameter as in a new scene: nothing of what was done before is left in them."""
    with slicer.util.NodeModify(parameters):
        for name in parameters.allParameters:
            setattr(parameters, name, parameters.default(name).value)


def modified(parameters: Any, preset: Preset) -> list[str]:
    """The Advanced parameters that differ from the preset."""
    return [name for name, value in valuesOf(preset).items() if getattr(parameters, name) != value]


def effective(parameters: Any, preset: Preset) -> Preset:
    """The preset with the Advanced parameters in it."""
    for name in modified(parameters, preset):
        value, (*outer, last) = getattr(parameters, name), _FIELDS[name]
        if outer:
            last, value = outer[0], replace(getattr(preset, outer[0]), **{last: value})
        preset = replace(preset, **{last: value})
    return preset
