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

from .kernels import normal_product

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
        bends: the same in the `grid.laplacian` of every node, ``(1, d, h, w)``.
    """
    blocks = curvature.clone()
    blocks[:3] += DAMPING * curvature[:3].mean()
    diagonal = blocks[:3] + 42 * bends
    for axis, weights in enumerate(slopes, start=1):
        n = weights.shape[axis]
        diagonal.narrow(axis, 0, n).add_(weights)
        diagonal.narrow(axis, 1, n).add_(weights)
    result, rest = torch.zeros_like(gradient), -gradient
    scaled = rest / diagonal
    direction, size = scaled, (rest * scaled).sum()
    for _ in range(SOLVER_STEPS):
        image = normal_product(direction, blocks, slopes, bends)
        length = size / (direction * image).sum().clamp_min(torch.finfo(size.dtype).tiny)
        result = result + length * direction
        rest = rest - length * image
        scaled = rest / diagonal
        before, size = size, (rest * scaled).sum()
        direction = scaled + size / before.clamp_min(torch.finfo(size.dtype).tiny) * direction
    return result
