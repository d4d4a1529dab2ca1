"""A study from its manifest: check everything, fix the plans, run what is not done, report. No torch here."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..case.monitor import CancelFlag
from ..errors import InputError, ResourceError
from ..hashing import file_sha256
from ..presets import FORMAT_VERSION as PRESET_VERSION
from ..presets import Preset
from . import cohort, study
from .local import LocalEngine, OnProgress
from .machine import Machine, Rehearsal, Shares
from .manifest import FILES, Case, Fault, FaultsError, Manifest
from .progress import OnEvent, State, Tracker
from .study import Conditions, Planned, Study
from .tasks import VERSIONS, Outcome, Task

SECONDS_BESIDES = 5.0
"""Reading, writing, report and thumbnail of a case; for orientation only."""
FIELDS = 8
"""Displacement fields that a transform is expected to be composed of (4 to 16 were seen)."""


class Engine(Protocol):
    """Where tasks run. While it is open it knows how many at once (`shares`) and, if it can, on what (`machine`)."""

    @property
    def shares(self) -> Shares: ...

    @property
    def machine(self) -> Machine: ...

    def opened(
        self,
        rehearsal: Rehearsal,
        jobs: int | None,
        threads: int | None,
        on_progress: OnProgress,
        cancel: CancelFlag,
    ) -> AbstractContextManager[None]: ...

    def run(
        self, tasks: Sequence[Task], on_progress: OnProgress, cancel: CancelFlag
    ) -> Iterator[Outcome]: ...


@dataclass(frozen=True)
class Settings:
    """What a run is asked to do, besides the manifest and the folder.

    Attributes:
        jobs: cases at once; None: one for each device.
        threads: CPU threads of each; None: the cores shared out, or what the study was begun with.
        keep_going: run the sound cases although others have faults.
        engine: another one than the local one.
    """

    device: str = "auto"
    jobs: int | None = None
    threads: int | None = None
    resume: bool = False
    dry_run: bool = False
    keep_going: bool = False
    engine: Engine | None = None


@dataclass
class Forecast:
    """What was found before anything ran. Seconds and MB are predictions of the cases that are still to be run."""

    cases: int = 0
    done: int = 0
    to_run: int = 0
    faults: list[Fault] = field(default_factory=list)
    jobs: int = 1
    threads: int = 1
    device: str = ""
    seconds: float = 0.0
    memory_mb: float = 0.0
    disk_mb: float = 0.0
    free_disk_mb: float = 0.0


@dataclass
class Summary:
    """How a run ended."""

    done: int
    failed: int
    report: Path | None


class Run:
    """One call of ``masr batch`` on a manifest that was read.

    Use: `with run.locked(): run.prepare(...)`, then `run.execute(...)` unless it is a dry run.
    """

    def __init__(self, manifest: Manifest, folder: Path, settings: Settings) -> None:
        self.manifest, self.settings = manifest, settings
        self.study = Study(folder)
        self.forecast = Forecast(cases=len(manifest.cases))
        self._engine: Engine = settings.engine or LocalEngine()
        self._planned: dict[str, Planned] = {}
        self._tasks: list[Task] = []

    @contextmanager
    def opened(self, on_event: OnEvent, cancel: CancelFlag) -> Iterator[Run]:
        """The folder locked, everything checked, the engine ready.

        Raises:
            FaultsError: something is wrong with cases, and `keep_going` is not set.
            InputError: the folder belongs to another run or study.
            ResourceError: memory or disk are not enough.
        """
        with self.study.locked():
            recorded = self.study.recorded()
            self._refuse_unwanted()
            self.study.tidy()
            presets = {json.dumps(_preset_json(case.preset), sort_keys=True) for case in self.manifest.cases}
            rehearsal = Rehearsal(self.settings.device, [json.loads(preset) for preset in sorted(presets)])
            threads = self.settings.threads or (recorded[0].threads if recorded else None)
            opening = Tracker({}, on_event, "checking")
            with self._engine.opened(rehearsal, self.settings.jobs, threads, opening.progress, cancel):
                shares = self._engine.shares
                self.forecast.jobs, self.forecast.threads = shares.jobs, shares.threads
                self._check(recorded, shares.threads, on_event, cancel)
                self._predict()
                yield self

    def execute(self, on_event: OnEvent, cancel: CancelFlag) -> Summary:
        """Run what is not done. A case that fails is recorded and stops no other. Raises `CancelledError`."""
        recorded = self.study.recorded()
        others = set(recorded[1]) - set(self.ids) if recorded else set()  # of another manifest in this folder
        self.study.forget_failures(others)
        sentences: dict[str, list[str]] = {}
        for fault in self.forecast.faults:
            sentences.setdefault(fault.case, []).append(fault.sentence)
        for case, told in sentences.items():
            self.study.fail(case, InputError.code, " ".join(told))
        before = len(self.manifest.cases) - len(self._tasks)
        tracker = Tracker({task.id: task.seconds for task in self._tasks}, on_event, "running", before)
        try:
            if self._tasks:
                for outcome in self._engine.run(self._tasks, tracker.progress, cancel):
                    if outcome.state == "failed":
                        self.study.fail(outcome.id, outcome.code, outcome.message, outcome.details)
                    state: State = "failed" if outcome.state == "failed" else "done"
                    tracker.ended(outcome.id, state, outcome.message)
        finally:
            report = cohort.write(self.study, self.ids)
        states = [self.study.state(case) for case in self.ids]
        return Summary(states.count("done"), states.count("failed"), report)

    @property
    def ids(self) -> list[str]:
        """Of the cases in the manifest's order, then of those that could not be understood."""
        ids = [case.id for case in self.manifest.cases] + [fault.case for fault in self.forecast.faults]
        return list(dict.fromkeys(ids))

    def _refuse_unwanted(self) -> None:
        if self.settings.resume or self.settings.dry_run:
            return
        used = any(self.study.cases.iterdir()) or any(self.study.failures.iterdir())
        if used:
            raise InputError(
                "The output folder holds the results of an earlier run: add --resume to go on, "
                "or choose another folder."
            )

    def _check(
        self,
        recorded: tuple[Conditions, dict[str, Planned]] | None,
        threads: int,
        on_event: OnEvent,
        cancel: CancelFlag,
    ) -> None:
        """Read every case that is not done and fix its plan, or take the plan that is recorded."""
        known = dict(recorded[1]) if recorded else {}
        faults = list(self.manifest.faults)
        waiting = [case for case in self.manifest.cases if not self.study.is_done(case.id)]
        done = [case for case in self.manifest.cases if self.study.is_done(case.id)]
        self.forecast.done = len(done)
        read_again = [case for case in done if _is_read_again(known.get(case.id))]
        to_read = [*waiting, *read_again]
        tracker = Tracker({case.id: 1.0 for case in to_read}, on_event, "checking")
        tasks = [self._task(case, threads, {"plan_only": True}) for case in to_read]
        found: dict[str, Outcome] = {}
        for outcome in self._engine.run(tasks, tracker.progress, cancel) if tasks else ():
            tracker.ended(outcome.id, "faulty" if outcome.state == "failed" else "checked", outcome.message)
            found[outcome.id] = outcome
        for case in done:
            faults += _changes(case, known.get(case.id), found.get(case.id))
        conditions = recorded[0] if recorded and any(self.study.cases.iterdir()) else None
        sound = []
        for case in waiting:
            outcome = found[case.id]
            if outcome.state == "failed":
                faults.append(Fault(case.id, outcome.message))
                continue
            here = _conditions(outcome.provenance, threads)
            conditions = conditions or here
            study.check_conditions(here, conditions)
            planned = _planned(case, outcome.provenance)
            before = known.get(case.id)
            if before is None or not (recorded and here == recorded[0] and before.same_case(planned)):
                known[case.id] = planned
            sound.append(case)
        self.forecast.faults = faults
        if conditions is not None:
            self.study.record(conditions, known)
            self.forecast.device = conditions.device
        if faults and not self.settings.keep_going:
            raise FaultsError(faults)
        self.forecast.to_run = len(sound)
        self._planned = {case.id: known[case.id] for case in sound}
        versions = conditions.versions if conditions else {}
        tasks = [self._task(c, threads, {"plan": known[c.id].plan}, versions, known[c.id]) for c in sound]
        self._tasks = sorted(
            tasks, key=lambda task: -task.seconds
        )  # the longest first: nobody waits at the end

    def _task(
        self,
        case: Case,
        threads: int,
        more: Mapping[str, Any],
        versions: dict[str, str] | None = None,
        planned: Planned | None = None,
    ) -> Task:
        files = dict(case.files)
        fixed_labels = files.pop("fixed_labels", None)
        landmarks = [files.pop(f"{side}_landmarks", None) for side in ("fixed", "moving")]
        request: dict[str, Any] = {**files, "preset": _preset_json(case.preset), "seed": case.seed}
        if landmarks[0] is not None:
            request |= {"landmarks": landmarks, "use_landmarks": case.use_landmarks}
        request |= {"device": self.settings.device, "threads": threads, **more}
        seconds = planned.seconds if planned else 1.0
        return Task(case.id, str(self.study.folder), request, fixed_labels, versions, seconds)

    def _predict(self) -> None:
        """Time, memory and disk of what is still to be run. Raises `ResourceError` where they are not enough."""
        forecast, planned = self.forecast, list(self._planned.values())
        jobs = forecast.jobs
        forecast.seconds = max(
            sum(p.seconds for p in planned) / jobs, max((p.seconds for p in planned), default=0.0)
        )
        forecast.memory_mb = sum(sorted((p.peak_mb for p in planned), reverse=True)[:jobs])
        forecast.disk_mb = sum(p.disk_mb for p in planned)
        forecast.free_disk_mb = study.free_mb(self.study.folder)
        usable = self._engine.machine.usable_mb
        if usable is not None and forecast.memory_mb > usable:
            raise ResourceError(
                f"{jobs} cases at once need about {forecast.memory_mb:.0f} MB of memory, and "
                f"{usable:.0f} MB can be used; use fewer --jobs."
            )
        if forecast.disk_mb > forecast.free_disk_mb:
            raise ResourceError(
                f"The results need about {forecast.disk_mb:.0f} MB, and {forecast.free_disk_mb:.0f} MB are free "
                "on the disk of the output folder."
            )


def _preset_json(preset: Preset) -> dict[str, Any]:
    return {"masr_preset": PRESET_VERSION, **json.loads(json.dumps(asdict(preset)))}


def _conditions(provenance: Mapping[str, Any], threads: int) -> Conditions:
    device = str(provenance["device"])
    kind, _, name = device.partition(" ")
    return Conditions(
        f"{kind.partition(':')[0]} {name}".strip(), threads, {v: str(provenance[v]) for v in VERSIONS}
    )


_DESCRIBED = (
    "fixed",
    "moving",
    "fixed_mask",
    "moving_mask",
    "labels",
    "fixed_labels",
    "initial_transform",
    "truth",
    "landmarks",
)


def _inputs(provenance: Mapping[str, Any]) -> dict[str, Any]:
    return {name: provenance[name] for name in _DESCRIBED if name in provenance}


def _planned(case: Case, provenance: Mapping[str, Any]) -> Planned:
    inputs = _inputs(provenance)
    plan = provenance["plan"]
    voxels = float(math.prod(inputs["fixed"]["size"]))
    fields = 2 * FIELDS * 3 * 8 * math.prod(plan["working_size"]) / 8
    return Planned(
        options=json.loads(json.dumps(case.options)),
        inputs=inputs,
        plan=plan,
        seconds=round(sum(plan["seconds"].values()) + SECONDS_BESIDES, 2),
        peak_mb=float(plan["peak_mb"]),
        disk_mb=round((fields + voxels * 14 + 3e6) / 1e6, 1),
    )


def _is_read_again(planned: Planned | None) -> bool:
    """Whether only reading its images tells if they changed: a series of files has no hash of its own."""
    inputs = planned.inputs.values() if planned is not None else ()
    return any(isinstance(one, dict) and one.get("sha256_of") == "voxels" for one in inputs)


def _changes(case: Case, planned: Planned | None, read: Outcome | None) -> list[Fault]:
    """What is different from when this finished case was begun: its result would not be that of the manifest.

    `read` is how it was read again just now, where it had to be.
    """
    if planned is None:
        return [Fault(case.id, "Its result is there, but study.json does not know it.")]
    if read is not None and read.state == "failed":
        return [Fault(case.id, read.message)]
    what = []
    if json.loads(json.dumps(case.options)) != planned.options:
        what.append("settings")
    before, now = _hashes(planned.inputs), _hashes(read.provenance) if read is not None else {}
    for name, path in case.files.items():
        if name in before and before[name] != now.get(name, _sha256(path)):
            what.append(FILES[name])
    return [Fault(case.id, f"Its {part} changed after it was run; use another folder.") for part in what]


def _hashes(described: Mapping[str, Any]) -> dict[str, str]:
    """sha256 of the inputs by the manifest's columns."""
    each = {name: described[name] for name in _DESCRIBED if name in described}
    each.update(zip(("fixed_landmarks", "moving_landmarks"), each.pop("landmarks", ()), strict=False))
    return {name: str(one["sha256"]) for name, one in each.items()}


def _sha256(path: str) -> str:
    """Of a file; empty where it is none any more."""
    try:
        return file_sha256(Path(path))
    except OSError:
        return ""
