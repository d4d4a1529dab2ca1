"""The continuous stage: a symmetric velocity that improves the match, forwards and backwards."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from masr_registration.presets import Continuous
from masr_registration.representation.self_similarity import mind_ssc
from masr_registration.solver import instance
from masr_registration.solver.instance import (
    BENDS,
    GENTLE_SLOPE,
    SLOPES,
    STEEP,
    Pair,
    Term,
    Velocity,
    optimise,
    roughness,
    steepness,
)
from masr_registration.solver.kernels import compact, feature_difference, pool_compact
from masr_registration.transforms.grid import compose, identity, resize, upsample_lattice
from masr_registration.transforms.velocity import exponential
from phantoms import Head, geometry, smooth_field

SHAPE = (40, 40, 40)
SPACING_MM = 2.0
HEAD = Head(radii=(13.0, 12.0, 13.0))
INDEX = identity(SHAPE)
INSIDE = torch.from_numpy(HEAD.contains(INDEX.movedim(0, -1).numpy() - 19.5))
WARP = smooth_field(geometry(SHAPE), 3.0, 5, wavelength=2.0).displacement
"""Truth in voxels: the fixed image shows at x what the moving one shows at x + WARP(x)."""
SETTINGS = Continuous(control_spacing_mm=8.0, iterations=(4, 12))


def image(displacement: torch.Tensor, shade: str) -> torch.Tensor:
    places = (INDEX + displacement).movedim(0, -1).double().numpy() - 19.5
    return torch.from_numpy(HEAD(places, shade)).float() / 1000


def features(displacement: torch.Tensor, shade: str) -> torch.Tensor:
    return compact(mind_ssc(image(displacement, shade)))


def solve(
    swap: bool = False, weight: torch.Tensor | None = None
) -> tuple[Velocity, list[tuple[float, float]]]:
    """Velocity, and fraction done and dissimilarity at every step."""
    images = [image(WARP, "t1"), image(torch.zeros_like(WARP), "t2")]
    ones = torch.ones(SHAPE)
    weights = [ones if weight is None else weight, ones]
    if swap:
        images.reverse()
        weights.reverse()
    velocity = Velocity(SHAPE, SPACING_MM, SETTINGS.control_spacing_mm)
    steps: list[tuple[float, float]] = []
    optimise(
        Pair(*(compact(mind_ssc(x)) for x in images), *weights, SPACING_MM, *images),
        velocity,
        SETTINGS,
        0,
        lambda fraction, metrics: steps.append((fraction, metrics["dissimilarity"])),
    )
    return velocity, steps


@pytest.fixture(scope="module")
def solved() -> tuple[Velocity, list[tuple[float, float]]]:
    return solve()


def displacement(velocity: Velocity, sign: int = 1) -> torch.Tensor:
    """On the working grid, in its voxels."""
    half = exponential(sign * velocity.on_stride(2))
    return resize(half, SHAPE) * 2


def test_the_warp_is_found(solved: tuple[Velocity, list[tuple[float, float]]]) -> None:
    velocity, steps = solved
    before = WARP.norm(dim=0)[INSIDE].mean()
    after = (displacement(velocity) - WARP).norm(dim=0)[INSIDE].mean()
    assert before > 1.5
    assert after < 0.5 * before
    losses = [loss for _, loss in steps]
    coarse, fine = SETTINGS.iterations
    assert len(losses) == coarse + fine
    assert losses[coarse - 1] < 0.7 * losses[0]
    assert np.mean(losses[-4:]) < np.mean(losses[coarse : coarse + 4])
    fractions = [fraction for fraction, _ in steps]
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1)


def test_the_loss_of_mind_alone_is_its_mean_squared_difference_both_ways() -> None:
    velocity = random_velocity(SPACING_MM, 8.0, 0.3)
    shape = velocity.working_shape
    generator = torch.Generator().manual_seed(0)
    maps = [torch.rand(*shape, 12, generator=generator) for _ in range(2)]
    weights = [torch.rand(shape, generator=generator) for _ in range(2)]
    flows = tuple(exponential(sign * velocity.at_nodes()) for sign in (1, -1))
    offset = (1, 0, 1)
    k, j, i = (slice(o, None, 2) for o in offset)
    expected, curvature = (
        torch.zeros(()),
        torch.zeros(6, *(len(range(o, n, 2)) for o, n in zip(offset, shape, strict=True))),
    )
    for flow, own, other in ((flows[0], 0, 1), (flows[1], 1, 0)):
        axes = [
            (torch.arange(o, n, 2) + 0.5) / velocity.step - 0.5 for o, n in zip(offset, shape, strict=True)
        ]
        position = identity(shape)[:, k, j, i] + upsample_lattice(flow, tuple(axes)) * velocity.step
        found = feature_difference(
            maps[own][k, j, i].contiguous(),
            maps[other],
            position,
            weights[own][k, j, i].contiguous(),
            weights[other],
        )
        expected, curvature = expected + found.cost, curvature + found.curvature
    term = Term(velocity, maps, weights, stride=2)
    positions = term.positions(flows, offset)
    loss, at_nodes = term.compared(positions, offset)
    assert torch.equal(loss, expected)
    torch.testing.assert_close(at_nodes.sum(dim=(1, 2, 3)), curvature.sum(dim=(1, 2, 3)) * velocity.step**2)
    shared = Term(velocity, maps, weights, stride=2, share=0.25).compared(positions, offset)
    torch.testing.assert_close(shared[0], loss / 4)
    torch.testing.assert_close(shared[1], at_nodes / 4)


def test_a_second_map_at_half_resolution_guides_where_the_first_says_nothing() -> None:
    flat = [compact(torch.ones(12, *SHAPE)) for _ in range(2)]
    ones = [torch.ones(SHAPE)] * 2
    dsir = [pool_compact(features(shift, "t1"), 2) for shift in (WARP, torch.zeros_like(WARP))]
    velocity = Velocity(SHAPE, SPACING_MM, SETTINGS.control_spacing_mm)
    optimise(Pair(*flat, *ones, SPACING_MM, *ones, *dsir), velocity, SETTINGS, 0, lambda *_: None)
    error = (displacement(velocity) - WARP).norm(dim=0)[INSIDE].mean()
    assert error < 0.5 * WARP.norm(dim=0)[INSIDE].mean()


def test_the_last_level_looks_at_the_intensities_too() -> None:
    flat = [compact(torch.ones(12, *SHAPE)) for _ in range(2)]
    images = [image(WARP, "t1"), 1 - 0.5 * image(torch.zeros_like(WARP), "t1")]
    ones = [torch.ones(SHAPE)] * 2
    velocity = Velocity(SHAPE, SPACING_MM, SETTINGS.control_spacing_mm)
    settings = replace(SETTINGS, iterations=(0, 16))
    optimise(Pair(*flat, *ones, SPACING_MM, *images), velocity, settings, 0, lambda *_: None)
    error = (displacement(velocity) - WARP).norm(dim=0)[INSIDE].mean()
    assert error < 0.7 * WARP.norm(dim=0)[INSIDE].mean()


def test_backwards_is_the_inverse(solved: tuple[Velocity, list[tuple[float, float]]]) -> None:
    velocity, _ = solved
    field = velocity.on_stride(2)
    there_and_back = compose(exponential(field), exponential(-field)).norm(dim=0)
    assert there_and_back.mean() < 0.03
    assert there_and_back.max() < 0.5
    assert exponential(field).norm(dim=0).max() > 1


def test_swapped_images_give_the_inverse(solved: tuple[Velocity, list[tuple[float, float]]]) -> None:
    velocity, _ = solved
    swapped, _ = solve(swap=True)
    scale = velocity.coefficients.abs().max()
    assert scale > 0.1
    assert (swapped.coefficients + velocity.coefficients).abs().max() < 0.02 * scale


def test_where_an_image_says_nothing_the_field_stays_smooth_and_small() -> None:
    weight = torch.ones(SHAPE)
    weight[:, :, 18:] = 0
    velocity, _ = solve(weight=weight)
    found = displacement(velocity)
    seen, hidden = INSIDE.clone(), INSIDE.clone()
    seen[:, :, 14:] = False
    hidden[:, :, :26] = False
    assert (found - WARP).norm(dim=0)[seen].mean() < 0.6 * WARP.norm(dim=0)[seen].mean()
    assert found.norm(dim=0)[hidden].mean() < 0.5 * WARP.norm(dim=0)[hidden].mean()


def test_unknown_space_around_and_equal_weights_change_nothing() -> None:
    """The smoothness weighs the same beside the images: in a larger grid, and where all voxels count half."""
    images = [image(WARP, "t1"), image(torch.zeros_like(WARP), "t2")]
    minds, ones = [mind_ssc(x) for x in images], torch.ones(SHAPE)
    settings = replace(SETTINGS, iterations=(8, 4), regularisation=20.0)

    def found(pad: int, share: float) -> torch.Tensor:
        def wide(x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.pad(x, (pad,) * 6)

        weights = [wide(ones * share), wide(ones)]
        features = [compact(torch.stack([wide(channel) for channel in mind])) for mind in minds]
        shape = (SHAPE[0] + 2 * pad, SHAPE[1] + 2 * pad, SHAPE[2] + 2 * pad)
        velocity = Velocity(shape, SPACING_MM, SETTINGS.control_spacing_mm)
        pair = Pair(features[0], features[1], *weights, SPACING_MM, *(wide(x) for x in images))
        optimise(pair, velocity, settings, 0, lambda *_: None)
        inner = slice(pad // velocity.step, (pad + SHAPE[0]) // velocity.step)
        return exponential(velocity.at_nodes())[:, inner, inner, inner][:, 3:-3, 3:-3, 3:-3]

    alone = found(16, 1.0)
    assert alone.abs().max() > 0.2
    torch.testing.assert_close(found(16, 0.5), alone, atol=2e-3, rtol=0)
    change = (found(32, 1.0) - alone).norm(dim=0).mean() / alone.norm(dim=0).mean()
    assert change < 0.03


def random_velocity(spacing_mm: float, control_spacing_mm: float, amplitude: float) -> Velocity:
    velocity = Velocity((40, 48, 56), spacing_mm, control_spacing_mm)
    rng = np.random.default_rng(0)
    velocity.coefficients = torch.from_numpy(rng.normal(size=velocity.coefficients.shape)).float() * amplitude
    return velocity


@pytest.mark.parametrize(("spacing", "control"), [(1.0, 4.0), (1.5, 4.0), (2.0, 4.0), (1.0, 7.0)])
def test_the_velocity_fades_to_zero_at_the_border_of_every_grid(spacing: float, control: float) -> None:
    velocity = random_velocity(spacing, control, 1.0)
    for field in (velocity.at_nodes(), velocity.on_stride(2), velocity.on_stride(4)):
        for axis in (1, 2, 3):
            assert not field.movedim(axis, 0)[[0, -1]].any()
        assert field.abs().amax() > 0.5


def test_nodes_and_the_working_grid_show_one_velocity() -> None:
    velocity = random_velocity(2.0, 8.0, 0.3)
    assert torch.allclose(velocity.on_stride(4), velocity.at_nodes(), atol=1e-5)
    half = velocity.on_stride(2)
    blocks = half.unfold(1, 2, 2).unfold(2, 2, 2).unfold(3, 2, 2).mean(dim=(-1, -2, -3)) / 2
    inner = (slice(None), *(slice(4, -4),) * 3)
    difference = (blocks - velocity.at_nodes())[inner]
    assert difference.square().mean() < 0.15 * velocity.at_nodes()[inner].square().mean()


def test_fit_starts_from_given_displacements() -> None:
    truth = Velocity((64, 56, 48), 1.0, 4.0)
    smooth = smooth_field(geometry(tuple(reversed(truth.coefficients.shape[1:]))), 1.2, 2, wavelength=2.0)
    truth.coefficients = smooth.displacement
    field = truth.at_nodes()
    velocity = Velocity((64, 56, 48), 1.0, 4.0)
    velocity.fit(exponential(field), exponential(-field))
    assert field.norm(dim=0).max() > 0.7
    assert (velocity.at_nodes() - field).norm(dim=0).mean() < 0.25 * field.norm(dim=0).mean()


def test_a_change_at_the_nodes_is_nearly_met() -> None:
    """For waves of four nodes, of which the spline with the changes as its coefficients misses a third."""
    velocity = Velocity((48, 48, 48), 2.0, 8.0)
    wanted = torch.sin(identity(velocity.nodes)[:1] * torch.pi / 2 + 0.3).expand(3, -1, -1, -1)
    velocity.coefficients = velocity.change(wanted)
    inner = (slice(None), *(slice(2, -2),) * 3)
    left = (velocity.at_nodes() - wanted)[inner].abs().max()
    assert velocity.fade()[inner[1:]].min() == 1
    assert left < 0.05 * wanted[inner].abs().max()


def test_no_node_moves_farther_than_a_step_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that differ by an edge far away ask for more than that at once."""
    far = torch.zeros_like(WARP)
    far[0] = 9.0
    images = [image(far, "t1"), image(torch.zeros_like(far), "t1")]
    ones = [torch.ones(SHAPE)] * 2
    settings = replace(SETTINGS, iterations=(1, 0), regularisation=1e-4)

    def longest() -> float:
        velocity = Velocity(SHAPE, SPACING_MM, SETTINGS.control_spacing_mm)
        minds = [compact(mind_ssc(x)) for x in images]
        optimise(Pair(*minds, *ones, SPACING_MM, *images), velocity, settings, 0, lambda *_: None)
        return float(velocity.at_nodes().norm(dim=0).max())

    assert longest() > 0.3
    monkeypatch.setattr(instance, "LONGEST_STEP", 0.1)
    assert 0.05 < longest() < 0.13


def along_i(values: torch.Tensor) -> torch.Tensor:
    """A velocity ``(3, D, H, W)`` along i that varies along i alone."""
    field = torch.zeros(3, *SHAPE)
    field[0] = values
    return field


def test_a_linear_stretch_is_smoother_than_a_bent_one_of_the_same_size() -> None:
    """Both change by the same amount between neighbours, but only one keeps the direction of the change."""
    i, small = torch.arange(SHAPE[2]), 1e-3
    assert roughness(along_i(i * small)) == pytest.approx(SLOPES * small**2 / 3, rel=1e-2)
    zigzag = roughness(along_i((i % 2) * small))
    assert zigzag == pytest.approx(SLOPES * small**2 / 3 + BENDS * 4 * small**2 / 3, rel=1e-2)


def test_a_steep_place_costs_much_less_than_by_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    i = torch.arange(SHAPE[2])
    steep, gentle = (along_i(((i - 8) / width).clamp(0, 1)) for width in (1, 8))
    robust = roughness(steep) / roughness(gentle)
    for name in ("GENTLE_SLOPE", "GENTLE_BEND"):
        monkeypatch.setattr(instance, name, 100.0)
    assert 1 < robust < 0.5 * roughness(steep) / roughness(gentle)


@pytest.mark.parametrize("size", [0.2, 3.0])
def test_the_gradient_of_the_smoothness(size: float) -> None:
    field = size * STEEP * torch.randn(3, 6, 7, 8, generator=torch.Generator().manual_seed(0))
    field.requires_grad_()
    loss = 2.0 * roughness(field) + instance.STEEP_WEIGHT * steepness(field)
    (truth,) = torch.autograd.grad(loss, field)
    torch.testing.assert_close(instance._smoothness(field.detach(), 2.0)[0], truth)


def test_the_curvature_of_the_slopes_gives_their_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The robust cost is majorised by a quadratic that touches it: their gradients agree."""
    monkeypatch.setattr(instance, "BENDS", 0.0)
    field = GENTLE_SLOPE * torch.randn(3, 6, 7, 8, generator=torch.Generator().manual_seed(0))
    field.requires_grad_()
    (truth,) = torch.autograd.grad(2.0 * roughness(field), field)
    _, slopes, bends = instance._smoothness(field.detach(), 2.0)
    quadratic = [(w * field.diff(dim=axis).square()).sum() / 2 for axis, w in enumerate(slopes, start=1)]
    (found,) = torch.autograd.grad(torch.stack(quadratic).sum(), field)
    torch.testing.assert_close(found, truth)
    assert bends.shape == (1, 6, 7, 8)
    assert not bends.any()


def test_the_curvature_of_the_bends_gives_their_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they are small and along one axis: for those the Laplacian is all there is."""
    monkeypatch.setattr(instance, "SLOPES", 0.0)
    field = along_i(1e-3 * torch.randn(SHAPE[2], generator=torch.Generator().manual_seed(0)))
    bends = instance._smoothness(field, 2.0)[2]
    bent = field[:, :, :, :-2] - 2 * field[:, :, :, 1:-1] + field[:, :, :, 2:]
    found = float((bends[:, :, :, 1:-1] * bent.square()).sum() / 2)
    assert found == pytest.approx(2.0 * float(roughness(field)), rel=0.1)


def test_only_what_is_too_steep_costs_extra() -> None:
    assert steepness(INDEX[:1] * 0.9 * STEEP) == 0
    assert steepness(INDEX[:1] * (STEEP + 0.5)) == pytest.approx(0.25)
