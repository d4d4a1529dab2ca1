"""A study from beginning to end with processes that only pretend to register, and one with real ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batch_tools import Studies, studies
from masr_registration.batch import manifest
from masr_registration.batch.__main__ import serve
from masr_registration.batch.manifest import FaultsError
from masr_registration.cli import app
from masr_registration.errors import CancelledError, InputError, ResourceError
from masr_registration.volume import write_volume
from phantoms import Head, geometry
from typer.testing import CliRunner
from worker_tools import alive, environment, wait_until

__all__ = ["studies"]  # the fixture


def test_all_cases_of_a_study_in_two_processes(studies: Studies) -> None:
    studies.write(**{f"c{n}": "good" for n in range(7)})
    summary = studies.run()
    assert (summary.done, summary.failed) == (7, 0)
    assert len(set(studies.pids().values())) == 2
    assert summary.report == studies.output / "cohort.html"
    assert sorted(e.case for e in studies.events if e.state == "done") == [f"c{n}" for n in range(7)]
    assert [e.whole for e in studies.events if e.state == "done"][-1] == 1.0
    assert list(studies.study.running.iterdir()) == []
    assert list((studies.folder / "temporary").iterdir()) == []


def test_the_process_of_the_rehearsal_takes_cases(studies: Studies) -> None:
    studies.write(a="good", b="good")
    studies.run(jobs=1)
    assert list(studies.pids().values()) == 2 * studies.rehearsed()


def test_the_rehearsal_has_the_default_threads(studies: Studies) -> None:
    studies.write(a="good")
    studies.run(jobs=1, threads=None)
    assert list(studies.pids().values()) == studies.rehearsed()


def test_each_process_is_shown_a_device_of_its_own(studies: Studies, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_DEVICES", "2")
    studies.write(**{f"c{n}": "slow" if n < 2 else "good" for n in range(4)})
    studies.run(jobs=None)
    assert sorted({str(device) for device in studies.devices().values()}) == ["0", "1"]
    assert not {*studies.pids().values()} & {*studies.rehearsed()}
    assert len(set(studies.pids().values())) == 2


def test_a_failing_case_stops_no_other(studies: Studies) -> None:
    studies.write(a="good", b="late", c="internal", d="die", e="good")
    summary = studies.run(jobs=1)
    assert (summary.done, summary.failed) == (2, 3)
    reasons = {case: (studies.study.failure(case) or {})["message"] for case in "bcd"}
    assert reasons["b"] == "It failed late."
    assert "internal error" in reasons["c"]
    assert "crashed (exit code 9)" in reasons["d"]
    details = (studies.study.failure("c") or {})["details"]
    assert "ZeroDivisionError" in details
    assert 'File "fake_server.py"' in details
    assert str(studies.folder) not in details


def test_a_process_that_dies_once_does_its_case_again(studies: Studies) -> None:
    studies.write(a=f"once {studies.folder / 'died'}", b="good")
    summary = studies.run(jobs=1)
    assert (studies.folder / "died").exists()
    assert (summary.done, summary.failed) == (2, 0)


def test_nothing_runs_before_all_faults_are_gone(studies: Studies) -> None:
    path = studies.write(a="good", b="bad", c="bad")
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([*rows, {"id": "d", "fixed": "none.nii", "moving": "none.nii"}]))
    with pytest.raises(FaultsError) as caught:
        studies.run()
    assert sorted(f.case for f in caught.value.faults) == ["b", "c", "d", "d"]
    assert studies.pids() == {}
    summary = studies.run(keep_going=True)
    assert (summary.done, summary.failed) == (1, 3)
    assert (studies.study.failure("d") or {})["message"].count("does not exist") == 2


def test_a_second_row_of_an_id_is_a_failure_of_its_own(studies: Studies) -> None:
    path = studies.write(a="good")
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([*rows, {**rows[0], "fixed": "x" * 5000}]))
    with studies.opened(keep_going=True) as run:
        assert run.forecast.to_run == 1
    for resume in (False, True):
        summary = studies.run(keep_going=True, resume=resume)
        assert (summary.done, summary.failed) == (1, 1)
    assert studies.study.failure("a") is None
    message = (studies.study.failure("case 2") or {})["message"]
    assert "also that of case 1" in message
    assert "does not exist" in message


def test_failures_of_rows_that_were_mended_are_forgotten(studies: Studies) -> None:
    path = studies.write(a="good", b="late", c="late")
    rows = json.loads(path.read_text())
    broken = [{"id": "no id"}, {"id": "e", "fixed": "none.nii", "moving": "none.nii"}]
    path.write_text(json.dumps([*rows, *broken]))
    assert studies.run(keep_going=True).failed == 4
    kept = {file.stem for file in studies.study.failures.iterdir()}
    assert kept == {"b", "c", "e", "case 4"}
    (studies.folder / "c.txt").write_text("slow")
    path.write_text(json.dumps([rows[0], rows[2]]))

    def look() -> None:
        wait_until(lambda: any(e.case == "c" and e.stage == "linear" for e in studies.events[before:]))
        seen.extend(file.stem for file in studies.study.failures.iterdir())
        studies.cancel.set()

    before, seen = len(studies.events), list[str]()
    watcher = threading.Thread(target=look)
    watcher.start()
    with pytest.raises(CancelledError):
        studies.run(resume=True)
    watcher.join()
    assert seen == ["b"]  # known to the study, though not of this manifest
    assert studies.study.state("c") == "waiting"


def test_a_dry_run_fixes_the_plans_and_predicts(studies: Studies) -> None:
    studies.write(a="good", b="good", c="good")
    with studies.opened(dry_run=True) as run:
        forecast = run.forecast
    assert studies.pids() == {}
    assert (forecast.to_run, forecast.done) == (3, 0)
    assert forecast.seconds == pytest.approx(1.5 * (2.0 + 5.0))
    assert forecast.memory_mb == 1000
    assert forecast.disk_mb > 0
    recorded = studies.study.recorded()
    assert recorded is not None
    studies.run()
    for case in "abc":
        result = studies.study.result(case)
        assert result is not None
        assert result["provenance"]["plan"] == recorded[1][case].plan


def test_a_used_folder_needs_resume_and_finished_cases_are_kept(studies: Studies) -> None:
    studies.write(a="good", b="late")
    studies.run()
    before = studies.pids()
    with pytest.raises(InputError, match="--resume"):
        studies.run()
    studies.write(a="good", b="good", c="good")
    summary = studies.run(resume=True)
    assert (summary.done, summary.failed) == (3, 0)
    assert studies.pids()["a"] == before["a"]


def test_resuming_with_other_images_or_settings_is_refused(studies: Studies) -> None:
    path = studies.write(a="good", b="good")
    studies.run()
    (studies.folder / "a.txt").write_text("good and other")
    with pytest.raises(FaultsError, match="fixed image changed after it was run"):
        studies.run(resume=True)
    (studies.folder / "a.txt").write_text("good")
    rows = [{**row, "seed": 1} for row in json.loads(path.read_text())]
    path.write_text(json.dumps(rows))
    with pytest.raises(FaultsError, match="settings changed"):
        studies.run(resume=True)


def test_a_finished_case_of_other_images_is_no_result_of_the_study(studies: Studies) -> None:
    studies.write(a="good", b="good")
    studies.run()
    (studies.folder / "a.txt").write_text("good too")
    summary = studies.run(resume=True, keep_going=True)
    assert (summary.done, summary.failed) == (1, 1)
    assert studies.study.state("a") == "failed"
    assert "fixed image changed" in (studies.study.failure("a") or {})["message"]
    cohort = json.loads((studies.output / "cohort.json").read_text())
    assert cohort["counts"] == {"done": 1, "failed": 1, "waiting": 0}
    (studies.folder / "a.txt").write_text("good")
    summary = studies.run(resume=True)
    assert (summary.done, summary.failed) == (2, 0)


def test_resuming_with_other_threads_is_refused(studies: Studies) -> None:
    studies.write(a="good", b="late")
    studies.run()
    with pytest.raises(InputError, match="begun with threads 1, and this is 2"):
        studies.run(resume=True, threads=2)


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [("FAKE_MB", "900", "use fewer --jobs"), ("FAKE_DEVICES", "1", "need 2 devices")],
)
def test_a_machine_that_is_too_small(
    studies: Studies, monkeypatch: pytest.MonkeyPatch, name: str, value: str, part: str
) -> None:
    monkeypatch.setenv(name, value)
    studies.write(a="good", b="good")
    with pytest.raises((ResourceError, InputError), match=part):
        studies.run()
    assert studies.pids() == {}


def test_cancel_keeps_what_is_finished(studies: Studies) -> None:
    studies.write(a="good", b="slow", c="slow", d="slow")

    def running(case: str) -> bool:
        return any(event.case == case and event.state == "running" for event in studies.events)

    def watch() -> None:
        wait_until(lambda: "a" in studies.pids() and running("b"))
        studies.cancel.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.monotonic()
    with pytest.raises(CancelledError, match="--resume"):
        studies.run()
    watcher.join()
    assert time.monotonic() - start < 15
    assert list(studies.pids()) == ["a"]
    assert (studies.output / "cohort.html").exists()
    assert list(studies.study.running.iterdir()) == []
    assert list((studies.folder / "temporary").iterdir()) == []


def test_a_killed_run_takes_its_processes_with_it_and_is_resumed(studies: Studies) -> None:
    path = studies.write(a="good", b="slow", c="slow")
    code = "from masr_registration.batch import warm\nwarm.SERVER = 'fake_server'\n"
    code += "from masr_registration.cli import main\nmain()"
    arguments = ["batch", str(path), "-o", str(studies.output), "--jobs", "2", "--threads", "1"]
    variables = environment()
    variables["PYTHONPATH"] += os.pathsep + str(studies.folder)
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], env=variables, stderr=subprocess.DEVNULL
    )
    assert wait_until(lambda: len(studies.pids()) == 1)
    time.sleep(0.3)
    pid = studies.pids()["a"]
    assert alive(pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert wait_until(lambda: not alive(pid))
    for case in "bc":
        (studies.folder / f"{case}.txt").write_text("good")
    summary = studies.run(resume=True)
    assert (summary.done, summary.failed) == (3, 0)
    assert studies.pids()["a"] == pid


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_cleanly(studies: Studies, number: signal.Signals) -> None:
    path = studies.write(a="good", b="slow")
    code = "from masr_registration.batch import warm\nwarm.SERVER = 'fake_server'\n"
    code += "from masr_registration.cli import main\nmain()"
    arguments = ["batch", str(path), "-o", str(studies.output), "--jobs", "2", "--threads", "1"]
    variables = environment()
    variables["PYTHONPATH"] += os.pathsep + str(studies.folder)
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], env=variables, stderr=subprocess.PIPE, text=True
    )
    assert wait_until(lambda: len(studies.pids()) == 1)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert told.splitlines()[-1].startswith("Cancelled; the finished cases stay")
    assert list(studies.study.running.iterdir()) == []
    assert (studies.output / "cohort.html").exists()


def test_the_command_line(studies: Studies) -> None:
    path = studies.write(a="good", b="late")
    invoke = CliRunner().invoke
    common = ["batch", str(path), "--output", str(studies.output), "--jobs", "1", "--threads", "1"]
    dry = invoke(app, [*common, "--dry-run"])
    assert dry.exit_code == 0
    assert "Cases: 2 to run" in dry.stderr
    done = invoke(app, [*common, "--events"])
    assert done.exit_code == 4
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[-1] == {
        "type": "end",
        "done": 1,
        "failed": 1,
        "report": str(studies.output / "cohort.html"),
    }
    assert {e["state"] for e in events if e.get("case") == "b"} >= {"checked", "failed"}
    again = invoke(app, common)
    assert again.exit_code == 2
    assert again.stderr.count("\n") == 1
    assert invoke(app, ["batch", "report", str(studies.output)]).exit_code == 0
    assert invoke(app, ["batch", "--help"]).exit_code == 0
    assert invoke(app, ["batch", str(path), "--output", "x", "--engine", "quantum"]).exit_code == 2
    assert (
        invoke(app, ["batch", str(path), "--output", "x", "--scheduler", "tcp://other:8786"]).exit_code == 2
    )


PROCESS = """
import runpy
from masr_registration.batch import warm
warm.SERVER = "fake_server"
runpy.run_module("masr_registration.batch", run_name="__main__")
"""


@pytest.mark.parametrize("ending", ["alone", "a line", "end of file"])
def test_a_study_as_a_background_process(studies: Studies, ending: str) -> None:
    path = studies.write(a="good", b="good" if ending == "alone" else "slow", c="late")
    variables = environment()
    variables["PYTHONPATH"] += os.pathsep + str(studies.folder)
    process = subprocess.Popen(
        [sys.executable, "-c", PROCESS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=variables,
        text=True,
        bufsize=1,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    request = {"manifest": str(path), "output": str(studies.output), "jobs": 1, "threads": 1}
    process.stdin.write(json.dumps(request) + "\n")
    process.stdin.flush()
    events = []
    for line in process.stdout:
        events.append(json.loads(line))
        if events[-1].get("state") == "running" and events[-1].get("case") == "b" and ending == "a line":
            process.stdin.write("cancel\n")
            process.stdin.flush()
        elif (
            events[-1].get("state") == "running" and events[-1].get("case") == "b" and ending == "end of file"
        ):
            process.stdin.close()
    code = process.wait()
    last = events[-1]
    if ending == "alone":
        assert (code, last["type"], last["done"], last["failed"]) == (4, "end", 2, 1)
    else:
        assert (code, last["type"], last["code"]) == (130, "error", "cancelled")
        assert list(studies.pids()) == ["a"]
    assert [event["type"] for event in events].count("forecast") == 1
    assert list(studies.study.running.iterdir()) == []


@pytest.mark.parametrize("request_", ["", "[]", "{}", '{"manifest": 1, "output": 2}'])
def test_requests_that_cannot_be_understood(studies: Studies, request_: str) -> None:
    told: list[dict[str, Any]] = []
    assert serve(request_, told.append, studies.cancel) == 2
    assert told[-1]["type"] == "error"


def test_init_writes_a_manifest_that_can_be_read(studies: Studies) -> None:
    for name in ("p1", "p2"):
        (studies.folder / "in" / name).mkdir(parents=True)
        for image in ("T1", "T2", "seg"):
            (studies.folder / "in" / name / f"{image}.nii").touch()
    output = studies.folder / "made.csv"
    arguments = ["batch", "init", str(studies.folder / "in"), "-o", str(output), "--fixed", "{p}/T1.nii"]
    arguments += ["--moving", "{p}/T2.nii", "--also", "labels={p}/seg.nii", "--preset", "brain-mr"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.stderr
    made = manifest.read(output)
    assert [case.id for case in made.cases] == ["p1", "p2"]
    assert made.cases[0].files["labels"] == str(studies.folder / "in" / "p1" / "seg.nii")
    assert CliRunner().invoke(app, arguments).exit_code == 2  # it is there already


@pytest.mark.slow
def test_two_jobs_one_job_and_a_killed_run_give_the_same_bits(tmp_path: Path) -> None:
    from benchmarks.batch_resume import Batch, digests

    head, grid = Head(), geometry((40, 44, 40), (2.5, 2.5, 2.5))
    rows = []
    for n in range(4):
        for shade, offset in (("t1", 0.0), ("t2", 3.0 + n)):
            image = head.volume(grid, shade, lambda p, o=offset: p + np.array([o, 0, 0]))
            write_volume(image, tmp_path / f"{n}{shade}.nii.gz")
        mask = image.with_array((image.array > 0).astype(np.uint8))
        write_volume(mask, tmp_path / f"{n}seg.nii.gz")
        rows.append(f"c{n},{n}t1.nii.gz,{n}t2.nii.gz,{n}seg.nii.gz,{n}seg.nii.gz,3.0,")
    (tmp_path / "flat.nii.gz").write_bytes(b"no image")
    rows.append("broken,flat.nii.gz,0t2.nii.gz,,,3.0,")
    header = "id,fixed,moving,labels,fixed_labels,working_spacing_mm,seed\n"
    (tmp_path / "m.csv").write_text(header + "\n".join(rows) + "\n")

    def command(name: str, *more: str) -> Batch:
        common = ["--threads", "1", "--keep-going", "--output", str(tmp_path / name), *more]
        return Batch([str(tmp_path / "m.csv"), *common], tmp_path / f"{name}.log")

    assert command("two", "--jobs", "2").run(tmp_path / "two")[0] == 4
    command("killed", "--jobs", "2").run(tmp_path / "killed", kill_after=1)
    assert command("killed", "--jobs", "1", "--resume").run(tmp_path / "killed")[0] == 4
    first, second = digests(tmp_path / "two"), digests(tmp_path / "killed")
    assert sorted(first) == ["c0", "c1", "c2", "c3"]
    assert first == second
    images = [str(tmp_path / f"1{shade}.nii.gz") for shade in ("t1", "t2")]
    single = [sys.executable, "-m", "masr_registration", "register", *images]
    single += [
        "--output",
        str(tmp_path / "single" / "cases" / "c1"),
        "--labels",
        str(tmp_path / "1seg.nii.gz"),
    ]
    single += ["--replay", str(tmp_path / "two" / "cases" / "c1" / "result.json")]
    done = subprocess.run(single, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    overlap = tmp_path / "two" / "cases" / "c1" / "overlap.json"
    (tmp_path / "single" / "cases" / "c1" / "overlap.json").write_bytes(overlap.read_bytes())
    assert digests(tmp_path / "single")["c1"] == first["c1"]
    assert json.loads(overlap.read_text())["dice_after"]["mean"] > 0.8
    assert (tmp_path / "two" / "cases" / "c1" / "thumbnail.jpg").stat().st_size > 1000
