"""CPU kernel of MIND-SSC, compiled by numba."""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .options import FAST_MATH
from .threads import use_torch_threads

BLOCK = 16
"""Slices that one task goes through: two more of each pair are computed twice."""


@numba.njit(fastmath=FAST_MATH, cache=True, nogil=True)
def _plane_sums(a, b, height, width, patch, rows, result):  # type: ignore[no-untyped-def]
    """In-plane patch sums ``(H, W)`` of the squared difference of two padded slices."""
    side = 2 * patch + 1
    squares = np.empty(width + 2 * patch, np.float32)
    for j in range(height + 2 * patch):
        for i in range(width + 2 * patch):
            d = a[j, i] - b[j, i]
            squares[i] = d * d
        for i in range(width):
            rows[j, i] = squares[i]
        for s in range(1, side):
            for i in range(width):
                rows[j, i] += squares[i + s]
    for j in range(height):
        for i in range(width):
            result[j, i] = rows[j, i]
        for s in range(1, side):
            for i in range(width):
                result[j, i] += rows[j + s, i]


@numba.njit(parallel=True, fastmath=FAST_MATH, cache=True, nogil=True)
def _distances(padded, first, second, patch, result):  # type: ignore[no-untyped-def]
    """Patch means of squared differences of two shifted copies, for every pair: ``result`` ``(P, D, H, W)``."""
    pairs, depth, height, width = result.shape
    side = 2 * patch + 1
    scale = np.float32(1 / side**3)
    blocks = -(-depth // BLOCK)
    for task in numba.prange(pairs * blocks):
        pair, start = task // blocks, task % blocks * BLOCK
        ak, aj, ai = first[pair]
        bk, bj, bi = second[pair]
        rows = np.empty((height + 2 * patch, width), np.float32)
        planes = np.empty((side, height, width), np.float32)
        for k in range(start, min(start + BLOCK, depth) + 2 * patch):
            _plane_sums(
                padded[k + ak, aj:, ai:],
                padded[k + bk, bj:, bi:],
                height,
                width,
                patch,
                rows,
                planes[k % side],
            )
            if k < start + 2 * patch:
                continue
            for j in range(height):
                found = result[pair, k - 2 * patch, j]
                found[:] = planes[0, j]
                for s in range(1, side):
                    found += planes[s, j]
                found *= scale


@numba.njit(parallel=True, fastmath=FAST_MATH, cache=True, nogil=True)
def _subtract_minimum(distances, variance):  # type: ignore[no-untyped-def]
    pairs, depth, height, width = distances.shape
    for k in numba.prange(depth):
        low = np.empty(width, np.float32)
        for j in range(height):
            total = variance[k, j]
            low[:] = distances[0, k, j]
            total[:] = distances[0, k, j]
            for p in range(1, pairs):
                for i in range(width):
                    low[i] = min(low[i], distances[p, k, j, i])
                    total[i] += distances[p, k, j, i]
            for p in range(pairs):
                distances[p, k, j] -= low
            for i in range(width):
                total[i] = total[i] / np.float32(pairs) - low[i]


@numba.njit(fastmath=FAST_MATH, cache=True, inline="always")
def _exponential(x):  # type: ignore[no-untyped-def]
    """e^x for x <= 0 to 1e-6, without a call, so that the loop around it is vectorised: (e^(x/64))^64 by its series."""
    y = max(x, np.float32(-20)) * np.float32(1 / 64)
    z = np.float32(1 / 24) + y * np.float32(1 / 120)
    z = np.float32(1) + y * (np.float32(1) + y * (np.float32(0.5) + y * (np.float32(1 / 6) + y * z)))
    z *= z
    z *= z
    z *= z
    z *= z
    z *= z
    return z * z


@numba.njit(parallel=True, fastmath=FAST_MATH, cache=True, nogil=True)
def _exponentials(distances, variance, floor, ceiling):  # type: ignore[no-untyped-def]
    pairs, depth, height, width = distances.shape
    for k in numba.prange(depth):
        factor = np.empty(width, np.float32)
        for j in range(height):
            for i in range(width):
                factor[i] = np.float32(-1) / min(max(variance[k, j, i], floor), ceiling)
            for p in range(pairs):
                for i in range(width):
                    distances[p, k, j, i] = _exponential(distances[p, k, j, i] * factor[i])


def mind_ssc(
    image: Tensor,
    radius: int,
    patch_radius: int,
    pairs: tuple[tuple[tuple[int, int, int], tuple[int, int, int]], ...],
    limits: tuple[float, float],
) -> Tensor:
    """MIND-SSC ``(P, D, H, W)`` of a float32 image ``(D, H, W)``; see `representation.self_similarity`.

    Args:
        pairs: the two (k, j, i) unit offsets of every relation.
        limits: lowest and highest local variance, relative to its mean.
    """
    use_torch_threads()
    reach = radius + patch_radius
    padded = functional.pad(image[None, None], (reach,) * 6, mode="replicate")[0, 0].contiguous().numpy()
    first, second = (np.array([[radius * (1 + o) for o in pair[side]] for pair in pairs]) for side in (0, 1))
    result = np.empty((len(pairs), *image.shape), np.float32)
    _distances(padded, first, second, patch_radius, result)
    variance = np.empty(tuple(image.shape), np.float32)
    _subtract_minimum(result, variance)
    mean = float(variance.mean(dtype=np.float64))
    tiny = float(np.finfo(np.float32).tiny)
    floor, ceiling = max(mean * limits[0], tiny), max(mean * limits[1], tiny)
    _exponentials(result, variance, np.float32(floor), np.float32(ceiling))
    return torch.from_numpy(result)
