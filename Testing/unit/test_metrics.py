"""Metrics against slow and obvious versions of the same definitions."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from masr_registration.evaluation.metrics import (
    dice,
    dice_learn2reg,
    hd95,
    hd95_voxels_learn2reg,
    inverse_consistency,
    sdlogj,
    tre_mm,
)


def random_labels(seed: int, count: int = 5, shape: tuple[int, int, int] = (9, 8, 7)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, count, shape)


def ball(shape: tuple[int, int, int], centre: tuple[float, float, float], radius: float) -> np.ndarray:
    offsets = [
        (np.arange(n) - c).reshape([-1 if a == b else 1 for b in range(3)])
        for a, (n, c) in enumerate(zip(shape, centre, strict=True))
    ]
    return sum(o**2 for o in offsets) <= radius**2


def slow_hd95(a: np.ndarray, b: np.ndarray, spacing: tuple[float, float, float]) -> float:
    """All pairs of points on the two surfaces, the points found corner by corner."""

    def surface(mask: np.ndarray) -> np.ndarray:
        padded = np.pad(mask, 1)
        points = []
        for k, j, i in product(*(range(n - 1) for n in padded.shape)):
            if len(np.unique(padded[k : k + 2, j : j + 2, i : i + 2])) == 2:
                points.append((i * spacing[0], j * spacing[1], k * spacing[2]))
        return np.array(points)

    distances = np.linalg.norm(surface(a)[:, None] - surface(b)[None], axis=2)
    return max(np.percentile(distances.min(1), 95), np.percentile(distances.min(0), 95))


class TestDice:
    @pytest.mark.parametrize("seed", range(3))
    def test_against_sets(self, seed: int) -> None:
        a, b = random_labels(seed), random_labels(seed + 100)
        result = dice(a, b)
        assert list(result) == [1, 2, 3, 4]
        for label, value in result.items():
            in_a, in_b = set(np.flatnonzero(a == label)), set(np.flatnonzero(b == label))
            assert value == pytest.approx(2 * len(in_a & in_b) / (len(in_a) + len(in_b)))

    def test_same_and_disjoint(self) -> None:
        a = random_labels(0)
        assert set(dice(a, a).values()) == {1.0}
        assert dice(np.array([[[1, 0]]]), np.array([[[0, 1]]])) == {1: 0.0}

    def test_label_warped_out_of_view(self) -> None:
        fixed, moving, warped = random_labels(1), random_labels(2), random_labels(3)
        warped[warped == 3] = 0
        fixed[fixed == 4] = 0
        ours, theirs = dice(fixed, warped), dice_learn2reg(fixed, moving, warped)
        assert ours[3] is None
        assert theirs[3] == 0.0
        assert ours[4] is None
        assert theirs[4] is None
        assert ours[1] == theirs[1]
        moving[moving == 1] = 0
        assert dice_learn2reg(fixed, moving, warped)[1] is None

    def test_chosen_labels(self) -> None:
        a = random_labels(0)
        assert dice(a, a, labels=[2, 77]) == {2: 1.0, 77: None}
        assert dice_learn2reg(a, a, a, labels=[2, 77]) == {2: 1.0, 77: None}


class TestHausdorff:
    @pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 1.3, 5.0)])
    def test_against_all_pairs(self, spacing: tuple[float, float, float]) -> None:
        shape = (12, 14, 16)
        a, b = ball(shape, (5, 6, 7), 4), ball(shape, (7, 7, 7), 3) | ball(shape, (3, 11, 13), 1.5)
        assert hd95(a, b, spacing) == pytest.approx(slow_hd95(a, b, spacing), rel=1e-5)
        assert hd95(b, a, spacing) == hd95(a, b, spacing)

    @pytest.mark.parametrize("seed", range(3))
    def test_random_masks_that_touch_the_border(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        a, b = random.random((5, 6, 7)) > 0.97, random.random((5, 6, 7)) > 0.9
        assert hd95(a, b, (2.0, 1.0, 0.5)) == pytest.approx(slow_hd95(a, b, (2.0, 1.0, 0.5)), rel=1e-5)

    def test_shift_of_a_slab_is_the_distance_in_mm(self) -> None:
        a, b = np.zeros((20, 10, 10), bool), np.zeros((20, 10, 10), bool)
        a[3:6], b[9:12] = True, True
        assert hd95(a, b, (1.0, 1.0, 2.5)) == pytest.approx(15.0)
        assert hd95_voxels_learn2reg(a, b) == pytest.approx(6.0)

    def test_same_full_and_empty(self) -> None:
        full, empty = np.ones((4, 1, 4), bool), np.zeros((4, 1, 4), bool)
        assert hd95(full, full, (1, 1, 1)) == 0
        assert hd95(full, empty, (1, 1, 1)) is None
        assert hd95_voxels_learn2reg(empty, full) is None


class TestLandmarks:
    def test_known_shift(self) -> None:
        points = np.random.default_rng(0).normal(size=(20, 3)) * 50
        errors = tre_mm(lambda p: p + np.array([3.0, 0.0, 4.0]), points, points)
        np.testing.assert_allclose(errors, 5.0)

    def test_transform_goes_from_fixed_to_moving(self) -> None:
        fixed = np.random.default_rng(0).normal(size=(20, 3))
        matrix = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 2.0]])
        moving = fixed @ matrix.T
        np.testing.assert_allclose(tre_mm(lambda p: p @ matrix.T, fixed, moving), 0, atol=1e-12)
        slow = [float(np.sqrt(sum((matrix @ m - f) ** 2))) for m, f in zip(moving, fixed, strict=True)]
        np.testing.assert_allclose(tre_mm(lambda p: p @ matrix.T, moving, fixed), slow)


def test_inverse_consistency() -> None:
    points = np.random.default_rng(0).normal(size=(20, 3))
    np.testing.assert_allclose(inverse_consistency(lambda p: 2 * p, lambda p: p / 2, points), 0, atol=1e-12)
    np.testing.assert_allclose(
        inverse_consistency(lambda p: 2 * p, lambda p: p, points), np.linalg.norm(points, axis=1)
    )


class TestRegularity:
    def test_against_a_loop(self) -> None:
        determinant = np.random.default_rng(0).normal(1.0, 0.6, (8, 7, 6)).astype(np.float32)
        mask = np.random.default_rng(1).random((8, 7, 6)) > 0.4
        assert (determinant[mask] <= 0).any()
        logs = [
            np.log(float(d)) for d, m in zip(determinant.ravel(), mask.ravel(), strict=True) if m and d > 0
        ]
        mean = sum(logs) / len(logs)
        assert sdlogj(determinant, mask) == pytest.approx(
            (sum((v - mean) ** 2 for v in logs) / len(logs)) ** 0.5
        )

    def test_limits(self) -> None:
        assert sdlogj(np.full((3, 3, 3), 1.7)) == pytest.approx(0)
        assert sdlogj(np.full((3, 3, 3), -1.0)) is None
        assert sdlogj(np.ones((3, 3, 3)), np.zeros((3, 3, 3), bool)) is None
