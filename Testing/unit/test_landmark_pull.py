"""Landmarks that pull the deformation, and the features that a registration leaves: on a head whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from masr_registration import presets
from masr_registration.errors import InputError
from masr_registration.matching.suggest import suggest
from masr_registration.solver import linear
from masr_registration.solver.instance import Velocity
from masr_registration.solver.landmarks import LandmarkPull, landmark_pull
from masr_registration.solver.pipeline import RegistrationResult, encode_pair, register
from masr_registration.transforms import affine
from masr_registration.transforms.chain import Affine, TransformChain
from masr_registration.transforms.jacobian import fold_count
from phantoms import Head, geometry, points_of, smooth_field

HEAD = Head(radii=(30.0, 37.0, 33.0), wavelengths=(24.0, 70.0))
GRID = geometry((26, 32, 28), (3.0, 3.0, 3.0))
BODY = points_of(GRID)[HEAD.contains(points_of(GRID))]
BEND = smooth_field(geometry((32, 32, 32), (4.0, 4.0, 4.0)), 8.0, 1, wavelength=0.6)
BASE = replace(presets.load("general"), working_spacing_mm=3.0)
BLIND = replace(
    BASE,
    linear=replace(BASE.linear, model="none"),
    discrete=replace(BASE.discrete, enabled=False),
    continuous=replace(BASE.continuous, iterations=(30, 0)),
)
"""Too short-sighted to find the bend by itself."""


@pytest.fixture(autouse=True)
def coarser_linear_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "COARSE_MM", 7.0)
    monkeypatch.setattr(linear, "FINE_MM", 5.0)


def bend(points: np.ndarray) -> np.ndarray:
    moved: np.ndarray = BEND.apply(torch.from_numpy(points.reshape(-1, 3))).numpy().reshape(points.shape)
    return moved


FIXED, MOVING = HEAD.volume(GRID, "t1", bend), HEAD.volume(GRID, "t2")
"""The fixed image shows at p what the moving one shows at ``bend(p)``."""
LANDMARKS = BODY[:: len(BODY) // 40]


def left(result: RegistrationResult, fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    found = result.transform.apply(torch.from_numpy(fixed)).numpy()
    distance: np.ndarray = np.linalg.norm(found - moving, axis=1)
    return distance


def check_guarantees(result: RegistrationResult) -> None:
    assert (result.metrics["folds"], result.metrics["folds_dense"]) == (0, 0)
    assert fold_count(result.transform.dense(GRID), GRID) == 0
    assert float(result.metrics["inverse_consistency_max_mm"] or 0) <= 0.5


def test_curvature_of_the_pull_is_that_of_a_constant_velocity() -> None:
    """Second differences of the loss along a shift of all nodes: squared near the goal, linear far from it."""
    generator = torch.Generator().manual_seed(0)
    start = torch.rand(3, 20, generator=generator) * 5
    near, far = start + 0.5, start + torch.tensor([30.0, 0, 0])[:, None]
    for end, along in ((near, 0), (far, 1)):
        pull = LandmarkPull(start, end, 60.0, 2.0)
        still = torch.zeros(3, 6, 6, 6)

        def loss(shift: float, pull: LandmarkPull = pull, along: int = along) -> float:
            flow = torch.zeros(3, 6, 6, 6)
            flow[along] = shift
            return float(pull((flow, -flow)))

        expected = (loss(0.2) - 2 * loss(0.0) + loss(-0.2)) / 0.04
        assert float(pull.curvature((still, still))[along].sum()) == pytest.approx(expected, rel=0.02)


def test_correct_landmarks_bring_the_result_to_the_truth() -> None:
    given = (LANDMARKS, bend(LANDMARKS))
    alone = register(FIXED, MOVING, BLIND, device="cpu")
    guided = register(FIXED, MOVING, BLIND, device="cpu", landmarks=given)
    tre = [left(r, *given).mean() for r in (alone, guided)]
    elsewhere = [left(r, BODY, bend(BODY)).mean() for r in (alone, guided)]
    print(
        f"landmarks {tre[0]:.2f} -> {tre[1]:.2f} mm, everywhere {elsewhere[0]:.2f} -> {elsewhere[1]:.2f} mm"
    )
    assert tre[1] < 0.5 * tre[0]
    assert elsewhere[1] < 0.8 * elsewhere[0]
    check_guarantees(guided)


def test_landmarks_against_the_images_are_a_compromise_that_never_folds() -> None:
    """Two neighbours that ask to be swapped cannot be satisfied by any one-to-one map."""
    fixed = np.array([[-4.0, 0.0, 0.0], [4.0, 0.0, 0.0], [0.0, 20.0, 0.0]])
    moving = np.array([[4.0, 0.0, 0.0], [-4.0, 0.0, 0.0], [0.0, 26.0, 0.0]])
    strong = replace(BLIND, continuous=replace(BLIND.continuous, landmark_weight=100.0))
    result = register(FIXED, FIXED, strong, device="cpu", landmarks=(fixed, moving))
    check_guarantees(result)
    assert "worse with the deformation" in result.warnings[0]
    rest = left(result, fixed, moving)
    assert rest[2] < 3.0
    assert rest[:2].min() > 1.0


def test_the_weight_of_the_preset_decides() -> None:
    given = (LANDMARKS[:5], bend(LANDMARKS[:5]) + np.array([0.0, 4.0, 0.0]))
    rest = []
    for weight in (0.0, 5.0, 100.0):
        preset = replace(BLIND, continuous=replace(BLIND.continuous, landmark_weight=weight))
        rest.append(left(register(FIXED, MOVING, preset, device="cpu", landmarks=given), *given).mean())
    alone = left(register(FIXED, MOVING, BLIND, device="cpu"), *given).mean()
    assert rest[0] == alone
    assert rest[0] > rest[1] > rest[2]


def test_landmarks_reach_through_the_linear_and_the_initial_transform() -> None:
    """The same landmarks, seen through a turned moving image, ask for the same deformation."""
    turn = affine.about(
        np.zeros(3), affine.rotation(np.radians([10.0, 0.0, 20.0])), np.array([9.0, 0.0, -5.0])
    )
    moving = HEAD.volume(GRID, "t2", lambda p: affine.apply(np.linalg.inv(turn), p))
    given = (LANDMARKS, affine.apply(turn, bend(LANDMARKS)))
    result = register(
        FIXED, moving, BLIND, device="cpu", initial_transform=TransformChain((Affine(turn),)), landmarks=given
    )
    assert left(result, *given).mean() < 2.0
    check_guarantees(result)


def test_landmarks_outside_of_the_working_grid_are_left_out() -> None:
    velocity = Velocity((32, 32, 32), 3.0, 9.0)
    grid = geometry((32, 32, 32), (3.0, 3.0, 3.0))
    away = np.full((1, 3), 1000.0)
    assert landmark_pull(velocity, grid, away, away, 20.0) is None
    assert landmark_pull(velocity, grid, np.zeros((1, 3)), np.zeros((1, 3)), 0.0) is None
    pull = landmark_pull(velocity, grid, np.vstack([np.zeros((1, 3)), away]), np.zeros((2, 3)), 20.0)
    assert pull is not None
    assert pull.fixed.shape == (3, 1)


def test_the_pull_ends_where_the_points_meet_and_grows_only_linearly_far_away() -> None:
    velocity = Velocity((32, 32, 32), 3.0, 9.0)
    grid = geometry((32, 32, 32), (3.0, 3.0, 3.0))
    here = np.array([[1.0, 2.0, 3.0]])
    still = torch.zeros(3, *velocity.nodes)

    def cost(shift_mm: float) -> float:
        pull = landmark_pull(velocity, grid, here, here + np.array([shift_mm, 0.0, 0.0]), 20.0)
        assert pull is not None
        return float(pull((still, still)))

    assert cost(0.0) < 1e-9
    np.testing.assert_allclose(cost(4.0) / cost(2.0), 4.0, rtol=1e-3)
    np.testing.assert_allclose(cost(40.0) - cost(30.0), cost(30.0) - cost(20.0), rtol=1e-3)


def test_a_registration_leaves_its_features_when_asked() -> None:
    preset = replace(BASE, continuous=replace(BASE.continuous, iterations=(2, 2)))
    result = register(FIXED, MOVING, preset, device="cpu", keep_features=True)
    assert register(FIXED, MOVING, preset, device="cpu").features is None
    assert result.features is not None
    alone, _warnings = encode_pair(FIXED, MOVING, preset, device="cpu")
    np.testing.assert_array_equal(alone.fixed.values, result.features.fixed.values)
    np.testing.assert_allclose(alone.linear, result.features.linear)
    errors, levels = [], []
    for point in BODY[:: len(BODY) // 60]:
        expected = affine.apply(alone.linear, point[None])[0]
        found = suggest(alone, point, expected)
        errors.append(np.linalg.norm(found.point - bend(point[None])[0]))
        levels.append(found.level)
    trusted = np.array(errors)[[level == "clear" for level in levels]]
    print(f"{len(trusted)} of {len(errors)} clear, median error {np.median(trusted):.2f} mm")
    assert len(trusted) >= 10
    assert np.median(trusted) < 3.0


def test_features_are_not_made_through_a_deformation() -> None:
    with pytest.raises(InputError, match="linear transform only"):
        encode_pair(FIXED, MOVING, BASE, device="cpu", initial_transform=TransformChain((BEND,)))
