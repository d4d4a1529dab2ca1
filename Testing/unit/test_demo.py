from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from masr_registration import demo
from masr_registration.errors import ResourceError


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return demo.prepare(tmp_path_factory.mktemp("demo"), seed=0)


@pytest.fixture(scope="module")
def truth(pair: dict) -> sitk.CompositeTransform:
    return sitk.CompositeTransform(sitk.ReadTransform(pair["truth"]))


@pytest.fixture(scope="module")
def brain() -> np.ndarray:
    return demo._foreground_points(demo._sample("T2"))[::10]


def _moved(transform: sitk.Transform, points: np.ndarray) -> np.ndarray:
    return np.asarray([transform.TransformPoint(p) for p in points.tolist()])


def test_the_request_names_files_that_exist(pair: dict) -> None:
    assert pair["preset"] == "brain-mr"
    assert all(Path(pair[name]).is_file() for name in ("fixed", "moving", "truth"))


def test_fixed_is_the_shipped_t1(pair: dict) -> None:
    expected = sitk.GetArrayFromImage(demo._sample("T1"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(pair["fixed"])), expected)


def test_resampling_moving_through_the_truth_gives_t2_back(pair: dict, truth: sitk.Transform) -> None:
    original = demo._sample("T2")
    moving = sitk.ReadImage(pair["moving"])
    expected = sitk.GetArrayFromImage(original)
    inside = expected > 0

    def correlation(transform: sitk.Transform) -> float:
        image = sitk.Resample(moving, original, transform, sitk.sitkLinear, 0.0, sitk.sitkFloat32)
        return float(np.corrcoef(sitk.GetArrayFromImage(image)[inside], expected[inside])[0, 1])

    assert correlation(truth) > 0.97
    assert correlation(sitk.Transform(3, sitk.sitkIdentity)) < 0.5


def test_nothing_of_the_brain_is_cut_off(pair: dict, truth: sitk.Transform, brain: np.ndarray) -> None:
    moving = sitk.ReadImage(pair["moving"])
    index = np.asarray(
        [moving.TransformPhysicalPointToContinuousIndex(p) for p in _moved(truth, brain).tolist()]
    )
    assert index.min() > 5
    assert (index.max(axis=0) < np.subtract(moving.GetSize(), 6)).all()


def test_the_start_is_far_off(truth: sitk.Transform, brain: np.ndarray) -> None:
    assert np.linalg.norm(_moved(truth, brain) - brain, axis=1).mean() > demo.ERROR_BEFORE_MM


def test_the_warp_is_large_smooth_and_does_not_fold(
    truth: sitk.CompositeTransform, brain: np.ndarray
) -> None:
    warp = truth.GetNthTransform(1)
    assert np.linalg.norm(_moved(warp, brain) - brain, axis=1).mean() >= 4.0
    fixed = demo._sample("T1")
    field = sitk.TransformToDisplacementField(
        warp,
        sitk.sitkVectorFloat64,
        fixed.GetSize(),
        fixed.GetOrigin(),
        fixed.GetSpacing(),
        fixed.GetDirection(),
    )
    jacobian = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(field))
    assert 0.3 < jacobian.min() < 0.95
    assert 1.05 < jacobian.max() < 3.0


def test_rotation_and_shift_are_in_their_range(truth: sitk.CompositeTransform, brain: np.ndarray) -> None:
    rigid = sitk.Euler3DTransform(truth.GetNthTransform(0))
    rotation = np.reshape(rigid.GetMatrix(), (3, 3))
    assert 10 <= np.rad2deg(np.arccos((np.trace(rotation) - 1) / 2)) <= 15
    assert 12 <= np.linalg.norm(rigid.GetTranslation()) <= 20


def test_the_same_seed_draws_the_same_truth_and_another_seed_another() -> None:
    points = np.random.default_rng(0).uniform(0, 60, (400, 3))

    def parameters(seed: int) -> tuple[float, ...]:
        return demo._draw_warp(np.random.default_rng(seed), points).GetParameters()

    assert parameters(3) == parameters(3) != parameters(4)


def test_largest_slope_bounds_the_true_slope_tightly() -> None:
    rng = np.random.default_rng(1)
    controls = np.zeros((3, 9, 9, 9))
    controls[:, 3:-3, 3:-3, 3:-3] = rng.normal(size=(3, 3, 3, 3))
    spacing, mesh = 10.0, 6
    warp = sitk.BSplineTransform(3)
    warp.SetTransformDomainPhysicalDimensions([mesh * spacing] * 3)
    warp.SetTransformDomainMeshSize([mesh] * 3)
    warp.SetParameters(controls.ravel().tolist())
    n, step = 61, mesh * spacing / 60
    field = sitk.TransformToDisplacementField(
        warp, sitk.sitkVectorFloat64, [n] * 3, [0.0] * 3, [step] * 3, np.eye(3).ravel().tolist()
    )
    u = np.moveaxis(sitk.GetArrayFromImage(field), -1, 0)
    slopes = sum(np.abs(np.gradient(u, step, axis=axis)) for axis in (1, 2, 3))
    sampled = float(slopes[:, 1:-1, 1:-1, 1:-1].max())
    bound = demo.largest_slope(controls, spacing)
    assert sampled <= bound <= 1.5 * sampled


def _result(before: float = 17.0, after: float = 0.5, folds: int = 0) -> dict:
    return {
        "metrics": {
            "true_error_before_mm": {"mean": before},
            "true_error_after_mm": {"mean": after},
            "folds": folds,
        }
    }


def test_check_accepts_a_good_result() -> None:
    assert demo.check(_result()) == []


@pytest.mark.parametrize("bad", [{"before": 7.9}, {"after": 1.5}, {"after": float("nan")}, {"folds": 1}])
def test_check_tells_what_is_wrong(bad: dict) -> None:
    assert len(demo.check(_result(**bad))) == 1


def test_an_unwritable_folder_is_a_resource_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ResourceError, match="could not write"):
        demo.prepare(blocked)
