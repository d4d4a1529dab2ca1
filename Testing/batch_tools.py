"""What the tests of studies share: a server that only pretends to register, and runs with it."""

from __future__ import annotations

import json
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from masr_registration.batch import manifest, warm
from masr_registration.batch.progress import Event
from masr_registration.batch.run import Run, Settings, Summary
from masr_registration.batch.study import Study

FAKE = """
import hashlib, json, os, sys, time
from pathlib import Path
protocol = os.dup(1)
os.dup2(2, 1)
from masr_registration.batch.server import Server
from masr_registration.errors import InputError, ResourceError
from masr_registration.worker.messages import Result

PLAN = {"seconds": {"all": 2.0}, "peak_mb": 500, "working_size": [10, 10, 10]}

def register(data, context):
    request = data["request"]
    word, _, rest = Path(request["fixed"]).read_text().partition(" ")
    context.hello("cpu")
    plan = request.get("plan") or {**PLAN, "made_by": os.getpid()}
    made = {"device": "cpu", "threads": request["threads"], "plan": plan}
    made |= dict.fromkeys(("masr_version", "python", "torch", "simpleitk", "numpy"), "1")
    sha256 = hashlib.sha256(Path(request["fixed"]).read_bytes()).hexdigest()
    made["fixed"] = {"size": [4, 4, 4], "sha256": sha256, "sha256_of": "file"}
    if request.get("plan_only"):
        if word == "bad":
            raise InputError("The image is bad.")
        return Result({}, {}, [], {}, made, {})
    if word == "mark" and not Path(rest).exists():
        Path(rest).write_text(str(os.getpid()))
        time.sleep(60)
    if word == "late":
        raise InputError("It failed late.")
    if word == "internal":
        1 / 0
    if word == "die" or word == "once" and not Path(rest).exists():
        Path(rest or "x").touch()
        os._exit(9)
    if word == "hold":
        mark = Path(f"{rest}-{os.environ.get('CUDA_VISIBLE_DEVICES')}")
        try:
            mark.touch(exist_ok=False)
        except FileExistsError:
            raise InputError("Two at once.") from None
        time.sleep(0.7)
        mark.unlink()
    for step in range(200 if word == "slow" else 2):
        context.progress("linear", step / 200)
        time.sleep(0.05)
    place = Path(request["output"])
    place.mkdir(parents=True)
    done = {"provenance": made, "pid": os.getpid(), "device": os.environ.get("CUDA_VISIBLE_DEVICES")}
    (place / "result.json").write_text(json.dumps(done))
    return Result({}, {}, [], {}, made, {})

def rehearse(data, context):
    with Path(os.environ["FAKE_FOLDER"], "rehearsed").open("a") as log:
        log.write(f"{os.getpid()} ")
    if os.environ.get("FAKE_ERROR"):
        raise ResourceError(os.environ["FAKE_ERROR"])
    devices = [f"{os.environ['FAKE_FOLDER']} {n}" for n in range(int(os.environ.get("FAKE_DEVICES", 0)))]
    usable = float(os.environ.get("FAKE_MB", 1e6))
    return Result({}, {"devices": devices, "usable_mb": usable}, [], {}, {}, {})

Server({"register": register, "rehearse": rehearse}, protocol).serve()
os._exit(0)
"""


PRELOAD = "from masr_registration.batch import warm\nwarm.SERVER = 'fake_server'\n"


class Studies:
    """Manifests of cases, pretended ones by `write`, and runs of them in one folder."""

    def __init__(self, folder: Path, name: str = "study") -> None:
        self.folder = folder
        self.output = folder / name
        self.study = Study(self.output)
        self.events: list[Event] = []
        self.cancel = threading.Event()

    def write(self, **cases: str) -> Path:
        """A manifest of cases (id -> what its process does)."""
        rows = []
        for case, word in cases.items():
            (self.folder / f"{case}.txt").write_text(word)
            rows.append({"id": case, "fixed": f"{case}.txt", "moving": f"{case}.txt"})
        path = self.folder / "manifest.json"
        path.write_text(json.dumps(rows))
        return path

    def run(self, **settings: Any) -> Summary:
        with self.opened(**settings) as run:
            return run.execute(self.events.append, self.cancel)

    def opened(self, **settings: Any) -> Any:
        read = manifest.read(self.folder / "manifest.json")
        settings = {"jobs": 2, "threads": 1, **settings}
        return Run(read, self.output, Settings(**settings)).opened(self.events.append, self.cancel)

    def rehearsed(self) -> list[int]:
        """Which processes have played the rehearsal."""
        return [int(line) for line in (self.folder / "rehearsed").read_text().split()]

    def devices(self) -> dict[str, str | None]:
        """Which CUDA devices the process of each finished case was shown."""
        paths = self.study.cases.glob("*/result.json")
        return {path.parent.name: json.loads(path.read_text())["device"] for path in paths}

    def pids(self) -> dict[str, int]:
        """Which process did each finished case."""
        paths = self.study.cases.glob("*/result.json")
        return {path.parent.name: json.loads(path.read_text())["pid"] for path in paths}


def real_study(folder: Path, rows: list[dict[str, Any]], preset: Path, name: str = "study") -> Studies:
    """Cases that are really registered, all with the preset."""
    made = Studies(folder, name)
    content = {"masr_manifest": 1, "defaults": {"preset": str(preset)}, "cases": rows}
    (folder / "manifest.json").write_text(json.dumps(content))
    return made


@pytest.fixture
def studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Studies:
    (tmp_path / "fake_server.py").write_text(FAKE)
    (tmp_path / "fake_preload.py").write_text(PRELOAD)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("FAKE_FOLDER", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(warm, "SERVER", "fake_server")
    return Studies(tmp_path)
