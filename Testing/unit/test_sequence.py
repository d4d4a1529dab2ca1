"""Sequences: items to a reference or to their neighbours, motion over time, and the same through the worker."""

from __future__ import annotations

import json
import xml.etree.ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import masr_registration as masr
import numpy as np
import pytest
import SimpleITK as sitk
from masr_registration import presets
from small_pair import OBLIQUE, picture, run_here
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
        assert found.warped[number].array.dtype == np.int16
        before = np.abs(sitk.GetArrayFromImage(frames[number]) - still).mean()
        assert np.abs(found.warped[number].array - still).mean() < 0.5 * before


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
    whole = found.transforms[2].to_sitk()
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
    ],
)
def test_what_is_no_sequence(change: dict[str, Any], words: str, rigid: presets.Preset) -> None:
    with pytest.raises(masr.InputError, match=words):
        masr.register_sequence(**{"items": [frame(0), frame(1)], "preset": rigid, **change})


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
