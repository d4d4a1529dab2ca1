"""Slices of volumes as a radiologist hangs them.

Every grid is shown along its own axes, relabelled to the nearest patient axes: axial and coronal with the patient's
right on the left, sagittal with anterior on the left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..volume import Geometry

_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
_LETTERS = (("R", "L"), ("A", "P"), ("I", "S"))


@dataclass(frozen=True)
class Plane:
    """One of the three planes; its axes count LPS (0, 1, 2)."""

    name: str
    through: int
    column: int
    row: int


AXIAL = Plane("Axial", through=2, column=0, row=1)
CORONAL = Plane("Coronal", through=1, column=0, row=2)
SAGITTAL = Plane("Sagittal", through=0, column=1, row=2)
PLANES = (AXIAL, CORONAL, SAGITTAL)


@dataclass(frozen=True)
class Hanging:
    """How a grid hangs: for each patient axis L, P, S the index axis (0 = i) nearest to it and its sign."""

    geometry: Geometry
    axes: tuple[int, int, int]
    signs: tuple[int, int, int]

    @classmethod
    def of(cls, geometry: Geometry) -> Hanging:
        direction = np.reshape(geometry.direction, (3, 3))
        axes = max(_ORDERS, key=lambda order: sum(abs(direction[axis, order[axis]]) for axis in range(3)))
        signs = [1 if direction[axis, axes[axis]] >= 0 else -1 for axis in range(3)]
        return cls(geometry, axes, (signs[0], signs[1], signs[2]))

    @property
    def obliquity_deg(self) -> float:
        """Largest angle between an axis of the grid and the patient axis it is labelled with."""
        direction = np.reshape(self.geometry.direction, (3, 3))
        cosines = [abs(direction[axis, self.axes[axis]]) for axis in range(3)]
        return float(np.rad2deg(np.arccos(np.clip(min(cosines), -1, 1))))

    def size_mm(self, plane: Plane) -> tuple[float, float]:
        """Width and height of a slice, voxel edges to voxel edges."""
        extent = self.geometry.extent_mm
        return float(extent[self.axes[plane.column]]), float(extent[self.axes[plane.row]])

    def slice(self, array: np.ndarray, plane: Plane, index: tuple[int, int, int]) -> np.ndarray:
        """The slice of ``(..., D, H, W)`` through voxel `index` (i, j, k), ``(..., rows, columns)`` from top left."""
        through = self.axes[plane.through]
        flat = np.take(array, index[through], axis=array.ndim - 1 - through)
        if self.axes[plane.row] < self.axes[plane.column]:
            flat = np.swapaxes(flat, -1, -2)
        top_down = self.signs[plane.row] * (-1 if plane.row == 2 else 1)
        return flat[..., ::top_down, :: self.signs[plane.column]]

    def letters(self, plane: Plane) -> tuple[str, str, str, str]:
        """What lies at the left, right, top and bottom edge of a slice."""
        left, right = _LETTERS[plane.column]
        first, last = _LETTERS[plane.row]
        return (left, right, last, first) if plane.row == 2 else (left, right, first, last)

    def along(self, vectors: np.ndarray, plane: Plane) -> tuple[np.ndarray, np.ndarray]:
        """Parts of LPS `vectors` ``(3, ...)`` along a slice's columns (rightwards) and rows (downwards)."""
        direction = np.reshape(self.geometry.direction, (3, 3))
        column = self.signs[plane.column] * direction[:, self.axes[plane.column]]
        row = self.signs[plane.row] * (-1 if plane.row == 2 else 1) * direction[:, self.axes[plane.row]]
        return np.tensordot(column, vectors, 1), np.tensordot(row, vectors, 1)

    def position(self, plane: Plane, index: tuple[int, int, int]) -> str:
        """Where a slice lies, as in Slicer's slice bar: "S 12 mm"."""
        point = (self.geometry.index_to_physical @ [*index, 1.0])[:3]
        mm = point[plane.through]
        return f"{_LETTERS[plane.through][int(mm >= 0)]} {abs(mm):.0f} mm"


def middle(mask: np.ndarray) -> tuple[int, int, int]:
    """Voxel (i, j, k) at the centroid of a mask ``(D, H, W)``, or of the grid when the mask is empty."""
    index = []
    for axis in (2, 1, 0):
        profile = np.count_nonzero(mask, axis=tuple(a for a in range(3) if a != axis)).astype(float)
        if not profile.any():
            profile[:] = 1
        index.append(round(float(np.average(np.arange(len(profile)), weights=profile))))
    return index[0], index[1], index[2]


def fullest(mask: np.ndarray) -> tuple[int, int, int]:
    """Voxel (i, j, k) whose three slices hold most of a mask ``(D, H, W)``."""
    index = [
        int(np.argmax(np.count_nonzero(mask, axis=tuple(a for a in range(3) if a != axis))))
        for axis in (2, 1, 0)
    ]
    return index[0], index[1], index[2]


@dataclass(frozen=True)
class Window:
    """Intensities shown from black to white."""

    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray, percentiles: tuple[float, float] = (0.5, 99.5)) -> Window:
        sample = values[np.isfinite(values)]
        if not sample.size:
            return cls(0.0, 1.0)
        low, high = (float(p) for p in np.percentile(sample, percentiles))
        return cls(low, high if high > low else low + 1.0)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Values to [0, 1], NaN to 0."""
        return np.nan_to_num(np.clip((values.astype(np.float32) - self.low) / (self.high - self.low), 0, 1))


def otsu(values: np.ndarray) -> float:
    """The threshold that parts values in [0, 1] best into dark and bright; those below 0.05 do not count."""
    counts, edges = np.histogram(values[values > 0.05], bins=128, range=(0, 1))
    centres = (edges[:-1] + edges[1:]) / 2
    below, mass = np.cumsum(counts), np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (mass[-1] * below - mass * below[-1]) ** 2 / (below * (below[-1] - below))
    return float(centres[np.nanargmax(np.nan_to_num(between))])
