"""Gauss-Newton steps for a velocity at nodes, from the derivatives that the kernels give with each cost.

The loss is nearly quadratic in the velocity: squared differences of features, and the roughness. Its normal equations
are solved by a few conjugate gradients. One such step does the work of several of a first-order method, because each
node moves by as much as its own structure allows, and places without structure follow their neighbours at once.

Sources: Hernandez, MedIA 2014 and Mang & Biros, SIAM J. Imaging Sci. 2015 (Newton-Krylov for velocity fields);
Hestenes & Stiefel 1952 (conjugate gradients); Levenberg 1944 (damping).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

DAMPING = 0.1
"""Added to the curvature of every node, as a share of the mean curvature."""
SOLVER_STEPS = 10


def lumped(curvature: Tensor, axes: Sequence[Tensor]) -> Tensor:
    """Curvature on a lattice ``(6, D, H, W)``, shared out among the nodes that `upsample_lattice` would read.

    Args:
        axes: for each of the three axes the weights of the nodes at the lattice's points, ``(D, d)`` and so on.

    Returns:
        ``(6, d, h, w)``: for a velocity that is constant around a node, the curvature of the whole loss.
    """
    result = curvature
    for axis in (3, 2, 1):
        result = torch.movedim(torch.movedim(result, axis, -1) @ axes[axis - 1], -1, axis)
    return result


def step(gradient: Tensor, curvature: Tensor, slopes: Sequence[Tensor], bends: Tensor) -> Tensor:
    """The change of a velocity ``(3, d, h, w)`` that minimises the quadratic model of the loss.

    Args:
        gradient: of the whole loss ``(3, d, h, w)``.
        curvature: of everything but the smoothness, `lumped` ``(6, d, h, w)``.
        slopes: for each axis the curvature of the loss in the first differences, ``(3, d - 1, h, w)`` and so on.
        bends: the same in the `laplacian` of every node, ``(1, d, h, w)``.
    """
    damping = DAMPING * curvature[:3].mean()
    xx, yy, zz, xy, xz, yz = curvature
    diagonal = curvature[:3] + damping + 42 * bends
    for axis, weights in enumerate(slopes, start=1):
        n = weights.shape[axis]
        diagonal.narrow(axis, 0, n).add_(weights)
        diagonal.narrow(axis, 1, n).add_(weights)

    def product(x: Tensor) -> Tensor:
        i, j, k = x
        own = torch.stack((xx * i + xy * j + xz * k, xy * i + yy * j + yz * k, xz * i + yz * j + zz * k))
        own += damping * x + laplacian(bends * laplacian(x))
        for axis, weights in enumerate(slopes, start=1):
            _add_differences(own, weights * x.diff(dim=axis), axis)
        return own

    result, rest = torch.zeros_like(gradient), -gradient
    scaled = rest / diagonal
    direction, size = scaled, (rest * scaled).sum()
    for _ in range(SOLVER_STEPS):
        image = product(direction)
        length = size / (direction * image).sum().clamp_min(torch.finfo(size.dtype).tiny)
        result = result + length * direction
        rest = rest - length * image
        scaled = rest / diagonal
        before, size = size, (rest * scaled).sum()
        direction = scaled + size / before.clamp_min(torch.finfo(size.dtype).tiny) * direction
    return result


def laplacian(field: Tensor) -> Tensor:
    """Minus the sum of the second differences over the axes of ``(3, d, h, w)``, edges repeated."""
    result = torch.zeros_like(field)
    for axis in (1, 2, 3):
        _add_differences(result, field.diff(dim=axis), axis)
    return result


def _add_differences(result: Tensor, slopes: Tensor, axis: int) -> None:
    """Add the transposed first differences of `slopes` along an axis to `result`."""
    n = slopes.shape[axis]
    result.narrow(axis, 0, n).sub_(slopes)
    result.narrow(axis, 1, n).add_(slopes)
