"""The folder of a study: who works in it, what is planned, what is done.

Layout::

    study.json     what decides the bits of every case: versions, device, threads, plans, hashes. No paths.
    cases/ID/      a finished case, moved here as a whole by one rename
    failures/ID.json   why a case failed
    running/       cases under way; emptied at the next start
    cohort.html, cohort.csv, cohort.json

Plain Python.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import InputError
from ..worker.messages import jsonable
from ..worker.staging import writing
from .locks import locked

FORMAT_VERSION = 1
OVERLAP, THUMBNAIL = "overlap.json", "thumbnail.jpg"
"""What a finished case holds besides the files of any registration."""
State = Literal["waiting", "done", "failed"]


@dataclass(frozen=True)
class Planned:
    """What is fixed for a case before anything runs.

    Attributes:
        options: of the manifest (`Case.options`).
        inputs: names, geometries and hashes of what is read, as in the provenance of a result.
        plan: of the registration, as in result.json.
        seconds, peak_mb, disk_mb: predicted.
    """

    options: dict[str, Any]
    inputs: dict[str, Any]
    plan: dict[str, Any]
    seconds: float
    peak_mb: float
    disk_mb: float

    def same_case(self, other: Planned) -> bool:
        return (self.options, self.inputs) == (other.options, other.inputs)


@dataclass(frozen=True)
class Conditions:
    """What has to be the same for all cases of a study, however often it is resumed."""

    device: str
    threads: int
    versions: dict[str, str]


class Study:
    """An output folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.cases = self.folder / "cases"
        self.failures = self.folder / "failures"
        self.running = self.folder / "running"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else works in this folder meanwhile. Raises `InputError` if somebody does.

        The system lets go of the lock when the process dies, however it dies.
        """
        with writing("The output folder"):
            for folder in (self.cases, self.failures, self.running):
                folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            with writing("The output folder"):
                held = stack.enter_context(locked(self.folder / ".lock"))
            if not held:
                raise InputError(
                    "Another run is at work in this output folder; wait for it or choose another folder."
                )
            yield

    def tidy(self) -> None:
        """Remove what runs that are dead have left. Only while locked."""
        shutil.rmtree(self.running, ignore_errors=True)
        with writing("The output folder"):
            self.running.mkdir(exist_ok=True)

    def place(self, case: str) -> Path:
        """Where a case is written until it is complete; another one for every attempt."""
        return self.running / f"{case}-{secrets.token_hex(4)}"

    def finish(self, case: str, place: Path) -> None:
        """Give the complete results their name. Where another attempt came first, its results stay.

        Raises `ResourceError`.
        """
        with writing(f"The result of {case}"):
            try:
                place.rename(self.cases / case)
            except OSError:
                if not self.is_done(case):
                    raise
                shutil.rmtree(place, ignore_errors=True)
            with suppress(FileNotFoundError):
                (self.failures / f"{case}.json").unlink()

    def fail(self, case: str, code: str, message: str, details: str = "") -> None:
        """Record why a case failed."""
        self._write(self.failures / f"{case}.json", {"code": code, "message": message, "details": details})

    def forget_failures(self, kept: Collection[str]) -> None:
        """Remove the records of failures of an earlier run but those of the cases `kept`. Raises `ResourceError`."""
        with writing("The output folder"):
            for path in self.failures.glob("*.json"):
                if path.stem not in kept:
                    path.unlink(missing_ok=True)

    def is_done(self, case: str) -> bool:
        return (self.cases / case / "result.json").is_file()

    def state(self, case: str) -> State:
        """A result that is there, but is not that of the manifest any more, is a failure."""
        if (self.failures / f"{case}.json").is_file():
            return "failed"
        return "done" if self.is_done(case) else "waiting"

    def result(self, case: str) -> dict[str, Any] | None:
        """The result.json of a finished case."""
        return self.read(case, "result.json")

    def read(self, case: str, name: str) -> dict[str, Any] | None:
        """A JSON file of a finished case; None if there is none."""
        return _read(self.cases / case / name)

    def failure(self, case: str) -> dict[str, Any] | None:
        return _read(self.failures / f"{case}.json")

    def recorded(self) -> tuple[Conditions, dict[str, Planned]] | None:
        """What study.json holds, None if there is none. Raises `InputError` if it cannot be understood."""
        path = self.folder / "study.json"
        if not path.exists():
            return None
        data = _read(path)
        try:
            if data is None or data["masr_study"] != FORMAT_VERSION:
                raise KeyError("masr_study")
            cases = {case: Planned(**planned) for case, planned in data["cases"].items()}
            return Conditions(**data["conditions"]), cases
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                "The study.json in the output folder is not one of this version; choose another folder."
            ) from error

    def record(self, conditions: Conditions, cases: Mapping[str, Planned]) -> None:
        """Write study.json. Raises `ResourceError`."""
        planned = {case: asdict(plan) for case, plan in cases.items()}
        content = {"masr_study": FORMAT_VERSION, "conditions": asdict(conditions), "cases": planned}
        self._write(self.folder / "study.json", content)

    def _write(self, path: Path, content: Mapping[str, Any]) -> None:
        text = json.dumps(jsonable(content), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
        replace_text(path, text)


def replace_text(path: Path, text: str) -> None:
    """Write a text file as a whole or not at all. Raises `ResourceError`."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with writing(f'"{path.name}"'):
        try:
            with temporary.open("w", encoding="utf-8", errors="replace", newline="") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def free_mb(folder: Path) -> float:
    """Free space of the disk, in MB. Raises `ResourceError`."""
    with writing("The output folder"):
        return shutil.disk_usage(folder).free / 1e6


def check_conditions(found: Conditions, recorded: Conditions) -> None:
    """Raises `InputError` where the study was begun under other conditions: its results would not be alike."""
    pairs = [("device", recorded.device, found.device), ("threads", recorded.threads, found.threads)]
    pairs += [(name, recorded.versions.get(name), value) for name, value in found.versions.items()]
    for name, before, now in pairs:
        if before != now:
            raise InputError(
                f"The study was begun with {name} {before}, and this is {now}: the results would not be alike. "
                "Resume it as it was begun, or begin again in another folder."
            )


def _read(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None
