"""CPU backend: warp, difference and gradient in one pass over channels-last features, compiled by numba."""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ...compiled.boxes import box3
from ...compiled.cells import cell_of, nearest_value
from ...compiled.options import FAST_MATH
from ...compiled.threads import use_torch_threads
from .numba_correlation import correlation
from .numba_normal import normal_product

__all__ = [
    "cheapest",
    "correlation",
    "cost_volume",
    "difference",
    "normal_product",
    "self_compose",
    "self_compose_backward",
]


SLABS = 2
"""Parts that are added up apart, always as many, so that the bits do not depend on the number of threads."""


@numba.njit(parallel=True, fastmath=FAST_MATH, cache=True, nogil=True)
def _difference(fixed, moving, position, weight, moving_weight, gradient, curvature, cost, total_weight):  # type: ignore[no-untyped-def]
    depth, height, width, channels = fixed.shape
    top_k, top_j, top_i = moving.shape[0] - 1, moving.shape[1] - 1, moving.shape[2] - 1
    for k in numba.prange(depth):
        total, weights = 0.0, 0.0
        for j in range(height):
            for i in range(width):
                x, y, z = position[0, k, j, i], position[1, k, j, i], position[2, k, j, i]
                w = weight[k, j, i]
                if w > 0:
                    w *= nearest_value(moving_weight, x, y, z)
                if w == 0:
                    for n in range(3):
                        gradient[n, k, j, i] = 0
                    for n in range(6):
                        curvature[n, k, j, i] = 0
                    continue
                i0, i1, a, slope_x = cell_of(x, top_i)
                j0, j1, b, slope_y = cell_of(y, top_j)
                k0, k1, c, slope_z = cell_of(z, top_k)
                b_, c_ = np.float32(1) - b, np.float32(1) - c
                v000, v001 = moving[k0, j0, i0], moving[k0, j0, i1]
                v010, v011 = moving[k0, j1, i0], moving[k0, j1, i1]
                v100, v101 = moving[k1, j0, i0], moving[k1, j0, i1]
                v110, v111 = moving[k1, j1, i0], moving[k1, j1, i1]
                f = fixed[k, j, i]
                local, gx, gy, gz = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
                xx, yy, zz = np.float32(0), np.float32(0), np.float32(0)
                xy, xz, yz = np.float32(0), np.float32(0), np.float32(0)
                for n in range(channels):
                    r000, r001 = np.float32(v000[n]), np.float32(v001[n])
                    r010, r011 = np.float32(v010[n]), np.float32(v011[n])
                    r100, r101 = np.float32(v100[n]), np.float32(v101[n])
                    r110, r111 = np.float32(v110[n]), np.float32(v111[n])
                    dx00, dx01 = r001 - r000, r011 - r010
                    dx10, dx11 = r101 - r100, r111 - r110
                    l00, l01 = r000 + a * dx00, r010 + a * dx01
                    l10, l11 = r100 + a * dx10, r110 + a * dx11
                    p0, p1 = l00 + b * (l01 - l00), l10 + b * (l11 - l10)
                    d = p0 + c * (p1 - p0) - np.float32(f[n])
                    ux = c_ * (b_ * dx00 + b * dx01) + c * (b_ * dx10 + b * dx11)
                    uy, uz = c_ * (l01 - l00) + c * (l11 - l10), p1 - p0
                    local += d * d
                    gx += d * ux
                    gy += d * uy
                    gz += d * uz
                    xx += ux * ux
                    yy += uy * uy
                    zz += uz * uz
                    xy += ux * uy
                    xz += ux * uz
                    yz += uy * uz
                total += w * local
                weights += w
                wx, wy, wz = w * slope_x, w * slope_y, w * slope_z
                gradient[0, k, j, i], gradient[1, k, j, i], gradient[2, k, j, i] = wx * gx, wy * gy, wz * gz
                curvature[0, k, j, i], curvature[1, k, j, i], curvature[2, k, j, i] = (
                    wx * xx,
                    wy * yy,
                    wz * zz,
                )
                curvature[3, k, j, i], curvature[4, k, j, i] = wx * slope_y * xy, wx * slope_z * xz
                curvature[5, k, j, i] = wy * slope_z * yz
        cost[k] = total
        total_weight[k] = weights


def difference(
    fixed: Tensor,
    moving: Tensor,
    position: Tensor,
    weight: Tensor,
    moving_weight: Tensor,
    unit: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Cost, gradient and curvature (see `kernels.Comparison`) of features in multiples of `unit`, on the CPU.

    Other arguments as in `kernels.feature_difference`.
    """
    use_torch_threads()
    gradient = torch.empty_like(position, memory_format=torch.contiguous_format)
    curvature = torch.empty(6, *position.shape[1:])
    cost, total = np.zeros(fixed.shape[0]), np.zeros(fixed.shape[0])
    _difference(
        fixed.numpy(),
        moving.numpy(),
        position.contiguous().numpy(),
        weight.numpy(),
        moving_weight.numpy(),
        gradient.numpy(),
        curvature.numpy(),
        cost,
        total,
    )
    scale = unit**2 / (total.sum() * fixed.shape[3] + 1e-12)
    return (
        torch.tensor(cost.sum() * scale, dtype=position.dtype),
        gradient.mul_(2 * scale),
        curvature.mul_(2 * scale),
    )


@numba.njit(parallel=True, fastmath=FAST_MATH, cache=True, nogil=True)
def _self_compose(field, result):  # type: ignore[no-untyped-def]
    _, depth, height, width = field.shape
    for k in numba.prange(depth):
        for j in range(height):
            for i in range(width):
                i0, _, a, _ = cell_of(np.float32(i) + field[0, k, j, i], width - 1)
                j0, _, b, _ = cell_of(np.float32(j) + field[1, k, j, i], height - 1)
                k0, _, c, _ = cell_of(np.float32(k) + field[2, k, j, i], depth - 1)
                for n in range(3):
                    value = np.float32(0)
                    for corner in range(8):
                        p, q, r = corner & 1, corner >> 1 & 1, corner >> 2
                        share = (a if p else 1 - a) * (b if q else 1 - b) * (c if r else 1 - c)
                        value += share * field[n, k0 + r, j0 + q, i0 + p]
                    result[n, k, j, i] = field[n, k, j, i] + value


@numba.njit(parallel=True, fastmath=FAST_MATH, cache=True, nogil=True)
def _self_compose_backward(field, outer, slabs):  # type: ignore[no-untyped-def]
    """Into a part ``(D, H, W, 3)`` for each of the `slabs`, channels last: what is added to a node lies together."""
    for n in numba.prange(len(slabs)):
        depth = field.shape[1]
        _add_self_compose_backward(
            field, outer, depth * n // len(slabs), depth * (n + 1) // len(slabs), slabs[n]
        )


@numba.njit(fastmath=FAST_MATH, cache=True, nogil=True)
def _add_self_compose_backward(field, outer, start, stop, result):  # type: ignore[no-untyped-def]
    _, depth, height, width = field.shape
    for k in range(start, stop):
        for j in range(height):
            for i in range(width):
                i0, _, a, slope_a = cell_of(np.float32(i) + field[0, k, j, i], width - 1)
                j0, _, b, slope_b = cell_of(np.float32(j) + field[1, k, j, i], height - 1)
                k0, _, c, slope_c = cell_of(np.float32(k) + field[2, k, j, i], depth - 1)
                x, y, z = outer[0, k, j, i], outer[1, k, j, i], outer[2, k, j, i]
                gx, gy, gz = np.float32(0), np.float32(0), np.float32(0)
                for r in range(2):
                    wc = c if r else 1 - c
                    for q in range(2):
                        wb = b if q else 1 - b
                        at = field[:, k0 + r, j0 + q]
                        low = x * at[0, i0] + y * at[1, i0] + z * at[2, i0]
                        high = x * at[0, i0 + 1] + y * at[1, i0 + 1] + z * at[2, i0 + 1]
                        between = low + a * (high - low)
                        gx += wb * wc * (high - low)
                        gy += wc * between if q else -wc * between
                        gz += wb * between if r else -wb * between
                        near, far = wb * wc * (1 - a), wb * wc * a
                        to = result[k0 + r, j0 + q]
                        to[i0, 0] += near * x
                        to[i0, 1] += near * y
                        to[i0, 2] += near * z
                        to[i0 + 1, 0] += far * x
                        to[i0 + 1, 1] += far * y
                        to[i0 + 1, 2] += far * z
                result[k, j, i, 0] += x + slope_a * gx
                result[k, j, i, 1] += y + slope_b * gy
                result[k, j, i, 2] += z + slope_c * gz


def self_compose(field: Tensor) -> Tensor:
    """``(id + field) o (id + field) - id`` for ``(3, D, H, W)`` in voxels, every axis at least 2."""
    use_torch_threads()
    result = torch.empty_like(field, memory_format=torch.contiguous_format)
    _self_compose(field.contiguous().numpy(), result.numpy())
    return result


def self_compose_backward(field: Tensor, outer: Tensor) -> Tensor:
    """Gradient of `self_compose` at `field` for an incoming gradient `outer`."""
    use_torch_threads()
    parts = torch.zeros(SLABS, *field.shape[1:], 3)
    _self_compose_backward(field.contiguous().numpy(), outer.contiguous().numpy(), parts.numpy())
    return parts.sum(dim=0).permute(3, 0, 1, 2).contiguous()


@numba.njit(parallel=True, fastmath=FAST_MATH, cache=True, nogil=True)
def _cost_volume(fixed, moving, weight, moving_weight, unknown, radius, cost):  # type: ignore[no-untyped-def]
    """`fixed` is padded at the end of its rows only, so that a displacement is one offset for a whole slice."""
    channels, depth, height, row = fixed.shape
    width = weight.shape[2]
    side = 2 * radius + 1
    count = (height - 1) * row + width
    own = fixed.reshape(channels, depth, height * row)
    other = moving.reshape(channels, moving.shape[1], moving.shape[2] * row)
    known = moving_weight.reshape(moving.shape[1], moving.shape[2] * row)
    share = np.float32(1 / channels)
    for k in numba.prange(depth):
        total = np.empty(height * row, np.float32)
        for label in range(side**3):
            dk, start = label // (side * side), label // side % side * row + label % side
            total[:] = 0
            for n in range(channels):
                f, m = own[n, k], other[n, k + dk, start : start + count]
                for i in range(count):
                    d = f[i] - m[i]
                    total[i] += d * d
            seen = known[k + dk, start : start + count]
            for i in range(count):
                total[i] = seen[i] * total[i] * share + (np.float32(1) - seen[i]) * unknown
            for j in range(height):
                for i in range(width):
                    cost[label, k, j, i] = total[j * row + i] * weight[k, j, i]


def cost_volume(
    fixed: Tensor, moving: Tensor, weight: Tensor, moving_weight: Tensor, unknown: float, radius: int
) -> Tensor:
    """Smoothed costs ``(L, D, H, W)``; arguments as in `solver.convex.cost_volume`, on the CPU."""
    use_torch_threads()
    padded, padded_weight = (
        functional.pad(x[None], (radius,) * 6, mode="replicate")[0] for x in (moving, moving_weight[None])
    )
    rows = functional.pad(fixed, (0, 2 * radius))
    cost = np.empty(((2 * radius + 1) ** 3, *weight.shape), np.float32)
    arrays = [x.contiguous().numpy() for x in (rows, padded, weight, padded_weight[0])]
    _cost_volume(*arrays, np.float32(unknown), radius, cost)
    box3(cost, 2)
    return torch.from_numpy(cost)


@numba.njit(parallel=True, fastmath=FAST_MATH, cache=True, nogil=True)
def _cheapest(cost, field, strength, radius, result):  # type: ignore[no-untyped-def]
    """All of the arrays with their last two axes joined."""
    _, depth, count = cost.shape
    side = 2 * radius + 1
    for k in numba.prange(depth):
        at_i, at_j, at_k = field[0, k], field[1, k], field[2, k]
        lowest, best = np.full(count, np.float32(np.inf)), np.zeros(count, np.float32)
        apart = np.empty(count, np.float32)
        for line in range(side * side):
            z, y = np.float32(line // side - radius), np.float32(line % side - radius)
            for i in range(count):
                dy, dz = y - at_j[i], z - at_k[i]
                apart[i] = strength * (dy * dy + dz * dz)
            for n in range(side):
                x, label = np.float32(n - radius), np.float32(line * side + n)
                here = cost[line * side + n, k]
                for i in range(count):
                    dx = x - at_i[i]
                    total = here[i] + apart[i] + strength * (dx * dx)
                    less = total < lowest[i]
                    best[i] = label if less else best[i]
                    lowest[i] = total if less else lowest[i]
        for i in range(count):
            found = int(best[i])
            result[0, k, i] = found % side - radius
            result[1, k, i] = found // side % side - radius
            result[2, k, i] = found // (side * side) - radius


def cheapest(cost: Tensor, field: Tensor, strength: float, radius: int) -> Tensor:
    """Displacements ``(3, D, H, W)`` of least cost near a field; arguments as in `solver.convex.coupled_convex`."""
    use_torch_threads()
    result = torch.empty_like(field, memory_format=torch.contiguous_format)
    arrays = [x.contiguous().flatten(2).numpy() for x in (cost, field, result)]
    _cheapest(arrays[0], arrays[1], np.float32(strength), radius, arrays[2])
    return result
