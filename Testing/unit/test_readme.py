"""Every command and example of README.md runs as it stands there, with a quick preset in the place of those named."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import SimpleITK as sitk
from docs_code import blocks
from masr_registration import presets
from small_pair import pair
from worker_tools import environment

__all__ = ["pair"]
PAGE = "../README.md"
MASR = """
import sys
from masr_registration import presets
quick = presets.load(sys.argv.pop(1))
presets.load = lambda name: quick
from masr_registration.cli import main
if __name__ == "__main__":
    main()
"""
SCREEN = "In 3D Slicer"
"""Its example is run by Testing/application/cookbook_tests.py."""


@pytest.fixture
def folder(pair: dict[str, Path], tmp_path: Path) -> Path:
    """What the page names, and its command ``.venv/bin/masr``."""
    for name in ("fixed", "moving"):
        shutil.copy(pair[name], tmp_path)
    labels = sitk.ReadImage(pair["labels"])
    sitk.WriteImage(labels, tmp_path / "moving_labels.nii.gz")
    shown = tmp_path / "demo-output" / "input"
    shown.mkdir(parents=True)
    for name in ("fixed", "moving"):
        shutil.copy(pair[name], shown)
    frames = [sitk.ReadImage(pair[name], sitk.sitkFloat32) for name in ("fixed", "moving")]
    sitk.WriteImage(sitk.JoinSeries(frames), tmp_path / "series.nii.gz")
    (tmp_path / "study.csv").write_text("id,fixed,moving\np1,fixed.nii.gz,moving.nii.gz\n")
    command = tmp_path / ".venv" / "bin" / "masr"
    command.parent.mkdir(parents=True)
    (tmp_path / "quick_masr.py").write_text(MASR)
    words = [sys.executable, str(tmp_path / "quick_masr.py"), str(pair["preset"])]
    command.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    command.chmod(stat.S_IRWXU)
    return tmp_path


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs a shell")
def test_the_commands_and_examples_of_the_page(
    folder: Path, pair: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [line for block in blocks(PAGE, "sh") for line in block.text.splitlines()]
    made = {"make demo", "make test"}  # by the makefile's own tests
    assert made <= set(lines)
    run = [line for line in lines if line not in made]
    assert len(run) == 3
    for line in run:
        done = subprocess.run(
            ["sh", "-c", line], cwd=folder, env=environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    for path in ("result/report.html", "results/cases/p1/result.json", "motion/transform-0001.h5"):
        assert (folder / path).is_file()

    monkeypatch.chdir(folder)
    quick = presets.load(pair["preset"])
    monkeypatch.setattr(presets, "load", lambda name: quick)
    names: dict[str, object] = {}
    examples = [block for block in blocks(PAGE, "python") if block.heading != SCREEN]
    assert [block.heading for block in examples] == ["From Python", "Use the transform"]
    for block in examples:
        block.run(names)
    warped = names["warped"]
    assert isinstance(warped, sitk.Image)
    assert warped.GetSize() == sitk.ReadImage(pair["fixed"]).GetSize()
