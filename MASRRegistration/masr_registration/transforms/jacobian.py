"""Folding tests and Jacobian maps.

Two tests, for two purposes:

* `row_bound` for a factor of the chain. If in every cell the row sums of the largest edge differences stay below 1, the
  interpolated map is one-to-one and its fixed-point inverse converges. The chain demands `STRICT_BOUND`, which leaves
  room for the cubic interpolation that 3D Slicer uses on the same nodes.
* `folded_cells` for a sampled map: all 8 corners of every cell, so that nothing hides between central differences.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .. import compiled
from ..volume import Geometry

STRICT_BOUND = 0.42
_SLAB = 16


def row_bound(displacement: Tensor) -> Tensor:
    """Per cell the largest row sum of edge differences ``(D-1, H-1, W-1)`` of ``(3, D, H, W)`` in voxels.

    For each component i, ``sum_j max |D_j u_i|``, the maximum over the 4 parallel edges of the cell.
    """
    total = torch.zeros_like(displacement[:, 1:, 1:, 1:])
    for axis in (1, 2, 3):
        edges = displacement.diff(dim=axis).abs()
        for other in {1, 2, 3} - {axis}:
            length = edges.shape[other]
            edges = torch.maximum(edges.narrow(other, 0, length - 1), edges.narrow(other, 1, length - 1))
        total += edges
    return total.amax(dim=0)


def _index_basis(displacement: Tensor, geometry: Geometry) -> Tensor:
    """LPS mm components to voxel components of the grid: ``(3, D, H, W)`` float64."""
    basis = torch.tensor(geometry.physical_to_index[:3, :3], device=displacement.device, dtype=torch.float64)
    return torch.einsum("ab,bdhw->adhw", basis, displacement.double())


def _determinant(i: Tensor, j: Tensor, k: Tensor) -> Tensor:
    """Determinant of I + (columns i, j, k), each ``(3, ...)``."""
    a, b, c = 1 + i[0], j[0], k[0]
    d, e, f = i[1], 1 + j[1], k[1]
    g, h, m = i[2], j[2], 1 + k[2]
    return a * (e * m - f * h) - b * (d * m - f * g) + c * (d * h - e * g)


def _slabs(depth: int) -> Iterator[tuple[int, int]]:
    for start in range(0, depth, _SLAB):
        yield start, min(start + _SLAB, depth)


def folded_cells(displacement: Tensor, geometry: Geometry) -> Tensor:
    """Cells ``(D-1, H-1, W-1)`` bool of the map ``p + displacement(p)`` where any corner determinant is not positive.

    Args:
        displacement: ``(3, D, H, W)`` LPS mm on `geometry`.
    """
    single = displacement.dtype == torch.float32 and displacement.device.type == "cpu"
    if compiled.jacobian is not None and single:
        found: Tensor = compiled.jacobian.folded_cells(displacement, geometry.index_to_physical[:3, :3])
        return found
    return folded_cells_reference(displacement, geometry)


def folded_cells_reference(displacement: Tensor, geometry: Geometry) -> Tensor:
    """`folded_cells` in plain torch, on any device."""
    shape = displacement.shape[1:]
    folded = torch.zeros([n - 1 for n in shape], dtype=torch.bool, device=displacement.device)
    for start, stop in _slabs(shape[0] - 1):
        part = _index_basis(displacement[:, start : stop + 1], geometry)
        along_i, along_j, along_k = part.diff(dim=3), part.diff(dim=2), part.diff(dim=1)
        for corner in range(8):
            a, b, c = corner & 1, corner >> 1 & 1, corner >> 2
            n, height, width = stop - start, shape[1] - 1, shape[2] - 1
            determinant = _determinant(
                along_i[:, c : c + n, b : b + height],
                along_j[:, c : c + n, :, a : a + width],
                along_k[:, :, b : b + height, a : a + width],
            )
            folded[start:stop] |= determinant <= 0
    return folded


def fold_count(displacement: Tensor, geometry: Geometry, mask: Tensor | None = None) -> int:
    """Number of folded cells (see `folded_cells`), within `mask` ``(D, H, W)`` bool where given (any corner inside)."""
    folded = folded_cells(displacement, geometry)
    if mask is not None:
        for axis in (0, 1, 2):
            mask = mask.narrow(axis, 0, mask.shape[axis] - 1) | mask.narrow(axis, 1, mask.shape[axis] - 1)
        folded = folded & mask
    return int(folded.sum())


def jacobian_determinant(displacement: Tensor, geometry: Geometry) -> Tensor:
    """Determinant ``(D, H, W)`` of the map ``p + displacement(p)`` by central differences: for maps."""
    depth = displacement.shape[1]
    parts = []
    for start, stop in _slabs(depth):
        low, high = max(start - 1, 0), min(stop + 1, depth)
        k, j, i = torch.gradient(_index_basis(displacement[:, low:high], geometry), dim=(1, 2, 3))
        parts.append(_determinant(i, j, k)[start - low : stop - low].float())
    return torch.cat(parts)
