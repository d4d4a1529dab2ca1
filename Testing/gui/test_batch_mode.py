"""Every command of Docs/batch-mode.md, with the harness in the place of Slicer, and the exit codes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import SimpleITK as sitk
from docs_code import blocks
from small_pair import SHIFT_MM, pair

__all__ = ["pair"]
TESTING = Path(__file__).resolve().parents[1]
MODULE = TESTING.parent / "MASRRegistration"
_SLICER = """#!/bin/sh
PYTHONPATH="{testing}:{module}" QT_QPA_PLATFORM=offscreen exec "{python}" -m harness "$@"
"""
_PYTHON = """#!/bin/sh
exec "{python}" "$@"
"""


@pytest.fixture
def place(pair: dict[str, Path], tmp_path: Path) -> Path:
    """A folder with the images of the page, and Slicer's two programs in `bin`."""
    for name in ("fixed", "moving"):
        shutil.copy(pair[name], tmp_path)
    for subject in ("anna", "bert"):
        folder = tmp_path / "patients" / subject
        folder.mkdir(parents=True)
        for name, image in (("T1", "fixed"), ("T2", "moving")):
            shutil.copy(pair[image], folder / f"{name}.nii.gz")
    for name, text in (("Slicer", _SLICER), ("PythonSlicer", _PYTHON)):
        script = tmp_path / "bin" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(text.format(testing=TESTING, module=MODULE, python=sys.executable))
        script.chmod(0o755)
    (script_block,) = blocks("batch-mode.md", "python")
    (tmp_path / "mine.py").write_text(script_block.text)
    return tmp_path


def sh(place: Path, text: str) -> subprocess.CompletedProcess[str]:
    """A block of the page; it ends with the first command that fails."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables |= {"PATH": f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}", "MODULE": str(MODULE)}
    return subprocess.run(
        ["bash", "-e", "-c", text], cwd=place, env=variables, capture_output=True, text=True, check=False
    )


def moved_mm(path: Path) -> float:
    """How far a transform moves the middle of the fixed image."""
    transform = sitk.ReadTransform(str(path))
    point = (30.0, 50.0, 40.0)
    return float(
        sum((a - b) ** 2 for a, b in zip(transform.TransformPoint(point), point, strict=True)) ** 0.5
    )


@pytest.mark.slow
def test_every_command_of_the_page(place: Path) -> None:
    found = blocks("batch-mode.md", "sh")
    assert len(found) == 4
    for block in found:
        done = sh(place, block.text)
        assert done.returncode == 0, f"{block.heading}: {done.stdout}{done.stderr}"
        if "mine.py" in block.text:
            assert done.stdout.splitlines()[-1].startswith("verdict ")
    shift = sum(SHIFT_MM**2) ** 0.5
    for name in ("result", "slicer-result"):
        made = json.loads((place / name / "result.json").read_text())["provenance"]
        assert made["preset"]["name"] == "brain-mr"
        assert moved_mm(place / name / "transform.h5") == pytest.approx(shift, abs=4.0)
    assert (place / "mine.h5").is_file()
    assert (place / "pair.mrb").stat().st_size > 10_000
    assert (place / "slicer-result" / "registered.nrrd").is_file()
    assert (place / "study" / "cohort.html").is_file()
    assert len(list((place / "study").rglob("transform.h5"))) == 2


BATCH_MODE = (
    'Slicer --no-splash --no-main-window --additional-module-paths "$MODULE" '
    '--python-script "$MODULE/MASRRegistrationLib/batch_mode.py" -- '
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        ("fixed.nii.gz missing.nii.gz --output out", 2, '"missing.nii.gz" could not be loaded as a volume.'),
        ("fixed.nii.gz moving.nii.gz --output out --preset brian", 2, 'There is no preset "brian"'),
        ("fixed.nii.gz moving.nii.gz --output out --device cuda:99", 3, "The device cuda:99 was asked for"),
        ("fixed.nii.gz moving.nii.gz", 2, "required: --output"),
    ],
)
def test_exit_codes_in_slicer(place: Path, arguments: str, code: int, sentence: str) -> None:
    done = sh(place, BATCH_MODE + arguments)
    assert done.returncode == code, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not (place / "out").exists()


def test_the_stand_in_for_slicer_knows_only_slicers_options(place: Path) -> None:
    for command, words in (
        ("Slicer --no-window --python-script mine.py", "does not know Slicer's option --no-window"),
        ("Slicer --no-main-window --python-script missing.py", "python script doesn't exist: missing.py"),
    ):
        done = sh(place, command)
        assert done.returncode == 1
        assert words in done.stderr
