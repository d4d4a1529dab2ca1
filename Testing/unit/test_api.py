"""The Python interface: what it offers (frozen), what it takes, and that it is the job of the command line."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import masr_registration as masr
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from masr_registration.case.files import RESULT_FILES
from masr_registration.evaluation.landmarks import read_landmarks
from small_pair import SHIFT_MM, pair, request, run_here
from worker_tools import environment

__all__ = ["pair"]

REGISTER = (
    "fixed, moving, *, preset, fixed_mask, moving_mask, initial_transform, labels, landmarks, truth, use_landmarks, "
    "device, threads, seed, plan, method, progress, warn, cancel"
)
SEQUENCE = (
    "items, *, reference, target, preset, reference_mask, device, threads, seed, progress, warn, cancel"
)
PLAN = "fixed, moving, *, preset, fixed_mask, moving_mask, device, threads, warn"
RESULT = {
    "transform", "inverse", "warped", "warped_labels", "metrics", "verdict", "warnings", "plan", "provenance",
    "timings", "inputs", "features", "apply", "to_json", "report", "save", "write",
}  # fmt: skip


@pytest.fixture(scope="module")
def full(pair: dict[str, Path]) -> masr.Result:
    return masr.register(
        pair["fixed"],
        pair["moving"],
        preset=pair["preset"],
        labels=pair["labels"],
        landmarks=(pair["fixed_points"], pair["moving_points"]),
        device="cpu",
        threads=1,
    )


def signature(function: Any) -> str:
    names, keyword_only = [], False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            names.append("*")
        names.append(parameter.name)
    return ", ".join(names)


# --- the surface


def test_the_surface_is_frozen(full: masr.Result) -> None:
    """Adding to it is a decision, taking from it breaks programs of others: change this test on purpose only."""
    assert set(masr.__all__) == {
        "CancelledError", "Geometry", "InputError", "MasrError", "Plan", "Preset", "ResourceError", "Result",
        "TransformChain", "Volume", "__version__", "make_plan", "presets", "read_labels", "read_volume", "register",
        "SequenceResult", "read_sequence", "register_sequence",
        "write_volume",
    }  # fmt: skip
    assert [getattr(masr, name) for name in masr.__all__]
    assert signature(masr.register) == REGISTER
    assert signature(masr.register_sequence) == SEQUENCE
    assert signature(masr.make_plan) == PLAN
    assert {name for name in dir(full) if not name.startswith("_")} == RESULT


def test_every_public_callable_is_typed_and_documented() -> None:
    for function in (masr.register, masr.make_plan, masr.Result.apply, masr.Result.save, masr.Result.report):
        assert function.__doc__
        hints = inspect.signature(function)
        assert hints.return_annotation is not inspect.Signature.empty
        for parameter in list(hints.parameters.values()):
            assert parameter.name == "self" or parameter.annotation is not inspect.Parameter.empty


def test_importing_the_package_is_light() -> None:
    heavy = "[name for name in ('torch', 'SimpleITK') if name in sys.modules]"
    code = f"import sys, masr_registration as masr; masr.presets; print({heavy})"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
    with pytest.raises(AttributeError, match="nonsense"):
        masr.nonsense  # noqa: B018


# --- one implementation


def test_it_is_the_job_of_the_command_line(full: masr.Result, pair: dict[str, Path], tmp_path: Path) -> None:
    points = [str(pair["fixed_points"]), str(pair["moving_points"])]
    outcome = run_here(
        request(pair, tmp_path / "job", labels=str(pair["labels"]), landmarks=points, device="cpu")
    )
    saved = full.save(tmp_path / "api")
    assert set(saved) == set(outcome.files)
    for name in ("displacement", "warped", "warped_labels"):
        assert saved[name].read_bytes() == outcome.files[name].read_bytes(), name
    contents = [json.loads(files["result"].read_text()) for files in (saved, outcome.files)]
    for key in ("verdict", "metrics", "warnings"):
        assert contents[0][key] == contents[1][key]
    own, other = (content["provenance"] for content in contents)
    assert {k: v for k, v in own.items() if k != "date"} == {k: v for k, v in other.items() if k != "date"}
    assert set(contents[0]["timings"]) == set(contents[1]["timings"])


@pytest.mark.parametrize("kind", ["SimpleITK", "Volume", "mixed"])
def test_images_from_memory_give_the_same_bits(full: masr.Result, pair: dict[str, Path], kind: str) -> None:
    fixed: Any = sitk.ReadImage(str(pair["fixed"]))
    moving: Any = sitk.ReadImage(str(pair["moving"]))
    if kind == "Volume":
        fixed, moving = masr.Volume.from_sitk(fixed), masr.Volume.from_sitk(moving)
    if kind == "mixed":
        fixed = str(pair["fixed"])
    result = masr.register(fixed, moving, preset=pair["preset"], device="cpu", threads=1)
    np.testing.assert_array_equal(result.warped.array, full.warped.array)
    assert result.warped.array.dtype == np.int16
    assert result.provenance["moving"]["sha256_of"] == "voxels"
    assert result.provenance["fixed"]["sha256_of"] == ("file" if kind == "mixed" else "voxels")


def write_series(image: sitk.Image, folder: Path) -> None:
    """A DICOM series of one file for every slice."""
    folder.mkdir()
    direction = np.reshape(image.GetDirection(), (3, 3))
    for k in range(image.GetDepth()):
        part = image[:, :, k]
        position = image.TransformIndexToPhysicalPoint((0, 0, k))
        tags = {
            "0008|0060": "MR", "0008|0016": "1.2.840.10008.5.1.4.1.1.4", "0020|000d": "1.2.3", "0020|000e": "1.2.3.4",
            "0008|0018": f"1.2.3.4.{k + 1}", "0020|0013": str(k + 1), "0020|0052": "1.2.3.9",
            "0020|0032": "\\".join(f"{v:.8f}" for v in position),
            "0020|0037": "\\".join(f"{v:.8f}" for v in direction.T[:2].ravel()),
            "0018|0050": str(image.GetSpacing()[2]),
        }  # fmt: skip
        for key, value in tags.items():
            part.SetMetaData(key, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(folder / f"{(7 * k) % 101:03}.dcm"))
        writer.Execute(part)


def test_dicom_series_go_in(full: masr.Result, pair: dict[str, Path], tmp_path: Path) -> None:
    write_series(sitk.ReadImage(str(pair["moving"])), tmp_path / "series")
    for source in (tmp_path / "series", tmp_path / "series" / "000.dcm"):
        result = masr.register(pair["fixed"], source, preset=pair["preset"], device="cpu", threads=1)
        assert result.warped.array.dtype == np.int16
        assert np.mean(np.abs(result.warped.array - full.warped.array.astype(float))) < 2.0
        assert result.provenance["moving"]["sha256_of"] == "voxels"


def test_masks_transforms_and_points_from_memory(pair: dict[str, Path]) -> None:
    files: dict[str, Any] = {
        "fixed_mask": pair["fixed_mask"],
        "initial_transform": pair["start"],
        "truth": pair["truth"],
        "landmarks": (pair["fixed_points"], pair["moving_points"]),
    }
    memory = {
        "fixed_mask": sitk.ReadImage(str(pair["fixed_mask"])),
        "initial_transform": sitk.ReadTransform(str(pair["start"])),
        "truth": sitk.ReadTransform(str(pair["truth"])),
        "landmarks": tuple(read_landmarks(path)[1].tolist() for path in files["landmarks"]),
    }
    common: dict[str, Any] = {"preset": pair["preset"], "device": "cpu", "threads": 1}
    results = [
        masr.register(pair["fixed"], pair["moving"], **common, **options) for options in (files, memory)
    ]
    numbers = [{k: v for k, v in r.metrics.items() if k != "landmark_labels"} for r in results]
    assert numbers[0] == numbers[1]
    assert numbers[0]["true_error_before_mm"]["mean"] == pytest.approx(np.linalg.norm(SHIFT_MM) / 2, abs=1e-3)
    hashes = [r.provenance["initial_transform"]["sha256"] for r in results]
    assert all(len(h) == 64 for h in hashes)


def test_a_plan_is_made_and_repeated(full: masr.Result, pair: dict[str, Path]) -> None:
    images = pair["fixed"], pair["moving"]
    common: dict[str, Any] = {"preset": pair["preset"], "device": "cpu", "threads": 1}
    assert masr.make_plan(*images, **common) == full.plan
    for plan in (full.plan, full.provenance["plan"]):
        again = masr.register(*images, **common, plan=plan)
        np.testing.assert_array_equal(again.warped.array, full.warped.array)


def test_threads_are_put_back(pair: dict[str, Path]) -> None:
    before = torch.get_num_threads(), sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    result = masr.register(pair["fixed"], pair["moving"], preset=pair["preset"], threads=2, device="cpu")
    assert result.provenance["threads"] == 2
    assert (torch.get_num_threads(), sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()) == before


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB.")]
)
def test_memory_that_runs_out_is_one_sentence(
    pair: dict[str, Path], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("masr_registration.solver.pipeline.register_linear", fail)
    with pytest.raises(masr.ResourceError, match=r"^The memory is not enough; ") as caught:
        masr.register(pair["fixed"], pair["moving"], threads=1)
    assert caught.value.__cause__ is error
    assert not isinstance(caught.value, masr.InputError)


# --- what a result does


def test_points_go_there_and_back(full: masr.Result, pair: dict[str, Path]) -> None:
    fixed, moving = (read_landmarks(pair[name])[1] for name in ("fixed_points", "moving_points"))
    there = full.apply(points=fixed, to="moving")
    np.testing.assert_allclose(full.apply(points=there), fixed, atol=0.5)
    assert np.linalg.norm(there - moving, axis=1).mean() == pytest.approx(
        full.metrics["tre_after_mm"]["mean"], abs=1e-6
    )
    np.testing.assert_allclose(full.apply(points=pair["moving_points"]), full.apply(points=moving))


def test_images_and_labels_are_brought_over(full: masr.Result, pair: dict[str, Path]) -> None:
    np.testing.assert_array_equal(full.apply(pair["moving"]).array, full.warped.array)
    assert full.warped_labels is not None
    np.testing.assert_array_equal(full.apply(labels=pair["labels"]).array, full.warped_labels.array)
    assert full.warped_labels.array.dtype == np.uint16
    mask = full.apply(labels=pair["fixed_mask"], to="moving")
    assert mask.geometry == masr.read_volume(pair["moving"]).geometry
    assert set(np.unique(mask.array)) == {0, 1}
    expected = sitk.Resample(
        sitk.ReadImage(str(pair["fixed_mask"])),
        sitk.ReadImage(str(pair["moving"])),
        full.inverse.to_sitk(),
        sitk.sitkNearestNeighbor,
    )
    assert np.mean(mask.array != sitk.GetArrayFromImage(expected)) < 1e-3


def test_apply_wants_exactly_one_thing(full: masr.Result, pair: dict[str, Path]) -> None:
    with pytest.raises(masr.InputError, match="one of image, labels and points"):
        full.apply()  # type: ignore[call-overload]
    with pytest.raises(masr.InputError, match="one of image, labels and points"):
        full.apply(pair["moving"], points=[[0, 0, 0]])  # type: ignore[call-overload]
    with pytest.raises(masr.InputError, match='not to "elsewhere"'):
        full.apply(pair["moving"], to="elsewhere")  # type: ignore[call-overload]


@pytest.mark.parametrize("points", [[[0, 0]], [], [["a", 0, 0]], [[0, 0, float("nan")]], [0, 0, 0]])
def test_what_are_no_points_is_refused(full: masr.Result, points: Any) -> None:
    with pytest.raises(masr.InputError, match="Points have to be"):
        full.apply(points=points)


def test_saving_twice_replaces_and_never_an_input(
    full: masr.Result, pair: dict[str, Path], tmp_path: Path
) -> None:
    full.save(tmp_path)
    total = full.timings["total"]
    files = full.save(tmp_path, report=False)
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in files.values()}
    assert "report" not in files
    assert full.timings["total"] < 2 * total
    warped = tmp_path / RESULT_FILES["warped"]
    result = masr.register(warped, pair["moving"], preset=pair["preset"])
    before = warped.read_bytes()
    with pytest.raises(masr.InputError, match="would be overwritten"):
        result.save(tmp_path)
    assert warped.read_bytes() == before


def test_a_folder_that_cannot_be_written(full: masr.Result, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(masr.ResourceError, match="The output folder cannot be written"):
        full.save(tmp_path / "file" / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_the_report_is_a_page(full: masr.Result) -> None:
    page = full.report()
    assert page.startswith("<!DOCTYPE html>")
    assert "moving.nii.gz" in page
    assert "<Result: moving.nii.gz to fixed.nii.gz" in repr(full)


# --- progress, cancel, errors


def test_progress_rises_to_1_and_cancel_stops(pair: dict[str, Path]) -> None:
    seen: list[tuple[str, float]] = []
    cancel = threading.Event()

    def show(stage: str, fraction: float, metrics: object) -> None:
        seen.append((stage, fraction))

    masr.register(pair["fixed"], pair["moving"], preset=pair["preset"], progress=show, cancel=cancel)
    fractions = [fraction for _, fraction in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert {stage for stage, _ in seen} == {"read", "linear", "discrete", "continuous", "check"}

    def stop(stage: str, fraction: float, metrics: object) -> None:
        if stage == "discrete":
            cancel.set()

    with pytest.raises(masr.CancelledError):
        masr.register(pair["fixed"], pair["moving"], preset=pair["preset"], progress=stop, cancel=cancel)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fixed": "missing.nii.gz"}, 'There is no file "missing.nii.gz".'),
        ({"fixed": 7}, "has to be a path, a SimpleITK image or a Volume, not int"),
        ({"moving": sitk.Image(8, 8, sitk.sitkFloat32)}, "is a 2-D image"),
        ({"moving": sitk.Image(8, 8, 8, sitk.sitkFloat32)}, 'The moving image "moving image" is empty'),
        ({"moving": sitk.Image([8, 8, 8], sitk.sitkVectorFloat32, 3)}, "3 values in every voxel"),
        ({"fixed_mask": sitk.Image(8, 8, 8, sitk.sitkUInt8)}, "does not lie on the grid"),
        ({"initial_transform": 7}, "a SimpleITK transform or a TransformChain, not int"),
        ({"initial_transform": sitk.Euler2DTransform()}, "The initial transform is not a 3-D transform"),
        ({"preset": None}, "a Preset, not NoneType"),
        ({"preset": "brian"}, 'There is no preset "brian"'),
        ({"preset": {"masr_preset": 1}}, "incomplete"),
        ({"threads": 0}, "The number of threads must be 1 to 4096, not 0."),
        ({"seed": -1}, "The seed must be"),
        ({"threads": 1.5}, "The number of threads must be a whole number, not 1.5"),
        ({"seed": None}, "The seed must be a whole number, not None"),
        ({"device": "tpu"}, "tpu"),
        ({"device": None}, 'There is no device "None"'),
        ({"plan": {}}, "This is not a plan"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(
    pair: dict[str, Path], change: dict[str, Any], words: str
) -> None:
    values: dict[str, Any] = {"fixed": pair["fixed"], "moving": pair["moving"], "preset": pair["preset"]}
    with pytest.raises(masr.InputError, match=words) as caught:
        masr.register(**{**values, **change})
    assert "\n" not in str(caught.value)
