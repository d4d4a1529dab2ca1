"""Landmarks in the linear stage: where images say nothing, where they are wrong, and what they may never do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from masr_registration import presets
from masr_registration.presets import Linear, Normalisation
from masr_registration.representation.descriptor import Scan
from masr_registration.solver import linear
from masr_registration.solver.linear import LinearResult, register_linear
from masr_registration.solver.linear_landmarks import LinearLandmarks
from masr_registration.solver.pipeline import register
from masr_registration.transforms import affine
from masr_registration.volume import Volume
from phantoms import Head, geometry, points_of

HEAD = Head(radii=(28.0, 37.0, 32.0))
GRID = geometry((20, 24, 22), (4.0, 4.0, 4.0))
CENTRED = points_of(GRID) - np.asarray(GRID.centre)
BALL = Volume((100.0 * (np.linalg.norm(CENTRED, axis=-1) < 30)).astype(np.float32), GRID, "ball")
"""However it is turned, it looks the same."""
POINTS = np.array([[25.0, 0, 0], [0, 25, 0], [0, 0, 25], [-15, -15, -10]])


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "COARSE_MM", 8.0)
    monkeypatch.setattr(linear, "FINE_MM", 6.0)


def turn(degrees: float, shift: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> np.ndarray:
    return affine.about(
        np.zeros(3), affine.rotation(np.radians(degrees) * np.array([0.0, 0.6, 0.8])), np.array(shift)
    )


def run(
    fixed: Volume, moving: Volume, landmarks: LinearLandmarks | None, model: presets.LinearModel = "rigid"
) -> LinearResult:
    scans = [Scan.of(v, "mr", Normalisation()) for v in (fixed, moving)]
    return register_linear(scans[0], scans[1], Linear(model=model), np.eye(4), landmarks=landmarks)


def left(matrix: np.ndarray, fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    distance: np.ndarray = np.linalg.norm(affine.apply(matrix, fixed) - moving, axis=1)
    return distance


def test_landmarks_decide_where_the_images_say_nothing() -> None:
    moving = affine.apply(turn(30.0), POINTS)
    assert left(run(BALL, BALL, None).matrix, POINTS, moving).max() > 8
    for model in ("rigid", "affine"):
        found = run(BALL, BALL, LinearLandmarks(POINTS, moving, 60.0), model)
        assert left(found.matrix, POINTS, moving).max() < 1.5
        assert found.cost_after < found.cost_before


def test_a_misplaced_landmark_does_not_turn_the_patient() -> None:
    fixed, moving = (HEAD.volume(GRID, shade) for shade in ("t1", "t2"))
    given = np.vstack([POINTS, POINTS / 2])
    wrong = given.copy()
    wrong[0] += [0.0, 40.0, 0.0]
    found = run(fixed, moving, LinearLandmarks(given, wrong, 60.0)).matrix
    assert left(found, given, given).max() < 4.0


def test_the_limits_hold_with_landmarks_as_well() -> None:
    moving = affine.apply(turn(80.0), POINTS)
    found = run(BALL, BALL, LinearLandmarks(POINTS, moving, 10_000.0)).matrix
    assert affine.rotation_degrees(found) <= 45
    mirrored = run(BALL, BALL, LinearLandmarks(POINTS, POINTS * [-1, 1, 1], 10_000.0), "affine").matrix
    assert np.linalg.det(mirrored[:3, :3]) > 0


def test_the_force_is_the_slope_of_the_cost() -> None:
    matrix, rng = turn(10.0, (3.0, 1.0, -2.0)), np.random.default_rng(0)
    moving = affine.apply(matrix, POINTS) + rng.normal(0, 9, POINTS.shape)  # some beyond 8 mm
    landmarks = LinearLandmarks(POINTS, moving, 30.0)
    arms = np.c_[np.ones(len(POINTS)), POINTS / linear.ROTATION_UNIT]
    hessian, force = landmarks.normal_equations(matrix, arms)
    slope = np.zeros(12)
    for number in range(12):
        costs = []
        for sign in (1, -1):
            motion = np.zeros(12)
            motion[number] = sign * 1e-4
            step = motion.reshape(3, 4)
            small = np.eye(4)
            small[:3, 3], small[:3, :3] = step[:, 0], np.eye(3) + step[:, 1:] / linear.ROTATION_UNIT
            costs.append(landmarks.cost(matrix @ small))
        slope[number] = (costs[0] - costs[1]) / 2e-4
    np.testing.assert_allclose(-force, slope, rtol=1e-4, atol=1e-8)
    assert np.linalg.eigvalsh(hessian).min() > -1e-12


def test_the_start_is_rigid_only_where_the_points_tell_a_rotation() -> None:
    truth = turn(25.0, (5.0, 6.0, 7.0))
    exact = LinearLandmarks(POINTS, affine.apply(truth, POINTS), 60.0)
    np.testing.assert_allclose(exact.start(turn(-10.0)), truth, atol=1e-9)
    line = np.array([[-30.0, 0, 0], [0, 0, 0], [30, 0, 0]])
    for few in (line, line[:1], line[:2]):
        shifted = LinearLandmarks(few, few + np.array([1.0, 2.0, 3.0]), 60.0).start(np.eye(4))
        np.testing.assert_allclose(shifted[:3, :3], np.eye(3))
        np.testing.assert_allclose(shifted[:3, 3], [1, 2, 3])


def test_landmarks_drive_a_whole_registration() -> None:
    """Through the pipeline, and with the weight 0 as without landmarks."""
    base = presets.load("general")
    preset = replace(
        base,
        working_spacing_mm=4.0,
        linear=replace(base.linear, model="rigid"),
        discrete=replace(base.discrete, enabled=False),
        continuous=replace(base.continuous, enabled=False),
    )
    moving = affine.apply(turn(30.0), POINTS)
    off = replace(preset, continuous=replace(preset.continuous, landmark_weight=0.0))
    tre = []
    for chosen in (preset, off):
        result = register(BALL, BALL, chosen, device="cpu", landmarks=(POINTS, moving))
        factor = result.transform.factors[0]
        tre.append(left(factor.matrix, POINTS, moving).max())
    assert tre[0] < 1.5
    assert tre[1] > 8
