"""CPU kernel of the folding test, compiled by numba."""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from .options import FAST_MATH
from .threads import use_torch_threads


@numba.njit(fastmath=FAST_MATH, cache=True, inline="always")
def _edge(field, basis, n, axis, k, j, i):  # type: ignore[no-untyped-def]
    """Component n of the edge that leaves voxel (k, j, i) along an axis, as the map moves it."""
    end = field[n, k + (axis == 2), j + (axis == 1), i + (axis == 0)]
    return basis[n, axis] + (np.float64(end) - np.float64(field[n, k, j, i]))


@numba.njit(parallel=True, fastmath=FAST_MATH, cache=True, nogil=True)
def _folded(field, basis, orientation, result):  # type: ignore[no-untyped-def]
    depth, height, width = result.shape
    for k in numba.prange(depth):
        lowest = np.empty(width)
        for j in range(height):
            lowest[:] = np.inf
            for corner in range(8):
                a, b, c = corner & 1, corner >> 1 & 1, corner >> 2
                for i in range(width):
                    x0 = _edge(field, basis, 0, 0, k + c, j + b, i)
                    x1 = _edge(field, basis, 1, 0, k + c, j + b, i)
                    x2 = _edge(field, basis, 2, 0, k + c, j + b, i)
                    y0 = _edge(field, basis, 0, 1, k + c, j, i + a)
                    y1 = _edge(field, basis, 1, 1, k + c, j, i + a)
                    y2 = _edge(field, basis, 2, 1, k + c, j, i + a)
                    z0 = _edge(field, basis, 0, 2, k, j + b, i + a)
                    z1 = _edge(field, basis, 1, 2, k, j + b, i + a)
                    z2 = _edge(field, basis, 2, 2, k, j + b, i + a)
                    volume = x0 * (y1 * z2 - y2 * z1) - y0 * (x1 * z2 - x2 * z1) + z0 * (x1 * y2 - x2 * y1)
                    lowest[i] = min(lowest[i], volume * orientation)
            for i in range(width):
                result[k, j, i] = lowest[i] <= 0


def folded_cells(displacement: Tensor, index_to_physical: np.ndarray) -> Tensor:
    """`transforms.jacobian.folded_cells` of a float32 displacement on a grid of that 3x3 matrix."""
    use_torch_threads()
    result = torch.empty([n - 1 for n in displacement.shape[1:]], dtype=torch.bool)
    basis = np.ascontiguousarray(index_to_physical, dtype=np.float64)
    orientation = float(np.sign(np.linalg.det(basis)))
    _folded(displacement.contiguous().numpy(), basis, orientation, result.numpy())
    return result
