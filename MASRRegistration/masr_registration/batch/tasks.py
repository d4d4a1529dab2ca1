"""One case as a task: a request done by a warm process, its results put in place or its failure recorded.

The same function runs in a thread here and in a worker of a cluster, so the results are the same.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..case.monitor import CancelFlag
from ..errors import CancelledError, MasrError
from ..worker.messages import Message, Progress
from .study import Study
from .warm import DiedError, WarmProcess

VERSIONS = ("masr_version", "python", "torch", "simpleitk", "numpy")
ATTEMPTS = 2
_FOLDERS = re.compile(r"(?<![\w<])(?:[A-Za-z]:)?[\\/](?:[^\s\\/\"'<>|:]+[\\/])+")
"""Of the absolute paths in a traceback: only base names are recorded."""


@dataclass(frozen=True)
class Task:
    """A case to check (`plan_only` in its request) or to register.

    Attributes:
        id: of the case.
        folder: of the study.
        request: fields of a `worker.messages.Request` but the output.
        fixed_labels: label map of the fixed image, to measure the overlap with.
        versions: of the study, which the process that does it must have; None when they are not known yet.
        seconds: predicted.
    """

    id: str
    folder: str
    request: dict[str, Any]
    fixed_labels: str | None = None
    versions: dict[str, str] | None = None
    seconds: float = 1.0

    @property
    def check(self) -> bool:
        return bool(self.request.get("plan_only"))


@dataclass(frozen=True)
class Outcome:
    """How a task ended: `provenance` of what was checked, or the reason of a failure (`details` for a log)."""

    id: str
    state: Literal["checked", "done", "failed"]
    provenance: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    code: str = ""
    message: str = ""
    details: str = ""


def perform(
    task: Task,
    process: WarmProcess,
    on_progress: Callable[[str, float], None] = lambda stage, fraction: None,
    cancel: CancelFlag | None = None,
) -> Outcome:
    """Do a task. Only `CancelledError` is raised; every other error is told in the outcome.

    A process that died is started again once: what it was killed for may have passed.
    """
    study = Study(Path(task.folder))
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _attempt(task, study, process, on_progress, cancel)
        except CancelledError:
            raise
        except DiedError as error:
            if attempt == ATTEMPTS:
                return failed(task, error)
        except MasrError as error:
            return failed(task, error)
    raise AssertionError


def _attempt(
    task: Task,
    study: Study,
    process: WarmProcess,
    on_progress: Callable[[str, float], None],
    cancel: CancelFlag | None,
) -> Outcome:
    def listen(message: Message) -> None:
        if isinstance(message, Progress):
            on_progress(message.stage, message.fraction)

    place = study.place(task.id)
    request = {**task.request, "output": str(place)}
    command = {"command": "register", "request": request, "fixed_labels": task.fixed_labels}
    try:
        result = process.do(command, listen, cancel)
        if task.check:
            return Outcome(task.id, "checked", dict(result.provenance), tuple(result.warnings))
        _check_versions(task, result.provenance)
        study.finish(task.id, place)
        return Outcome(task.id, "done")
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _check_versions(task: Task, provenance: Mapping[str, Any]) -> None:
    for name, version in (task.versions or {}).items():
        if provenance.get(name) != version:
            raise MasrError(
                f"The worker has {name} {provenance.get(name)}, the study {version}: "
                "the results would not be alike."
            )


def failed(task: Task, error: MasrError) -> Outcome:
    """That of a task that could not be done."""
    details = _FOLDERS.sub("", "\n".join(getattr(error, "__notes__", [])))
    return Outcome(task.id, "failed", code=error.code, message=str(error), details=details)
