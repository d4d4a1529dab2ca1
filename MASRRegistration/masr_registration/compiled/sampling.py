"""CPU kernels of sampling: free linear interpolation and displacement of points, compiled by numba."""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from .options import FAST_MATH
from .threads import use_torch_threads


@numba.njit(parallel=True, fastmath=FAST_MATH, cache=True, nogil=True)
def _sample(image, index, zeros, result):  # type: ignore[no-untyped-def]
    channels, depth, height, width = image.shape
    for n in numba.prange(index.shape[1]):
        x, y, z = index[0, n], index[1, n], index[2, n]
        if zeros and not (-0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5 and -0.5 <= z < depth - 0.5):
            for c in range(channels):
                result[c, n] = 0
            continue
        x = min(max(x, np.float32(0)), np.float32(width - 1))
        y = min(max(y, np.float32(0)), np.float32(height - 1))
        z = min(max(z, np.float32(0)), np.float32(depth - 1))
        i, j, k = int(x), int(y), int(z)
        i1, j1, k1 = min(i + 1, width - 1), min(j + 1, height - 1), min(k + 1, depth - 1)
        a, b, e = np.float32(x - i), np.float32(y - j), np.float32(z - k)
        for c in range(channels):
            plane, next_plane = image[c, k], image[c, k1]
            p00 = plane[j, i] + a * (plane[j, i1] - plane[j, i])
            p01 = plane[j1, i] + a * (plane[j1, i1] - plane[j1, i])
            p10 = next_plane[j, i] + a * (next_plane[j, i1] - next_plane[j, i])
            p11 = next_plane[j1, i] + a * (next_plane[j1, i1] - next_plane[j1, i])
            low = p00 + b * (p01 - p00)
            high = p10 + b * (p11 - p10)
            result[c, n] = low + e * (high - low)


@numba.njit(parallel=True, fastmath=FAST_MATH, cache=True, nogil=True)
def _displace(points, matrix, field, result):  # type: ignore[no-untyped-def]
    _, depth, height, width = field.shape
    for n in numba.prange(points.shape[0]):
        p, q, r = points[n, 0], points[n, 1], points[n, 2]
        x = matrix[0, 0] * p + matrix[0, 1] * q + matrix[0, 2] * r + matrix[0, 3]
        y = matrix[1, 0] * p + matrix[1, 1] * q + matrix[1, 2] * r + matrix[1, 3]
        z = matrix[2, 0] * p + matrix[2, 1] * q + matrix[2, 2] * r + matrix[2, 3]
        result[n, 0], result[n, 1], result[n, 2] = p, q, r
        if -0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5 and -0.5 <= z < depth - 0.5:
            x, y, z = (
                min(max(x, 0.0), width - 1.0),
                min(max(y, 0.0), height - 1.0),
                min(max(z, 0.0), depth - 1.0),
            )
            i, j, k = int(x), int(y), int(z)
            i1, j1, k1 = min(i + 1, width - 1), min(j + 1, height - 1), min(k + 1, depth - 1)
            a, b, e = x - i, y - j, z - k
            for c in range(3):
                f = field[c]
                low = (1 - b) * ((1 - a) * f[k, j, i] + a * f[k, j, i1]) + b * (
                    (1 - a) * f[k, j1, i] + a * f[k, j1, i1]
                )
                high = (1 - b) * ((1 - a) * f[k1, j, i] + a * f[k1, j, i1]) + b * (
                    (1 - a) * f[k1, j1, i] + a * f[k1, j1, i1]
                )
                result[n, c] += (1 - e) * low + e * high


def sample(image: Tensor, index: Tensor, zeros: bool) -> Tensor:
    """Float32 `image` ``(C, D, H, W)`` at float32 voxel indices ``(3, N)``: ``(C, N)``."""
    use_torch_threads()
    result = torch.empty(image.shape[0], index.shape[1])
    _sample(image.contiguous().numpy(), index.contiguous().numpy(), zeros, result.numpy())
    return result


def displace(points: Tensor, physical_to_index: np.ndarray, field: Tensor) -> Tensor:
    """Float64 points ``(N, 3)`` moved by a float32 field ``(3, D, H, W)`` that lies at `physical_to_index` (4x4)."""
    use_torch_threads()
    result = torch.empty_like(points, memory_format=torch.contiguous_format)
    _displace(
        points.contiguous().numpy(),
        np.ascontiguousarray(physical_to_index),
        field.contiguous().numpy(),
        result.numpy(),
    )
    return result
