"""The Gauss-Newton step: that it solves what it says, on problems whose answer is known."""

from __future__ import annotations

import pytest
import torch
from masr_registration.solver import gauss_newton
from masr_registration.solver.gauss_newton import DAMPING, lumped, step
from masr_registration.transforms.grid import lattice_weights, upsample_lattice

SHAPE = (5, 6, 7)


@pytest.fixture(autouse=True)
def _solve_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gauss_newton, "SOLVER_STEPS", 300)


def random_curvature(seed: int) -> torch.Tensor:
    """Positive definite matrices ``(6, d, h, w)``."""
    factor = torch.randn(3, 3, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    full = torch.einsum("ac...,bc...->ab...", factor, factor)
    return torch.stack([full[a, b] for a, b in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))])


def model(
    x: torch.Tensor,
    gradient: torch.Tensor,
    curvature: torch.Tensor,
    weights: list[torch.Tensor],
    bends: torch.Tensor,
) -> torch.Tensor:
    """The quadratic that the step should minimise, written out."""
    xx, yy, zz, xy, xz, yz = curvature
    i, j, k = x
    own = xx * i * i + yy * j * j + zz * k * k + 2 * (xy * i * j + xz * i * k + yz * j * k)
    own = own + DAMPING * curvature[:3].mean() * x.square().sum(dim=0)
    slopes = [x.diff(dim=axis) for axis in (1, 2, 3)]
    padded = [
        torch.cat([torch.zeros_like(s.narrow(a, 0, 1)), s, torch.zeros_like(s.narrow(a, 0, 1))], dim=a)
        for a, s in enumerate(slopes, start=1)
    ]
    bend = torch.stack([p.diff(dim=a) for a, p in enumerate(padded, start=1)]).sum(dim=0).square()
    result = (gradient * x).sum() + own.sum() / 2 + (bends * bend).sum() / 2
    for slope, weight in zip(slopes, weights, strict=True):
        result = result + (weight * slope.square()).sum() / 2
    return result


def uniform(
    slopes: float, bends: float, dtype: torch.dtype = torch.float32
) -> tuple[list[torch.Tensor], torch.Tensor]:
    x = torch.ones(3, *SHAPE, dtype=dtype)
    return [slopes * torch.ones_like(x.diff(dim=axis)) for axis in (1, 2, 3)], bends * x[:1]


@pytest.mark.parametrize("varied", [False, True])
def test_the_step_is_the_minimum_of_the_quadratic_model(varied: bool) -> None:
    gradient = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    curvature = random_curvature(2)
    weights, bends = uniform(0.6, 0.3, torch.float64)
    if varied:
        weights, bends = [torch.rand_like(w) for w in weights], torch.rand_like(bends)
    found = step(gradient, curvature, weights, bends).requires_grad_()
    assert found.abs().max() > 0.1
    value = model(found, gradient, curvature, weights, bends)
    (slope,) = torch.autograd.grad(value, found)
    assert slope.abs().max() < 1e-6 * gradient.abs().max()


def test_a_place_without_structure_follows_its_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gauss_newton, "DAMPING", 1e-9)
    curvature, gradient = torch.zeros(6, *SHAPE), torch.zeros(3, *SHAPE)
    curvature[:3, :, :, :3] = 1.0
    gradient[0, :, :, :3] = -1.0
    found = step(gradient, curvature, *uniform(0.016, 0.008))
    torch.testing.assert_close(found[0], torch.ones(SHAPE), atol=0.02, rtol=0)
    assert found[1:].abs().max() < 1e-6


def test_no_force_no_step() -> None:
    assert not step(torch.zeros(3, *SHAPE), torch.zeros(6, *SHAPE), *uniform(0.01, 0.01)).any()


def test_lumped_curvature_is_that_of_a_constant_velocity() -> None:
    """``H v v`` over the lattice, for a velocity that is the same at all nodes, also where the lattice leaves them."""
    generator = torch.Generator().manual_seed(3)
    at = [torch.linspace(-0.7, n - 0.2, 9, dtype=torch.float64) for n in SHAPE]
    curvature = torch.rand(6, 9, 9, 9, generator=generator, dtype=torch.float64)
    nodes = lumped(curvature, [lattice_weights(p, n) for p, n in zip(at, SHAPE, strict=True)])
    field = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)[:, None, None, None].expand(3, *SHAPE)
    i, j, k = upsample_lattice(field, (at[0], at[1], at[2]))
    products = torch.stack((i * i, j * j, k * k, 2 * i * j, 2 * i * k, 2 * j * k))
    a, b, c = field
    at_nodes = torch.stack((a * a, b * b, c * c, 2 * a * b, 2 * a * c, 2 * b * c))
    torch.testing.assert_close((nodes * at_nodes).sum(), (curvature * products).sum())
    assert (nodes[:3] > 0).all()
