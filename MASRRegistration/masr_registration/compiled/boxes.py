"""CPU kernel of box smoothing, compiled by numba."""

from __future__ import annotations

import numba
import numpy as np

from .options import FAST_MATH


@numba.njit(fastmath=FAST_MATH, cache=True, nogil=True)
def _along(rows, kept, third):  # type: ignore[no-untyped-def]
    """Means of three neighbouring rows of ``(N, W)`` in place; `kept` ``(2, W)`` is working space."""
    count, width = rows.shape
    kept[0] = rows[0]
    for n in range(count):
        before, here = kept[n % 2], kept[(n + 1) % 2]
        after = rows[min(n + 1, count - 1)]
        for i in range(width):
            here[i] = rows[n, i]
            rows[n, i] = (before[i] + here[i] + after[i]) * third


@numba.njit(parallel=True, fastmath=FAST_MATH, cache=True, nogil=True)
def box3(images, repeats):  # type: ignore[no-untyped-def]
    """Mean over cubes of 3 voxels in place, `repeats` times, edges repeated: float32 ``(N, D, H, W)``."""
    count, depth, height, width = images.shape
    third = np.float32(1 / 3)
    for n in numba.prange(count):
        plane = images[n]
        line = np.empty(width + 2, np.float32)
        kept = np.empty((2, width), np.float32)
        for _ in range(repeats):
            for k in range(depth):
                for j in range(height):
                    line[1:-1] = plane[k, j]
                    line[0], line[-1] = line[1], line[-2]
                    for i in range(width):
                        plane[k, j, i] = (line[i] + line[i + 1] + line[i + 2]) * third
            for k in range(depth):
                _along(plane[k], kept, third)
            for j in range(height):
                _along(plane[:, j], kept, third)
