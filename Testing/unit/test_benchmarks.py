"""The benchmark's own parts: known deformations, adapters, scores, the runner and the table. No peer needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from benchmarks import cases, encoding, methods, plot, table
from benchmarks.cases import Case
from benchmarks.cases.liver_phases import second_phase
from benchmarks.cases.scaling import cube
from benchmarks.problem import Problem, load, voxel_points
from benchmarks.runner import Runner
from benchmarks.score import score
from benchmarks.synthesis import Breathing, apply_transform, body, draw_flow, draw_rigid, moved_header, padded
from masr_registration.volume import Geometry, Volume

OBLIQUE = Geometry(
    (14, 12, 10), (2.0, 2.5, 4.0), (11.0, -7.0, 3.0), (0.8, 0.0, 0.6, 0.0, -1.0, 0.0, 0.6, 0.0, -0.8)
)


def _cloud(half_mm: float, count: int = 400) -> np.ndarray:
    return np.random.default_rng(7).uniform(-half_mm, half_mm, (count, 3))


def _head() -> Volume:
    k, j, i = np.indices(OBLIQUE.shape)
    return Volume(np.where((k > 1) & (j > 1) & (i > 1), 100.0 + 10 * i + k, 0).astype(np.float32), OBLIQUE)


def _problem(targets: np.ndarray | None = None) -> Problem:
    head = _head()
    labels = head.with_array((head.array > 0).astype(np.int32))
    points = voxel_points(OBLIQUE, labels.array, 50, seed=0)
    truth = points if targets is None else points + targets
    return Problem(head, head, labels, "brain-mr", labels, labels, points, truth, {"truth": "known"})


@pytest.mark.parametrize("mean_mm", [4.0, 12.0])
def test_a_flow_has_the_wanted_mean_an_exact_inverse_and_no_fold(mean_mm: float) -> None:
    points = _cloud(70.0)
    flow = draw_flow(points, mean_mm, seed=3)
    targets = flow.inverse(points)
    assert np.linalg.norm(targets - points, axis=1).mean() == pytest.approx(mean_mm, rel=0.02)
    assert np.linalg.norm(apply_transform(flow.transform(), targets) - points, axis=1).max() < 1e-2
    assert flow.slope < 1


def test_breathing_slides_the_inside_and_leaves_the_wall() -> None:
    patient = _cloud(150.0, 4000)
    breathing = Breathing.inside(patient, wall_mm=25.0, peak_mm=20.0, height=0.0)
    inside = _cloud(60.0)
    assert np.abs(breathing(breathing.inverse(inside)) - inside).max() < 1e-6
    assert np.linalg.norm(breathing(inside) - inside, axis=1).max() == pytest.approx(20.0, rel=0.1)
    wall = np.array([[148.0, 0.0, 0.0], [0.0, -140.0, 30.0]])
    np.testing.assert_array_equal(breathing(wall), wall)
    line = np.stack([np.zeros(500), np.zeros(500), np.linspace(-200, 200, 500)], axis=1)
    assert np.all(np.diff(breathing(line)[:, 2]) > 0)


def test_the_field_of_breathing_is_its_map() -> None:
    breathing = Breathing(np.array([20.0, -20.0, 0.0]), np.array([30.0, 30.0, 60.0]), 5.0)
    points = voxel_points(OBLIQUE, np.ones(OBLIQUE.shape), 100, seed=0)
    np.testing.assert_allclose(
        apply_transform(breathing.field(OBLIQUE), points), breathing(points), atol=1e-6
    )


def test_a_moved_header_carries_every_voxel_with_it() -> None:
    image = _head().to_sitk()
    rigid = draw_rigid(np.array([5.0, 6.0, 7.0]), 30.0, 50.0, np.random.default_rng(1))
    moved = moved_header(image, rigid)
    for index in [(0, 0, 0), (13, 11, 9), (4, 0, 7)]:
        there = rigid.TransformPoint(image.TransformIndexToPhysicalPoint(index))
        np.testing.assert_allclose(moved.TransformIndexToPhysicalPoint(index), there, atol=1e-9)
    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(moved), _head().array)


def test_padding_makes_room_for_all_points_and_keeps_the_voxels_where_they_are() -> None:
    image = _head().to_sitk()
    far = np.array([image.TransformContinuousIndexToPhysicalPoint((-3.2, 15.0, 4.0))])
    grown = padded(image, far, margin_mm=5.0)
    index = np.array(grown.TransformPhysicalPointToContinuousIndex(far[0].tolist()))
    margin = 5.0 / np.array(grown.GetSpacing())
    assert np.all(index >= margin - 1e-6)
    assert np.all(index <= np.array(grown.GetSize()) - 1 - margin + 1e-6)
    place = image.TransformIndexToPhysicalPoint((5, 6, 7))
    assert grown[grown.TransformPhysicalPointToIndex(place)] == image[5, 6, 7]


def test_the_body_is_the_largest_piece_without_holes() -> None:
    mask = np.zeros((3, 12, 12), bool)
    mask[:, 2:9, 2:9] = True
    mask[:, 4:6, 4:6] = False
    mask[1, 11, 11] = True
    expected = np.zeros_like(mask)
    expected[:, 2:9, 2:9] = True
    np.testing.assert_array_equal(body(mask), expected)


def test_a_second_phase_changes_the_liver_and_little_else() -> None:
    geometry = Geometry((24, 24, 24), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
    hounsfield = np.full(geometry.shape, -80.0)
    liver = np.zeros(geometry.shape, bool)
    liver[4:20, 4:20, 4:12] = True
    hounsfield[liver] = 100.0
    phase = second_phase(hounsfield, liver, geometry, seed=1)
    assert (phase - hounsfield)[liver].mean() < -5
    assert abs((phase - hounsfield)[~liver].mean()) < 3
    np.testing.assert_array_equal(phase, second_phase(hounsfield, liver, geometry, seed=1))


@pytest.mark.parametrize("side", [6, 40])
def test_a_cube_is_the_middle_or_mirrors_it(side: int) -> None:
    array = np.arange(10 * 12 * 14, dtype=np.float32).reshape(10, 12, 14)
    wide = Geometry((side, side, side), OBLIQUE.spacing, OBLIQUE.origin, OBLIQUE.direction)
    result = cube(Volume(array, OBLIQUE), wide).array
    if side == 6:
        np.testing.assert_array_equal(result, array[2:8, 3:9, 4:10])
    else:
        before = [(side - n) // 2 for n in array.shape]
        pads = [(b, side - n - b) for b, n in zip(before, array.shape, strict=True)]
        np.testing.assert_array_equal(result, np.pad(array, pads, mode="symmetric"))


def test_voxel_displacements_become_lps_millimetres() -> None:
    found = np.zeros((*OBLIQUE.shape, 3))
    found[..., 2] = 1.0
    column = OBLIQUE.index_to_physical[:3, 0]
    got = methods.voxels_to_lps_mm(found, OBLIQUE)
    np.testing.assert_allclose(got, np.broadcast_to(column[:, None, None, None], got.shape), atol=1e-6)


def test_a_transform_is_sampled_at_the_voxels_in_lps() -> None:
    got = methods.dense(sitk.TranslationTransform(3, (1.0, -2.0, 3.0)), OBLIQUE)
    assert got.shape == (3, *OBLIQUE.shape)
    np.testing.assert_allclose(got[:, 3, 4, 5], (1.0, -2.0, 3.0), atol=1e-6)


def test_the_truth_scores_perfectly_and_identity_scores_the_shift() -> None:
    step = OBLIQUE.index_to_physical[:3, 0]
    problem = _problem(step)
    true = np.broadcast_to(step[:, None, None, None], (3, *OBLIQUE.shape)).astype(np.float32)
    back = sitk.TranslationTransform(3, (-step).tolist())
    best = score(problem, true, back)
    assert best["tre_mm"] == pytest.approx(0.0, abs=1e-5)
    assert best["inverse_max_mm"] == pytest.approx(0.0, abs=1e-4)
    assert best["folds_everywhere"] == 0
    none = methods.create("identity", 1).register(problem.fixed, problem.moving, "brain-mr")
    still = score(problem, none.displacement(), None)
    assert still["tre_mm"] == pytest.approx(2.0, abs=1e-5)
    assert still["dice"] == 1.0
    assert best["dice"] < 1.0


def test_a_folding_field_is_counted() -> None:
    field = np.zeros((3, *OBLIQUE.shape), np.float32)
    field[1, 5, 6, 5] = 40.0
    assert score(_problem(), field, None)["folds"] > 0


def test_a_saved_problem_comes_back(tmp_path: Path) -> None:
    problem = _problem(np.array([1.0, 2.0, 3.0]))
    problem.save(tmp_path)
    again = load(tmp_path)
    assert (again.preset, again.notes) == (problem.preset, problem.notes)
    np.testing.assert_array_equal(again.fixed.array, problem.fixed.array)
    np.testing.assert_array_equal(again.targets, problem.targets)


def test_case_names_are_unique_and_patterns_choose_in_order() -> None:
    names = [case.name for case in cases.all_cases()]
    assert len(names) == len(set(names))
    families = {case.family for case in cases.all_cases()}
    assert {
        "neonate-4",
        "neonate-more",
        "warp-8mm",
        "linear",
        "liver-surrogate-20mm",
        "mr-ct",
        "scaling",
    } <= families
    assert [case.name for case in cases.select(["neonate-4/0[13]*"])] == [
        "neonate-4/01-02",
        "neonate-4/03-05",
    ]
    assert methods.select(["elastix-*", "masr"]) == [
        "masr",
        "elastix-rigid",
        "elastix-affine",
        "elastix-bspline",
    ]


def _runner(folder: Path, monkeypatch: pytest.MonkeyPatch, fresh: bool = False) -> tuple[Runner, list[str]]:
    calls: list[str] = []

    def python(checkout: Path, module: str, *arguments: str) -> str:
        calls.append(module)
        if module == "benchmarks.solve":
            (Path(arguments[2]) / "solve.json").write_text(json.dumps(_result("a/1", "masr")["solve"]))
        else:
            (Path(arguments[1]) / "score.json").write_text(json.dumps(_result("a/1", "masr")["score"]))
        return "no memory" if arguments[1] == "convexadam" else ""

    runner = Runner(folder, folder, fresh=fresh)
    monkeypatch.setattr(runner, "_python", python)
    return runner, calls


def test_the_runner_interleaves_keeps_what_is_measured_and_records_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = [Case(f"a/{number}", lambda _: _problem()) for number in (1, 2)]
    runner, calls = _runner(tmp_path, monkeypatch)
    results = list(runner.run(chosen, ["masr", "convexadam"]))
    order = [("a/1", "masr"), ("a/1", "convexadam"), ("a/2", "masr"), ("a/2", "convexadam")]
    assert [(r["case"], r["method"]) for r in results] == order
    assert [r.get("error") for r in results] == [None, "no memory", None, "no memory"]
    assert len(calls) == 6
    again, calls = _runner(tmp_path, monkeypatch)
    assert all(r["kept"] for r in again.run(chosen, ["masr"]))
    assert not calls
    fresh, calls = _runner(tmp_path, monkeypatch, fresh=True)
    assert not any("kept" in r for r in fresh.run(chosen, ["masr"]))
    assert len(calls) == 4


def _result(
    case: str, method: str, session: str = "s", wall: float = 2.0, voxels: int = 1000
) -> dict[str, Any]:
    solve = {
        "wall_s": wall,
        "cpu_s": 2 * wall,
        "peak_mb": wall,
        "import_s": 1.0,
        "read_s": 0.1,
        "voxels": voxels,
    }
    solve["timings"] = {"linear": 0.5, "check": 0.25} if method == "masr" else {}
    numbers = {
        "dice": 0.8,
        "folds": 1,
        "folds_everywhere": 3,
        "sdlogj": 0.2,
        "tre_mm": wall,
        "tre_before_mm": 9.0,
    }
    head = {"case": case, "method": method, "session": session, "threads": 2, "checkout": None}
    return {**head, "solve": solve, "score": numbers}


def test_ratios_are_within_one_session_only() -> None:
    mine = _result("warp/1", "masr", wall=1.0)
    assert table.row(mine, [mine, _result("warp/1", "convexadam", wall=4.0)])["wall ratio"] == 0.25
    assert table.row(mine, [mine, _result("warp/1", "convexadam", session="other")])["wall ratio"] is None


def test_a_summary_means_numbers_takes_the_worst_folds_and_counts_failures() -> None:
    results = [_result("warp/1", "masr", wall=1.0), _result("warp/2", "masr", wall=3.0)]
    results[1]["score"]["folds"] = 7
    failed = {"case": "warp/3", "method": "masr", "error": "no memory", "session": "s"}
    (row,) = table.summary([*results, failed])
    assert (row["wall s"], row["folds"], row["cases"], row["failed"]) == (2.0, 7, 2, 1)
    text = table.text([*results, failed])
    assert "2 (1)" in text
    assert "no memory" in text


def test_the_machine_line_names_processor_threads_and_load() -> None:
    machine = {"processor": "Abacus", "cores": 2, "system": "Linux", "python": "3.11.7"}
    at = {"machine": machine, "time": "2026-11-24T19:00:00", "threads": 1}
    line = table.machine([{**at, "load_before": 0.5}, {**at, "load_before": 12.0}])
    assert line == (
        "Abacus, 2 cores, Linux, Python 3.11.7, 1 thread(s); 2026-11-24 to 2026-11-24; "
        "load average 0.5 to 12 when a run began"
    )


def test_growth_with_size_is_an_exponent() -> None:
    sizes = [_result("scaling/1", "masr", wall=s, voxels=int(s * 1000)) for s in (1.0, 2.0, 8.0)]
    grown = table.scaling(sizes)
    assert grown is not None
    assert grown[1] == [["masr", "3", "1.00", "1.00", "1.00"]]
    assert table.scaling(sizes[:1]) is None


def test_the_picture_holds_every_panel_or_says_that_it_was_not_measured(tmp_path: Path) -> None:
    some = [
        _result(f"{family}/1", name)
        for family in ("warp", "capture-turn-015deg")
        for name in ("masr", "identity")
    ]
    plot.write(some, tmp_path / "table.png")
    plot.write([], tmp_path / "empty.png")
    assert (tmp_path / "table.png").stat().st_size > (tmp_path / "empty.png").stat().st_size > 1000


def test_the_cost_of_encoding_is_measured() -> None:
    rows = [encoding.cost(name, (32, 32, 32), repeats=1) for name in encoding.ROWS[:2]]
    assert all(seconds > 0 for seconds, _ in rows)
    assert rows[1][0] > rows[0][0]  # a network costs more than MIND-SSC
