"""CPU kernel of MIND-SSC, compiled by numba."""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .options import FAST_MATH
from .threads import use_torch_threads


@numba.njit(parallel=True, fastmath=FAST_MATH, cache=True, nogil=True)
def _distances(padded, first, second, patch, result):  # type: ignore[no-untyped-def]
    """Patch means of squared differences of two shifted copies, for every pair: ``result`` ``(P, D, H, W)``."""
    pairs, depth, height, width = result.shape
    side = 2 * patch + 1
    scale = np.float32(1 / side**3)
    for task in numba.prange(pairs * depth):
        pair, k = task // depth, task % depth
        ak, aj, ai = first[pair]
        bk, bj, bi = second[pair]
        columns = np.zeros((height + 2 * patch, width + 2 * patch), np.float32)
        for s in range(side):
            for j in range(height + 2 * patch):
                row_a, row_b = padded[k + s + ak, j + aj], padded[k + s + bk, j + bj]
                for i in range(width + 2 * patch):
                    d = row_a[i + ai] - row_b[i + bi]
                    columns[j, i] += d * d
        for j in range(height):
            line = np.zeros(width + 2 * patch, np.float32)
            for s in range(side):
                for i in range(width + 2 * patch):
                    line[i] += columns[j + s, i]
            for i in range(width):
                total = np.float32(0)
                for s in range(side):
                    total += line[i + s]
                result[pair, k, j, i] = total * scale


@numba.njit(parallel=True, fastmath=FAST_MATH, cache=True, nogil=True)
def _subtract_minimum(distances, variance):  # type: ignore[no-untyped-def]
    pairs, depth, height, width = distances.shape
    for k in numba.prange(depth):
        for j in range(height):
            for i in range(width):
                low, total = distances[0, k, j, i], np.float32(0)
                for p in range(pairs):
                    low = min(low, distances[p, k, j, i])
                    total += distances[p, k, j, i]
                for p in range(pairs):
                    distances[p, k, j, i] -= low
                variance[k, j, i] = total / np.float32(pairs) - low


@numba.njit(parallel=True, fastmath=FAST_MATH, cache=True, nogil=True)
def _exponentials(distances, variance, floor, ceiling):  # type: ignore[no-untyped-def]
    pairs, depth, height, width = distances.shape
    for k in numba.prange(depth):
        for j in range(height):
            for p in range(pairs):
                for i in range(width):
                    v = min(max(variance[k, j, i], floor), ceiling)
                    distances[p, k, j, i] = np.exp(-distances[p, k, j, i] / v)


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
