"""Sampling, splines and alignment of grids."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from masr_registration.transforms.grid import (
    bspline_controls,
    bspline_upsample,
    compose,
    identity,
    inside,
    pool,
    resize,
    sample,
    upsample_lattice,
    warp,
)

pytestmark = pytest.mark.usefixtures("either_path")
SHAPES = [(5, 6, 7), (2, 3, 9), (4, 2, 2)]


def random_image(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).float()


def random_index(shape: tuple[int, int, int], count: int, beyond: float, seed: int = 1) -> torch.Tensor:
    """Indices ``(3, count)`` from -`beyond` to n - 1 + `beyond` along each axis, components (i, j, k)."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(
        np.stack([rng.uniform(-beyond, n - 1 + beyond, count) for n in reversed(shape)])
    ).float()


@pytest.mark.parametrize("shape", SHAPES)
def test_sample_is_the_linear_interpolation_of_itk(shape: tuple[int, int, int]) -> None:
    image = random_image((1, *shape))
    index = random_index(shape, 300, 0.499)
    itk = sitk.GetImageFromArray(image[0].numpy())
    expected = [itk.EvaluateAtContinuousIndex(p, sitk.sitkLinear) for p in index.T.double().tolist()]
    np.testing.assert_allclose(sample(image, index, zeros=True)[0], expected, atol=2e-5)


def test_outside_is_the_edge_or_zero() -> None:
    shape = (5, 6, 7)
    image = random_image((2, *shape))
    index = random_index(shape, 500, 6.0)
    last = torch.tensor([6.0, 5.0, 4.0])[:, None]
    outside = ((index < -0.5) | (index > last + 0.5)).any(dim=0)
    assert 50 < outside.sum() < 500
    edge = sample(image, torch.minimum(index.clamp_min(0), last))
    assert torch.allclose(sample(image, index), edge, atol=1e-6)
    zeros = sample(image, index, zeros=True)
    assert (zeros[:, outside] == 0).all()
    assert torch.allclose(zeros[:, ~outside], edge[:, ~outside], atol=1e-6)


def test_nearest_takes_a_voxels_own_value() -> None:
    shape = (5, 6, 7)
    image = random_image((1, *shape))
    index = random_index(shape, 400, 0.49)
    i, j, k = index.round().long()
    assert torch.equal(sample(image, index, nearest=True)[0], image[0, k, j, i])


def test_inside_includes_half_a_voxel_around() -> None:
    places = torch.tensor([-0.51, -0.5, 0.0, 3.0, 3.49, 3.51])
    zero = torch.zeros_like(places)
    expected = torch.tensor([False, True, True, True, True, False])
    for axis in range(3):
        index = torch.stack([places if a == axis else zero for a in range(3)])
        assert torch.equal(inside(index, (4, 4, 4)), expected)


def test_warp_and_compose_of_shifts() -> None:
    ramp = identity((6, 7, 8))
    shift = torch.tensor([1.0, -1.0, 0.5])[:, None, None, None].expand(3, 6, 7, 8)
    moved = warp(ramp, shift)
    assert torch.allclose(moved[:, 1:-1, 1:-1, 1:-1], (ramp + shift)[:, 1:-1, 1:-1, 1:-1], atol=1e-5)
    assert torch.allclose(compose(shift, shift), 2 * shift)


def test_composition_is_the_map_of_the_map() -> None:
    shape = (7, 8, 9)
    outer, inner = random_image((3, *shape), 1), 0.5 * random_image((3, *shape), 2)
    points = identity(shape) + inner
    expected = points + sample(outer, points) - identity(shape)
    assert torch.allclose(compose(outer, inner), expected, atol=1e-5)


@pytest.mark.parametrize("step", [1, 2, 4])
@pytest.mark.parametrize("shape", [(9, 10, 13), (2, 1, 5)])
def test_splines_reproduce_constants_and_ramps(shape: tuple[int, int, int], step: int) -> None:
    controls, offsets = zip(*(bspline_controls(n, step) for n in shape), strict=True)
    ones = bspline_upsample(torch.ones(1, *controls), shape, step)
    assert torch.allclose(ones, torch.ones(1, *shape), atol=1e-5)
    k, j, i = (o + step * torch.arange(n) for o, n in zip(offsets, controls, strict=True))
    ramp = (2 * i + 3 * j[:, None] - k[:, None, None])[None].float()
    x, y, z = identity(shape)
    assert torch.allclose(bspline_upsample(ramp, shape, step)[0], 2 * x + 3 * y - z, atol=1e-3)


def test_splines_have_local_support() -> None:
    controls = [bspline_controls(n, 3)[0] for n in (16, 16, 16)]
    single = torch.zeros(1, *controls)
    single[0, 4, 4, 4] = 1
    field = bspline_upsample(single, (16, 16, 16), 3)[0]
    assert field.max() == pytest.approx((2 / 3) ** 3, rel=0.35)
    touched = (field != 0).nonzero()
    assert (touched.amax(0) - touched.amin(0)).max() < 4 * 3


def voxel_centres(n: int, voxel: float) -> torch.Tensor:
    """Positions along an axis that begins at 0, in units of the finest voxel."""
    return (torch.arange(n) + 0.5) * voxel


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_pool_and_resize_leave_a_ramp_where_it_was(axis: int) -> None:
    shape = [1, 5, 5, 5]
    shape[axis] = 16
    view = [1, 1, 1, 1]
    view[axis] = -1
    ramp = voxel_centres(16, 1).reshape(view).expand(*shape)
    pooled = pool(ramp, 4)
    assert torch.allclose(pooled, voxel_centres(4, 4).reshape(view).expand_as(pooled))
    back = resize(pooled, tuple(shape[1:]))
    inner = slice(2, -2)
    assert torch.allclose(
        back.movedim(axis, -1)[..., inner],
        ramp.movedim(axis, -1)[..., inner].expand_as(back.movedim(axis, -1)[..., inner]),
    )


def test_pool_completes_the_last_block_with_the_edge() -> None:
    pooled = pool(torch.arange(5.0).reshape(1, 1, 1, 5), 2)
    assert pooled.shape == (1, 1, 1, 3)
    assert pooled.flatten().tolist() == [0.5, 2.5, 4.0]


def test_a_lattice_is_a_sample() -> None:
    field = random_image((3, 5, 6, 7))
    positions = tuple(torch.linspace(-2, n + 1, m) for n, m in ((5, 9), (6, 4), (7, 11)))
    k, j, i = torch.meshgrid(*positions, indexing="ij")
    assert torch.allclose(
        upsample_lattice(field, positions), sample(field, torch.stack((i, j, k))), atol=1e-5
    )
