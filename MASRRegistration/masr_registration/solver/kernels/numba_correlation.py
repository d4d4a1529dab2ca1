"""CPU backend of the local correlation: sample, correlate and differentiate, compiled by numba."""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from ...compiled.boxes import box3
from ...compiled.cells import cell_of, nearest_value
from ...compiled.options import FAST_MATH
from ...compiled.threads import use_torch_threads
from .torch_backend import VARIANCE_FLOOR


@numba.njit(parallel=True, fastmath=FAST_MATH, cache=True, nogil=True)
def _sample(moving, position, weight, moving_weight, value, slope, product):  # type: ignore[no-untyped-def]
    """Values and slopes of the moving image at the positions; weights times those of the nearest moving voxel."""
    depth, height, width = weight.shape
    top_k, top_j, top_i = moving.shape[0] - 1, moving.shape[1] - 1, moving.shape[2] - 1
    for k in numba.prange(depth):
        for j in range(height):
            for i in range(width):
                x, y, z = position[0, k, j, i], position[1, k, j, i], position[2, k, j, i]
                inner = 0 < k < depth - 1 and 0 < j < height - 1 and 0 < i < width - 1
                known = nearest_value(moving_weight, x, y, z) if inner else np.float32(0)
                product[k, j, i] = weight[k, j, i] * known
                i0, i1, a, slope_x = cell_of(x, top_i)
                j0, j1, b, slope_y = cell_of(y, top_j)
                k0, k1, c, slope_z = cell_of(z, top_k)
                dx00 = moving[k0, j0, i1] - moving[k0, j0, i0]
                dx01 = moving[k0, j1, i1] - moving[k0, j1, i0]
                dx10 = moving[k1, j0, i1] - moving[k1, j0, i0]
                dx11 = moving[k1, j1, i1] - moving[k1, j1, i0]
                l00, l01 = moving[k0, j0, i0] + a * dx00, moving[k0, j1, i0] + a * dx01
                l10, l11 = moving[k1, j0, i0] + a * dx10, moving[k1, j1, i0] + a * dx11
                p0, p1 = l00 + b * (l01 - l00), l10 + b * (l11 - l10)
                value[k, j, i] = p0 + c * (p1 - p0)
                low, high = dx00 + b * (dx01 - dx00), dx10 + b * (dx11 - dx10)
                slope[0, k, j, i] = slope_x * (low + c * (high - low))
                slope[1, k, j, i] = slope_y * ((l01 - l00) + c * ((l11 - l10) - (l01 - l00)))
                slope[2, k, j, i] = slope_z * (p1 - p0)


@numba.njit(parallel=True, fastmath=FAST_MATH, cache=True, nogil=True)
def _products(fixed, value, product, sums):  # type: ignore[no-untyped-def]
    for k in numba.prange(fixed.shape[0]):
        w, a, m = product[k], fixed[k], value[k]
        wa, wm = w * a, w * m
        sums[0, k], sums[1, k], sums[2, k] = w, wa, wm
        sums[3, k], sums[4, k], sums[5, k] = wa * a, wm * m, wa * m


@numba.njit(parallel=True, fastmath=FAST_MATH, cache=True, nogil=True)
def _correlate(sums, product, floor, parts, cost, total_weight):  # type: ignore[no-untyped-def]
    """Weighted 1 - correlation^2, and what of its derivative must be summed over the windows that hold a voxel."""
    depth, height, width = product.shape
    for k in numba.prange(depth):
        total, weights = 0.0, 0.0
        for j in range(height):
            for i in range(width):
                known = sums[0, k, j, i]
                w = product[k, j, i] * known
                if w == 0:
                    parts[0, k, j, i] = 0
                    parts[1, k, j, i] = 0
                    parts[2, k, j, i] = 0
                    continue
                mean_a, mean_m = sums[1, k, j, i] / known, sums[2, k, j, i] / known
                own = max(sums[3, k, j, i] / known - mean_a * mean_a, np.float32(0)) + floor
                other = max(sums[4, k, j, i] / known - mean_m * mean_m, np.float32(0)) + floor
                covariance = sums[5, k, j, i] / known - mean_a * mean_m
                ratio = covariance / (own * other)
                squared = ratio * covariance
                total += w * (1 - squared)
                weights += w
                p, q = 2 * product[k, j, i] * ratio, 2 * product[k, j, i] * squared / other
                parts[0, k, j, i], parts[1, k, j, i] = p, q
                parts[2, k, j, i] = q * mean_m - p * mean_a
        cost[k] = total
        total_weight[k] = weights


@numba.njit(parallel=True, fastmath=FAST_MATH, cache=True, nogil=True)
def _derivatives(fixed, value, product, parts, scale, slope, curvature):  # type: ignore[no-untyped-def]
    """Turns the slopes into the gradient, in place, and fills in the curvature."""
    for k in numba.prange(fixed.shape[0]):
        pull = (parts[1, k] * value[k] - parts[0, k] * fixed[k] - parts[2, k]) * product[k] * scale
        steep = parts[1, k] * product[k] * scale
        x, y, z = slope[0, k], slope[1, k], slope[2, k]
        curvature[0, k], curvature[1, k], curvature[2, k] = x * x * steep, y * y * steep, z * z * steep
        curvature[3, k], curvature[4, k], curvature[5, k] = x * y * steep, x * z * steep, y * z * steep
        for axis in range(3):
            slope[axis, k] *= pull


def correlation(
    fixed: Tensor, moving: Tensor, position: Tensor, weight: Tensor, moving_weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Cost, gradient and curvature (see `kernels.Comparison`); arguments as in `kernels.local_correlation`."""
    use_torch_threads()
    shape = fixed.shape
    slope = torch.empty(3, *shape)
    value, product = np.empty(shape, np.float32), np.empty(shape, np.float32)
    images = fixed.numpy(), moving.numpy()
    _sample(
        images[1],
        position.contiguous().numpy(),
        weight.numpy(),
        moving_weight.numpy(),
        value,
        slope.numpy(),
        product,
    )
    sums, parts = np.empty((6, *shape), np.float32), np.empty((3, *shape), np.float32)
    cost, total = np.zeros(shape[0]), np.zeros(shape[0])
    _products(images[0], value, product, sums)
    box3(sums, 1)
    _correlate(sums, product, np.float32(VARIANCE_FLOOR), parts, cost, total)
    box3(parts, 1)
    weight_sum = total.sum() + 1e-12
    curvature = torch.empty(6, *shape)
    _derivatives(
        images[0], value, product, parts, np.float32(1 / weight_sum), slope.numpy(), curvature.numpy()
    )
    return torch.tensor(cost.sum() / weight_sum, dtype=position.dtype), slope, curvature
