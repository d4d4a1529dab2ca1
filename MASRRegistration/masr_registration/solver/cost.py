"""What a registration is expected to cost: memory and time by the number of voxels. Importable without torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..presets import Continuous, Preset

SPACING_RANGE = (0.8, 1.5)
"""How much finer or coarser than the preset's the working grid may be, to suit what the images resolve."""
BASE_MB = 700.0
IMAGE_BYTES = 24.0
WORKING_BYTES = 120.0
"""Peak host memory: libraries and compiled code, and bytes per voxel of both images and of the working grid."""
NETWORK_BYTES = {"mind": 0.0, "masr": 90.0, "masr-adapted": 90.0, "masr-faithful": 1500.0}
"""More of these per voxel of the working grid while a network encodes. For the network alone, 85 and 110 bytes were
measured with "masr" (`python -m benchmarks.encoding`; the larger at 112^3) and 1250 with "masr-faithful" (64^3)."""
DEVICE_IMAGE_BYTES, DEVICE_WORKING_BYTES = 30.0, 260.0
"""The same for CUDA, counted from the arrays that the torch kernels make, not measured."""
SECONDS_LINEAR = 12.0
SECONDS_PER_MEGAVOXEL = {"encode": 0.6, "discrete": 1.2, "check": 1.4}
SECONDS_PER_MEGAVOXEL_STEP = 0.06
SPARSE_STEP = 1 / 3
"""One core of an ordinary computer, MIND-SSC; a step is an iteration on the dense lattice, one on the sparse lattice
costs that share. For orientation only."""
SECONDS_PER_MEGAVOXEL_AMORTIZED = 0.5
"""The same for the registration network and the encoding of both images for it."""
REFINEMENT_SHARE = 1 / 2
"""Of the sparse iterations, that follow the registration network; the dense ones follow as ever."""


def refinement(continuous: Continuous) -> Continuous:
    """The shorter continuous stage that follows the registration network."""
    sparse, dense = continuous.iterations
    return replace(continuous, iterations=(math.ceil(REFINEMENT_SHARE * sparse), dense))


def suited_spacing(spacings: Sequence[Sequence[float]], preset: Preset) -> float:
    """The working spacing in mm for a preset and the voxel sizes (mm) of both images."""
    resolved = max(np.cbrt(np.prod(spacing)) for spacing in spacings)
    return preset.working_spacing_mm * float(np.clip(resolved / preset.working_spacing_mm, *SPACING_RANGE))


def predicted_mb(image_voxels: float, working_voxels: float, network_bytes: float = 0.0) -> float:
    """Peak host memory in MB for voxels of both images together and of the working grid, and `NETWORK_BYTES`."""
    return BASE_MB + (IMAGE_BYTES * image_voxels + (WORKING_BYTES + network_bytes) * working_voxels) / 1e6


def predicted_seconds(voxels: float, preset: Preset, threads: int) -> dict[str, float]:
    """Seconds by stage for voxels of the working grid."""
    mega, continuous = voxels / 1e6, preset.continuous
    seconds = {name: rate * mega for name, rate in SECONDS_PER_MEGAVOXEL.items()}
    seconds["linear"] = SECONDS_LINEAR if preset.linear.model != "none" else 0.0
    if preset.method == "optimise":
        seconds["discrete"] *= float(preset.discrete.enabled)
    else:
        seconds["discrete"] = SECONDS_PER_MEGAVOXEL_AMORTIZED * mega
        continuous = refinement(continuous)
    optimised = continuous.enabled and preset.method != "amortized"
    steps = continuous.iterations[1] + SPARSE_STEP * continuous.iterations[0] if optimised else 0.0
    seconds["continuous"] = SECONDS_PER_MEGAVOXEL_STEP * steps * mega
    return {name: round(value / threads**0.7, 2) for name, value in seconds.items()}
