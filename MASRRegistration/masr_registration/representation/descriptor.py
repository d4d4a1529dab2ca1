"""From a volume to the engine: a normalised `Scan` in the patient, and its features on any working grid."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from ..presets import Modality, Normalisation
from ..transforms.grid import inside, sample
from ..volume import Geometry, Volume, mask_weights
from .normalise import detect_modality, foreground, normalise

NEGLIGIBLE = 0.1
"""Weight below which a voxel is not part of the region; it still counts, by its weight."""


@dataclass(frozen=True, eq=False)
class Scan:
    """A normalised image with its place in the patient.

    Attributes:
        intensity: ``(D, H, W)`` in [0, 1].
        region: ``(D, H, W)`` bool, the voxels that matter: the body, within the user's mask where there is one.
        geometry: their grid.
        weight: ``(D, H, W)`` float32 in [0, 1], the user's mask: how much a voxel counts; None where all count fully.
    """

    intensity: Tensor
    region: Tensor
    geometry: Geometry
    weight: Tensor | None = None

    @classmethod
    def of(
        cls,
        volume: Volume,
        modality: Modality,
        settings: Normalisation,
        mask: Volume | None = None,
        device: torch.device | None = None,
    ) -> Scan:
        """Normalise `volume` as the preset says; `mask` (same grid, see `mask_weights`) narrows the region."""
        kind = detect_modality(volume) if modality == "auto" else modality
        body = foreground(volume, kind)
        intensity = normalise(volume, kind, settings, body)
        weight = None
        if mask is not None:
            weights = mask_weights(mask.array)
            weight = torch.from_numpy(weights).to(device)
            chosen = weights >= min(NEGLIGIBLE, float(weights.max()))
            body = body & chosen if (body & chosen).any() else chosen
        return cls(
            torch.from_numpy(intensity).to(device),
            torch.from_numpy(body).to(device),
            volume.geometry,
            weight,
        )

    def smoothed(self, spacing_mm: float) -> Scan:
        """For sampling at `spacing_mm`: low-pass filtered and reduced along the axes that are finer than that."""
        spacing = np.asarray(self.geometry.spacing)
        fine = spacing < 0.75 * spacing_mm
        if not fine.any():
            return self
        geometry = self.geometry.resized(np.where(fine, spacing_mm, spacing).tolist())
        image = self.geometry.stamp(sitk.GetImageFromArray(self.intensity.cpu().numpy()))
        sigma = np.where(fine, 0.42 * np.sqrt(np.maximum(spacing_mm**2 - spacing**2, 0)), 0)
        for axis in np.flatnonzero(fine):
            if image.GetSize()[axis] >= 4:
                image = sitk.RecursiveGaussian(
                    image, float(sigma[axis]), False, sitk.RecursiveGaussianImageFilter.ZeroOrder, int(axis)
                )
        reduced = replace(
            self, intensity=torch.from_numpy(sitk.GetArrayFromImage(image)).to(self.intensity.device)
        )
        eye = np.eye(4)
        weight = None if self.weight is None else self.weight_on(geometry, eye)
        return Scan(reduced.on(geometry, eye), self.region_on(geometry, eye), geometry, weight)

    def index(self, grid: Geometry, matrix: np.ndarray) -> Tensor:
        """Continuous voxel indices ``(3, D, H, W)`` in this scan of `grid`'s points moved by `matrix` (4x4, LPS mm)."""
        own = torch.tensor(
            self.geometry.physical_to_index @ matrix @ grid.index_to_physical,
            dtype=torch.float32,
            device=self.intensity.device,
        )
        k, j, i = (torch.arange(n, dtype=torch.float32, device=own.device) for n in grid.shape)
        columns = own[:3, :, None, None, None]
        index = columns[:, 0] * i + columns[:, 1] * j[:, None] + columns[:, 2] * k[:, None, None]
        return index.add_(columns[:, 3])

    def at(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Intensities ``(*S)`` at voxel indices ``(3, *S)``, edge values outside, and how much they count."""
        known = inside(index, self.geometry.shape).float()
        if self.weight is not None:
            known = known * self._nearest(self.weight, index)
        return sample(self.intensity[None], index)[0], known

    def on(self, grid: Geometry, matrix: np.ndarray) -> Tensor:
        """Intensities ``(D, H, W)`` at `grid`'s points moved by `matrix`; edge values outside."""
        return sample(self.intensity[None], self.index(grid, matrix))[0]

    def region_on(self, grid: Geometry, matrix: np.ndarray) -> Tensor:
        """The region ``(D, H, W)`` bool at `grid`'s points moved by `matrix`; false outside."""
        return self._nearest(self.region.float(), self.index(grid, matrix)) > 0.5

    def region_in(self, grid: Geometry) -> Tensor:
        """The region ``(D, H, W)`` bool on `grid`, at least the nearest voxels of one that falls between its points."""
        found = self.region_on(grid, np.eye(4))
        if not found.any():
            to_grid = torch.from_numpy(grid.physical_to_index @ self.geometry.index_to_physical).to(
                found.device
            )
            points = self.region.nonzero().flip(1).double() @ to_grid[:3, :3].T + to_grid[:3, 3]
            i, j, k = (
                axis.round().long().clamp(0, n - 1) for axis, n in zip(points.T, grid.size, strict=True)
            )
            found[k, j, i] = True
        return found

    def seen_on(self, grid: Geometry, matrix: np.ndarray) -> Tensor:
        """Whether `grid`'s points moved by `matrix` lie in the field of view: ``(D, H, W)`` bool."""
        return inside(self.index(grid, matrix), self.geometry.shape)

    def weight_on(self, grid: Geometry, matrix: np.ndarray) -> Tensor:
        """The user's weights ``(D, H, W)`` at `grid`'s points moved by `matrix`; with a mask zero outside, else one."""
        if self.weight is None:
            return torch.ones(grid.shape, device=self.intensity.device)
        return self._nearest(self.weight, self.index(grid, matrix))

    def known_on(self, grid: Geometry, matrix: np.ndarray) -> Tensor:
        """How much ``(D, H, W)`` counts at `grid`'s points moved by `matrix`: their weight, zero outside the image."""
        seen = self.seen_on(grid, matrix).float()
        return seen if self.weight is None else seen * self.weight_on(grid, matrix)

    @staticmethod
    def _nearest(image: Tensor, index: Tensor) -> Tensor:
        return sample(image[None], index, nearest=True, zeros=True)[0]


def region_bounds(region: Tensor) -> np.ndarray:
    """First and last edge ``(3, 2)`` of ``(D, H, W)`` bool along (i, j, k), in voxels."""
    occupied = [region.any(dim=d1).any(dim=d2).nonzero()[:, 0] for d1, d2 in ((0, 0), (0, 1), (1, 1))]
    return np.array([(int(o[0]) - 0.5, int(o[-1]) + 0.5) for o in occupied])


def region_box(
    scan: Scan, spacing_mm: float, margin_mm: float, multiple: int = 1, room_mm: np.ndarray | float = 0.0
) -> Geometry:
    """An isotropic grid along the scan's axes around its region and `margin_mm` beyond; sides are a `multiple`.

    `room_mm` ``(3, 2)`` is added before and after the region along each axis.
    """
    geometry = scan.geometry
    room = np.broadcast_to(room_mm, (3, 2)) / np.asarray(geometry.spacing)[:, None]
    bounds = region_bounds(scan.region) + room * [-1, 1]
    extent = (bounds[:, 1] - bounds[:, 0]) * geometry.spacing + 2 * margin_mm
    size = np.ceil(extent / (spacing_mm * multiple) - 1e-6).astype(int) * multiple
    centre = (geometry.index_to_physical @ [*bounds.mean(axis=1), 1.0])[:3]
    axes = np.asarray(geometry.direction).reshape(3, 3)
    origin = centre - axes @ ((size - 1) / 2 * spacing_mm)
    return Geometry(
        (int(size[0]), int(size[1]), int(size[2])),
        (spacing_mm,) * 3,
        (float(origin[0]), float(origin[1]), float(origin[2])),
        geometry.direction,
    )
