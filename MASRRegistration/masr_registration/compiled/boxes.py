"""CPU kernel of box smoothing, compiled by numba."""

from __future__ import annotations

import numba
import numpy as np

from .options import FAST_MATH


@numba.njit(parallel=True, fastmath=FAST_MATH, cache=True, nogil=True)
def box3(images, repeats):  # type: ignore[no-untyped-def]
    """Mean over cubes of 3 voxels in place, `repeats` times, edges repeated: float32 ``(N, D, H, W)``."""
    count, depth, height, width = images.shape
    third = np.float32(1 / 3)
    for n in numba.prange(count):
        plane = images[n]
        for _ in range(repeats):
            for k in range(depth):
                for j in range(height):
                    before = plane[k, j, 0]
                    for i in range(width):
                        here = plane[k, j, i]
                        plane[k, j, i] = (before + here + plane[k, j, min(i + 1, width - 1)]) * third
                        before = here
            row = np.empty(width, np.float32)
            for k in range(depth):
                row[:] = plane[k, 0]
                for j in range(height):
                    for i in range(width):
                        here = plane[k, j, i]
                        plane[k, j, i] = (row[i] + here + plane[k, min(j + 1, height - 1), i]) * third
                        row[i] = here
            for j in range(height):
                row[:] = plane[0, j]
                for k in range(depth):
                    for i in range(width):
                        here = plane[k, j, i]
                        plane[k, j, i] = (row[i] + here + plane[min(k + 1, depth - 1), j, i]) * third
                        row[i] = here
