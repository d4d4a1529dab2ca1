"""Registration methods behind one protocol: two images in memory in, a resampling transform out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib import import_module
from typing import Any, Protocol

import numpy as np
import SimpleITK as sitk
from masr_registration.volume import Geometry, Volume


@dataclass(frozen=True)
class Outcome:
    """What a method found. The functions convert it to the common form, after the clock has stopped.

    Attributes:
        displacement: gives ``(3, D, H, W)`` float32, LPS mm: T(p) - p at the fixed image's voxels, fixed -> moving.
        inverse: gives moving -> fixed in LPS mm, where the method has an inverse.
        timings: seconds by stage, as far as the method tells.
        metrics: what else it says of its result.
        peak_mb, cpu_s: its own numbers where it ran in a process of its own.
    """

    displacement: Callable[[], np.ndarray]
    inverse: Callable[[], sitk.Transform] | None = None
    timings: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    peak_mb: float | None = None
    cpu_s: float | None = None


class Method(Protocol):
    """A registration method; an instance lives in one process and uses `threads` threads."""

    def describe(self) -> dict[str, Any]:
        """Version, settings and start, as the result file holds them."""

    def prepare(self, fixed: Volume, moving: Volume, preset: str) -> None:
        """What is not the method's own work, before the clock starts; most have nothing to do."""

    def register(self, fixed: Volume, moving: Volume, preset: str) -> Outcome:
        """Register: this call is timed."""


_WHERE = {
    "identity": "identity:Identity",
    "masr": "masr:Masr",
    "masr-mind": "masr:MasrMind",
    "masr-network": "masr:MasrNetwork",
    "masr-amortized": "masr:MasrAmortized",
    "masr-amortized-refine": "masr:MasrAmortizedRefine",
    "masr-linear": "masr:MasrLinear",
    "masr-command": "masr:MasrCommand",
    "convexadam": "convexadam:ConvexAdam",
    "convexadam-after-masr-linear": "prealigned:ConvexAdamAfterLinear",
    "ants-syn": "ants_syn:AntsSyn",
    "ants-syn-cc": "ants_syn:AntsSynCC",
    "elastix-rigid": "elastix:Rigid",
    "elastix-affine": "elastix:Affine",
    "elastix-bspline": "elastix:BSpline",
}
NAMES = tuple(_WHERE)


def dense(transform: sitk.Transform, geometry: Geometry) -> np.ndarray:
    """Displacements ``(3, D, H, W)`` float32, LPS mm, of a transform at the voxels of a grid."""
    field = sitk.TransformToDisplacementField(
        transform,
        sitk.sitkVectorFloat32,
        geometry.size,
        geometry.origin,
        geometry.spacing,
        geometry.direction,
    )
    return np.ascontiguousarray(np.moveaxis(sitk.GetArrayViewFromImage(field), -1, 0))


def voxels_to_lps_mm(found: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Voxel displacements ``(D, H, W, 3)``, component a along array axis a, as ``(3, D, H, W)`` float32 LPS mm."""
    axes = geometry.index_to_physical[:3, :3]
    displacement: np.ndarray = np.einsum("ab,dhwb->adhw", axes, found[..., ::-1]).astype(np.float32)
    return displacement


def select(patterns: Iterable[str]) -> list[str]:
    """Names of the methods that match one of the shell patterns, in the order of the table."""
    chosen = list(patterns)
    return [name for name in NAMES if any(fnmatchcase(name, pattern) for pattern in chosen)]


def create(name: str, threads: int) -> Method:
    """Import and set up a method. Raises `ImportError` when its package is not installed."""
    module, kind = _WHERE[name].split(":")
    method: Method = getattr(import_module(f".{module}", __package__), kind)(threads)
    return method
