"""The discrete stage: coupled convex search over a window of displacements, in two levels and both directions.

Every node of a coarse grid compares its features with the other image's over all displacements of a cube (the cost
volume). A smooth field that agrees with cheap displacements is found by alternating a per-node minimum, coupled ever
more strongly to the current field, and smoothing. Searching everything at once is what survives large deformation.

Sources: Steinbruecker et al., ICCV 2009 (coupling); Heinrich et al., MICCAI 2014 and Siebert et al., 2021 (ConvexAdam).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..representation.self_similarity import PAIRS
from ..transforms.grid import box, compose, pool, resize, warp
from .kernels import backend_for

COUPLINGS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
FIRST_COUPLING = 0.001
CONSISTENCY_ITERATIONS = 6
"""Each halves what two fields miss of being inverse."""
LEVELS = ((4, 5), (2, 3))
"""Nodes stand `stride` half-resolution voxels apart and the window reaches `radius` nodes: 40 and 12 working voxels."""
UNKNOWN = 0.4
"""Cost of an unknown place as a share of that of an unrelated one: about what a good match costs, so that no
displacement gains by leaving the image and none by entering it."""
UNSURE = 0.01
"""Weight in the smoothing of a node that has nothing to say: it takes what its neighbours found."""
STATISTICS_STEP = 2
"""The spread of the costs is taken at every second node along each axis."""
FLAT = 0.97
"""Mean of the self-similarities above which a place has no structure (in a constant region all of them are 1)."""


def window(radius: int, device: torch.device | None = None) -> Tensor:
    """All integer displacements of a cube: ``(L, 3)`` float, L = (2 radius + 1)^3, components (i, j, k)."""
    axis = torch.arange(-radius, radius + 1, dtype=torch.float32, device=device)
    k, j, i = torch.meshgrid(axis, axis, axis, indexing="ij")
    return torch.stack((i, j, k), dim=-1).reshape(-1, 3)


def unrelated(fixed: Tensor, moving: Tensor) -> float:
    """Mean squared difference that features ``(C, ...)`` have where they have nothing to do with each other."""
    first, second = fixed.flatten(1), moving.flatten(1)
    spread = first.var(dim=1) + second.var(dim=1) + (first.mean(dim=1) - second.mean(dim=1)).square()
    return float(spread.mean())


def cost_volume(fixed: Tensor, moving: Tensor, weight: Tensor, moving_weight: Tensor, radius: int) -> Tensor:
    """Smoothed dissimilarity of every node to the moving image at every displacement of the window.

    Args:
        fixed, moving: features ``(C, D, H, W)``.
        weight: ``(D, H, W)`` in [0, 1], how much each node's comparison counts.
        moving_weight: ``(D, H, W)`` in [0, 1], how much of the moving node is known; see `UNKNOWN`.
        radius: of the window, in nodes.

    Returns:
        ``(L, D, H, W)``: mean squared difference over the channels; beyond the moving grid its edge value.
    """
    unknown = UNKNOWN * unrelated(fixed, moving)
    backend = backend_for(fixed.device)
    result: Tensor = backend.cost_volume(fixed, moving, weight, moving_weight, unknown, radius)
    return result


def coupled_convex(cost: Tensor, radius: int, certainty: Tensor) -> Tensor:
    """The smooth displacement that agrees with a cost volume.

    Args:
        cost: ``(L, D, H, W)`` of the window of this `radius`.
        certainty: ``(D, H, W)`` in (0, 1], the weight of each node in the smoothing.

    Returns:
        ``(3, D, H, W)`` in nodes.
    """
    every = (slice(None, None, STATISTICS_STEP),) * 3
    spread, sure = cost[(slice(None), *every)].std(dim=0), certainty[every]
    scale = float((spread * sure).sum() / sure.sum())
    total = box(certainty[None])
    field = cost.new_zeros(3, *cost.shape[1:])
    for coupling in (FIRST_COUPLING, *COUPLINGS):
        found = backend_for(cost.device).cheapest(cost, field, max(coupling * scale, 1e-12), radius)
        field = box(found * certainty) / total
    return field


def make_consistent(forward: Tensor, backward: Tensor) -> tuple[Tensor, Tensor]:
    """Move two displacement fields towards being each other's inverse."""
    for _ in range(CONSISTENCY_ITERATIONS):
        forward, backward = (
            0.5 * (forward - warp(backward, forward)),
            0.5 * (backward - warp(forward, backward)),
        )
    return forward, backward


def search(
    fixed: Tensor,
    moving: Tensor,
    fixed_weight: Tensor,
    moving_weight: Tensor,
    reach: float,
    tick: Callable[[float], None] = lambda _: None,
) -> tuple[Tensor, Tensor]:
    """Coupled convex search in both directions, level by level.

    Args:
        fixed, moving: features ``(C, D, H, W)`` at half the working resolution, the 12 self-similarities first; sides
            multiples of 4.
        fixed_weight, moving_weight: ``(D, H, W)`` in [0, 1], how much is known there.
        reach: voxels of this grid that the first level must reach along each axis.

    Returns:
        Displacements ``(3, D, H, W)`` in voxels of this grid: fixed -> moving, and moving -> fixed, close to inverse.
    """
    shape = (fixed.shape[1], fixed.shape[2], fixed.shape[3])
    forward = backward = fixed.new_zeros(3, *shape)
    moved, moved_weight = moving, moving_weight
    for number, (stride, radius) in enumerate(LEVELS):
        if number == 0:
            radius = max(radius, math.ceil(reach / stride))
        images = pool(fixed, stride), pool(moved, stride)
        weights = pool(fixed_weight[None], stride)[0], pool(moved_weight[None], stride)[0]
        fields = []
        for own, other in ((0, 1), (1, 0)):
            cost = cost_volume(images[own], images[other], weights[own], weights[other], radius)
            structured = images[own][: len(PAIRS)].mean(dim=0) < FLAT
            certainty = (weights[own] * structured).clamp_min(UNSURE)
            fields.append(coupled_convex(cost, radius, certainty))
            tick((2 * number + own + 1) / (2 * len(LEVELS)))
        inner, outer = (resize(f, shape) * stride for f in make_consistent(*fields))
        forward, backward = make_consistent(compose(forward, inner), compose(outer, backward))
        if number + 1 < len(LEVELS):
            moved, moved_weight = warp(moving, forward), warp(moving_weight[None], forward)[0]
    return forward, backward
