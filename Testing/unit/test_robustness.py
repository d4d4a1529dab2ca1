"""Inputs that are less than ideal: partial overlap, a cavity, thick slices, weights, and bad linear starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from masr_registration import presets
from masr_registration.presets import Linear, Normalisation
from masr_registration.representation.descriptor import NEGLIGIBLE, Scan
from masr_registration.solver import linear
from masr_registration.solver.linear import register_linear
from masr_registration.solver.pipeline import RegistrationResult, register
from masr_registration.transforms import affine
from masr_registration.volume import Geometry, Volume, read_volume
from phantoms import AXIS_ALIGNED, Head, geometry, inverse_points, points_of, smooth_field

HEAD = Head(radii=(30.0, 37.0, 33.0), wavelengths=(24.0, 70.0))
FIXED = geometry((26, 32, 28), (3.0, 3.0, 3.0))
MOVING = geometry(
    (30, 34, 30), (2.8, 2.8, 2.8), affine.rotation(np.radians([5.0, 0.0, 8.0])), (2.0, -2.0, 1.0)
)
BODY = points_of(FIXED)[HEAD.contains(points_of(FIXED))]
TILT = affine.about(np.zeros(3), affine.rotation(np.radians([4.0, -6.0, 5.0])), np.array([5.0, -6.0, 3.0]))
BEND = smooth_field(geometry((32, 32, 32), (4.0, 4.0, 4.0)), 8.0, 1, wavelength=0.6)
GENERAL = presets.load("general")
PRESET = replace(GENERAL, working_spacing_mm=3.0, continuous=replace(GENERAL.continuous, iterations=(6, 10)))
CAVITY = np.array([-8.0, 6.0, 5.0])
CAVITY_RADIUS = 13.0


@pytest.fixture(autouse=True, scope="module")
def coarser_linear_stage() -> pytest.MonkeyPatch:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear, "COARSE_MM", 7.0)
        patch.setattr(linear, "FINE_MM", 5.0)
        yield patch


def back(points: np.ndarray) -> np.ndarray:
    """Moving -> fixed."""
    tilted = affine.apply(TILT, points)
    return BEND.apply(torch.from_numpy(tilted.reshape(-1, 3))).numpy().reshape(points.shape)


TRUTH = inverse_points(back, BODY)


def errors(result: RegistrationResult) -> np.ndarray:
    """Millimetres at `BODY`."""
    found = result.transform.apply(torch.from_numpy(BODY)).numpy()
    return np.asarray(np.linalg.norm(found - TRUTH, axis=1))


def moving(grid: Geometry = MOVING) -> Volume:
    return HEAD.volume(grid, "t2", back)


def run(fixed: Volume, moving: Volume, **options: object) -> RegistrationResult:
    return register(fixed, moving, PRESET, device="cpu", **options)  # type: ignore[arg-type]


def cropped(volume: Volume, start: int) -> Volume:
    """Without the slices below `start`."""
    old = volume.geometry
    origin = old.index_to_physical @ [0, 0, start, 1]
    array = np.ascontiguousarray(volume.array[start:])
    size = (old.size[0], old.size[1], len(array))
    return Volume(array, Geometry(size, old.spacing, tuple(origin[:3].tolist()), old.direction), volume.name)


@pytest.fixture(scope="module")
def whole(coarser_linear_stage: pytest.MonkeyPatch) -> np.ndarray:
    """Errors where nothing is wrong with the images."""
    found = errors(run(HEAD.volume(FIXED, "t1"), moving()))
    assert found.mean() < 1.6
    return found


@pytest.mark.parametrize("which", ["fixed", "moving"])
def test_a_missing_third_of_one_image_does_not_pull_the_rest(whole: np.ndarray, which: str) -> None:
    images = {"fixed": HEAD.volume(FIXED, "t1"), "moving": moving()}
    images[which] = cropped(images[which], len(images[which].array) * 2 // 5)
    found = errors(run(images["fixed"], images["moving"]))
    points, grid = (BODY, FIXED) if which == "fixed" else (TRUTH, MOVING)
    index = affine.apply(grid.physical_to_index, points)
    seen = index[:, 2] > grid.size[2] * 2 // 5 + 2
    missing = 1 - np.mean(index[:, 2] > grid.size[2] * 2 // 5)
    print(f"{missing:.0%} missing: {whole[seen].mean():.2f} mm with it, {found[seen].mean():.2f} without")
    assert missing > 0.3
    assert found[seen].mean() < 1.35 * whole[seen].mean() + 0.2


def test_a_cavity_in_one_image_does_not_pull_the_rest(whole: np.ndarray) -> None:
    image = moving()
    inside = np.linalg.norm(back(points_of(MOVING)) - CAVITY, axis=-1) < CAVITY_RADIUS
    image = image.with_array(np.where(inside, np.float32(60), image.array))
    found = errors(run(HEAD.volume(FIXED, "t1"), image))
    away = np.linalg.norm(BODY - CAVITY, axis=1) > CAVITY_RADIUS + 8
    print(f"away from the cavity: {whole[away].mean():.2f} mm without it, {found[away].mean():.2f} with it")
    assert found[away].mean() < 1.35 * whole[away].mean() + 0.15


def test_slices_of_8_mm(whole: np.ndarray) -> None:
    thin = geometry((42, 42, 88), (2.0, 2.0, 1.0), AXIS_ALIGNED, (-3.0, 4.0, -2.0))
    array = moving(thin).array.reshape(11, 8, 42, 42).mean(axis=1)
    origin = thin.index_to_physical @ [0, 0, 3.5, 1]
    grid = Geometry((42, 42, 11), (2.0, 2.0, 8.0), tuple(origin[:3].tolist()), thin.direction)
    found = errors(run(HEAD.volume(FIXED, "t1"), Volume(array, grid, "thick")))
    print(f"slices of 8 mm: {found.mean():.2f} mm; of 2.8 mm: {whole.mean():.2f} mm")
    assert found.mean() < 2.0 + whole.mean()


def test_weights_of_one_half_everywhere_change_nothing() -> None:
    fixed = HEAD.volume(FIXED, "t1")
    half = Volume(np.full(FIXED.shape, 0.5), FIXED)
    settings = replace(PRESET, discrete=replace(PRESET.discrete, enabled=False))
    settings = replace(settings, continuous=replace(PRESET.continuous, enabled=False))
    free, weighted = (
        register(fixed, moving(), settings, device="cpu", fixed_mask=mask) for mask in (None, half)
    )
    np.testing.assert_allclose(weighted.transform.matrix, free.transform.matrix, atol=0.02)
    assert weighted.metrics["similarity_after"] == pytest.approx(free.metrics["similarity_after"], rel=0.01)


def test_a_probability_is_a_weight_and_what_is_negligible_is_no_region() -> None:
    probability = np.zeros(FIXED.shape)
    probability[8:20, 8:24, 6:20] = 0.5
    probability[10:18, 10:22, 8:18] = 1.0
    probability[20:24] = NEGLIGIBLE / 2
    scan = Scan.of(HEAD.volume(FIXED, "t1"), "mr", Normalisation(), Volume(probability, FIXED))
    np.testing.assert_allclose(scan.known_on(FIXED, np.eye(4)), probability)
    assert not scan.region.numpy()[20:].any()
    assert scan.region.numpy()[12, 12, 12]
    shifted = scan.known_on(FIXED, affine.about(np.zeros(3), np.eye(3), np.array([0.0, 0.0, 300.0])))
    assert not shifted.any()


@pytest.mark.data
@pytest.mark.parametrize("case", ["brain_t1t2_stroke", "brain_t1flair_elderly/3"])
def test_a_bad_start_of_real_t1_and_flair_costs_nothing(
    case: str, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "COARSE_MM", 5.0)
    monkeypatch.setattr(linear, "FINE_MM", 3.0)
    folder = data_folder / case
    fixed, flair = (
        Scan.of(read_volume(folder / f"{name}.nii.gz"), "mr", Normalisation()) for name in ("T1", "FLAIR")
    )
    brain = fixed.region.nonzero()[::500].flip(1).double().numpy()
    points = affine.apply(fixed.geometry.index_to_physical, brain)
    undisturbed = register_linear(fixed, flair, Linear(), np.eye(4)).matrix
    rng = np.random.default_rng(5)
    for _ in range(2):
        axis, direction = (v / np.linalg.norm(v) for v in rng.normal(size=(2, 3)))
        turned = affine.rotation(np.radians(rng.uniform(20, 30)) * axis)
        moved = affine.about(points.mean(0), turned, rng.uniform(40, 50) * direction)
        old = flair.geometry
        new = moved @ old.index_to_physical
        axes = new[:3, :3] / np.asarray(old.spacing)
        place = Geometry(old.size, old.spacing, tuple(new[:3, 3].tolist()), tuple(axes.ravel().tolist()))
        found = register_linear(fixed, replace(flair, geometry=place), Linear(), np.eye(4)).matrix
        error = np.linalg.norm(
            affine.apply(found, points) - affine.apply(moved @ undisturbed, points), axis=1
        )
        assert error.mean() < 1.5
