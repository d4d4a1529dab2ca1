"""What the tests of the engine share: grids, a head whose value is known at every point, and known transforms."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import SimpleITK as sitk
import torch
from masr_registration.transforms import affine
from masr_registration.transforms.chain import DisplacementField
from masr_registration.volume import Geometry, Volume

AXIS_ALIGNED = np.eye(3)
OBLIQUE = affine.rotation(np.radians([25.0, -40.0, 60.0]))
LEFT_HANDED = OBLIQUE @ np.diag([1.0, -1.0, 1.0])
PointMap = Callable[[np.ndarray], np.ndarray]


def geometry(
    size: tuple[int, int, int],
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    axes: np.ndarray = AXIS_ALIGNED,
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Geometry:
    """A grid of `size` voxels along (i, j, k) whose middle lies at `centre` (LPS mm)."""
    origin = np.asarray(centre) - axes @ ((np.asarray(size) - 1) / 2 * spacing)
    return Geometry(size, spacing, tuple(origin.tolist()), tuple(axes.ravel().tolist()))


def points_of(grid: Geometry) -> np.ndarray:
    """LPS mm of all voxels ``(D, H, W, 3)``."""
    k, j, i = np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij")
    return affine.apply(grid.index_to_physical, np.stack((i, j, k), -1))


def points_in(grid: Geometry, count: int, margin_mm: float = 0.0, seed: int = 0) -> np.ndarray:
    """Random LPS points ``(N, 3)`` in the box of `grid` (voxel edge to voxel edge) and up to `margin_mm` around it."""
    rng = np.random.default_rng(seed)
    unit = rng.uniform(-0.5, 0.5, (count, 3)) * (grid.extent_mm + 2 * margin_mm)
    return grid.centre + unit @ np.reshape(grid.direction, (3, 3)).T


def smooth_field(
    grid: Geometry, amplitude_mm: float, seed: int = 0, *, wavelength: float = 1.0
) -> DisplacementField:
    """Low waves in all components, zero at the grid's border; the largest displacement is `amplitude_mm`."""
    rng = np.random.default_rng(seed)
    k, j, i = np.meshgrid(*((np.arange(n)) / max(n - 1, 1) for n in grid.shape), indexing="ij")
    window = np.sin(np.pi * i) * np.sin(np.pi * j) * np.sin(np.pi * k)
    waves = rng.uniform(0.3, 1.2, (3, 3)) * np.pi / wavelength
    phases = rng.uniform(0, 2 * np.pi, 3)
    field = np.stack([np.sin(a * i + b * j + c * k + p) for (a, b, c), p in zip(waves, phases, strict=True)])
    field *= window
    field *= amplitude_mm / np.linalg.norm(field, axis=0).max()
    return DisplacementField(torch.from_numpy(field).float(), grid)


class Head:
    """An ellipsoid of waves in grey surroundings: what is bright in the shade "t1" is dark in "t2"."""

    def __init__(
        self,
        seed: int = 0,
        radii: tuple[float, float, float] = (36.0, 43.0, 38.0),
        wavelengths: tuple[float, float] = (16.0, 40.0),
    ) -> None:
        rng = np.random.default_rng(seed)
        directions = rng.normal(size=(40, 3))
        self.radii = np.asarray(radii)
        self.waves = directions / np.linalg.norm(directions, axis=1, keepdims=True)
        self.waves *= 2 * np.pi / rng.uniform(*wavelengths, (40, 1))
        self.phases = rng.uniform(0, 2 * np.pi, 40)

    def __call__(self, points: np.ndarray, shade: str) -> np.ndarray:
        """Intensities, about 0 to 1000, at LPS points ``(..., 3)``."""
        distance = np.linalg.norm(points / self.radii, axis=-1)
        body = np.clip((1.05 - distance) / 0.1, 0, 1)
        hidden = np.cos(points @ self.waves.T + self.phases).sum(-1) / np.sqrt(20)
        return 500 + body * (450 * np.tanh(1.5 * hidden) if shade == "t1" else -350 * np.tanh(hidden))

    def contains(self, points: np.ndarray) -> np.ndarray:
        inside: np.ndarray = np.linalg.norm(points / self.radii, axis=-1) < 0.95
        return inside

    def volume(self, grid: Geometry, shade: str, where: PointMap = lambda p: p) -> Volume:
        """The image that shows at p what the head has at ``where(p)``."""
        return Volume(self(where(points_of(grid)), shade).astype(np.float32), grid, f"{shade}.nii.gz")


def sitk_points(transform: sitk.Transform, points: np.ndarray) -> np.ndarray:
    """`points` ``(N, 3)`` through an ITK transform, one by one."""
    return np.array([transform.TransformPoint(p) for p in points.tolist()])


def inverse_points(where: PointMap, points: np.ndarray, rounds: int = 60) -> np.ndarray:
    """Solves ``where(q) = p`` for q by fixed point, for maps near the identity."""
    moved = points.copy()
    for _ in range(rounds):
        moved = moved + points - where(moved)
    return moved
