"""A task from its pairs to its tables: register by the batch, score, write. Resumable at every step.

In the output folder::

    methods/NAME/    a study of `masr batch` (its cases, its cohort report), and scores/ID.json beside them
    others/NAME/     scores of the fields of other methods
    before/          scores without any registration
    submission/NAME/ fields in an evaluator's form
    results.json, results.md
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...batch import manifest
from ...batch import run as batch
from ...batch.progress import OnEvent
from ...batch.study import replace_text
from ...case.monitor import CancelFlag
from ...errors import CancelledError, InputError
from ...hashing import input_sha256
from ...worker.messages import jsonable
from ...worker.staging import writing
from . import fields, scoring, summary
from .cases import Choice, Side, Task, TaskCase
from .summary import Rated

FORMAT_VERSION = 1
RESULTS, PAGE = "results.json", "results.md"
OnScore = Callable[[str, str], None]
"""Name of the method and id of the case that is being scored."""


@dataclass(frozen=True)
class Method:
    """A preset with settings, as columns of a manifest know them: the same names that presets and options have."""

    name: str
    columns: Mapping[str, str]

    @classmethod
    def of(cls, text: str, preset: str) -> Method:
        """From ``PRESET,SETTING=VALUE,...``; without a preset, that of the task. Raises `InputError`."""
        columns = {"preset": preset}
        for number, part in enumerate(text.split(",")):
            name, equals, value = part.partition("=")
            if equals and name and value:
                columns[name] = value
            elif not equals and number == 0 and part:
                columns["preset"] = part
            else:
                raise InputError(f'"{text}" must be PRESET, or PRESET,SETTING=VALUE,...')
        if columns.keys() & (set(manifest.FILES) | {"id"}):
            raise InputError(f'"{text}" names a file of a case; only settings can be chosen.')
        shown = [Path(columns["preset"]).name.removesuffix(".json")]
        shown += [f"{name}={value}" for name, value in columns.items() if name != "preset"]
        return cls(",".join(shown), columns)


@dataclass(frozen=True)
class Plan:
    """What is to be done with a task.

    Attributes:
        others: folders with fields of other methods, by name.
        forms: of `fields.FORMS`, in which our fields are written for submission.
        settings: of the batch.
    """

    methods: Sequence[Method]
    others: Mapping[str, Path] = field(default_factory=dict)
    forms: Sequence[str] = ()
    settings: batch.Settings = field(default_factory=batch.Settings)
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises `InputError` where two methods would share a folder."""
        names = ["before", *(method.name for method in self.methods), *self.others]
        folders = [slug(name).lower() for name in names]
        for name, place in zip(names, folders, strict=True):
            if folders.count(place) > 1:
                raise InputError(f'There are two methods of the name "{name}".')


class Evaluation:
    """One call of ``masr evaluate TASK``."""

    def __init__(self, task: Task, choice: Choice, plan: Plan, output: Path) -> None:
        self.task, self.choice, self.plan, self.output = task, choice, plan, output.absolute()

    def run(self, on_event: OnEvent, on_score: OnScore, cancel: CancelFlag) -> list[Rated]:
        """Everything that is not done yet. Raises `InputError`, `ResourceError`, `CancelledError`."""
        used = any((self.output / name).exists() for name in (RESULTS, "before", "methods"))
        if used and not self.plan.settings.resume:
            raise InputError(
                "The output folder holds the results of an earlier run: add --resume to go on, "
                "or choose another folder."
            )
        with writing("The output folder"):
            self.output.mkdir(parents=True, exist_ok=True)
        self._on_score, self._cancel = on_score, cancel
        rated = [self._before()]
        rated += [self._registered(method, on_event) for method in self.plan.methods]
        rated += [self._of_others(name, folder) for name, folder in self.plan.others.items()]
        content = jsonable(summary.to_json(self.task, self.choice, rated))
        replace_text(self.output / RESULTS, json.dumps(content, indent=1, allow_nan=False) + "\n")
        replace_text(self.output / PAGE, summary.page(self.task, self.choice, rated))
        return rated

    def _before(self) -> Rated:
        rated = Rated("before", "before")
        for case in self.task.cases:
            self._score(rated, self.output / "before", case, "", _still)
        return rated

    def _registered(self, method: Method, on_event: OnEvent) -> Rated:
        """By the batch; cases that fail there have no score."""
        folder = self.output / "methods" / slug(method.name)
        rows = [(case.id, self._row(case, method)) for case in self.task.cases]
        read = manifest.of_rows(rows, self.output, seed=self.plan.seed)
        if read.faults:
            raise manifest.FaultsError(read.faults)
        preset = read.cases[0].preset
        settings = f"{preset.method}, linear {preset.linear.model}, {preset.representation}"
        settings += f", {preset.working_spacing_mm:g} mm"
        rated = Rated(method.name, "masr", settings)
        run_ = batch.Run(read, folder, replace(self.plan.settings, resume=True))
        with run_.opened(on_event, self._cancel) as run:
            run.execute(on_event, self._cancel)
            for case in self.task.cases:
                result = run.study.result(case.id)
                if result is None:
                    rated.failed[case.id] = str((run.study.failure(case.id) or {}).get("message", "not run"))
                    continue
                rated.seconds[case.id] = float(result["timings"]["total"])
                path = run.study.cases / case.id / "displacement.nrrd"
                self._score(rated, folder, case, input_sha256(path), partial(_own, path))
                self._submit(method, case, path)
        return rated

    def _row(self, case: TaskCase, method: Method) -> dict[str, Any]:
        """Of the manifest. Labels of two conventions are compared by the scores alone."""
        fixed, moving = case.fixed, case.moving
        row: dict[str, Any] = {
            "id": case.id,
            "fixed": str(fixed.image),
            "moving": str(moving.image),
            **method.columns,
        }
        if case.has_labels and fixed.relabel == moving.relabel:
            row |= {"fixed_labels": str(fixed.labels), "labels": str(moving.labels)}
        if case.has_landmarks and case.landmark_kind == "patient":
            row |= {"fixed_landmarks": str(fixed.landmarks), "moving_landmarks": str(moving.landmarks)}
        if self.choice.masks:
            masks = {"fixed_mask": fixed.mask, "moving_mask": moving.mask}
            row |= {column: str(mask) for column, mask in masks.items() if mask is not None}
        return row

    def _of_others(self, name: str, folder: Path) -> Rated:
        if not folder.is_dir():
            raise InputError(f'There is no folder "{folder.name}" with the fields of {name}.')
        rated = Rated(name, "others", "its own fields")
        for case in self.task.cases:
            path = fields.find(folder, case)
            if path is None:
                rated.failed[case.id] = (
                    f"there is no field ({case.field_names[0]}.npz or .nii.gz, or a transform)"
                )
                continue
            try:
                self._score(
                    rated,
                    self.output / "others" / slug(name),
                    case,
                    input_sha256(path),
                    partial(_other, path),
                )
            except InputError as error:
                rated.failed[case.id] = str(error)
        return rated

    def _score(
        self,
        rated: Rated,
        folder: Path,
        case: TaskCase,
        content: str,
        make: Callable[[scoring.Truth], np.ndarray],
    ) -> None:
        """Unless it is there already for the same field and the same truth."""
        if self._cancel.is_set():
            raise CancelledError
        path = folder / "scores" / f"{case.id}.json"
        key = self._key(case, content)
        known = _recorded(path, key)
        if known is None:
            self._on_score(rated.name, case.id)
            truth = scoring.Truth.of(self.task, case)
            known = jsonable(scoring.score(self.task, truth, make(truth)))
            with writing(f'"{path.name}"'):
                path.parent.mkdir(parents=True, exist_ok=True)
            replace_text(path, json.dumps({"key": key, "score": known}, indent=1) + "\n")
        rated.scores[case.id] = known

    def _key(self, case: TaskCase, content: str) -> str:
        """Of everything that decides a score."""
        parts: list[Any] = [
            FORMAT_VERSION,
            content,
            self.task.masked,
            self.task.volumes,
            sorted(self.task.labels),
        ]
        for side in (case.fixed, case.moving):
            parts += [*_side_hashes(side), sorted((side.relabel or {}).items())]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _submit(self, method: Method, case: TaskCase, path: Path) -> None:
        for form in self.plan.forms:
            folder = self.output / "submission" / slug(method.name)
            folder = folder if len(self.plan.forms) == 1 else folder / form
            grids = scoring.geometry(case.fixed.image), scoring.geometry(case.moving.image)
            fields.write(fields.of_image(path, *grids), folder, case, form)


def slug(name: str) -> str:
    """For a folder."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:60] or "method"


def _still(truth: scoring.Truth) -> np.ndarray:
    nothing = np.zeros((3, *truth.fixed.shape), np.float32)
    return fields.from_mm(nothing, truth.fixed, truth.moving)


def _own(path: Path, truth: scoring.Truth) -> np.ndarray:
    return fields.of_image(path, truth.fixed, truth.moving)


def _other(path: Path, truth: scoring.Truth) -> np.ndarray:
    return fields.read(path, truth.fixed, truth.moving)


def _side_hashes(side: Side) -> list[str]:
    files = (side.image, side.labels, side.mask, side.landmarks)
    return ["" if path is None else input_sha256(path) for path in files]


def _recorded(path: Path, key: str) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        score: dict[str, Any] | None = content["score"] if content["key"] == key else None
        return score
    except (OSError, ValueError, KeyError, TypeError):
        return None
