"""The exponential and its split into factors that are provably one-to-one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from masr_registration.transforms.chain import DisplacementField, TransformChain
from masr_registration.transforms.grid import compose
from masr_registration.transforms.jacobian import STRICT_BOUND, fold_count, row_bound
from masr_registration.transforms.velocity import exponential, one_to_one_factors
from masr_registration.volume import Geometry
from phantoms import OBLIQUE, geometry, points_in, points_of, smooth_field

SHAPE = (10, 12, 11)


def smooth_velocity(amplitude: float, seed: int = 0, finer: int = 1) -> torch.Tensor:
    """In voxels, on a grid `finer` times as large as `SHAPE`."""
    width, height, depth = (finer * n for n in reversed(SHAPE))
    return smooth_field(geometry((width, height, depth)), amplitude, seed).displacement


def hostile_velocity(seed: int, amplitude: float, blocks: int) -> torch.Tensor:
    """White noise, smooth over about `blocks` voxels, zero at the border."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.normal(size=(3, *(max(2, n // blocks) for n in SHAPE)))).float()
    noise = torch.nn.functional.interpolate(coarse[None], size=SHAPE, mode="trilinear")[0] * amplitude
    result = torch.zeros(3, *SHAPE)
    result[:, 1:-1, 1:-1, 1:-1] = noise[:, 1:-1, 1:-1, 1:-1]
    return result


def in_voxels(field: DisplacementField) -> torch.Tensor:
    basis = torch.tensor(field.geometry.physical_to_index[:3, :3], dtype=torch.float32)
    return torch.einsum("ab,bdhw->adhw", basis, field.displacement)


def residuals(
    forward: list[DisplacementField], backward: list[DisplacementField], points: np.ndarray
) -> torch.Tensor:
    """Distances in mm from points to themselves there and back, in both orders."""
    start = torch.from_numpy(points)
    one, other = TransformChain(tuple(forward)), TransformChain(tuple(backward))
    return torch.cat([(b.apply(a.apply(start)) - start).norm(dim=1) for a, b in ((one, other), (other, one))])


def test_exponential_of_a_growth_is_known() -> None:
    n, rate = 21, 0.6
    axis = torch.arange(n) - (n - 1) / 2
    velocity = torch.zeros(3, n, n, n)
    velocity[0] = rate * axis
    inner = slice(6, 15)
    displacement = exponential(velocity, step_voxels=0.05)[0, 10, 10, inner]
    assert torch.allclose(displacement, (math.exp(rate) - 1) * axis[inner], atol=0.03)


def test_a_shift_is_its_own_exponential() -> None:
    velocity = torch.zeros(3, *SHAPE) + torch.tensor([3.0, -2.0, 1.0])[:, None, None, None]
    assert torch.allclose(exponential(velocity), velocity, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_backwards_undoes_forwards(seed: int) -> None:
    velocity = smooth_velocity(3.0, seed, finer=2)
    there_and_back = compose(exponential(velocity), exponential(-velocity))
    assert there_and_back.norm(dim=0).max() < 0.2
    assert compose(velocity, -velocity).norm(dim=0).max() > 0.8


def test_gradient_reaches_the_velocity() -> None:
    velocity = smooth_velocity(2.0).requires_grad_()
    weights = torch.from_numpy(np.random.default_rng(5).normal(size=(3, *SHAPE))).float()
    (exponential(velocity) * weights).sum().backward()
    direction = smooth_velocity(1.0, seed=7)
    step = 1e-2
    with torch.no_grad():
        rise = (
            (exponential(velocity + step * direction) - exponential(velocity - step * direction)) * weights
        ).sum() / (2 * step)
    assert velocity.grad is not None
    assert float((velocity.grad * direction).sum()) == pytest.approx(float(rise), rel=0.03)


def test_nothing_moves_without_velocity() -> None:
    assert one_to_one_factors(torch.zeros(3, *SHAPE), geometry(SHAPE[::-1])) == ([], [])


@pytest.mark.parametrize(
    "grid", [geometry(SHAPE[::-1]), geometry(SHAPE[::-1], (2.0,) * 3, OBLIQUE, (50, 0, 9))]
)
def test_factors_make_the_exponential(grid: Geometry) -> None:
    velocity = smooth_velocity(3.0)
    forward, _ = one_to_one_factors(velocity, grid)
    assert len(forward) > 1
    dense = DisplacementField(TransformChain(tuple(forward)).dense(grid), grid)
    difference = in_voxels(dense) - exponential(velocity, step_voxels=0.05)
    assert difference[:, 2:-2, 2:-2, 2:-2].norm(dim=0).max() < 0.15


@settings(max_examples=15, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(
    seed=st.integers(0, 10_000),
    amplitude=st.one_of(st.floats(0.01, 30), st.sampled_from([1e3, 1e6])),
    blocks=st.sampled_from([1, 3, 5]),
)
def test_hostile_velocities_end_in_strict_invertible_factors(
    seed: int, amplitude: float, blocks: int
) -> None:
    grid = geometry(SHAPE[::-1], (2.0,) * 3, OBLIQUE, (50.0, 0.0, 9.0))
    forward, backward = one_to_one_factors(hostile_velocity(seed, amplitude, blocks), grid)
    assert len(forward) == len(backward) > 0
    for field in {id(f): f for f in forward + backward}.values():
        assert row_bound(in_voxels(field)).max() < STRICT_BOUND
    nodes = torch.from_numpy(points_of(grid)).reshape(-1, 3)
    assert (forward[0].apply(backward[0].apply(nodes)) - nodes).norm(dim=1).max() < 5e-3
    assert residuals(forward[:1], backward[:1], points_in(grid, 400, 6.0)).max() < 0.5
    assert residuals(forward, backward, points_in(grid, 400, 6.0)).max() < 3.0


def test_a_realistic_velocity_inverts_within_the_promised_error() -> None:
    grid = geometry((30, 30, 30), (2.0,) * 3, OBLIQUE)
    velocity = smooth_field(grid, 4.0).displacement
    forward, backward = one_to_one_factors(velocity, grid)
    error = residuals(forward, backward, points_in(grid, 2000, 20.0))
    assert error.mean() < 0.05
    assert error.max() < 0.5
    assert fold_count(TransformChain(tuple(forward)).dense(grid), grid) == 0
