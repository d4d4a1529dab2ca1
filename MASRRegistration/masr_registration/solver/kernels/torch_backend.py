"""Reference backend in plain torch: any device, any precision."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ...transforms.grid import add_differences, box, laplacian

VARIANCE_FLOOR = 1e-4
"""Added to the variances of a window: below a deviation of 1 % of the intensity range there is nothing to correlate."""


def difference(
    fixed: Tensor,
    moving: Tensor,
    position: Tensor,
    weight: Tensor,
    moving_weight: Tensor,
    unit: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Cost, gradient and curvature (see `kernels.Comparison`) of features in multiples of `unit`.

    Other arguments as in `kernels.feature_difference`.
    """
    fixed = fixed.to(position.dtype)
    value, derivative, weight = _sampled(moving, position, weight, moving_weight)
    difference = (value - fixed) * weight[..., None]
    scale = unit**2 / (weight.sum().clamp_min(1e-12) * moving.shape[3])
    cost = (difference * (value - fixed)).sum() * scale
    gradient = torch.stack([(difference * d).sum(dim=-1) for d in derivative]) * (2 * scale)
    curvature = outer_products(torch.stack(derivative)).sum(dim=-1) * weight * (2 * scale)
    return cost, gradient, curvature


def correlation(
    fixed: Tensor, moving: Tensor, position: Tensor, weight: Tensor, moving_weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Cost, gradient and curvature (see `kernels.Comparison`); arguments as in `kernels.local_correlation`."""
    values, derivative, product = _sampled(moving[..., None], position, weight, moving_weight)
    value, slope = values[..., 0], torch.stack(derivative)[..., 0]
    inner = torch.zeros_like(product)
    inner[1:-1, 1:-1, 1:-1] = 1
    product = product * inner
    parts = torch.ones_like(value), fixed, value, fixed**2, value**2, fixed * value
    known, *means = box(product * torch.stack(parts))
    mean_a, mean_m, aa, mm, am = (x / known.clamp_min(1e-12) for x in means)
    own = (aa - mean_a**2).clamp_min(0) + VARIANCE_FLOOR
    other = (mm - mean_m**2).clamp_min(0) + VARIANCE_FLOOR
    covariance = am - mean_a * mean_m
    squared = covariance**2 / (own * other)
    p, q = 2 * product * covariance / (own * other), 2 * product * squared / other
    p, q, rest = box(torch.stack((p, q, q * mean_m - p * mean_a)))
    weight = product * known
    total = weight.sum().clamp_min(1e-12)
    cost = (weight * (1 - squared)).sum() / total
    gradient = slope * (product * (q * value - p * fixed - rest) / total)
    return cost, gradient, outer_products(slope) * (product * q / total)


def outer_products(vectors: Tensor) -> Tensor:
    """``(3, ...)`` -> the six entries of ``v v^T`` ``(6, ...)``: ii, jj, kk, ij, ik, jk."""
    return torch.stack([vectors[a] * vectors[b] for a, b in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))])


def _sampled(
    moving: Tensor, position: Tensor, weight: Tensor, moving_weight: Tensor
) -> tuple[Tensor, list[Tensor], Tensor]:
    """Values ``(D, H, W, C)`` at the positions, their slopes along (i, j, k), and the weights of both images."""
    shape = moving.shape[:3]
    channels = moving.shape[3]
    nearest = [(p + 0.5).floor() for p in position]
    seen = torch.stack([(p >= 0) & (p < n) for p, n in zip(nearest, reversed(shape), strict=True)]).all(dim=0)
    i, j, k = (p.clamp(0, n - 1).long() for p, n in zip(nearest, reversed(shape), strict=True))
    weight = weight * moving_weight[k, j, i] * seen
    lower, fraction, slope = [], [], []
    for component, n in zip(position, reversed(shape), strict=True):
        clamped = component.clamp(0, n - 1)
        base = clamped.floor().clamp(max=max(n - 2, 0))
        lower.append(base.long())
        fraction.append(clamped - base)
        slope.append(((component >= 0) & (component <= n - 1)).to(position.dtype) * (1 if n > 1 else 0))
    flat = moving.reshape(-1, channels)
    value = position.new_zeros(*weight.shape, channels)
    derivative = [torch.zeros_like(value) for _ in range(3)]
    for corner in range(8):
        bits = [(corner >> axis) & 1 for axis in range(3)]
        i, j, k = (
            (low + bit).clamp(max=n - 1) for low, bit, n in zip(lower, bits, reversed(shape), strict=True)
        )
        values = flat[((k * shape[1] + j) * shape[2] + i).reshape(-1)].reshape(value.shape).to(position.dtype)
        weights = [f if bit else 1 - f for f, bit in zip(fraction, bits, strict=True)]
        value += values * (weights[0] * weights[1] * weights[2])[..., None]
        for axis in range(3):
            others = weights[(axis + 1) % 3] * weights[(axis + 2) % 3] * (1 if bits[axis] else -1)
            derivative[axis] += values * (others * slope[axis])[..., None]
    return value, derivative, weight


def cost_volume(
    fixed: Tensor, moving: Tensor, weight: Tensor, moving_weight: Tensor, unknown: float, radius: int
) -> Tensor:
    """Smoothed costs ``(L, D, H, W)``; arguments as in `solver.convex.cost_volume`."""
    depth, height, width = weight.shape
    side = 2 * radius + 1
    padded, known = (
        functional.pad(x[None], (radius,) * 6, mode="replicate")[0] for x in (moving, moving_weight[None])
    )
    cost = fixed.new_empty(side**3, depth, height, width)
    for label, (k, j, i) in enumerate(itertools.product(range(side), repeat=3)):
        place = (slice(None), slice(k, k + depth), slice(j, j + height), slice(i, i + width))
        difference = (fixed - padded[place]).square_().mean(dim=0)
        cost[label] = torch.lerp(torch.full_like(difference, unknown), difference, known[place][0])
    return box(cost.mul_(weight), repeats=2)


def cheapest(cost: Tensor, field: Tensor, strength: float, radius: int) -> Tensor:
    """Displacements ``(3, D, H, W)`` of least cost near a field; arguments as in `solver.convex.coupled_convex`."""
    axis = torch.arange(-radius, radius + 1, dtype=field.dtype, device=field.device)
    k, j, i = torch.meshgrid(axis, axis, axis, indexing="ij")
    labels = torch.stack((i, j, k), dim=-1).reshape(-1, 3)
    penalty = labels.square().sum(dim=1, keepdim=True) - 2 * labels @ field.reshape(3, -1)
    best = torch.add(cost.reshape(len(labels), -1), penalty, alpha=strength).argmin(dim=0)
    return labels[best].T.reshape_as(field)


def normal_product(x: Tensor, blocks: Tensor, slopes: Sequence[Tensor], bends: Tensor) -> Tensor:
    """The matrix of the normal equations times ``(3, d, h, w)``; arguments as in `kernels.normal_product`."""
    i, j, k = x
    ii, jj, kk, ij, ik, jk = blocks
    result = torch.stack((ii * i + ij * j + ik * k, ij * i + jj * j + jk * k, ik * i + jk * j + kk * k))
    result += laplacian(bends * laplacian(x))
    for axis, weights in enumerate(slopes, start=1):
        add_differences(result, weights * x.diff(dim=axis), axis)
    return result
