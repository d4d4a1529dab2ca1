"""A small registration whose only purpose is that every kernel is compiled and cached."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..device import resolve_device
from ..presets import Preset
from ..solver.pipeline import register
from ..solver.plan import usable_host_mb
from ..volume import Geometry, Volume

_SIZE, _SPACING_MM = 40, 4.0


def rehearse(presets: Sequence[Any], device: str, check: Callable[[], None]) -> dict[str, Any]:
    """Register a phantom with each preset (as JSON data); what the machine has, for a `Result`.

    `devices` are identifiers of the CUDA devices that ``auto`` or ``cuda`` may use (none: the CPU), `usable_mb` is the
    memory that is free.
    Raises as `register`.
    """
    resolved = resolve_device(device)
    for preset in {_shortened(Preset.from_json(json.dumps(data))) for data in presets}:
        fixed, moving = (_phantom(shift) for shift in (0.0, 6.0))
        register(fixed, moving, preset, device=device, progress=lambda *_: check())
    shared = resolved.type == "cuda" and device in ("auto", "cuda")
    devices = [str(torch.cuda.get_device_properties(n).uuid) for n in range(torch.cuda.device_count())]
    return {"devices": devices if shared else [], "usable_mb": usable_host_mb()}


def _shortened(preset: Preset) -> Preset:
    """The same way through the program with fewer steps: numbers do not change what is compiled."""
    return replace(
        preset,
        name="rehearsal",
        description="",
        working_spacing_mm=_SPACING_MM,
        continuous=replace(preset.continuous, iterations=(2, 2), control_spacing_mm=3 * _SPACING_MM),
        discrete=replace(preset.discrete, reach_mm=4 * _SPACING_MM),
    )


def _phantom(shift_mm: float) -> Volume:
    """A ball of waves, shifted along x."""
    axis = (np.arange(_SIZE) - _SIZE / 2) * _SPACING_MM
    z, y, x = np.meshgrid(axis, axis, axis + shift_mm, indexing="ij")
    body = (x * x + y * y + z * z < (0.35 * _SIZE * _SPACING_MM) ** 2).astype(np.float32)
    waves = np.sin(x / 9) * np.cos(y / 7) + np.sin(z / 8 + x / 11)
    half = _SIZE * _SPACING_MM / 2
    geometry = Geometry((_SIZE,) * 3, (_SPACING_MM,) * 3, (-half,) * 3, (1, 0, 0, 0, 1, 0, 0, 0, 1))
    return Volume((body * (500 + 200 * waves)).astype(np.float32), geometry)
