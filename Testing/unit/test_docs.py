"""Every example of Docs/python.md runs as it stands there."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import SimpleITK as sitk
from docs_code import blocks
from masr_registration import presets
from small_pair import pair
from worker_tools import environment

__all__ = ["pair"]


def test_the_page_of_the_python_interface(
    pair: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in {path for path in pair.values() if path.name != "quick.json"}:
        shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    quick = presets.load(pair["preset"])
    monkeypatch.setattr(presets, "load", lambda name: quick)
    namespace: dict[str, object] = {}
    found = blocks("python.md", "python")
    assert len(found) > 8
    for block in found:
        block.run(namespace)
    told = capsys.readouterr().out
    for line in ("cancelled, nothing was written", 'There is no file "missing.nii.gz".', "read", "quick"):
        assert line in told
    assert (tmp_path / "result" / "report.html").is_file()
    assert presets.Preset.from_json((tmp_path / "stiff.json").read_text()).continuous.regularisation == 8.0


@pytest.mark.slow
def test_the_page_of_sequences(pair: dict[str, Path], tmp_path: Path) -> None:
    frames = [sitk.ReadImage(pair[name], sitk.sitkFloat32) for name in ("fixed", "moving", "fixed")]
    for number, image in enumerate(frames):
        sitk.WriteImage(image, tmp_path / f"t{number}.nii.gz")
    sitk.WriteImage(sitk.JoinSeries(frames), tmp_path / "series.nii.gz")
    shutil.copy(pair["fixed_points"], tmp_path / "points.csv")
    (block,) = blocks("sequence.md", "sh")
    masr = [sys.executable, "-m", "masr_registration"]
    written = []
    for line in block.text.splitlines():
        words = shlex.split(line.replace("brain-mr", str(pair["preset"])))
        assert words[0] == "masr"
        done = subprocess.run(
            [*masr, *words[1:]], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        written.append({path.name for path in (tmp_path / "motion").iterdir()})
    each = {
        f"{name}-000{n}.{end}" for n in range(3) for name, end in (("transform", "h5"), ("warped", "nii.gz"))
    }
    assert written == [each | {"result.json"}] * 2 + [each | {"result.json", "motion.csv", "motion.png"}]


def test_the_page_of_the_presets_says_what_the_presets_say(root: Path) -> None:
    text = (root / "Docs" / "presets.md").read_text(encoding="utf-8")
    for name in presets.names():
        preset = presets.load(name)
        kinds = f"`{preset.normalisation.fixed}`, `{preset.normalisation.moving}`"
        spacings = f"{preset.working_spacing_mm:g} mm | {preset.continuous.control_spacing_mm:g} mm"
        assert f"| `{name}` | {kinds} | {spacings} | `{preset.representation}` |" in text
        assert (preset.linear.model, preset.discrete.reach_mm) == ("affine", 40.0)
    for key, value in asdict(presets.load("general")).items():
        if key not in ("name", "description"):
            for entry in [f"{key}.{inner}" for inner in value] if isinstance(value, dict) else [key]:
                assert f"`{entry}`" in text
