"""CPU kernel of the normal equations of a Gauss-Newton step, compiled by numba."""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
import torch
from torch import Tensor

from ...compiled.options import FAST_MATH
from ...compiled.threads import use_torch_threads


@numba.njit(parallel=True, fastmath=FAST_MATH, cache=True, nogil=True)
def _curved(x, scale, result):  # type: ignore[no-untyped-def]
    """`scale` times the `grid.laplacian` of ``(3, d, h, w)``, added to `result`."""
    count, depth, height, width = x.shape
    for k in numba.prange(depth):
        line = np.empty(width + 2, np.float32)
        for n in range(count):
            for j in range(height):
                here = x[n, k, j]
                above, below = x[n, max(k - 1, 0), j], x[n, min(k + 1, depth - 1), j]
                before, after = x[n, k, max(j - 1, 0)], x[n, k, min(j + 1, height - 1)]
                line[1:-1] = here
                line[0], line[-1] = here[0], here[-1]
                out, factor = result[n, k, j], scale[k, j]
                for i in range(width):
                    around = above[i] + below[i] + before[i] + after[i] + line[i] + line[i + 2]
                    out[i] += factor[i] * (np.float32(6) * here[i] - around)


@numba.njit(parallel=True, fastmath=FAST_MATH, cache=True, nogil=True)
def _blocks_and_slopes(x, blocks, along_k, along_j, along_i, result):  # type: ignore[no-untyped-def]
    """The symmetric 3 x 3 block of every node and the weighted first differences, of `x`."""
    _, depth, height, width = x.shape
    for k in numba.prange(depth):
        steps = np.zeros(width + 1, np.float32)
        for j in range(height):
            a, b, c = x[0, k, j], x[1, k, j], x[2, k, j]
            ii, jj, kk = blocks[0, k, j], blocks[1, k, j], blocks[2, k, j]
            ij, ik, jk = blocks[3, k, j], blocks[4, k, j], blocks[5, k, j]
            first, second, third = result[0, k, j], result[1, k, j], result[2, k, j]
            for i in range(width):
                first[i] = ii[i] * a[i] + ij[i] * b[i] + ik[i] * c[i]
                second[i] = ij[i] * a[i] + jj[i] * b[i] + jk[i] * c[i]
                third[i] = ik[i] * a[i] + jk[i] * b[i] + kk[i] * c[i]
            for n in range(3):
                here, out = x[n, k, j], result[n, k, j]
                weights = along_i[n, k, j]
                for i in range(width - 1):
                    steps[i + 1] = weights[i] * (here[i + 1] - here[i])
                for i in range(width):
                    out[i] += steps[i] - steps[i + 1]
                if j > 0:
                    weights, other = along_j[n, k, j - 1], x[n, k, j - 1]
                    for i in range(width):
                        out[i] += weights[i] * (here[i] - other[i])
                if j + 1 < height:
                    weights, other = along_j[n, k, j], x[n, k, j + 1]
                    for i in range(width):
                        out[i] += weights[i] * (here[i] - other[i])
                if k > 0:
                    weights, other = along_k[n, k - 1, j], x[n, k - 1, j]
                    for i in range(width):
                        out[i] += weights[i] * (here[i] - other[i])
                if k + 1 < depth:
                    weights, other = along_k[n, k, j], x[n, k + 1, j]
                    for i in range(width):
                        out[i] += weights[i] * (here[i] - other[i])


def normal_product(x: Tensor, blocks: Tensor, slopes: Sequence[Tensor], bends: Tensor) -> Tensor:
    """The matrix of the normal equations times `x`; arguments as in `kernels.normal_product`, on the CPU."""
    use_torch_threads()
    result = torch.empty_like(x, memory_format=torch.contiguous_format)
    bent = torch.zeros_like(x, memory_format=torch.contiguous_format)
    scale = bends[0].contiguous().numpy()
    values = x.contiguous().numpy()
    weights = [w.contiguous().numpy() for w in slopes]
    _blocks_and_slopes(values, blocks.contiguous().numpy(), *weights, result.numpy())
    _curved(values, scale, bent.numpy())
    _curved(bent.numpy(), np.ones_like(scale), result.numpy())
    return result
