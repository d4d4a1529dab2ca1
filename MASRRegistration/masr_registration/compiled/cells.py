"""Where a position lies between voxels, for the kernels: inlined by numba into their loops."""

from __future__ import annotations

import numba
import numpy as np

from .options import FAST_MATH


@numba.njit(fastmath=FAST_MATH, cache=True, inline="always")
def cell_of(x, top):  # type: ignore[no-untyped-def]
    """Lower and upper neighbour on an axis of voxels 0 .. top, fraction, and slope (0 where clamped to the edge)."""
    slope = np.float32(1 if 0 <= x <= top and top > 0 else 0)
    x = min(max(x, np.float32(0)), np.float32(top))
    low = min(int(x), max(top - 1, 0))
    return low, min(low + 1, top), np.float32(x - low), slope


@numba.njit(fastmath=FAST_MATH, cache=True, inline="always")
def nearest_value(image, x, y, z):  # type: ignore[no-untyped-def]
    """Of ``(D, H, W)`` at the voxel nearest to indices (i, j, k); zero outside."""
    i, j, k = int(np.floor(x + 0.5)), int(np.floor(y + 0.5)), int(np.floor(z + 0.5))
    depth, height, width = image.shape
    if 0 <= i < width and 0 <= j < height and 0 <= k < depth:
        return image[k, j, i]
    return np.float32(0)
