"""The heavy loops of the solver behind small functions, with interchangeable backends.

Backends: plain torch (the reference, any device) and numba (CPU; used by itself when installed). Both give the same
numbers to float32 accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...transforms.grid import compose, pool
from . import torch_backend

numba_backend: Any = import_module(".numba_backend", __name__) if find_spec("numba") is not None else None


def backend_for(device: torch.device) -> Any:
    """The module that computes on `device`."""
    return numba_backend if numba_backend is not None and device.type == "cpu" else torch_backend


FEATURE_UNIT = 1 / 32767
"""Features kept for the continuous stage are whole multiples of this in 16 bits: half the memory, faster to read."""


def compact(features: Tensor) -> Tensor:
    """Features ``(C, D, H, W)`` with values in [-1, 1] as int16 multiples of `FEATURE_UNIT`."""
    result = torch.empty_like(features, dtype=torch.int16)
    for stored, channel in zip(result, features, strict=True):
        stored.copy_((channel / FEATURE_UNIT).round_())
    return result


def pool_compact(features: Tensor, stride: int) -> Tensor:
    """`grid.pool` of features from `compact`, as float32."""
    return torch.cat([pool(channel[None] * FEATURE_UNIT, stride) for channel in features])


def channels_last(features: Tensor) -> Tensor:
    """``(C, D, H, W)`` -> contiguous ``(D, H, W, C)``: the layout the kernels read."""
    return features.permute(1, 2, 3, 0).contiguous()


class Comparison(NamedTuple):
    """What comparing two images gives.

    Attributes:
        cost: a scalar, differentiable in the positions.
        curvature: ``(6, D, H, W)``, the Gauss-Newton approximation of its second derivatives in each position: ii, jj,
            kk, ij, ik, jk.
    """

    cost: Tensor
    curvature: Tensor


class _WithGradient(torch.autograd.Function):
    """A cost whose gradient in `position` was computed along with it."""

    @staticmethod
    def forward(ctx: Any, position: Tensor, cost: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return cost.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0], None, None


def feature_difference(
    fixed: Tensor,
    moving: Tensor,
    position: Tensor,
    weight: Tensor,
    moving_weight: Tensor,
    backend: Any = None,
) -> Comparison:
    """Weighted mean squared difference of fixed features and moving features at given positions.

    Args:
        fixed: channels-last features ``(D, H, W, C)`` (see `channels_last`), both real or both from `compact`.
        moving: channels-last features ``(D', H', W', C)``.
        position: ``(3, D, H, W)``, where each fixed voxel lies in the moving grid: continuous indices (i, j, k);
            differentiable, analytically.
        weight: ``(D, H, W)`` of the fixed voxels.
        moving_weight: ``(D', H', W')``, read at the nearest voxel, zero outside. The result is divided by the sum of
            the products.

    Returns:
        The mean over weight and channels. Beyond the moving grid its edge value counts, without slope.
    """
    unit = FEATURE_UNIT if fixed.dtype == torch.int16 else 1.0
    cost, gradient, curvature = (backend or backend_for(position.device)).difference(
        fixed, moving, position.detach(), weight, moving_weight, unit
    )
    return Comparison(_WithGradient.apply(position, cost, gradient), curvature)  # type: ignore[no-untyped-call]


def local_correlation(
    fixed: Tensor,
    moving: Tensor,
    position: Tensor,
    weight: Tensor,
    moving_weight: Tensor,
    backend: Any = None,
) -> Comparison:
    """Weighted mean of 1 - r^2, r the correlation of both images over the 3^3 voxels around each fixed voxel.

    Blind to any linear relation of the intensities in a neighbourhood, inversion included. Within a window each voxel
    counts by its weight (Padfield, IEEE TIP 2012), and the window by its middle's weight and by how much is known.

    Args:
        fixed: ``(D, H, W)`` in [0, 1]; windows that reach beyond it do not count.
        moving: ``(D', H', W')`` in [0, 1].
        position, weight, moving_weight: as in `feature_difference`.

    Returns:
        A cost in [0, 1], differentiable in `position`, analytically. Its curvature is that of the squared residual of
        the best linear relation in each window, the relation held fixed.
    """
    cost, gradient, curvature = (backend or backend_for(position.device)).correlation(
        fixed, moving, position.detach(), weight, moving_weight
    )
    return Comparison(_WithGradient.apply(position, cost, gradient), curvature)  # type: ignore[no-untyped-call]


class _SelfCompose(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, field: Tensor, backend: Any) -> Tensor:
        ctx.save_for_backward(field)
        ctx.backend = backend
        result: Tensor = backend.self_compose(field.detach())
        return result

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        return ctx.backend.self_compose_backward(ctx.saved_tensors[0].detach(), outer[0]), None


def self_compose(field: Tensor) -> Tensor:
    """``(id + field) o (id + field) - id`` for ``(3, D, H, W)`` in voxels; differentiable."""
    backend = backend_for(field.device)
    if backend is torch_backend or min(field.shape[1:]) < 2 or field.dtype != torch.float32:
        return compose(field, field)
    result: Tensor = _SelfCompose.apply(field, backend)  # type: ignore[no-untyped-call]
    return result


def normal_product(x: Tensor, blocks: Tensor, slopes: Sequence[Tensor], bends: Tensor) -> Tensor:
    """The matrix of the normal equations of a Gauss-Newton step times a velocity ``(3, d, h, w)`` at nodes.

    Args:
        blocks: the symmetric 3 x 3 block of every node ``(6, d, h, w)``: ii, jj, kk, ij, ik, jk.
        slopes: for each axis the weights of the squared first differences, ``(3, d - 1, h, w)`` and so on.
        bends: the weights of the squared `grid.laplacian`, ``(1, d, h, w)``.
    """
    backend = backend_for(x.device) if x.dtype == torch.float32 else torch_backend
    result: Tensor = backend.normal_product(x, blocks, slopes, bends)
    return result
