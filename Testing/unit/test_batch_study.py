"""The folder of a study, and the cohort that is read from it."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from masr_registration.batch import cohort, cohort_page
from masr_registration.batch.progress import Event, Tracker
from masr_registration.batch.study import Conditions, Planned, Study, check_conditions
from masr_registration.errors import InputError, ResourceError
from worker_tools import environment

PLANNED = Planned({"seed": 0}, {"fixed": {"sha256": "x"}}, {"masr_plan": 1}, 10.0, 900.0, 30.0)
CONDITIONS = Conditions("cpu", 2, {"torch": "2.0"})


@pytest.fixture
def study(tmp_path: Path) -> Study:
    made = Study(tmp_path / "study")
    with made.locked():
        pass
    return made


def finish(
    study: Study,
    case: str,
    metrics: dict[str, Any] | None = None,
    level: str = "plausible",
    reasons: Sequence[str] = (),
) -> None:
    place = study.place(case)
    place.mkdir()
    measured = {
        "similarity_before": 0.2,
        "similarity_after": 0.1,
        "folds": 0,
        "inverse_consistency_max_mm": 0.1,
        "displacement_max_mm": 5.0,
        **(metrics or {}),
    }
    content = {
        "verdict": {"level": level, "reasons": list(reasons)},
        "metrics": measured,
        "timings": {"total": 12.5},
        "peak_memory_mb": 700.0,
        "provenance": {
            "fixed": {"name": "f.nii"},
            "moving": {"name": "m.nii"},
            "preset": {"name": "general"},
        },
    }
    (place / "result.json").write_text(json.dumps(content))
    (place / "report.html").write_text("report")
    study.finish(case, place)


def test_a_folder_is_locked_for_others_until_the_process_dies(study: Study) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom masr_registration.batch.study import Study\n"
        "with Study(Path(sys.argv[1])).locked():\n print('locked', flush=True)\n time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(study.folder)]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment())
    assert other.stdout is not None
    assert other.stdout.readline() == "locked\n"
    with pytest.raises(InputError, match="Another run"), study.locked():
        pass
    other.kill()
    other.wait()
    other.stdout.close()
    with study.locked():
        pass


def test_a_case_appears_as_a_whole_and_the_first_one_stays(study: Study) -> None:
    assert study.state("a") == "waiting"
    study.fail("a", "input", "bad")
    assert study.state("a") == "failed"
    finish(study, "a", {"folds": 1})
    assert study.state("a") == "done"
    assert study.failure("a") is None
    finish(study, "a", {"folds": 2})
    result = study.result("a")
    assert result is not None
    assert result["metrics"]["folds"] == 1
    assert list(study.running.iterdir()) == []


def test_what_dead_runs_left_is_removed(study: Study) -> None:
    study.place("a").mkdir()
    with study.locked():
        study.tidy()
    assert list(study.running.iterdir()) == []


def test_a_finish_that_fails_is_a_sentence(study: Study) -> None:
    with pytest.raises(ResourceError, match="The result of a cannot be written"):
        study.finish("a", study.place("a"))


def test_the_record_comes_back_and_holds_no_path(study: Study) -> None:
    assert study.recorded() is None
    study.record(CONDITIONS, {"a": PLANNED})
    assert study.recorded() == (CONDITIONS, {"a": PLANNED})
    (study.folder / "study.json").write_text('{"masr_study": 99}')
    with pytest.raises(InputError, match="not one of this version"):
        study.recorded()


@pytest.mark.parametrize(
    "other",
    [
        Conditions("cuda", 2, {"torch": "2.0"}),
        Conditions("cpu", 1, {"torch": "2.0"}),
        Conditions("cpu", 2, {"torch": "3"}),
    ],
)
def test_other_conditions_are_refused(other: Conditions) -> None:
    check_conditions(CONDITIONS, CONDITIONS)
    with pytest.raises(InputError, match="would not be alike"):
        check_conditions(other, CONDITIONS)


def test_the_remaining_time_counts_cases_by_their_predicted_cost() -> None:
    events: list[Event] = []
    now = [0.0]
    tracker = Tracker({"a": 30.0, "b": 10.0}, events.append, "running", before=2, clock=lambda: now[0])
    now[0] = 15.0
    tracker.progress("a", "linear", 0.5)
    assert events[-1].whole == pytest.approx(15 / 40)
    assert events[-1].eta_s == pytest.approx(25.0)
    tracker.ended("b", "failed", "broken")
    assert (events[-1].finished, events[-1].failed, events[-1].total) == (3, 1, 4)
    tracker.ended("a", "done")
    assert events[-1].whole == 1.0
    assert events[-1].eta_s == 0.0


# The cohort


@pytest.fixture
def cases(study: Study) -> list[str]:
    """Ten alike, one that folds, one far from the others, one that failed, one that waits."""
    names = [f"c{n:02}" for n in range(10)]
    for n, name in enumerate(names):
        finish(study, name, {"displacement_max_mm": 5 + 0.1 * n, "tre_after_mm": {"mean": 1.0 + 0.01 * n}})
    finish(study, "folding", {"folds": 3}, level="failed")
    finish(study, "far", {"displacement_max_mm": 40.0})
    study.fail("broken", "input", "The <image> is damaged & gone.")
    study.record(CONDITIONS, {**dict.fromkeys([*names, "folding", "far", "waits"], PLANNED)})
    return [*names, "folding", "far", "broken", "waits"]


def test_outliers_and_failures_are_flagged_and_nothing_else(study: Study, cases: list[str]) -> None:
    rows = {row.id: row for row in cohort.collect(study, cases)}
    assert rows["far"].flags == ["displacement, largest is unusually high"]
    assert rows["folding"].flags == ["the verdict is failed", "the transform folds"]
    assert [row.id for row in rows.values() if row.flags] == ["folding", "far"]
    assert (rows["broken"].state, rows["waits"].state) == ("failed", "waiting")
    assert rows["c03"].values["tre_after_mm"] == pytest.approx(1.03)
    assert rows["c03"].values["improvement_percent"] == pytest.approx(50.0)


def test_few_cases_have_no_outliers(study: Study) -> None:
    for n, largest in enumerate((5, 5.1, 5.2, 90)):
        finish(study, f"c{n}", {"displacement_max_mm": largest})
    assert all(not row.flags for row in cohort.collect(study, [f"c{n}" for n in range(4)]))


def test_a_verdict_is_flagged_with_its_first_reason(study: Study) -> None:
    finish(study, "a", level="doubtful", reasons=["Scaled by <0.71>.", "The similarity improved."])
    finish(study, "b", reasons=["The similarity improved."])
    doubtful, plausible = cohort.collect(study, ["a", "b"])
    assert doubtful.flags == ["the verdict is doubtful: Scaled by <0.71>."]
    assert plausible.flags == []
    assert "doubtful: Scaled by &lt;0.71&gt;." in cohort_page.page(study, [doubtful, plausible])


def test_the_page_says_how_the_study_was_run_and_of_how_many_cases(study: Study, cases: list[str]) -> None:
    page = cohort_page.page(study, cohort.collect(study, cases))
    assert "<p class=guide>Preset: general. Device: cpu, 2 threads for a case.</p>" in page
    assert re.search(r"<b>TRE after \(mm\)</b><span>median 1\.0\d, n = 10</span>", page)
    assert "<b>Folds</b><span>median 0<" in page


def test_distributions() -> None:
    rows = [cohort.Row(str(n), "done", values={"x": float(n)}) for n in range(5)]
    assert cohort.distribution(rows, "x") == {
        "n": 5,
        "min": 0,
        "q1": 1,
        "median": 2,
        "q3": 3,
        "max": 4,
        "mean": 2,
    }
    assert cohort.distribution(rows, "y") == {}


def test_the_three_files_say_the_same(study: Study, cases: list[str]) -> None:
    page = cohort.write(study, cases).read_text(encoding="utf-8")
    with (study.folder / "cohort.csv").open(newline="", encoding="utf-8") as stream:
        table = {row["id"]: row for row in csv.DictReader(stream)}
    content = json.loads((study.folder / "cohort.json").read_text())
    assert list(table) == [case["id"] for case in content["cases"]] == cases
    assert content["counts"] == {"done": 12, "failed": 1, "waiting": 1}
    assert float(table["far"]["displacement_max_mm"]) == 40.0
    assert table["broken"]["message"] == "The <image> is damaged & gone."
    assert "The &lt;image&gt; is damaged &amp; gone." in page
    assert "<image>" not in page
    assert 'href="cases/c00/report.html"' in page
    assert str(study.folder) not in page
    assert cohort_page.CSP in page
    assert "<script" not in page


def test_the_table_sorts_without_a_script(study: Study, cases: list[str]) -> None:
    rows = cohort.collect(study, cases)
    ranks = cohort_page._ranks(rows, [c for c in cohort.COLUMNS if c.name == "displacement_max_mm"])
    order = sorted(range(len(rows)), key=lambda n: ranks[n]["displacement_max_mm"])
    values = [rows[n].values.get("displacement_max_mm", float("-inf")) for n in order]
    assert values == sorted(values)
    page = cohort_page.page(study, rows)
    assert (
        "#displacement_max_mm-down:checked ~ .scroll .row:not(.head) { order: calc(0 - var(--displacement_max_mm)); }"
        in page
    )
    assert page.count("--displacement_max_mm:") == len(rows)


def test_the_report_of_a_folder_again(study: Study, cases: list[str]) -> None:
    cohort.write(study, cases)
    first = json.loads((study.folder / "cohort.json").read_text())
    (study.folder / "cohort.json").unlink()
    assert cohort.rebuild(study.folder) == study.folder / "cohort.html"
    again = json.loads((study.folder / "cohort.json").read_text())
    assert again["summary"] == first["summary"]
    assert sorted(case["id"] for case in again["cases"]) == sorted(cases)
    with pytest.raises(InputError, match="no study"):
        cohort.rebuild(study.folder / "cases")


# The simulation of a cluster


def test_the_simulated_cluster() -> None:
    from benchmarks.batch_scaling import simulate

    cases = [10.0] * 100
    assert simulate(cases, 0.0, 1, 0.0, 1.0, start_s=0.0) == pytest.approx(1000.0)
    assert simulate(cases, 0.0, 10, 0.0, 1.0, start_s=5.0) == pytest.approx(105.0)
    scheduler_bound = simulate(cases, 0.0, 100, 1.0, 1.0, start_s=0.0)
    assert scheduler_bound == pytest.approx(110.0)
    disk_bound = simulate(cases, 5.0, 100, 0.0, 1.0, start_s=0.0)
    assert disk_bound == pytest.approx(510.0)
    assert simulate([30.0, 10.0, 10.0, 10.0], 0.0, 2, 0.0, 1.0, start_s=0.0) == pytest.approx(30.0)
