"""Sequences: items to a reference or to their neighbours, motion over time, and the same through the worker."""

from __future__ import annotations

import csv
import json
import threading
import xml.etree.ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import masr_registration as masr
import numpy as np
import pytest
import SimpleITK as sitk
from masr_registration import presets
from masr_registration.case import solve
from masr_registration.cli import app
from small_pair import OBLIQUE, picture, run_here
from typer.testing import CliRunner
from worker_tools import plain_request

SIZE, SPACING = (32, 34, 30), (2.0, 2.0, 2.5)
STEP_MM = np.array([2.0, -1.5, 2.5])
STEP_WORLD = np.reshape(OBLIQUE, (3, 3)) @ STEP_MM
AMOUNTS = (1, 0, 1, 3)
POINTS = np.array([[0.0, 0.0, 0.0], [9.0, 4.0, 6.0]])


def frame(amount: float) -> sitk.Image:
    """The body of `picture`, moved by `amount` steps."""
    noise = np.random.default_rng(int(10 * amount)).normal(0, 3, SIZE[::-1])
    image = sitk.GetImageFromArray((picture(SIZE, SPACING, amount * STEP_MM) + noise).astype(np.int16))
    image.SetSpacing(SPACING)
    image.SetDirection(OBLIQUE)
    return image


@pytest.fixture(scope="module")
def rigid() -> presets.Preset:
    general = presets.load("general")
    return replace(
        general,
        name="rigid",
        working_spacing_mm=4.0,
        linear=replace(general.linear, model="rigid"),
        discrete=replace(general.discrete, enabled=False),
        continuous=replace(general.continuous, enabled=False),
    )


@pytest.fixture(scope="module")
def centre() -> np.ndarray:
    return masr.Geometry.of(frame(0)).centre


@pytest.mark.parametrize("target", ["reference", "neighbour"])
def test_the_motion_is_found(rigid: presets.Preset, centre: np.ndarray, target: Any) -> None:
    frames = [frame(amount) for amount in AMOUNTS]
    seen: list[float] = []
    found = masr.register_sequence(
        frames,
        reference=1,
        target=target,
        preset=rigid,
        threads=1,
        device="cpu",
        progress=lambda stage, fraction, metrics: seen.append(fraction),
    )
    points = centre + POINTS
    expected = points + np.multiply.outer(AMOUNTS, STEP_WORLD)[:, None]
    np.testing.assert_allclose(found.trajectories(points), expected, atol=0.8)
    np.testing.assert_allclose(
        found.motion(points), np.outer(AMOUNTS, [np.linalg.norm(STEP_MM)] * 2), atol=0.8
    )
    assert found.motion(points)[1].max() == 0
    assert found.results[1] is None
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1.0)
    last = found.results[3]
    assert last is not None
    largest = np.linalg.norm(last.transform.matrix[:3] @ [*centre, 1] - centre)
    steps = 2 if target == "neighbour" else 3
    assert largest == pytest.approx(steps * np.linalg.norm(STEP_MM), abs=0.8)
    still = sitk.GetArrayFromImage(frames[1]).astype(float)
    for number in (0, 2, 3):
        warped = found.warped[number]
        assert warped is not None
        assert warped.array.dtype == np.int16
        before = np.abs(sitk.GetArrayFromImage(frames[number]) - still).mean()
        assert np.abs(warped.array - still).mean() < 0.5 * before


def test_deformable_neighbours_add_up(centre: np.ndarray) -> None:
    """The transform to an item is the chain of the steps, and equals what ITK makes of it."""
    general = presets.load("general")
    quick = replace(
        general,
        working_spacing_mm=4.0,
        linear=replace(general.linear, model="none"),
        discrete=replace(general.discrete, reach_mm=16.0),
        continuous=replace(general.continuous, control_spacing_mm=12.0, iterations=(3, 2)),
    )
    found = masr.register_sequence(
        [frame(amount) for amount in (0, 1, 2)], target="neighbour", preset=quick, threads=1, device="cpu"
    )
    steps = [result.transform.to_sitk() for result in found.results if result is not None]
    last = found.transforms[2]
    assert last is not None
    whole = last.to_sitk()
    for point in (centre + POINTS).tolist():
        by_steps = steps[1].TransformPoint(steps[0].TransformPoint(point))
        np.testing.assert_allclose(whole.TransformPoint(point), by_steps, atol=1e-3)
        assert np.linalg.norm(np.subtract(by_steps, point) - 2 * STEP_WORLD) < 4.0


def test_a_plot_of_the_motion(rigid: presets.Preset, centre: np.ndarray, tmp_path: Path) -> None:
    found = masr.register_sequence([frame(0), frame(1)], preset=rigid, device="cpu")
    path = tmp_path / "landmarks.csv"
    rows = [f"tip <{i}>,{x},{y},{z}" for i, (x, y, z) in enumerate(centre + POINTS)]
    path.write_text("\n".join(["label,x_lps,y_lps,z_lps", *rows]))
    found.plot_motion(path, tmp_path / "motion.svg", times=[0.0, 0.4], unit="time (s)")
    xml.etree.ElementTree.parse(tmp_path / "motion.svg")
    found.plot_motion(centre + POINTS, tmp_path / "motion.png")
    assert (tmp_path / "motion.png").stat().st_size > 5000
    for name, times, words in (
        ("a.png", [0.0], "2 items and 1 times"),
        ("a.word", None, '"a.word" has no suffix'),
    ):
        with pytest.raises(masr.InputError, match=words):
            found.plot_motion(path, tmp_path / name, times=times)
    with pytest.raises(masr.ResourceError, match=r'"a.png" cannot be written'):
        found.plot_motion(path, tmp_path / "nowhere" / "a.png")


@pytest.mark.parametrize("together", [sitk.JoinSeries, sitk.Compose])
def test_one_image_with_all_items(rigid: presets.Preset, together: Any) -> None:
    whole = together([frame(0), frame(1)])
    found = masr.register_sequence(whole, preset=rigid, device="cpu", threads=1)
    parts = masr.register_sequence([frame(0), frame(1)], preset=rigid, device="cpu", threads=1)
    assert len(found.transforms) == 2
    for one, other in zip(found.warped, parts.warped, strict=True):
        assert one is not None
        assert other is not None
        np.testing.assert_array_equal(one.array, other.array)


def test_files_with_all_items(tmp_path: Path) -> None:
    frames = [frame(amount) for amount in (0, 1, 2)]
    sitk.WriteImage(sitk.JoinSeries(frames), tmp_path / "four.nii.gz")
    sitk.WriteImage(sitk.Compose(frames), tmp_path / "slicer.seq.nrrd")
    for name in ("four.nii.gz", "slicer.seq.nrrd"):
        items = masr.read_sequence(tmp_path / name)
        assert len(items) == 3
        for item, expected in zip(items, frames, strict=True):
            np.testing.assert_array_equal(item.array, sitk.GetArrayFromImage(expected))
            np.testing.assert_allclose(item.geometry.spacing, SPACING, atol=1e-5)
            np.testing.assert_allclose(item.geometry.direction, OBLIQUE, atol=1e-5)
    sitk.WriteImage(frames[0], tmp_path / "one.nrrd")
    for name in ("one.nrrd", "missing.nrrd"):
        with pytest.raises(masr.InputError, match=name):
            masr.read_sequence(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"items": [frame(0)]}, "at least two items"),
        ({"reference": 2}, "0 to 1, not 2"),
        ({"target": "everything"}, 'not to "everything"'),
        ({"items": [frame(0), 7]}, "not int"),
        ({"items": None}, "not NoneType"),
        ({"items": np.zeros((2, 4, 4, 4))}, "not ndarray"),
        ({"items": frame(0)}, "no sequence of 3-D images"),
    ],
)
def test_what_is_no_sequence(change: dict[str, Any], words: str, rigid: presets.Preset) -> None:
    with pytest.raises(masr.InputError, match=words):
        masr.register_sequence(**{"items": [frame(0), frame(1)], "preset": rigid, **change})


def empty() -> sitk.Image:
    """Of the size of a frame, without anything in it."""
    image = frame(0)
    return image * 0


@pytest.mark.parametrize("target", ["reference", "neighbour"])
def test_an_item_that_fails_is_recorded_and_the_others_go_on(
    rigid: presets.Preset, centre: np.ndarray, target: Any
) -> None:
    told: list[str] = []
    found = masr.register_sequence(
        [frame(0), frame(1), empty(), frame(2), "gone.nrrd"],
        target=target,
        preset=rigid,
        threads=1,
        device="cpu",
        warn=told.append,
    )
    assert sorted(found.failures) == [2, 4]
    assert '"gone.nrrd"' in found.failures[4]
    assert found.warnings[0].startswith("Item 2 failed: ")
    assert [sentence for sentence in told if sentence.startswith("Item 4: it failed")]
    for listed in (found.results, found.transforms, found.warped):
        assert [number for number, one in enumerate(listed[1:], start=1) if one is None] == [2, 4]
    motion = found.motion(centre[None])[:, 0]
    np.testing.assert_array_equal(np.isnan(motion), [False, False, True, False, True])
    step = np.linalg.norm(STEP_MM)
    np.testing.assert_allclose(motion[[0, 1, 3]], [0, step, 2 * step], atol=0.8)


def test_a_sequence_of_which_nothing_can_be_registered_is_an_error(rigid: presets.Preset) -> None:
    with pytest.raises(masr.InputError):
        masr.register_sequence([frame(0), empty()], preset=rigid, threads=1, device="cpu")


def test_an_internal_error_of_one_item_ends_no_sequence(
    rigid: presets.Preset, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = solve.solve, []

    def fails_once(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise ZeroDivisionError
        return real(*arguments, **options)

    monkeypatch.setattr(solve, "solve", fails_once)
    found = masr.register_sequence([frame(0), frame(1), frame(1)], preset=rigid, threads=1, device="cpu")
    assert found.failures == {1: "An internal error stopped the registration (ZeroDivisionError)."}
    assert found.results[2] is not None


def test_cancelling_ends_a_sequence(rigid: presets.Preset) -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(masr.CancelledError):
        masr.register_sequence([frame(0), frame(1)], preset=rigid, cancel=cancel)


def test_the_command_writes_transforms_volumes_and_motion(
    tmp_path: Path, rigid: presets.Preset, centre: np.ndarray
) -> None:
    (tmp_path / "rigid.json").write_text(rigid.to_json())
    points = [f"tip {i},{x},{y},{z}" for i, (x, y, z) in enumerate(centre + POINTS)]
    (tmp_path / "points.csv").write_text("\n".join(["label,x_lps,y_lps,z_lps", *points]))
    sitk.WriteImage(sitk.JoinSeries([frame(0), frame(2), empty()]), tmp_path / "four.nii.gz")
    output = tmp_path / "out"
    common = ["--output", str(output), "--preset", str(tmp_path / "rigid.json"), "--threads", "1"]
    common += ["--device", "cpu", "--landmarks", str(tmp_path / "points.csv")]
    invoke = CliRunner().invoke
    ended = invoke(app, ["sequence", str(tmp_path / "four.nii.gz"), *common])
    assert ended.exit_code == 4, ended.stderr
    assert "Item 2 failed" in ended.stdout
    assert sorted(path.name for path in output.iterdir()) == [
        "motion.csv",
        "motion.png",
        "result.json",
        "transform-0000.h5",
        "transform-0001.h5",
        "warped-0000.nii.gz",
        "warped-0001.nii.gz",
    ]
    rows = list(csv.DictReader((output / "motion.csv").open()))
    assert [row["item"] for row in rows] == ["0", "1", "2"]
    assert float(rows[1]["tip 0"]) == pytest.approx(2 * np.linalg.norm(STEP_MM), abs=0.8)
    assert rows[2]["tip 1"] == ""
    again = ["sequence", str(output / "warped-0000.nii.gz"), str(output / "warped-0001.nii.gz"), *common]
    refused = invoke(app, again)
    assert refused.exit_code == 2
    assert "would be overwritten" in refused.stderr
    for number, amount in enumerate((1, 2)):
        sitk.WriteImage(frame(amount), tmp_path / f"{number}.nrrd")
    sitk.WriteImage(frame(0), tmp_path / "fixed.nrrd")
    items = [str(tmp_path / f"{number}.nrrd") for number in range(2)]
    done = invoke(app, ["sequence", *items, "--fixed", str(tmp_path / "fixed.nrrd"), *common, "--json"])
    assert done.exit_code == 0, done.stderr
    made = json.loads(done.stdout)
    assert made["failures"] == {}
    assert made["provenance"]["items"]["0001"]["fixed"]["name"] == "fixed.nrrd"
    assert len(list(output.glob("transform-*.h5"))) == 3
    one = invoke(app, ["sequence", *items[:1], *common[:4]])
    assert (one.exit_code, "holds no sequence" in one.stderr) == (2, True)
    both = invoke(app, ["sequence", *items, "--fixed", items[0], "--reference", "1", *common])
    assert both.exit_code == 2


def test_the_worker_writes_every_item(tmp_path: Path, rigid: presets.Preset, centre: np.ndarray) -> None:
    paths = []
    for number, amount in enumerate((0, 1, 2)):
        paths.append(str(tmp_path / f"{number}.nrrd"))
        sitk.WriteImage(frame(amount), paths[-1])
    asked = {
        "fixed": paths[0],
        "moving": paths[1],
        "frames": paths,
        "preset": json.loads(rigid.to_json()),
        "threads": 1,
        "device": "cpu",
    }
    outcome = run_here(plain_request(tmp_path, **asked))
    assert sorted(outcome.files) == [
        "result",
        *(f"transform-{n:04}" for n in range(3)),
        *(f"warped-{n:04}" for n in range(3)),
    ]
    last = sitk.ReadTransform(str(outcome.files["transform-0002"]))
    np.testing.assert_allclose(last.TransformPoint(centre.tolist()), centre + 2 * STEP_WORLD, atol=0.8)
    assert outcome.verdict["level"] == "plausible"
    assert set(outcome.metrics) == {"0001", "0002"}
    assert outcome.provenance["items"]["0002"]["moving"]["name"] == "2.nrrd"
    assert str(tmp_path) not in outcome.files["result"].read_text()
    with pytest.raises(masr.InputError, match="no other input"):
        run_here(plain_request(tmp_path, **asked, labels=paths[0]))
    with pytest.raises(masr.InputError, match=r'item 1 "gone\.nrrd" does not exist'):
        run_here(plain_request(tmp_path, **{**asked, "frames": [paths[0], str(tmp_path / "gone.nrrd")]}))
