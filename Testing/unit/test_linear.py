"""The linear stage: bad starts, limits on what it may return, and the start kept where nothing is better."""

from __future__ import annotations

from importlib.resources import as_file, files
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from masr_registration.presets import Linear, Normalisation
from masr_registration.representation.descriptor import Scan
from masr_registration.solver import linear
from masr_registration.solver.linear import LinearResult, Tick, register_linear
from masr_registration.transforms import affine
from masr_registration.volume import Geometry, Volume, read_volume
from phantoms import OBLIQUE, Head, geometry, points_of

HEAD = Head(radii=(28.0, 37.0, 32.0))
GRID = geometry((20, 24, 22), (4.0, 4.0, 4.0), OBLIQUE, (10.0, -200.0, 40.0))
CENTRE = np.asarray(GRID.centre)
POINTS = points_of(GRID)[HEAD.contains(points_of(GRID) - CENTRE)]


def place(volume: Volume, matrix: np.ndarray) -> Volume:
    """The same voxels where `matrix` (rotation and shift, LPS mm) takes them."""
    old = volume.geometry
    new = matrix @ old.index_to_physical
    axes = new[:3, :3] / np.asarray(old.spacing)
    return Volume(
        volume.array,
        Geometry(old.size, old.spacing, tuple(new[:3, 3].tolist()), tuple(axes.ravel().tolist())),
        volume.name,
    )


def turn(degrees: float, axis: tuple[float, float, float], shift: tuple[float, float, float]) -> np.ndarray:
    vector = np.radians(degrees) * np.asarray(axis) / np.linalg.norm(axis)
    return affine.about(CENTRE, affine.rotation(vector), np.asarray(shift))


def head(shade: str, matrix: np.ndarray | None = None) -> Volume:
    """The head at the middle of `GRID`; with `matrix`, what was at p lies at ``matrix p`` (same grid)."""
    inverse = np.linalg.inv(np.eye(4) if matrix is None else matrix)
    return HEAD.volume(GRID, shade, lambda p: affine.apply(inverse, p) - CENTRE)


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half the resolution, for tests that do not measure accuracy."""
    monkeypatch.setattr(linear, "COARSE_MM", 8.0)
    monkeypatch.setattr(linear, "FINE_MM", 6.0)


def run(
    fixed: Volume,
    moving: Volume,
    start: np.ndarray | None = None,
    tick: Tick = lambda _: None,
    **settings: Any,
) -> LinearResult:
    scans = [Scan.of(v, "mr", Normalisation()) for v in (fixed, moving)]
    return register_linear(
        scans[0], scans[1], Linear(**settings), np.eye(4) if start is None else start, tick
    )


def errors(found: np.ndarray, truth: np.ndarray, points: np.ndarray = POINTS) -> np.ndarray:
    distance: np.ndarray = np.linalg.norm(affine.apply(found, points) - affine.apply(truth, points), axis=1)
    return distance


def reduced(name: str, spacing_mm: float) -> Volume:
    """One image of the packaged pair on a coarser grid."""
    with as_file(files("masr_registration").joinpath("data", "sample", name)) as path:
        volume = read_volume(path)
    grid = volume.geometry.resized((spacing_mm,) * 3)
    smooth = sitk.SmoothingRecursiveGaussian(volume.to_sitk(), 0.4 * spacing_mm)
    reference = grid.stamp(sitk.Image(*grid.size, sitk.sitkUInt8))
    return Volume.from_sitk(sitk.Resample(smooth, reference), name)


def test_a_brain_survives_25_degrees_and_45_mm() -> None:
    fixed, moving = reduced("T1.nii.gz", 4.0), reduced("T2.nii.gz", 4.0)
    centre = np.asarray(fixed.geometry.centre)
    axis = np.array([1.0, 1.0, 0.3]) / np.linalg.norm([1.0, 1.0, 0.3])
    truth = affine.about(centre, affine.rotation(np.radians(25) * axis), 45 * np.array([0.6, -0.64, 0.48]))
    result = run(fixed, place(moving, truth))
    brain = points_of(fixed.geometry)[fixed.array > np.percentile(fixed.array, 60)]
    assert errors(np.eye(4), truth, brain).mean() > 40
    assert errors(result.matrix, truth, brain).mean() < 2.5
    assert result.cost_after < 0.7 * result.cost_before
    assert result.warnings == ()


def test_a_rigid_model_stays_rigid_and_finds_the_truth() -> None:
    truth = turn(15.0, (0.0, 0.3, 1.0), (20.0, -15.0, 10.0))
    ticks: list[float] = []
    result = run(head("t1"), place(head("t2"), truth), tick=ticks.append, model="rigid")
    assert affine.scales(result.matrix) == pytest.approx([1, 1, 1], abs=1e-9)
    assert np.linalg.det(result.matrix[:3, :3]) == pytest.approx(1)
    assert errors(result.matrix, truth).max() < 3.0
    assert ticks == sorted(ticks)
    assert ticks[0] > 0
    assert ticks[-1] == 1


def test_an_affine_model_finds_stretch_and_shear_from_a_start_that_it_believes() -> None:
    stretch = affine.about(
        CENTRE, np.array([[1.15, 0.1, 0], [0, 0.9, 0.08], [0, 0, 1.0]]), np.array([6.0, 0, -5])
    )
    start = turn(70.0, (0.0, 1.0, 0.2), (300.0, 200.0, -150.0))
    result = run(head("t1"), place(head("t2", stretch), start), start)
    assert errors(result.matrix, start @ stretch).max() < 4.0
    assert result.warnings == ()


@pytest.mark.parametrize(
    "change",
    [
        affine.about(CENTRE, np.diag([-1.0, 1.0, 1.0])),
        turn(75.0, (0.0, 0.0, 1.0), (0.0, 0.0, 0.0)) @ affine.about(CENTRE, np.diag([0.55, 0.6, 0.5])),
    ],
    ids=["mirror image", "half the size and turned by 75 degrees"],
)
def test_what_is_returned_keeps_the_limits(coarse: None, change: np.ndarray) -> None:
    result = run(head("t1"), head("t1", change))
    assert np.linalg.det(result.matrix[:3, :3]) > 0
    stretch = affine.scales(result.matrix)
    assert 0.7 <= stretch[-1] <= stretch[0] <= 1.4
    assert affine.rotation_degrees(result.matrix) <= 45
    assert result.cost_after <= result.cost_before


def test_a_large_turn_needs_untrusted_orientation_and_gives_a_warning() -> None:
    truth = turn(55.0, (0.0, 0.0, 1.0), (5.0, 0.0, 0.0))
    result = run(head("t1"), place(head("t2"), truth), orientation_trusted=False, model="rigid")
    assert errors(result.matrix, truth).max() < 4.0
    assert len(result.warnings) == 1
    assert "55 degrees" in result.warnings[0]


@pytest.mark.parametrize(
    ("linear_part", "trusted", "admissible"),
    [
        (np.eye(3), True, True),
        (np.diag([-1.0, 1.0, 1.0]), False, False),
        (-np.eye(3), False, False),
        (np.diag([1.39, 0.71, 1.0]), True, True),
        (np.diag([1.41, 1.0, 1.0]), True, False),
        (np.diag([1.0, 0.69, 1.0]), True, False),
        (affine.rotation(np.radians([0.0, 44.0, 0.0])), True, True),
        (affine.rotation(np.radians([0.0, 46.0, 0.0])), True, False),
        (affine.rotation(np.radians([0.0, 170.0, 0.0])), False, True),
    ],
)
def test_the_limits_themselves(linear_part: np.ndarray, trusted: bool, admissible: bool) -> None:
    matrix = affine.about(CENTRE, linear_part, 1000.0)
    assert linear.allowed(matrix, np.eye(4), Linear(orientation_trusted=trusted)) is admissible


def test_the_start_is_kept_where_nothing_is_better(coarse: None) -> None:
    start = turn(4.0, (1.0, 0.0, 0.0), (3.0, 2.0, 1.0))
    same = run(head("t1"), place(head("t1"), start), start)
    np.testing.assert_allclose(same.matrix, start, atol=1e-3)
    assert same.cost_after <= same.cost_before
