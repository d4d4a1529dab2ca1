"""What the tests of the background process share: requests, fake workers, a private temporary folder."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import masr_registration
import pytest
from masr_registration import presets
from masr_registration.case.monitor import CancelFlag
from masr_registration.worker import client, messages

PACKAGE_FOLDER = Path(masr_registration.__file__).parents[1]

SESSION = """
import os, sys, time, threading
protocol = os.dup(1)
os.dup2(2, 1)
sys.stdout = sys.stderr
from pathlib import Path
from masr_registration.errors import *
from masr_registration.worker.messages import Result
from masr_registration.worker.session import Session
from masr_registration.worker.staging import Staging

def staged(request, context):
    place = Staging(Path(request.output))
    context.folder.record(place)
    place.open()
    context.hello("cpu")
    (place.new / "transform.h5").write_text("new")
    return place

def result(request, **files):
    return Result(files, {}, [], {"level": "plausible", "reasons": []}, {}, {})

"""
SERVE = "\nos._exit(Session(protocol).run(job))\n"


def plain_request(folder: Path, **changes: Any) -> messages.Request:
    """A valid request whose images need not exist."""
    fields = {
        "fixed": str(folder / "fixed.nii.gz"),
        "moving": str(folder / "moving.nii.gz"),
        "output": str(folder / "out"),
        "preset": json.loads(presets.load("general").to_json()),
    }
    return messages.request_from({**fields, **changes})


class Workers:
    """Writes fake workers and runs them through the real client.

    Attributes:
        folder: of this test.
        temporary: the temporary folder that this test's processes use; must be empty after every run.
        seen: all messages that came.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        self.seen: list[messages.Message] = []

    def write(self, source: str) -> None:
        (self.folder / "fake_worker.py").write_text(textwrap.dedent(source), encoding="utf-8")

    def run(
        self,
        source: str,
        on_message: Callable[[messages.Message], None] = lambda message: None,
        cancel: CancelFlag | None = None,
        python: str | None = None,
    ) -> client.Outcome:
        """The outcome of a worker whose module has this source. No temporary file may be left."""
        self.write(source)

        def see(message: messages.Message) -> None:
            self.seen.append(message)
            on_message(message)

        try:
            return client.run(
                plain_request(self.folder),
                see,
                cancel,
                python=python,
                module="fake_worker",
                environment={"PYTHONPATH": str(self.folder)},
            )
        finally:
            assert self.leftovers() == []

    def run_job(self, source: str, **options: Any) -> client.Outcome:
        """The same for the real session around a fake ``job(request, context)``."""
        return self.run(SESSION + textwrap.dedent(source) + SERVE, **options)

    def leftovers(self) -> list[str]:
        """Names in the temporary folder and hidden ones in the output folder."""
        output = self.folder / "out"
        hidden = [p.name for p in output.iterdir() if p.name.startswith(".")] if output.is_dir() else []
        return [p.name for p in self.temporary.iterdir()] + hidden


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workers]:
    made = Workers(tmp_path)
    monkeypatch.setenv("TMPDIR", str(made.temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield made
    assert made.leftovers() == []


def environment(**more: str) -> dict[str, str]:
    """For processes that import the package from this checkout."""
    return {**os.environ, "PYTHONPATH": str(PACKAGE_FOLDER), **more}


def python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Whether `condition` became true in time; generous, because a loaded machine is slow."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
