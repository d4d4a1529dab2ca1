"""The compiled kernels against plain torch in double precision, and gradients against differences."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from masr_registration.solver import kernels
from masr_registration.solver.convex import window
from masr_registration.solver.kernels import (
    FEATURE_UNIT,
    channels_last,
    compact,
    feature_difference,
    local_correlation,
    pool_compact,
    self_compose,
    torch_backend,
)
from masr_registration.transforms.grid import box, compose, identity, pool

numba_backend = kernels.numba_backend
needs_numba = pytest.mark.skipif(numba_backend is None, reason="needs numba")
shapes = st.tuples(st.integers(1, 6), st.integers(1, 7), st.integers(1, 5))
Problem = tuple[torch.Tensor, ...]


def off_ties(position: torch.Tensor) -> torch.Tensor:
    """Positions not so close to a voxel, or to the middle of two, that rounding decides which side they are on."""
    doubled = 2 * position
    near = (doubled - doubled.round()).abs() < 4e-3
    return torch.where(near, position + 4e-3, position)


def problem(fixed_shape: tuple[int, ...], moving_shape: tuple[int, ...], channels: int, seed: int) -> Problem:
    """Float64 fixed, moving, position (from two voxels before the moving grid to two behind it), and weights."""
    rng = np.random.default_rng(seed)
    fixed = rng.normal(size=(*fixed_shape, channels))
    moving = rng.normal(size=(*moving_shape, channels))
    position = np.stack([rng.uniform(-2, n + 1, fixed_shape) for n in reversed(moving_shape)])
    weight = rng.uniform(0, 1, fixed_shape) * (rng.uniform(size=fixed_shape) > 0.2)
    moving_weight = rng.uniform(0, 1, moving_shape) * (rng.uniform(size=moving_shape) > 0.2)
    parts = [torch.from_numpy(x) for x in (fixed, moving, position, weight, moving_weight)]
    parts[2] = off_ties(parts[2])
    return tuple(parts)


def slow_difference(parts: Problem) -> float:
    """The definition, voxel by voxel."""
    fixed, moving, position, weight, moving_weight = (p.numpy() for p in parts)
    total = weights = 0.0
    last = np.array(moving.shape[:3]) - 1
    for voxel in np.ndindex(*weight.shape):
        place = position[(slice(None), *voxel)][::-1]
        nearest = np.floor(place + 0.5).astype(int)
        if (nearest < 0).any() or (nearest > last).any():
            continue
        w = weight[voxel] * moving_weight[tuple(nearest)]
        clamped = np.clip(place, 0, last)
        low = np.minimum(np.floor(clamped).astype(int), np.maximum(last - 1, 0))
        value = np.zeros(moving.shape[3])
        for corner in np.ndindex(2, 2, 2):
            share = np.prod(np.where(corner, clamped - low, 1 - (clamped - low)))
            value += share * moving[tuple(np.minimum(low + corner, last))]
        total += w * ((value - fixed[voxel]) ** 2).mean()
        weights += w
    return total / weights if weights else 0.0


@settings(max_examples=15, deadline=None)
@given(shapes, shapes, st.integers(1, 4), st.integers(0, 1000))
def test_the_reference_is_the_definition(
    fixed: tuple[int, ...], moving: tuple[int, ...], channels: int, seed: int
) -> None:
    parts = problem(fixed, moving, channels, seed)
    cost, _, _ = torch_backend.difference(*parts)
    assert float(cost) == pytest.approx(slow_difference(parts), rel=1e-6, abs=1e-9)


@needs_numba
@settings(max_examples=40, deadline=None)
@given(shapes, shapes, st.integers(1, 13), st.integers(0, 1000))
def test_compiled_difference_is_the_reference(
    fixed: tuple[int, ...], moving: tuple[int, ...], channels: int, seed: int
) -> None:
    parts = problem(fixed, moving, channels, seed)
    cost, *derivatives = numba_backend.difference(*(p.float().contiguous() for p in parts))
    expected, *exact = torch_backend.difference(*parts)
    assert float(cost) == pytest.approx(float(expected), rel=1e-4, abs=1e-6)
    for found, true in zip(derivatives, exact, strict=True):
        np.testing.assert_allclose(found, true, rtol=1e-3, atol=1e-4 * float(true.abs().max()) + 1e-7)


def test_curvature_of_the_difference_is_that_of_its_linearised_residuals() -> None:
    """Against the exact second derivatives of a moving image that is linear between its voxels along one axis."""
    fixed, moving, position, weight, moving_weight = problem((2, 3, 2), (4, 5, 6), 3, 1)
    _, _, curvature = torch_backend.difference(fixed, moving, position, weight, moving_weight)
    unit = torch.eye(3, dtype=torch.float64)[:, :, None, None, None] * 1e-6

    def residual(at: torch.Tensor) -> torch.Tensor:
        value, _, product = torch_backend._sampled(moving, at, weight, moving_weight)
        return (value - fixed) * (product / (product.sum() * 3)).sqrt()[..., None]

    slopes = [(residual(position + u) - residual(position - u)) / 2e-6 for u in unit]
    pairs = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
    expected = torch.stack([2 * (slopes[a] * slopes[b]).sum(dim=-1) for a, b in pairs])
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(curvature, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("backend", [torch_backend, pytest.param(numba_backend, marks=needs_numba)])
def test_compact_features_give_the_same_difference(backend: Any) -> None:
    fixed, moving, position, weight, moving_weight = (p.float() for p in problem((5, 4, 3), (6, 5, 4), 12, 3))
    images = [(x / x.abs().max()).movedim(-1, 0) for x in (fixed, moving)]
    cost, gradient, curvature = torch_backend.difference(
        *(channels_last(x) for x in images), position, weight, moving_weight
    )
    at = position.clone().requires_grad_()
    stored = [channels_last(compact(x)) for x in images]
    result = feature_difference(*stored, at, weight, moving_weight, backend)
    result.cost.backward()
    assert at.grad is not None
    assert float(result.cost.detach()) == pytest.approx(float(cost), rel=1e-3)
    np.testing.assert_allclose(at.grad, gradient, atol=1e-3 * float(gradient.abs().max()))
    np.testing.assert_allclose(result.curvature, curvature, atol=1e-3 * float(curvature.abs().max()))


def test_compact_features_are_near_and_pool_alike() -> None:
    features = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (3, 5, 6, 7))).float()
    stored = compact(features)
    assert (stored * FEATURE_UNIT - features).abs().max() < 0.51 * FEATURE_UNIT
    np.testing.assert_allclose(pool_compact(stored, 2), pool(features, 2), atol=FEATURE_UNIT)


@pytest.mark.parametrize("moving_shape", [(4, 5, 6), (2, 3, 4), (3, 1, 2)])
def test_gradient_is_the_difference_quotient(moving_shape: tuple[int, ...]) -> None:
    fixed, moving, position, weight, moving_weight = problem((3, 4, 2), moving_shape, 3, 5)

    def cost(at: torch.Tensor) -> torch.Tensor:
        return feature_difference(fixed, moving, at, weight, moving_weight, torch_backend).cost

    assert torch.autograd.gradcheck(cost, (position.requires_grad_(),), eps=1e-6, atol=1e-6)


def test_nothing_to_compare_costs_nothing() -> None:
    fixed, moving, position, weight, moving_weight = (p.float() for p in problem((3, 3, 3), (4, 4, 4), 2, 0))
    for far, weights in ((position + 100, weight), (position, torch.zeros_like(weight))):
        for backend in filter(None, (torch_backend, numba_backend)):
            cost, gradient, curvature = backend.difference(fixed, moving, far, weights, moving_weight)
            assert float(cost) == 0
            assert not gradient.any()
            assert not curvature.any()


def slow_cost(
    fixed: np.ndarray,
    moving: np.ndarray,
    weight: np.ndarray,
    moving_weight: np.ndarray,
    unknown: float,
    radius: int,
) -> np.ndarray:
    """The cost volume before its smoothing, node by node."""
    labels = window(radius).numpy().astype(int)
    last = np.array(weight.shape) - 1
    cost = np.zeros((len(labels), *weight.shape))
    for node in np.ndindex(*weight.shape):
        for number, label in enumerate(labels):
            place = tuple(np.clip(np.add(node, label[::-1]), 0, last))
            difference = fixed[(slice(None), *node)] - moving[(slice(None), *place)]
            known = moving_weight[place]
            cost[(number, *node)] = weight[node] * (known * (difference**2).mean() + (1 - known) * unknown)
    return cost


@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 1, 3)])
@pytest.mark.parametrize("backend", [torch_backend, pytest.param(numba_backend, marks=needs_numba)])
def test_cost_volume_is_the_definition(backend: Any, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    images, weights = rng.normal(size=(2, 3, *shape)), rng.uniform(size=(2, *shape))
    arguments = [torch.from_numpy(x).float() for x in (*images, *weights)]
    expected = box(torch.from_numpy(slow_cost(*images, *weights, 0.7, 2)), repeats=2)
    np.testing.assert_allclose(backend.cost_volume(*arguments, 0.7, 2), expected, rtol=1e-4, atol=1e-5)


@needs_numba
@settings(max_examples=15, deadline=None)
@given(shapes, st.integers(1, 4), st.integers(1, 13), st.integers(0, 1000))
def test_compiled_cost_volume_is_the_reference(
    shape: tuple[int, ...], radius: int, channels: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    images = [torch.from_numpy(rng.normal(size=(channels, *shape))) for _ in range(2)]
    weights = [torch.from_numpy(rng.uniform(size=shape)) for _ in range(2)]
    fast = numba_backend.cost_volume(*(x.float() for x in (*images, *weights)), 0.3, radius)
    exact = torch_backend.cost_volume(*images, *weights, 0.3, radius)
    np.testing.assert_allclose(fast, exact, rtol=1e-4, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(shapes, st.integers(1, 3), st.floats(0, 2), st.integers(0, 1000))
def test_cheapest_is_the_least_sum(shape: tuple[int, ...], radius: int, strength: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = window(radius)
    cost = torch.from_numpy(rng.uniform(size=(len(labels), *shape))).float()
    field = torch.from_numpy(rng.normal(scale=radius, size=(3, *shape))).float()
    distance = (labels.reshape(-1, 3, 1, 1, 1) - field).square().sum(dim=1)
    total = cost + strength * distance
    for backend in filter(None, (torch_backend, numba_backend)):
        found = backend.cheapest(cost, field, strength, radius)
        assert found.shape == field.shape
        number = (
            (found + radius) * torch.tensor([1, 2 * radius + 1, (2 * radius + 1) ** 2])[:, None, None, None]
        ).sum(0)
        chosen = total.gather(0, number.long()[None])[0]
        np.testing.assert_allclose(chosen, total.amin(dim=0), rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("either_path")
@settings(max_examples=15, deadline=None)
@given(shapes.filter(lambda s: min(s) > 1), st.floats(0.1, 4), st.integers(0, 1000))
def test_self_compose_and_its_gradient(shape: tuple[int, int, int], amplitude: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = torch.from_numpy(rng.normal(scale=amplitude, size=(3, *shape)))
    field = off_ties(points + identity(shape)) - identity(shape)
    outer = torch.from_numpy(rng.normal(size=(3, *shape)))
    exact, single = field.clone().requires_grad_(), field.float().requires_grad_()
    expected, result = compose(exact, exact), self_compose(single)
    (expected * outer).sum().backward()
    (result * outer.float()).sum().backward()
    np.testing.assert_allclose(result.detach(), expected.detach(), atol=1e-4)
    assert exact.grad is not None
    np.testing.assert_allclose(single.grad, exact.grad, atol=2e-4 * float(exact.grad.abs().max()))


@needs_numba
@settings(max_examples=30, deadline=None)
@given(shapes, st.integers(0, 1000))
def test_compiled_normal_product_is_the_reference(shape: tuple[int, int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, blocks = (torch.from_numpy(rng.normal(size=(n, *shape))) for n in (3, 6))
    slopes = [torch.from_numpy(rng.uniform(size=x.diff(dim=axis).shape)) for axis in (1, 2, 3)]
    bends = torch.from_numpy(rng.uniform(size=(1, *shape)))
    expected = torch_backend.normal_product(x, blocks, slopes, bends)
    found = kernels.normal_product(x.float(), blocks.float(), [s.float() for s in slopes], bends.float())
    np.testing.assert_allclose(found, expected, atol=1e-5 * max(1.0, float(expected.abs().max())))


def test_a_compiled_kernel_leaves_torch_its_number_of_threads() -> None:
    """In a process of its own, because it is the first kernel of a process that starts numba's threads."""
    pytest.importorskip("numba")
    code = """
import torch
torch.set_num_threads(1)
from masr_registration.transforms.grid import sample
sample(torch.rand(1, 9, 9, 9), 8 * torch.rand(3, 50))
print(torch.get_num_threads())
"""
    variables = {**os.environ, "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "1"


def slow_correlation(fixed: torch.Tensor, moved: torch.Tensor, weight: torch.Tensor) -> float:
    """The definition, window by window."""
    weight = weight.clone()
    for axis in range(3):
        weight.movedim(axis, 0)[[0, -1]] = 0
    total = weights = 0.0
    for place in np.ndindex(*(n - 2 for n in fixed.shape)):
        window = tuple(slice(n, n + 3) for n in place)
        a, m, w = (x[window].numpy() for x in (fixed, moved, weight))
        if w[1, 1, 1] > 0:
            mean_a, mean_m = (np.average(x, weights=w) for x in (a, m))
            own, other = (
                np.average((x - mean) ** 2, weights=w) + torch_backend.VARIANCE_FLOOR
                for x, mean in ((a, mean_a), (m, mean_m))
            )
            covariance = np.average((a - mean_a) * (m - mean_m), weights=w)
            total += w[1, 1, 1] * w.mean() * (1 - covariance**2 / (own * other))
            weights += w[1, 1, 1] * w.mean()
    return total / weights


def test_local_correlation_is_its_definition() -> None:
    rng = np.random.default_rng(0)
    fixed, moving, weight = (torch.from_numpy(rng.uniform(0, 1, (6, 7, 5))) for _ in range(3))
    weight[3, 3:] = 0
    here, ones = identity((6, 7, 5)).double(), torch.ones(6, 7, 5).double()
    cost, _ = local_correlation(fixed, moving, here, weight, ones, torch_backend)
    assert float(cost) == pytest.approx(slow_correlation(fixed, moving, weight), rel=1e-9)


@given(shapes, shapes, st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_gradient_of_the_local_correlation(fixed: Any, moving: Any, seed: int) -> None:
    """Against differences of the cost itself."""
    own, other, position, weight, other_weight = problem(tuple(n + 2 for n in fixed), moving, 1, seed)
    arguments = own[..., 0], other[..., 0], position.requires_grad_(), weight, other_weight, torch_backend
    cost, _ = local_correlation(*arguments)
    (gradient,) = torch.autograd.grad(cost, position)
    direction = torch.from_numpy(np.random.default_rng(seed).normal(size=position.shape))
    step = 1e-6 * direction
    moved = [
        float(local_correlation(*arguments[:2], (position + s).detach(), *arguments[3:]).cost)
        for s in (step, -step)
    ]
    assert (moved[0] - moved[1]) / 2e-6 == pytest.approx(
        float((gradient * direction).sum()), rel=1e-4, abs=1e-6
    )


@needs_numba
@given(shapes, shapes, st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_compiled_local_correlation(fixed: Any, moving: Any, seed: int) -> None:
    """With a mask of whole slices: in a window of one known voxel, single precision leaves nothing but rounding."""
    own, other, position, weight, other_weight = problem(tuple(n + 3 for n in fixed), moving, 1, seed)
    top = torch.tensor([n - 1.0 for n in reversed(moving)], dtype=torch.float64)[:, None, None, None]
    position = off_ties(torch.minimum(position.clamp_min(0.1), (top - 0.1).clamp_min(0)))
    weight, other_weight = 0.2 + 0.8 * weight, 0.2 + 0.8 * other_weight
    weight[..., :2] = 0
    parts = own[..., 0].sigmoid(), other[..., 0].sigmoid(), position, weight, other_weight
    found = numba_backend.correlation(*(p.float().contiguous() for p in parts))
    for result, exact in zip(found, torch_backend.correlation(*parts), strict=True):
        atol = 2e-3 * float(exact.abs().max()) + 2e-4
        torch.testing.assert_close(result.double(), exact, atol=atol, rtol=2e-3)


def test_curvature_of_the_local_correlation_is_that_of_the_linear_relations() -> None:
    """1 - r^2 is the squared residual of a window's best linear relation, over the variance of the fixed image."""
    rng = np.random.default_rng(0)
    shape = (5, 4, 6)
    fixed, moving, weight = (torch.from_numpy(rng.uniform(0.2, 1, shape)) for _ in range(3))
    place, ones = identity(shape).double() * 0.8 + 0.1, torch.ones(shape).double()
    cost, curvature = local_correlation(fixed, moving, place, weight, ones, torch_backend)
    values, slopes, weight = torch_backend._sampled(moving[..., None], place, weight, ones)
    value, slope = values[..., 0].numpy(), torch.stack(slopes)[..., 0].numpy()
    for axis in range(3):
        weight.movedim(axis, 0)[[0, -1]] = 0
    own, w = fixed.numpy(), weight.numpy()
    steep, total = np.zeros(shape), 0.0
    for middle in np.argwhere(w > 0):
        window = tuple(slice(n - 1, n + 2) for n in middle)
        a, m, here = own[window], value[window], w[window]
        mean_a, mean_m = np.average(a, weights=here), np.average(m, weights=here)
        own_variance = np.average((a - mean_a) ** 2, weights=here) + torch_backend.VARIANCE_FLOOR
        variance = np.average((m - mean_m) ** 2, weights=here) + torch_backend.VARIANCE_FLOOR
        factor = np.average((a - mean_a) * (m - mean_m), weights=here) / variance
        counts = w[tuple(middle)] * here.mean()
        steep[window] += counts * 2 * factor**2 / own_variance * here / here.sum()
        total += counts
    pairs = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
    expected = np.stack([slope[a] * slope[b] * steep / total for a, b in pairs])
    assert float(cost) > 0.1
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(curvature, expected, rtol=1e-9, atol=1e-12)


def test_local_correlation_is_blind_to_linear_relations_and_sees_shifts() -> None:
    generator = torch.Generator().manual_seed(0)
    image = box(torch.rand(1, 16, 16, 16, generator=generator))[0]
    ones, here = torch.ones(16, 16, 16), identity((16, 16, 16))
    shifted = here + torch.tensor([1.0, 0, 0])[:, None, None, None]
    inverted = 0.9 - 0.7 * image
    same, other = (
        float(local_correlation(image, inverted, place, ones, ones).cost) for place in (here, shifted)
    )
    assert same < 0.2
    assert other > 0.6
    small = image[:2, :2, :2].contiguous()
    place, weight = here[:, :2, :2, :2], ones[:2, :2, :2].contiguous()
    assert float(local_correlation(small, image, place, weight, ones).cost) == 0
