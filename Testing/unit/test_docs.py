"""Every example of Docs/python.md runs as it stands there."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
from docs_code import blocks
from masr_registration import presets
from small_pair import pair

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
