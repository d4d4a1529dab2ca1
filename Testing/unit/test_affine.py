"""Affine maps and their robust fit."""

from __future__ import annotations

import numpy as np
import pytest
from masr_registration.transforms import affine
from scipy.spatial.transform import Rotation

ANGLES = [(0.0, 0.0, 0.0), (0.3, -0.2, 0.5), (0.0, 0.0, 3.1), (1e-9, 0.0, 0.0)]


def cloud(count: int = 200, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal((30, -20, 100), 40, (count, 3))


@pytest.mark.parametrize("vector", ANGLES)
def test_rotation_is_scipys(vector: tuple[float, float, float]) -> None:
    matrix = affine.rotation(np.array(vector))
    np.testing.assert_allclose(matrix, Rotation.from_rotvec(vector).as_matrix(), atol=1e-8)
    assert affine.rotation_degrees(matrix) == pytest.approx(np.degrees(np.linalg.norm(vector)), abs=1e-5)


def test_about_keeps_the_centre() -> None:
    centre, shift = np.array([5.0, -7.0, 90.0]), np.array([1.0, 2.0, 3.0])
    matrix = affine.about(centre, affine.rotation(np.array([0.1, 0.5, -0.3])), shift)
    np.testing.assert_allclose(affine.apply(matrix, centre[None])[0], centre + shift)


def test_scales_and_rotation_of_a_product() -> None:
    turn = affine.rotation(np.array([0.2, -0.4, 0.1]))
    stretched = turn @ np.diag([1.2, 0.9, 1.0])
    np.testing.assert_allclose(affine.scales(stretched), [1.2, 1.0, 0.9])
    np.testing.assert_allclose(affine.nearest_rotation(stretched), turn, atol=1e-12)


def test_nearest_rotation_is_never_a_reflection() -> None:
    for seed in range(20):
        matrix = np.random.default_rng(seed).normal(size=(3, 3))
        assert np.linalg.det(affine.nearest_rotation(matrix)) == pytest.approx(1)


@pytest.mark.parametrize("fit", [affine.fit_rigid, affine.fit_affine])
def test_fits_are_exact_and_weighted(fit: affine.FitFunction) -> None:
    truth = affine.about(np.array([30.0, 0, 80]), affine.rotation(np.array([0.5, -0.3, 0.2])), 12.0)
    source = cloud()
    target = affine.apply(truth, source)
    weights = np.ones(len(source))
    np.testing.assert_allclose(fit(source, target, weights), truth, atol=1e-9)
    target[:50] += 25
    weights[:50] = 0
    np.testing.assert_allclose(fit(source, target, weights), truth, atol=1e-9)


def test_affine_fit_finds_shear() -> None:
    truth = np.eye(4)
    truth[:3] = [[1.1, 0.2, 0.0, 4.0], [-0.1, 0.9, 0.05, -8.0], [0.0, 0.3, 1.0, 2.0]]
    source = cloud()
    fitted = affine.fit_affine(source, affine.apply(truth, source), np.ones(len(source)))
    np.testing.assert_allclose(fitted, truth, atol=1e-9)


def test_rigid_fit_of_a_mirrored_cloud_does_not_mirror() -> None:
    source = cloud()
    fitted = affine.fit_rigid(source, source * [-1, 1, 1], np.ones(len(source)))
    assert np.linalg.det(fitted[:3, :3]) == pytest.approx(1)


@pytest.mark.parametrize("fit", [affine.fit_rigid, affine.fit_affine])
def test_a_third_of_wild_matches_does_no_harm(fit: affine.FitFunction) -> None:
    rng = np.random.default_rng(1)
    truth = affine.about(np.zeros(3), affine.rotation(np.array([0.0, 0.2, 0.1])), np.array([8.0, 0, -5]))
    source = cloud(600)
    target = affine.apply(truth, source) + rng.normal(scale=0.2, size=source.shape)
    target[:200] += rng.uniform(-60, 60, (200, 3))
    weights = np.ones(len(source))
    probe = cloud(50, seed=9)
    error = affine.apply(affine.fit_trimmed(fit, source, target, weights), probe) - affine.apply(truth, probe)
    plain = affine.apply(fit(source, target, weights), probe) - affine.apply(truth, probe)
    assert np.linalg.norm(error, axis=1).max() < 0.25
    assert np.linalg.norm(plain, axis=1).max() > 1.0
