"""Self-similarity against a slow and obvious version of its definition."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import pytest
import torch
from masr_registration.representation import self_similarity
from masr_registration.representation.self_similarity import (
    FACES,
    PAIRS,
    deep_neighbourhood_self_similarity,
    mind_ssc,
)

SHAPE = (5, 6, 7)
either_path = pytest.mark.usefixtures("either_path")


def image(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def slow(features: np.ndarray, radius: int, patch_radius: int, subtract_minimum: bool) -> np.ndarray:
    """One channel ``(D, H, W)``, voxel by voxel: ``(12, D, H, W)``."""
    shape = features.shape
    patch = list(itertools.product(range(-patch_radius, patch_radius + 1), repeat=3))

    def value(place: np.ndarray) -> float:
        return float(features[tuple(np.clip(place, 0, np.array(shape) - 1))])

    distance = np.zeros((12, *shape))
    for voxel in np.ndindex(*shape):
        for number, (a, b) in enumerate(PAIRS):
            for offset in patch:
                place = np.add(voxel, offset)
                first = value(place + radius * np.array(FACES[a]))
                second = value(place + radius * np.array(FACES[b]))
                distance[(number, *voxel)] += (first - second) ** 2 / len(patch)
        if subtract_minimum:
            distance[(slice(None), *voxel)] -= distance[(slice(None), *voxel)].min()
    variance = distance.mean(axis=0)
    typical = variance.mean()
    variance = np.clip(
        variance,
        typical * self_similarity.VARIANCE_FLOOR,
        typical * self_similarity.VARIANCE_CEILING,
    )
    return np.exp(-distance / variance)


def test_the_twelve_pairs_are_the_edges_of_the_octahedron() -> None:
    assert len(PAIRS) == len({frozenset(p) for p in PAIRS}) == 12
    assert sorted(np.abs(FACES).sum(axis=1)) == [1] * 6
    lengths = [np.linalg.norm(np.subtract(FACES[a], FACES[b])) for a, b in PAIRS]
    assert lengths == pytest.approx([np.sqrt(2)] * 12)


@cache
def slow_mind(radius: int) -> tuple[np.ndarray, np.ndarray]:
    array = image()
    array[2:4, 2:4, 2:5] = 0.3  # a flat place, where the variance is held up
    return array, slow(array, radius, 1, True)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize("radius", [1, 2])
@either_path
def test_mind_ssc_equals_the_slow_version_everywhere(
    radius: int, dtype: torch.dtype, tolerance: float
) -> None:
    array, expected = slow_mind(radius)
    fast = mind_ssc(torch.from_numpy(array).to(dtype), radius, patch_radius=1).numpy()
    np.testing.assert_allclose(fast, expected, atol=tolerance)


@pytest.mark.parametrize(("radius", "patch_radius"), [(1, 1), (2, 1), (1, 2), (2, 0)])
def test_an_image_of_many_slices_has_no_seams(radius: int, patch_radius: int) -> None:
    image = torch.from_numpy(np.random.default_rng(3).random((37, 9, 11)))
    expected = mind_ssc(image, radius, patch_radius=patch_radius)
    found = mind_ssc(image.float(), radius, patch_radius=patch_radius)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-4)


def test_dns_keeps_channels_and_has_two_layouts() -> None:
    arrays = image(1, (3, *SHAPE)) * np.array([1, 50, 0.02])[:, None, None, None]
    fast = deep_neighbourhood_self_similarity(torch.from_numpy(arrays)).numpy()
    assert fast.shape == (24, 3, *SHAPE)
    for channel in range(3):
        expected = np.concatenate([slow(arrays[channel], radius, 0, False) for radius in (1, 2)])
        np.testing.assert_allclose(fast[:, channel], expected, atol=1e-9)


@pytest.mark.parametrize(("gain", "offset"), [(3.0, 100.0), (0.01, -2.0), (-1.0, 1.0)])
@either_path
def test_a_change_of_contrast_changes_nothing(gain: float, offset: float) -> None:
    array = torch.from_numpy(image(2, (9, 10, 11)))
    assert torch.allclose(mind_ssc(array), mind_ssc(gain * array + offset), atol=1e-6)
    assert torch.allclose(mind_ssc(array.float()), mind_ssc((gain * array + offset).float()), atol=1e-3)
    assert torch.allclose(
        deep_neighbourhood_self_similarity(array[None]),
        deep_neighbourhood_self_similarity(gain * array[None] + offset),
        atol=1e-6,
    )


@pytest.mark.parametrize("value", [0.0, 0.7])
@either_path
def test_a_constant_image_is_similar_to_itself(value: float) -> None:
    flat = torch.full(SHAPE, value)
    assert torch.equal(mind_ssc(flat), torch.ones(12, *SHAPE))
    assert torch.equal(deep_neighbourhood_self_similarity(flat[None]), torch.ones(24, 1, *SHAPE))


@either_path
def test_values_lie_in_the_unit_interval_and_the_nearest_pair_is_one() -> None:
    features = mind_ssc(torch.from_numpy(image(3)).float())
    assert features.min() >= 0
    assert torch.allclose(features.amax(dim=0), torch.ones(SHAPE))


def test_gradient_of_dns() -> None:
    features = torch.from_numpy(image(4, (2, 3, 4, 3))).requires_grad_()
    assert torch.autograd.gradcheck(deep_neighbourhood_self_similarity, (features,), fast_mode=True)
