"""The diagnosis says what is there, and what is broken, and never fails itself."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from masr_registration import diagnosis
from masr_registration.representation import models
from worker_tools import environment


def test_it_is_one_line_of_json_with_a_passed_self_test() -> None:
    command = [sys.executable, "-P", "-m", "masr_registration.diagnosis"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["packages"]["torch"]
    assert found["torch_and_numpy"] == "work together"
    assert found["devices"][0].startswith("cpu (")
    assert found["weights"]["masr"].startswith("ok (sha256 ")
    assert found["self_test"].startswith("passed in ")


def test_what_is_missing_is_said(tmp_path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')\n", encoding="utf-8")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
    code += "import json; from masr_registration.diagnosis import diagnose; print(json.dumps(diagnose()))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    for name in ("torch_and_numpy", "devices", "self_test"):
        assert found[name] == "failed: ImportError: no torch here"


def test_a_wrong_result_fails_the_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "LARGEST_ERROR_MM", -1.0)
    with pytest.raises(ArithmeticError, match="mm off"):
        diagnosis.self_test()


def test_damaged_and_missing_weights_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_folder", lambda folder: tmp_path)
    monkeypatch.setattr(diagnosis, "self_test", lambda: "not run")
    index = (Path(models.__file__).parents[1] / "data" / "models" / models.INDEX).read_bytes()
    (tmp_path / models.INDEX).write_bytes(index)
    name, model = next(iter(models.shipped().items()))
    assert all(state.startswith("missing") for state in diagnosis.diagnose()["weights"].values())
    (tmp_path / model.file).write_bytes(b"damaged")
    assert diagnosis.diagnose()["weights"][name] == f"damaged (sha256 {model.sha256})"
