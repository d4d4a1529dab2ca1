"""The command line and the whole job, with real processes and small synthetic images."""

from __future__ import annotations

import json
import os
import pty
import resource
import select
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from masr_registration import cli, presets
from masr_registration.case.files import RESULT_FILES
from masr_registration.errors import CancelledError, InputError, MasrError, ResourceError
from masr_registration.worker import client, messages
from small_pair import SHIFT_MM, pair, request, run_here, save
from typer.testing import CliRunner
from worker_tools import Workers, environment, python, wait_until, workers

__all__ = ["pair", "workers"]

STAGES = ["read", "linear", "discrete", "continuous", "check", "write", "report"]
TIMINGS = {"import", "read", "encode", *STAGES[1:], "total"}


def masr(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """The real command."""
    line = python("-m", "masr_registration", *(str(a) for a in arguments))
    options.setdefault("env", environment())
    return subprocess.run(line, capture_output=True, text=True, check=False, **options)


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


# --- a success


@pytest.fixture(scope="session")
def full(pair: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Output folder and stdout of a run with every option."""
    output = tmp_path_factory.mktemp("full") / "not" / "there yet"
    run = masr(
        *("register", pair["fixed"], pair["moving"], "--output", output, "--preset", pair["preset"]),
        *("--device", "cpu", "--fixed-mask", pair["fixed_mask"], "--moving-mask", pair["moving_mask"]),
        *("--initial-transform", pair["start"], "--labels", pair["labels"]),
        *("--landmarks", pair["fixed_points"], pair["moving_points"]),
        *("--threads", 1, "--seed", 3, "--json"),
    )
    assert (run.returncode, run.stderr) == (0, "")
    return output, run.stdout


def test_all_files_are_there_and_stdout_is_result_json(full: tuple[Path, str]) -> None:
    output, printed = full
    assert names(output) == set(RESULT_FILES.values())
    assert printed == (output / "result.json").read_text(encoding="utf-8")


def test_result_json_holds_what_was_promised(full: tuple[Path, str], pair: dict[str, Path]) -> None:
    output, printed = full
    content = json.loads(printed, parse_constant=lambda name: pytest.fail(f"{name} in result.json"))
    assert set(content["timings"]) == TIMINGS
    parts = sum(seconds for stage, seconds in content["timings"].items() if stage != "total")
    assert content["timings"]["total"] >= 0.9 * parts
    assert content["verdict"]["level"] in ("plausible", "doubtful", "failed")
    assert content["verdict"]["reasons"]
    assert content["peak_memory_mb"] > 10
    assert content["metrics"]["folds"] == 0
    assert content["metrics"]["tre_before_mm"]["mean"] == pytest.approx(
        np.linalg.norm(SHIFT_MM) / 2, abs=1e-3
    )
    assert len(content["metrics"]["tre_after_mm"]["each"]) == 3
    assert content["metrics"]["landmark_labels"] == ["P0", "P1", "P2"]
    origin = content["provenance"]
    assert (origin["seed"], origin["threads"], origin["device"]) == (3, 1, "cpu")
    assert origin["preset"]["name"] == "quick"
    assert origin["fixed"]["size"] == [32, 34, 30]
    assert origin["fixed"]["spacing"] == pytest.approx([2.0, 2.0, 2.5])
    for name in ("fixed", "moving", "fixed_mask", "moving_mask", "labels", "initial_transform"):
        assert origin[name]["name"] == (pair["start"] if name == "initial_transform" else pair[name]).name
        assert len(origin[name]["sha256"]) == 64
    for text in (printed, (output / "report.html").read_text(encoding="utf-8")):
        assert str(pair["fixed"].parent) not in text
        assert str(output) not in text


def test_simpleitk_makes_the_warped_image_of_the_transform(
    full: tuple[Path, str], pair: dict[str, Path]
) -> None:
    output, _ = full
    fixed, moving = sitk.ReadImage(pair["fixed"]), sitk.ReadImage(pair["moving"], sitk.sitkFloat32)
    transform = sitk.ReadTransform(output / "transform.h5")
    warped = sitk.ReadImage(output / "warped.nii.gz")
    assert warped.GetPixelID() == sitk.sitkInt16
    assert warped.GetSize() == fixed.GetSize()
    assert np.allclose(warped.GetOrigin(), fixed.GetOrigin(), atol=1e-4)
    expected = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform, sitk.sitkLinear, np.nan))
    inside = np.isfinite(expected)
    assert inside.mean() > 0.5
    difference = np.abs(sitk.GetArrayFromImage(warped)[inside] - expected[inside])
    assert difference.max() <= 1.0


def test_dense_field_and_inverse_agree_with_the_transform(
    full: tuple[Path, str], pair: dict[str, Path]
) -> None:
    output, _ = full
    transform, inverse = (sitk.ReadTransform(output / name) for name in ("transform.h5", "inverse.h5"))
    image = sitk.ReadImage(output / "displacement.nrrd")
    assert image.GetPixelID() == sitk.sitkVectorFloat32
    assert b"intent_code:=1006" in (output / "displacement.nrrd").read_bytes()[:4000]
    field = sitk.DisplacementFieldTransform(sitk.Cast(image, sitk.sitkVectorFloat64))
    fixed = sitk.ReadImage(pair["fixed"])
    rng = np.random.default_rng(1)
    for index in rng.integers(6, 24, (50, 3)).tolist():
        point = fixed.TransformIndexToPhysicalPoint(index)
        there = transform.TransformPoint(point)
        assert np.allclose(there, field.TransformPoint(point), atol=2e-3)
        assert np.linalg.norm(np.subtract(inverse.TransformPoint(there), point)) < 0.5


def test_labels_keep_their_values_and_type(full: tuple[Path, str], pair: dict[str, Path]) -> None:
    warped, given = sitk.ReadImage(full[0] / "warped_labels.nii.gz"), sitk.ReadImage(pair["labels"])
    assert warped.GetPixelID() == sitk.sitkUInt16
    found = set(np.unique(sitk.GetArrayViewFromImage(warped)))
    assert found <= set(np.unique(sitk.GetArrayViewFromImage(given)))
    assert len(found) > 2


def test_the_report_is_self_contained(full: tuple[Path, str]) -> None:
    text = (full[0] / "report.html").read_text(encoding="utf-8")
    assert "Content-Security-Policy" in text
    assert "<script" not in text
    assert "http://" not in text
    assert "https://" not in text
    assert "url(" not in text


def test_a_short_summary_is_printed_and_old_results_are_replaced(
    pair: dict[str, Path], tmp_path: Path
) -> None:
    for name in ("warped_labels.nii.gz", "transform.h5", "mine.txt"):
        (tmp_path / name).write_text("old")
    run = masr("register", pair["fixed"], pair["moving"], "-o", tmp_path, "--preset", pair["preset"])
    assert run.returncode == 0
    assert run.stdout.startswith("Verdict: ")
    assert f"Report: {tmp_path / 'report.html'}" in run.stdout
    assert names(tmp_path) == {*RESULT_FILES.values(), "mine.txt"} - {"warped_labels.nii.gz"}
    sitk.ReadTransform(tmp_path / "transform.h5")


def test_without_matplotlib_there_is_a_warning_and_no_report(pair: dict[str, Path], tmp_path: Path) -> None:
    missing = tmp_path / "missing" / "matplotlib"
    missing.mkdir(parents=True)
    (missing / "__init__.py").write_text("raise ModuleNotFoundError('matplotlib')")
    output = tmp_path / "out"
    output.mkdir()
    (output / "report.html").write_text("of an earlier run")
    variables = environment()
    variables["PYTHONPATH"] = os.pathsep.join([variables["PYTHONPATH"], str(missing.parent)])
    run = masr(
        *("register", pair["fixed"], pair["moving"], "-o", output, "--preset", pair["preset"], "--json"),
        env=variables,
    )
    assert run.returncode == 0
    assert json.loads(run.stdout)["warnings"][-1] == "There is no report: matplotlib is not installed."
    assert "Warning: There is no report" in run.stderr
    assert names(output) == set(RESULT_FILES.values()) - {"warped_labels.nii.gz", "report.html"}


@pytest.mark.parametrize(("largest", "kind"), [(4e4, sitk.sitkInt32), (9e18, sitk.sitkFloat32)])
def test_values_beyond_32_bits_are_not_clipped(
    pair: dict[str, Path], tmp_path: Path, largest: float, kind: int
) -> None:
    moving = sitk.GetArrayFromImage(sitk.ReadImage(pair["moving"])).astype(np.float64)
    path = save((moving / moving.max() * largest).astype(np.int64), tmp_path / "long.nrrd")
    outcome = run_here(request(pair, tmp_path / "out", moving=str(path), report=False))
    warped = sitk.ReadImage(outcome.files["warped"])
    assert warped.GetPixelID() == kind
    assert sitk.GetArrayViewFromImage(warped).max() > 0.9 * largest


def test_a_true_transform_gives_the_true_error(pair: dict[str, Path], tmp_path: Path) -> None:
    outcome = run_here(request(pair, tmp_path, truth=str(pair["truth"]), report=False))
    before, after = outcome.metrics["true_error_before_mm"], outcome.metrics["true_error_after_mm"]
    distance = np.linalg.norm(SHIFT_MM)
    assert [before[key] for key in ("mean", "median", "p95", "max")] == pytest.approx(
        [distance] * 4, abs=1e-3
    )
    assert after["mean"] <= after["p95"] <= after["max"]
    assert after["mean"] < distance / 2
    assert "report" not in outcome.files


def test_an_initial_transform_is_where_before_is_measured(pair: dict[str, Path], tmp_path: Path) -> None:
    truth, start = str(pair["truth"]), str(pair["start"])
    outcome = run_here(request(pair, tmp_path, truth=truth, initial_transform=start, report=False))
    assert outcome.metrics["true_error_before_mm"]["mean"] == pytest.approx(
        np.linalg.norm(SHIFT_MM) / 2, abs=1e-3
    )


def test_a_b_a_gives_the_same_a(pair: dict[str, Path], tmp_path: Path) -> None:
    fields = []
    for i, moving in enumerate(("moving", "other", "moving")):
        outcome = run_here(request(pair, tmp_path / str(i), moving=str(pair[moving]), report=False))
        fields.append(outcome.files["displacement"].read_bytes())
    assert fields[0] == fields[2]
    assert fields[0] != fields[1]


# --- progress and cancel


def test_a_plan_is_shown_and_replayed_to_the_same_bits(pair: dict[str, Path], tmp_path: Path) -> None:
    images = ("register", pair["fixed"], pair["moving"], "--output")
    options = ("--preset", pair["preset"], "--device", "cpu", "--threads", 1, "--seed", 5)
    shown = masr(*images, tmp_path / "shown", *options, "--plan")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert names(tmp_path / "shown") == {"plan.json"}
    for line in ("Working grid: ", "Device: cpu, 1 thread", "Memory: about ", "Time: roughly "):
        assert line in shown.stdout
    fields = []
    for recorded, output in (("shown/plan.json", "first"), ("first/result.json", "second")):
        run = masr(*images, tmp_path / output, "--replay", tmp_path / recorded)
        assert (run.returncode, run.stderr) == (0, "")
        transform = sitk.ReadTransform(tmp_path / output / "transform.h5")
        fields.append([f.GetParameters() for f in (transform.GetNthTransform(n) for n in range(2))])
        made = json.loads((tmp_path / output / "result.json").read_text())["provenance"]
        assert made["seed"] == 5
        assert (
            made["plan"] == json.loads((tmp_path / "shown" / "plan.json").read_text())["provenance"]["plan"]
        )
    assert fields[0] == fields[1]


def test_what_holds_no_plan_is_not_replayed(pair: dict[str, Path], tmp_path: Path) -> None:
    run = masr("register", pair["fixed"], pair["moving"], "--output", tmp_path, "--replay", pair["preset"])
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == '"quick.json" is not a result.json or plan.json with a plan in it.\n'


def test_progress_rises_to_1_through_all_stages(pair: dict[str, Path], tmp_path: Path) -> None:
    seen: list[messages.Message] = []
    outcome = client.run(request(pair, tmp_path / "out"), seen.append)
    progress = [m for m in seen if isinstance(m, messages.Progress)]
    fractions = [m.fraction for m in progress]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0.0
    assert fractions[-1] == 1.0
    assert max(fractions[:-1]) < 1.0
    assert list(dict.fromkeys(m.stage for m in progress)) == STAGES
    assert isinstance(seen[0], messages.Hello)
    assert isinstance(seen[-1], messages.Result)
    assert outcome.files.keys() == RESULT_FILES.keys() - {"warped_labels"}


@pytest.mark.parametrize("stage", STAGES)
def test_cancel_in_every_stage_leaves_everything_as_it_was(
    workers: Workers, pair: dict[str, Path], stage: str
) -> None:
    cancel = threading.Event()

    def on_message(message: messages.Message) -> None:
        if isinstance(message, messages.Progress) and message.stage == stage:
            cancel.set()

    output = workers.folder / "out"
    output.mkdir()
    (output / "transform.h5").write_text("old")
    with pytest.raises(CancelledError):
        client.run(request(pair, output), on_message, cancel)
    assert cancel.is_set()
    assert {p.name: p.read_text() for p in output.iterdir()} == {"transform.h5": "old"}
    assert workers.leftovers() == []


def test_a_real_job_that_is_killed_leaves_everything_as_it_was(
    workers: Workers, pair: dict[str, Path]
) -> None:
    pid = 0

    def on_message(message: messages.Message) -> None:
        nonlocal pid
        if isinstance(message, messages.Hello):
            pid = message.pid
        if isinstance(message, messages.Progress) and message.stage == "write":
            os.kill(pid, signal.SIGKILL)

    with pytest.raises(ResourceError, match="was killed from outside"):
        client.run(request(pair, workers.folder / "out"), on_message)
    assert not (workers.folder / "out").exists()
    assert workers.leftovers() == []


def test_ctrl_c_on_a_terminal_cancels_and_the_bar_shows_the_stage(
    workers: Workers, pair: dict[str, Path]
) -> None:
    terminal, stderr = pty.openpty()
    arguments = (
        "register",
        pair["fixed"],
        pair["moving"],
        "-o",
        workers.folder / "out",
        "--preset",
        pair["preset"],
    )
    process = subprocess.Popen(
        python("-m", "masr_registration", *(str(a) for a in arguments)),
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=environment(TMPDIR=str(workers.temporary), TERM="xterm"),
        start_new_session=True,
    )
    os.close(stderr)
    shown = ""
    while "linear" not in shown or "%" not in shown:
        ready, _, _ = select.select([terminal], [], [], 120)
        assert ready, shown
        shown += os.read(terminal, 4096).decode(errors="replace")
    os.killpg(process.pid, signal.SIGINT)
    while True:
        try:
            shown += os.read(terminal, 4096).decode(errors="replace")
        except OSError:
            break
    assert process.wait() == 130
    assert process.stdout is not None
    assert process.stdout.read() == b""
    assert shown.rstrip().endswith("Cancelled.")
    assert "Traceback" not in shown
    assert not (workers.folder / "out").exists()
    assert workers.leftovers() == []


def test_sigterm_cancels_as_well(workers: Workers, pair: dict[str, Path]) -> None:
    arguments = (
        "register",
        pair["fixed"],
        pair["moving"],
        "-o",
        workers.folder / "out",
        "--preset",
        pair["preset"],
    )
    process = subprocess.Popen(
        python("-m", "masr_registration", *(str(a) for a in arguments)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(TMPDIR=str(workers.temporary)),
    )
    assert wait_until(lambda: bool(names(workers.temporary)))
    process.terminate()
    assert process.communicate() == ("", "Cancelled.\n")
    assert process.returncode == 130


# --- bad input: one sentence, exit code 2


def bad_files(folder: Path) -> dict[str, Path]:
    rng = np.random.default_rng(0)
    good = rng.normal(100, 20, (20, 22, 24)).astype(np.float32)
    hole = good.copy()
    hole[3, 4, 5] = np.nan
    vector = sitk.GetImageFromArray(np.stack([good] * 3, -1), isVector=True)
    four = sitk.JoinSeries([sitk.GetImageFromArray(good)] * 2)
    sitk.WriteImage(vector, folder / "vector.nrrd")
    sitk.WriteImage(four, folder / "four.nii.gz")
    sitk.WriteImage(sitk.GetImageFromArray(good[0]), folder / "flat.nii.gz")
    (folder / "text.nii.gz").write_text("not an image")
    (folder / "empty.nii.gz").write_bytes(b"")
    (folder / "cut.nrrd").write_bytes(save(good, folder / "whole.nrrd").read_bytes()[:2000])
    (folder / "no-frame.csv").write_text("a,1,2,3\nb,1,2,3\nc,1,2,3\n")
    (folder / "two.csv").write_text("# LPS\na,1,2,3\nb,1,2,3\n")
    (folder / "transform.h5").write_text("not a transform")
    sitk.WriteTransform(sitk.TranslationTransform(2, (1.0, 2.0)), folder / "plane.tfm")
    (folder / "preset.json").write_text('{"masr_preset": 1, "name": "x", "surprise": 1}')
    (folder / "latin.json").write_text('{"name": "ü"}', encoding="latin-1")
    (folder / "galaxy.csv").write_text("# LPS\na,1,2,3\nb,1e300,2,3\nc,1,2,3\n")
    save(good, folder / "atoms.nrrd", spacing=(1e-7, 1e-7, 1e-7))
    save(good, folder / "planets.nrrd", spacing=(1e4, 1e4, 1e4))
    save(hole, folder / "nan.nrrd")
    save(hole, folder / "nan.nii.gz")
    save(np.full_like(good, 7), folder / "constant.nii.gz")
    save(good[:1], folder / "slice.nii.gz")
    save(np.zeros_like(good, np.uint8), folder / "nothing.nii.gz")
    save(np.ones_like(good, np.uint8), folder / "elsewhere.nii.gz", origin=(500.0, 0.0, 0.0))
    save(good, folder / "not-labels.nii.gz")
    (folder / "no-dicom").mkdir()
    return {p.name: p for p in folder.iterdir()}


BAD: list[tuple[dict[str, str], str]] = [
    ({"fixed": "missing.nii.gz"}, 'The fixed image "missing.nii.gz" does not exist.'),
    ({"moving": "missing.nii.gz"}, 'The moving image "missing.nii.gz" does not exist.'),
    ({"fixed": "text.nii.gz"}, '"text.nii.gz"'),
    ({"fixed": "empty.nii.gz"}, "empty"),
    ({"fixed": "cut.nrrd"}, '"cut.nrrd"'),
    ({"fixed": "no-dicom"}, "holds no DICOM series"),
    ({"moving": "flat.nii.gz"}, "2-D"),
    ({"moving": "four.nii.gz"}, "4-D"),
    ({"moving": "vector.nrrd"}, "3 values in every voxel"),
    ({"moving": "constant.nii.gz"}, 'The moving image "constant.nii.gz" is empty: every voxel is 7.'),
    ({"fixed": "nan.nrrd"}, 'The fixed image "nan.nrrd" is not finite (NaN or infinite) in 1 of its voxels'),
    ({"fixed": "nan.nii.gz"}, '"nan.nii.gz" is not finite (NaN or infinite) in 1 of its voxels'),
    ({"fixed": "slice.nii.gz"}, "every axis needs at least"),
    ({"--fixed-mask": "elsewhere.nii.gz"}, "does not lie on the grid"),
    ({"--moving-mask": "elsewhere.nii.gz"}, "does not lie on the grid"),
    ({"fixed": "whole.nrrd", "--fixed-mask": "nothing.nii.gz"}, '"nothing.nii.gz" is empty'),
    ({"--fixed-mask": "missing.nii.gz"}, 'The fixed mask "missing.nii.gz" does not exist.'),
    ({"--labels": "not-labels.nii.gz"}, "whole numbers"),
    ({"--initial-transform": "transform.h5"}, 'The initial transform "transform.h5" is not a transform file'),
    ({"--initial-transform": "plane.tfm"}, 'The initial transform "plane.tfm" is not a 3-D transform.'),
    ({"--landmarks": "no-frame.csv"}, "LPS or RAS"),
    ({"--landmarks": "two.csv"}, "they must hold equally many"),
    ({"--landmarks": "missing.csv"}, 'The moving landmarks "missing.csv" does not exist.'),
    ({"--preset": "brian"}, 'There is no preset "brian". Presets: abdomen-mr-ct, brain-mr, '),
    ({"--preset": "preset.json"}, "unknown entry 'surprise'"),
    ({"--preset": "latin.json"}, 'The preset "latin.json" cannot be read as text.'),
    ({"fixed": f"{'long' * 100}.nii"}, "does not exist"),
    (
        {"fixed": "atoms.nrrd"},
        '"atoms.nrrd" has voxels of 1e-07 x 1e-07 x 1e-07 mm: is its unit the millimetre?',
    ),
    ({"fixed": "planets.nrrd"}, "is its unit the millimetre?"),
    ({"--landmarks": "galaxy.csv"}, "a coordinate that is no number of millimetres"),
    ({"--device": "tpu"}, "tpu"),
    ({"--threads": "0"}, "The number of threads must be 1 to 4096, not 0."),
    ({"--threads": "-2"}, "The number of threads must be 1 to 4096, not -2."),
    ({"--seed": "-1"}, "The seed must be 0 to 9223372036854775807, not -1."),
]


def bad_line(pair: dict[str, Path], folder: Path, change: dict[str, str]) -> list[str]:
    """Arguments of a registration with something wrong; what is a file's name becomes its path."""
    values = {"fixed": str(pair["fixed"]), "moving": str(pair["moving"]), "--preset": str(pair["preset"])}
    for name, value in change.items():
        is_file = "." in value or value == "no-dicom"
        values[name] = str(folder / value) if is_file else value
    line = ["register", values.pop("fixed"), values.pop("moving"), "--output", str(folder / "out")]
    for name, value in values.items():
        line += [name, str(pair["fixed_points"]), value] if name == "--landmarks" else [name, value]
    return line


@pytest.mark.parametrize(("change", "words"), BAD, ids=lambda value: str(value)[:40])
def test_bad_input_gets_one_sentence_and_exit_code_2(
    pair: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, str],
    words: str,
) -> None:
    monkeypatch.setattr(client, "run", run_here)
    bad_files(tmp_path)
    run = CliRunner().invoke(cli.app, bad_line(pair, tmp_path, change))
    assert run.exit_code == 2, (run.output, run.exception)
    assert words in run.stderr
    assert run.stderr.count("\n") == 1
    assert str(tmp_path) not in run.stderr
    assert run.stdout == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", [0, 12, 24])
def test_the_sentence_also_comes_through_the_real_process(
    pair: dict[str, Path], workers: Workers, number: int
) -> None:
    change, words = BAD[number]
    bad_files(workers.folder)
    run = masr(*bad_line(pair, workers.folder, change), env=environment(TMPDIR=str(workers.temporary)))
    assert run.returncode == 2
    assert words in run.stderr
    assert run.stderr.count("\n") == 1
    assert run.stdout == ""
    assert not (workers.folder / "out").exists()


@pytest.mark.parametrize(
    ("what", "option"),
    [
        ("fixed image", None),
        ("moving image", None),
        ("fixed mask", "--fixed-mask"),
        ("moving mask", "--moving-mask"),
        ("labels", "--labels"),
        ("initial transform", "--initial-transform"),
    ],
)
@pytest.mark.parametrize("way", ["same", "symlink", "hardlink"])
def test_an_input_is_never_overwritten(
    pair: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    option: str | None,
    way: str,
) -> None:
    monkeypatch.setattr(client, "run", run_here)
    output = tmp_path / "out"
    output.mkdir()
    target = output / ("transform.h5" if what == "initial transform" else "warped.nii.gz")
    target.write_bytes(b"precious")
    given = target
    if way != "same":
        given = tmp_path / f"input{''.join(target.suffixes)}"
        given.symlink_to(target) if way == "symlink" else given.hardlink_to(target)
    line = ["register", str(pair["fixed"]), str(pair["moving"]), "-o", str(tmp_path / "x" / ".." / "out")]
    (tmp_path / "x").mkdir()
    if option is None:
        line[1 if what == "fixed image" else 2] = str(given)
    else:
        line += [option, str(given)]
    run = CliRunner().invoke(cli.app, line)
    assert run.exit_code == 2
    sentence = (
        f'The {what} "{given.name}" would be overwritten by the result; choose another output folder.\n'
    )
    assert run.stderr == sentence
    assert target.read_bytes() == b"precious"
    assert names(output) == {target.name}


@pytest.mark.parametrize(
    "arguments", [[], ["register"], ["register", "a.nii", "b.nii"], ["register", "--nonsense"], ["nonsense"]]
)
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    run = CliRunner().invoke(cli.app, arguments)
    assert run.exit_code == 2


# --- the machine's limits: exit code 3


@pytest.mark.parametrize("output", ["file", "file/out", "/dev/full/out", "/proc/masr/out", "n" * 300])
def test_an_unwritable_output_is_exit_code_3(
    pair: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    monkeypatch.setattr(client, "run", run_here)
    (tmp_path / "file").write_text("mine")
    run = CliRunner().invoke(
        cli.app, ["register", str(pair["fixed"]), str(pair["moving"]), "-o", str(tmp_path / output)]
    )
    assert run.exit_code == 3
    assert run.stderr.startswith("The output folder cannot be written: ")
    assert run.stderr.count("\n") == 1
    assert names(tmp_path) == {"file"}


@pytest.mark.parametrize("limit", [2_000, 300_000])
def test_a_full_disk_is_exit_code_3_and_leaves_nothing(
    workers: Workers, pair: dict[str, Path], limit: int
) -> None:
    """A limit on the size of files stands for the disk: writing fails in the same places."""

    def restrict() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    output = workers.folder / "out"
    output.mkdir()
    (output / "transform.h5").write_text("old")
    run = masr(
        *("register", pair["fixed"], pair["moving"], "-o", output, "--preset", pair["preset"]),
        env=environment(TMPDIR=str(workers.temporary), PYTHONDONTWRITEBYTECODE="1"),
        preexec_fn=restrict,
    )
    assert run.returncode == 3, run.stderr
    assert "written" in run.stderr
    assert run.stderr.count("\n") == 1
    assert {p.name: p.read_text() for p in output.iterdir()} == {"transform.h5": "old"}
    assert workers.leftovers() == []


def test_too_little_space_is_told_before_registering(
    pair: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "run", run_here)
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    run = CliRunner().invoke(
        cli.app, ["register", str(pair["fixed"]), str(pair["moving"]), "-o", str(tmp_path / "out")]
    )
    assert run.exit_code == 3
    assert run.stderr.startswith("The output folder's disk is full: 0 MB are free")
    assert not (tmp_path / "out").exists()


def test_an_internal_error_is_one_sentence_too(
    pair: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MasrError("The registration process crashed (SIGSEGV).")

    monkeypatch.setattr(client, "run", fail)
    run = CliRunner().invoke(
        cli.app, ["register", str(pair["fixed"]), str(pair["moving"]), "-o", str(tmp_path / "out")]
    )
    assert run.exit_code == 1
    assert run.stderr == "The registration process crashed (SIGSEGV).\n"


# --- the rest


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"working_spacing_mm": 0}, "preset.working_spacing_mm must lie between 0.2 and 50."),
        ({"working_spacing_mm": 1e-9}, "must lie between"),
        ({"normalisation": {"mr_percentiles": [-5, 300]}}, "mr_percentiles must lie between 0 and 100."),
        ({"normalisation": {"ct_window_hu": [300, -200]}}, "ct_window_hu must rise."),
        ({"discrete": {"reach_mm": -5}}, "reach_mm must lie between"),
        ({"continuous": {"control_spacing_mm": 0}}, "control_spacing_mm must lie between"),
        ({"continuous": {"iterations": [-1, 5]}}, "iterations must lie between"),
    ],
)
def test_a_preset_with_senseless_numbers_is_refused(change: dict[str, Any], words: str) -> None:
    whole = {**json.loads(presets.load("general").to_json()), **change}
    with pytest.raises(InputError, match=words):
        presets.Preset.from_json(json.dumps(whole))


def test_a_preset_that_nests_without_end_is_refused() -> None:
    with pytest.raises(InputError, match="not valid JSON"):
        presets.Preset.from_json("[" * 100_000)


def test_a_preset_whose_name_is_too_long_does_not_exist() -> None:
    with pytest.raises(InputError, match="There is no preset"):
        presets.load(f"{'long' * 100}.json")


def test_presets_are_listed() -> None:
    run = masr("presets")
    assert run.returncode == 0
    assert [line.split()[0] for line in run.stdout.splitlines()] == presets.names()


def test_help_is_light() -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom masr_registration.cli import app\n"
        "assert CliRunner().invoke(app, ['register', '--help']).exit_code == 0\n"
        "print([m for m in ('torch', 'numpy', 'SimpleITK', 'matplotlib') if m in sys.modules])"
    )
    run = subprocess.run(python("-c", code), env=environment(), capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_version() -> None:
    run = masr("--version")
    assert (run.returncode, run.stdout) == (0, "masr 0.1.0\n")
