"""Sampling and smoothing on voxel grids: the few array operations that every stage shares.

Displacements inside the engine are ``(3, D, H, W)`` in voxels of their own grid, components in (i, j, k) order.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from .. import compiled


def identity(shape: Sequence[int], *, device: torch.device | None = None) -> Tensor:
    """Voxel indices ``(3, D, H, W)``: component 0 is i (along W), 2 is k (along D)."""
    k, j, i = torch.meshgrid(
        *(torch.arange(n, dtype=torch.float32, device=device) for n in shape), indexing="ij"
    )
    return torch.stack((i, j, k))


def sample(image: Tensor, index: Tensor, *, nearest: bool = False, zeros: bool = False) -> Tensor:
    """Values of `image` ``(C, D, H, W)`` at continuous voxel indices ``(3, *S)``: ``(C, *S)``.

    Linear interpolation; outside the grid the edge value, or zero beyond half a voxel with `zeros`.
    """
    shape = image.shape[1:]
    spatial = index.shape[1:]
    points = index.reshape(3, -1)
    plain = not (torch.is_grad_enabled() and (image.requires_grad or index.requires_grad))
    if (
        compiled.sampling is not None
        and plain
        and not nearest
        and _is_cpu_float(image)
        and _is_cpu_float(index)
    ):
        result: Tensor = compiled.sampling.sample(image, points, zeros)
        return result.reshape(image.shape[0], *spatial)
    unit = torch.stack(
        [2 * p / max(n - 1, 1) - 1 for p, n in zip(points, reversed(shape), strict=True)], dim=-1
    )
    mode = "nearest" if nearest else "bilinear"
    values = functional.grid_sample(
        image[None], unit[None, None, None], mode=mode, padding_mode="border", align_corners=True
    )
    values = values.reshape(image.shape[0], *spatial)
    if zeros:
        values = values * inside(index, shape)
    return values


def _is_cpu_float(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32


def inside(index: Tensor, shape: Sequence[int]) -> Tensor:
    """Whether continuous indices ``(3, *S)`` lie in the grid, half a voxel around it too (ITK's rule): ``(*S)``."""
    result = torch.ones_like(index[0], dtype=torch.bool)
    for component, n in zip(index, reversed(shape), strict=True):
        result &= (component >= -0.5) & (component < n - 0.5)
    return result


def warp(image: Tensor, displacement: Tensor) -> Tensor:
    """`image` ``(C, D, H, W)`` at ``x + displacement(x)``, both on one grid; edge values outside."""
    shape = displacement.shape[1:]
    return sample(image, identity(shape, device=displacement.device) + displacement)


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """Displacement of ``(id + outer) o (id + inner)`` on their common grid, in voxels."""
    return inner + warp(outer, inner)


def box(image: Tensor, radius: int = 1, repeats: int = 1) -> Tensor:
    """Mean over cubes of ``2 radius + 1`` voxels, `repeats` times, edges repeated: ``(C, D, H, W)``."""
    for _ in range(repeats):
        padded = functional.pad(image[None], (radius,) * 6, mode="replicate")
        image = functional.avg_pool3d(padded, 2 * radius + 1, stride=1)[0]
    return image


def resize(image: Tensor, shape: Sequence[int]) -> Tensor:
    """Linear interpolation of ``(C, D, H, W)`` to another shape, voxel edges aligned (displacements need rescaling)."""
    return functional.interpolate(image[None], size=tuple(shape), mode="trilinear", align_corners=False)[0]


def pool(image: Tensor, stride: int) -> Tensor:
    """Mean over blocks of `stride` voxels, the last block completed with edge values: ``(C, ceil(D/s), ...)``."""
    missing = [-n % stride for n in image.shape[1:]]
    if any(missing):
        image = functional.pad(image[None], (0, missing[2], 0, missing[1], 0, missing[0]), mode="replicate")[
            0
        ]
    return functional.avg_pool3d(image[None], stride)[0]


@lru_cache(maxsize=64)
def _bspline_matrix(samples: int, controls: int, step: float, offset: float) -> Tensor:
    """Cubic B-spline weights ``(samples, controls)``: sample s lies at ``(s - offset) / step`` in control units."""
    position = (torch.arange(samples, dtype=torch.float64) - offset) / step
    distance = (position[:, None] - torch.arange(controls, dtype=torch.float64)).abs()
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = (2 - distance).clamp_min(0) ** 3 / 6
    return torch.where(distance < 1, near, far).float()


def bspline_controls(samples: int, step: float) -> tuple[int, float]:
    """How many control points cover an axis at this step (two beyond each end) and the sample index of the first."""
    intervals = -(-(samples - 1) // step) if samples > 1 else 1
    controls = int(intervals) + 3
    offset = (samples - 1) / 2 - (controls - 1) / 2 * step
    return controls, offset


def bspline_upsample(coefficients: Tensor, shape: Sequence[int], step: float) -> Tensor:
    """Dense values ``(C, D, H, W)`` of cubic B-spline coefficients whose points stand `step` voxels apart."""
    result = coefficients
    for axis, samples in enumerate(shape):
        controls, offset = bspline_controls(samples, step)
        matrix = _bspline_matrix(samples, controls, step, offset).to(result)
        result = torch.movedim(torch.movedim(result, axis + 1, -1) @ matrix.T, -1, axis + 1)
    return result


def lattice_weights(position: Tensor, n: int) -> Tensor:
    """Weights ``(N, n)`` of an axis of n samples at N continuous indices, linear, edges repeated."""
    distance = (position.clamp(0, n - 1)[:, None] - torch.arange(n, device=position.device)).abs()
    return (1 - distance).clamp_min(0)


def upsample_lattice(field: Tensor, positions: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Linear interpolation of ``(C, d, h, w)`` on a lattice given by its (k, j, i) indices along each axis.

    One small matrix product per axis, edges repeated: much cheaper than free sampling, and so is its gradient.
    """
    result = field
    for axis, position in enumerate(positions):
        matrix = lattice_weights(position, field.shape[axis + 1])
        result = torch.movedim(torch.movedim(result, axis + 1, -1) @ matrix.T, -1, axis + 1)
    return result


def laplacian(field: Tensor) -> Tensor:
    """Minus the sum of the second differences over the axes of ``(C, D, H, W)``, edges repeated."""
    result = torch.zeros_like(field)
    for axis in (1, 2, 3):
        add_differences(result, field.diff(dim=axis), axis)
    return result


def add_differences(result: Tensor, slopes: Tensor, axis: int) -> None:
    """Add the transposed first differences of `slopes` along an axis to `result`."""
    n = slopes.shape[axis]
    result.narrow(axis, 0, n).sub_(slopes)
    result.narrow(axis, 1, n).add_(slopes)
