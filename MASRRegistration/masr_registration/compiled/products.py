"""CPU kernels of inner products over a window, compiled by numba; the torch counterpart is in `solver.amortized`."""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from .options import FAST_MATH
from .threads import use_torch_threads


@numba.njit(parallel=True, fastmath=FAST_MATH, cache=True, nogil=True)
def _forward(first, padded, result, side):  # type: ignore[no-untyped-def]
    depth, height, width, channels = first.shape
    whole = channels - channels % 4
    for k in numba.prange(depth):
        for j in range(height):
            for i in range(width):
                own, found = first[k, j, i], result[k, j, i]
                for a in range(side):
                    for b in range(side):
                        for c in range(side):
                            other = padded[k + a, j + b, i + c]
                            s0, s1, s2, s3 = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
                            for n in range(0, whole, 4):
                                s0 += own[n] * other[n]
                                s1 += own[n + 1] * other[n + 1]
                                s2 += own[n + 2] * other[n + 2]
                                s3 += own[n + 3] * other[n + 3]
                            for n in range(whole, channels):
                                s0 += own[n] * other[n]
                            found[(a * side + b) * side + c] = (s0 + s1) + (s2 + s3)


@numba.njit(fastmath=FAST_MATH, cache=True, nogil=True)
def _backward(first, padded, outer, to_first, to_padded, side):  # type: ignore[no-untyped-def]
    depth, height, width, channels = first.shape
    for k in range(depth):
        for j in range(height):
            for i in range(width):
                own, slope = first[k, j, i], to_first[k, j, i]
                for a in range(side):
                    for b in range(side):
                        for c in range(side):
                            g = outer[k, j, i, (a * side + b) * side + c]
                            other, its_slope = padded[k + a, j + b, i + c], to_padded[k + a, j + b, i + c]
                            for n in range(channels):
                                slope[n] += g * other[n]
                                its_slope[n] += g * own[n]


def forward(first: Tensor, padded: Tensor, radius: int) -> Tensor:
    """``(L, D, H, W)`` of `first` ``(C, D, H, W)`` and `padded` ``(C, D + 2 radius, ...)``, float32, L innermost."""
    side = 2 * radius + 1
    result = torch.empty(*first.shape[1:], side**3)
    use_torch_threads()
    _forward(_last(first), _last(padded), result.numpy(), side)
    return result.permute(3, 0, 1, 2)


def backward(first: Tensor, padded: Tensor, outer: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """Gradients in `first` and `padded`, for the gradient `outer` ``(L, D, H, W)`` in the products."""
    own, other = _last(first), _last(padded)
    to_first, to_padded = np.zeros_like(own), np.zeros_like(other)
    _backward(own, other, _last(outer), to_first, to_padded, 2 * radius + 1)
    return torch.from_numpy(to_first).permute(3, 0, 1, 2), torch.from_numpy(to_padded).permute(3, 0, 1, 2)


def _last(x: Tensor) -> np.ndarray:
    array: np.ndarray = x.detach().permute(1, 2, 3, 0).contiguous().numpy()
    return array
