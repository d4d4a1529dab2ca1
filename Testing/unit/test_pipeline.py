"""`register` from end to end on a head whose true transform is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from masr_registration import presets
from masr_registration.errors import CancelledError, InputError
from masr_registration.presets import Preset
from masr_registration.representation import models
from masr_registration.representation.masr_net import MasrNet
from masr_registration.solver import linear
from masr_registration.solver.pipeline import RegistrationResult, register
from masr_registration.transforms import affine
from masr_registration.transforms.chain import Affine, DisplacementField, TransformChain
from masr_registration.transforms.jacobian import STRICT_BOUND, fold_count
from masr_registration.volume import Volume
from phantoms import OBLIQUE, Head, geometry, inverse_points, points_of, smooth_field

HEAD = Head(radii=(30.0, 37.0, 33.0), wavelengths=(24.0, 70.0))
FIXED = geometry((26, 32, 28), (3.0, 3.0, 3.0))
MOVING = geometry((28, 30, 24), (3.0, 2.8, 3.5), OBLIQUE, (3.0, -2.0, 1.0))
BODY = points_of(FIXED)[HEAD.contains(points_of(FIXED))]
TILT = affine.about(np.zeros(3), affine.rotation(np.radians([4.0, -6.0, 5.0])), np.array([5.0, -6.0, 3.0]))
BEND = smooth_field(geometry((32, 32, 32), (4.0, 4.0, 4.0)), 8.0, 1, wavelength=0.6)
BASE = replace(presets.load("general"), working_spacing_mm=3.0)
QUICK = replace(BASE, continuous=replace(BASE.continuous, iterations=(4, 8)))
LINEAR_ONLY = replace(
    BASE,
    discrete=replace(BASE.discrete, enabled=False),
    continuous=replace(BASE.continuous, enabled=False),
)
GIVEN_ONLY = replace(LINEAR_ONLY, linear=replace(BASE.linear, model="none"))


@pytest.fixture(autouse=True)
def coarser_linear_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own tests measure it; here it only has to be quick."""
    monkeypatch.setattr(linear, "COARSE_MM", 7.0)
    monkeypatch.setattr(linear, "FINE_MM", 5.0)


def bend(points: np.ndarray) -> np.ndarray:
    moved: np.ndarray = BEND.apply(torch.from_numpy(points.reshape(-1, 3))).numpy().reshape(points.shape)
    return moved


def back(points: np.ndarray) -> np.ndarray:
    """Moving -> fixed."""
    return bend(affine.apply(TILT, points))


def truth(points: np.ndarray) -> np.ndarray:
    """Fixed -> moving."""
    return inverse_points(back, points)


def errors(chain: TransformChain, points: np.ndarray = BODY) -> np.ndarray:
    found = chain.apply(torch.from_numpy(points)).numpy()
    distance: np.ndarray = np.linalg.norm(found - truth(points), axis=1)
    return distance


def pair() -> tuple[Volume, Volume]:
    return HEAD.volume(FIXED, "t1"), HEAD.volume(MOVING, "t2", back)


@pytest.fixture(scope="module")
def story() -> list[tuple[str, float, dict[str, float]]]:
    """What the module's one full registration reported."""
    return []


@pytest.fixture(scope="module")
def result(story: list[tuple[str, float, dict[str, float]]]) -> RegistrationResult:
    return register(*pair(), BASE, device="cpu", progress=lambda *report: story.append(report))


def test_the_true_error_falls(result: RegistrationResult) -> None:
    before = errors(TransformChain(()))
    after = errors(result.transform)
    print(
        f"true error: {before.mean():.2f} mm before, {after.mean():.2f} mm after, largest {after.max():.2f} mm"
    )
    assert before.mean() > 7
    assert after.mean() < 1.2
    assert after.max() < 5
    metrics = result.metrics
    assert metrics["similarity_after"] < metrics["similarity_linear"] < metrics["similarity_before"]
    assert result.warnings == []


def test_a_body_can_move_farther_than_its_own_box() -> None:
    """By the deformation alone; without `plan.room` the velocity fades where it has to go, and 1.9 mm are left."""
    body = Head(radii=(28.0, 30.0, 26.0), wavelengths=(24.0, 70.0))
    near, wide = geometry((26, 26, 24), (3.0,) * 3), geometry((40, 42, 38), (3.0,) * 3)
    shift = np.array([28.0, 0.0, 0.0])
    found = register(
        body.volume(near, "t1"),
        body.volume(wide, "t2", lambda points: points - shift),
        replace(BASE, linear=replace(BASE.linear, model="none")),
        device="cpu",
    )
    points = points_of(near)[body.contains(points_of(near))]
    missed = found.transform.apply(torch.from_numpy(points)).numpy() - points - shift
    assert np.linalg.norm(missed, axis=1).mean() < 1.2
    assert found.metrics["folds"] == 0


def test_the_result_does_not_fold_and_inverts(result: RegistrationResult) -> None:
    metrics = result.metrics
    assert metrics["folds"] == metrics["folds_dense"] == 0
    assert 0 < metrics["strict_bound"] < STRICT_BOUND
    assert fold_count(result.transform.dense(FIXED), FIXED) == 0
    assert 0 < metrics["jacobian_min"] < 1 < metrics["jacobian_max"]
    assert metrics["inverse_consistency_mean_mm"] <= 0.05
    assert metrics["inverse_consistency_max_mm"] <= 0.5
    points = torch.from_numpy(BODY)
    residual = (result.inverse.apply(result.transform.apply(points)) - points).norm(dim=1)
    assert residual.mean() <= 0.05
    assert residual.max() <= 0.5


def test_metrics_describe_the_transform(result: RegistrationResult) -> None:
    metrics = result.metrics
    assert all(value is not None and math.isfinite(value) for value in metrics.values())
    fields = [f for f in result.transform.factors if isinstance(f, DisplacementField)]
    assert metrics["fields"] == len(fields) > 0
    points = torch.from_numpy(points_of(FIXED)[result.foreground])
    lengths = (TransformChain(tuple(fields)).apply(points) - points).norm(dim=1)
    assert metrics["displacement_mean_mm"] == pytest.approx(float(lengths.mean()), rel=0.02)
    assert metrics["displacement_max_mm"] == pytest.approx(float(lengths.max()), rel=0.02)
    assert metrics["displacement_mean_mm"] < metrics["displacement_p95_mm"] < metrics["displacement_max_mm"]
    (linear_part,) = (f.matrix for f in result.transform.factors if isinstance(f, Affine))
    assert metrics["linear_rotation_deg"] == pytest.approx(affine.rotation_degrees(linear_part))
    assert 0.85 < metrics["linear_scale_min"] <= metrics["linear_scale_max"] < 1.15
    assert metrics["overlap"] > 0.9
    assert (result.foreground == HEAD.contains(points_of(FIXED))).mean() > 0.9


def test_progress_rises_through_the_stages_to_one(
    result: RegistrationResult, story: list[tuple[str, float, dict[str, float]]]
) -> None:
    stages = list(dict.fromkeys(stage for stage, _, _ in story))
    assert stages == ["linear", "discrete", "continuous", "check"]
    fractions = [fraction for _, fraction, _ in story]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0
    assert fractions[-1] == 1
    assert any("dissimilarity" in metrics for stage, _, metrics in story if stage == "continuous")
    assert {"encode", *stages} <= set(result.timings)
    assert all(seconds > 0 for seconds in result.timings.values())


def parts(result: RegistrationResult) -> list[np.ndarray]:
    factors = (*result.transform.factors, *result.inverse.factors)
    return [f.matrix if isinstance(f, Affine) else f.displacement.numpy() for f in factors]


def test_a_then_b_then_a_gives_the_same_a() -> None:
    fixed, moving = pair()
    first = register(fixed, moving, QUICK, device="cpu")
    register(moving, fixed, GIVEN_ONLY, device="cpu", seed=3)
    again = register(fixed, moving, QUICK, device="cpu")
    assert len(parts(first)) == len(parts(again)) > 2
    for one, other in zip(parts(first), parts(again), strict=True):
        np.testing.assert_array_equal(one, other)
    assert first.metrics == again.metrics


def test_without_deformation_the_result_is_one_matrix() -> None:
    result = register(*pair(), LINEAR_ONLY, device="cpu")
    assert result.transform.is_linear
    assert result.transform.to_sitk().GetName() == "AffineTransform"
    assert result.metrics["fields"] == result.metrics["folds"] == result.metrics["folds_dense"] == 0
    assert result.metrics["displacement_max_mm"] == 0
    assert result.metrics["similarity_after"] == result.metrics["similarity_linear"]
    assert errors(result.transform).mean() < 0.7 * errors(TransformChain(())).mean()


def test_a_linear_start_is_taken_as_it_is() -> None:
    far = affine.about(np.zeros(3), affine.rotation(np.radians([0, 80.0, 0])), np.array([300.0, -50, 20]))
    place = np.linalg.inv(far)
    grid = geometry((28, 30, 24), (3.0, 2.8, 3.5), far[:3, :3], tuple(far[:3, 3].tolist()))
    moving = HEAD.volume(grid, "t2", lambda p: affine.apply(place, p))
    given = TransformChain((Affine(far),))
    kept = register(HEAD.volume(FIXED, "t1"), moving, GIVEN_ONLY, initial_transform=given, device="cpu")
    np.testing.assert_array_equal(kept.transform.matrix, far)
    improved = register(HEAD.volume(FIXED, "t1"), moving, LINEAR_ONLY, initial_transform=given, device="cpu")
    moved = improved.transform.apply(torch.from_numpy(BODY)).numpy()
    assert np.linalg.norm(moved - affine.apply(far, BODY), axis=1).max() < 3.0
    assert improved.warnings == []


def test_a_deformable_start_is_part_of_the_result() -> None:
    grid = geometry((40, 40, 40), (3.0, 3.0, 3.0))
    nodes = points_of(grid)
    known = inverse_points(back, nodes.reshape(-1, 3)).reshape(nodes.shape) - nodes
    given = TransformChain((DisplacementField(torch.from_numpy(known).movedim(-1, 0).float(), grid),))
    kept = register(*pair(), GIVEN_ONLY, initial_transform=given, device="cpu")
    assert errors(kept.transform).max() < 0.3
    refined = register(*pair(), QUICK, initial_transform=given, device="cpu")
    assert errors(refined.transform).mean() < 1.5  # half a voxel
    assert refined.transform.factors[0] is given.factors[0]
    assert refined.metrics["inverse_consistency_mean_mm"] < 0.05
    assert refined.metrics["similarity_after"] < 1.2 * refined.metrics["similarity_before"]


@pytest.mark.parametrize("which", ["fixed", "moving"])
def test_a_block_that_is_masked_out_does_not_pull(which: str) -> None:
    """One side of an image shows the head 12 mm away; elsewhere both images agree."""
    volumes = {name: HEAD.volume(FIXED, "t1") for name in ("fixed", "moving")}
    wrong = points_of(FIXED)[..., 0] > 6
    displaced = HEAD(points_of(FIXED) + np.array([0, 12, 0]), "t1").astype(np.float32)
    volumes[which] = volumes[which].with_array(np.where(wrong, displaced, volumes[which].array))
    mask = Volume((~wrong).astype(np.uint8), FIXED)
    preset = replace(QUICK, linear=replace(BASE.linear, model="rigid"))
    free = register(volumes["fixed"], volumes["moving"], preset, device="cpu")
    masked = register(volumes["fixed"], volumes["moving"], preset, device="cpu", **{f"{which}_mask": mask})
    points = torch.from_numpy(BODY)
    pulled, kept = ((r.transform.apply(points) - points).norm(dim=1).numpy() for r in (free, masked))
    hidden = BODY[:, 0] > 12
    print(
        f"mean motion there: {pulled[hidden].mean():.2f} mm without the mask, {kept[hidden].mean():.2f} with it"
    )
    assert pulled[hidden].mean() > 4
    assert kept[hidden].mean() < 2
    assert kept[BODY[:, 0] < -6].mean() < 1  # beyond what the self-similarities see of the block


@pytest.mark.parametrize("stage", ["linear", "discrete", "continuous", "check"])
def test_progress_may_cancel(stage: str) -> None:
    preset = QUICK if stage in ("discrete", "continuous") else GIVEN_ONLY
    preset = replace(preset, linear=LINEAR_ONLY.linear if stage == "linear" else GIVEN_ONLY.linear)

    def stop(current: str, fraction: float, metrics: dict[str, float]) -> None:
        if current == stage:
            raise CancelledError

    with pytest.raises(CancelledError):
        register(*pair(), preset, device="cpu", progress=stop)


def upside_down() -> Volume:
    volume = HEAD.volume(FIXED, "t1")
    return volume.with_array(np.ascontiguousarray(1000 - volume.array[::-1]))


def nearly_flat() -> Volume:
    array = np.zeros(FIXED.shape, np.float32)
    array[3, 4, 5] = 1
    return Volume(array, FIXED)


def noise() -> Volume:
    return Volume(np.random.default_rng(0).normal(size=FIXED.shape).astype(np.float32), FIXED)


@pytest.mark.parametrize("moving", [upside_down, nearly_flat, noise])
def test_hopeless_images_end_in_a_sound_transform(moving: Callable[[], Volume]) -> None:
    result = register(HEAD.volume(FIXED, "t1"), moving(), QUICK, device="cpu")
    assert result.metrics["folds"] == result.metrics["folds_dense"] == 0
    stretch = affine.scales(result.transform.matrix)
    assert 0.7 <= stretch[-1] <= stretch[0] <= 1.4
    assert np.linalg.det(result.transform.matrix[:3, :3]) > 0
    assert affine.rotation_degrees(result.transform.matrix) <= 45
    assert torch.isfinite(result.transform.dense(FIXED)).all()


def test_images_that_do_not_meet_give_a_warning() -> None:
    away = TransformChain((Affine(affine.about(np.zeros(3), np.eye(3), np.array([1000.0, 0, 0]))),))
    preset: Preset = replace(QUICK, linear=GIVEN_ONLY.linear)
    result = register(*pair(), preset, initial_transform=away, device="cpu")
    assert result.metrics["overlap"] == 0
    assert result.warnings != []


def test_a_start_that_mirrors_is_refused() -> None:
    mirror = TransformChain((Affine(np.diag([-1.0, 1.0, 1.0, 1.0])),))
    with pytest.raises(InputError, match="left and right"):
        register(*pair(), QUICK, initial_transform=mirror, device="cpu")


def test_a_deformable_start_that_leads_away_gives_a_warning() -> None:
    away = Affine(affine.about(np.zeros(3), np.eye(3), np.array([1000.0, 0, 0])))
    still = DisplacementField(torch.zeros(3, 8, 8, 8), geometry((8, 8, 8), (10.0, 10.0, 10.0)))
    result = register(*pair(), QUICK, initial_transform=TransformChain((away, still)), device="cpu")
    assert any("do not meet" in warning for warning in result.warnings)


def test_a_mask_of_a_few_voxels_is_no_crash() -> None:
    array = np.zeros(FIXED.shape, np.uint8)
    array[14, 16, 13] = 1
    result = register(*pair(), QUICK, fixed_mask=Volume(array, FIXED), device="cpu")
    assert result.metrics["folds_dense"] == 0
    assert torch.isfinite(result.transform.dense(FIXED)).all()


def test_similarity_is_that_of_the_linear_part_when_nothing_bends() -> None:
    """The fixed image is a slab that the body crosses: beyond its border the linear part must count, too."""
    slab = geometry((26, 32, 12), (3.0, 3.0, 3.0))
    shifted = geometry((26, 32, 12), (3.0, 3.0, 3.0), centre=(39.0, 0.0, 0.0))
    moving = HEAD.volume(shifted, "t1", lambda p: p - np.array([39.0, 0, 0]))
    given = TransformChain((Affine(affine.about(np.zeros(3), np.eye(3), np.array([39.0, 0, 0]))),))
    preset = replace(GIVEN_ONLY, continuous=replace(BASE.continuous, iterations=(2, 2)))
    result = register(HEAD.volume(slab, "t1"), moving, preset, initial_transform=given, device="cpu")
    assert result.metrics["similarity_linear"] < 1e-3
    assert result.metrics["similarity_after"] < result.metrics["similarity_linear"] + 1e-3


def test_features_of_a_network_join_mind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An untrained network does little harm beside MIND-SSC; result and bits tell that it was there."""
    torch.manual_seed(0)
    entry = models.Model("masr", "masr.safetensors", "", "masr", "untrained", {"width": 2, "radii": [1]})
    entered = models.save(MasrNet(2, (1,)), entry, tmp_path)
    monkeypatch.setattr(models, "_folder", lambda given: tmp_path if given is None else given)
    alone = replace(QUICK, linear=replace(BASE.linear, model="none"))
    joined = register(*pair(), replace(alone, representation="masr"), device="cpu")
    assert (joined.representation, joined.weights_sha256) == ("masr+mind-ssc", entered.sha256)
    assert joined.warnings == []
    assert joined.metrics["folds"] == joined.metrics["folds_dense"] == 0
    assert errors(joined.transform).mean() < 0.7 * errors(TransformChain(())).mean()
    (tmp_path / "masr.safetensors").write_bytes(b"damaged")
    without = register(*pair(), replace(alone, representation="masr"), device="cpu")
    assert (without.representation, without.weights_sha256) == ("mind-ssc", None)
    (warning,) = without.warnings
    assert "damaged" in warning
    mind = register(*pair(), alone, device="cpu")
    assert mind.warnings == []
    for one, other in zip(parts(without), parts(mind), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not all(np.array_equal(*both) for both in zip(parts(joined), parts(mind), strict=False))


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(InputError):
        register(*pair(), QUICK, device="abacus")
