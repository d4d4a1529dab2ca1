"""A study as a whole: one row for each case, outliers flagged, written as CSV, JSON and one HTML page. No torch."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..evaluation.verdict import INVERSE_CONSISTENCY_MAX_MM
from ..worker.messages import jsonable
from .manifest import csv_text
from .study import OVERLAP, Study, replace_text

FORMAT_VERSION = 1
OUTLIER_DEVIATIONS = 3.5
"""Robust deviations (of the median absolute deviation, scaled to a normal one's standard deviation) from the median
beyond which a case is flagged (Iglewicz and Hoaglin, 1993)."""
FEWEST_FOR_OUTLIERS = 8
"""With fewer cases the spread is not known well enough."""


@dataclass(frozen=True)
class Column:
    """A number of each case: how it is found in result.json or overlap.json, told and judged.

    `worse` is the direction that is flagged: "high", "low" or "" for none.
    """

    name: str
    label: str
    unit: str = ""
    digits: int = 2
    worse: str = ""


COLUMNS = (
    Column("tre_before_mm", "TRE before", "mm"),
    Column("tre_after_mm", "TRE after", "mm", worse="high"),
    Column("true_error_after_mm", "True error", "mm", worse="high"),
    Column("dice_before", "Dice before", digits=3),
    Column("dice_after", "Dice after", digits=3, worse="low"),
    Column("improvement_percent", "Similarity gain", "%", 0, worse="low"),
    Column("similarity_after", "Dissimilarity", digits=4, worse="high"),
    Column("folds", "Folds", digits=0, worse="high"),
    Column("inverse_consistency_max_mm", "There and back, worst", "mm", 3, worse="high"),
    Column("displacement_mean_mm", "Displacement, mean", "mm", 1),
    Column("displacement_max_mm", "Displacement, largest", "mm", 1, worse="high"),
    Column("sdlogj", "SDlogJ", digits=3, worse="high"),
    Column("overlap", "Covered", digits=3, worse="low"),
    Column("seconds", "Time", "s", 1),
    Column("peak_memory_mb", "Memory", "MB", 0),
)


@dataclass
class Row:
    """One case: `state` done, failed or waiting; `values` by `Column.name`, those that are known; why it is flagged.

    `reason` is the first of a verdict that is not plausible.
    """

    id: str
    state: str
    verdict: str = ""
    reason: str = ""
    message: str = ""
    fixed: str = ""
    moving: str = ""
    preset: str = ""
    values: dict[str, float] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)


def write(study: Study, cases: Sequence[str]) -> Path:
    """cohort.csv, cohort.json and cohort.html of these cases; the path of the page. Raises `ResourceError`."""
    rows = collect(study, cases)
    replace_text(study.folder / "cohort.csv", _csv(rows))
    replace_text(study.folder / "cohort.json", json.dumps(jsonable(to_json(rows)), indent=1) + "\n")
    from .cohort_page import page

    path = study.folder / "cohort.html"
    replace_text(path, page(study, rows))
    return path


def collect(study: Study, cases: Sequence[str]) -> list[Row]:
    """A row for each case, in this order, with outliers flagged."""
    rows = [_row(study, case) for case in cases]
    flag(rows)
    return rows


def to_json(rows: Sequence[Row]) -> dict[str, Any]:
    """The content of cohort.json."""
    return {
        "masr_cohort": FORMAT_VERSION,
        "counts": {state: sum(r.state == state for r in rows) for state in ("done", "failed", "waiting")},
        "summary": {c.name: distribution(rows, c.name) for c in COLUMNS if distribution(rows, c.name)},
        "cases": [vars(row) for row in rows],
    }


def distribution(rows: Sequence[Row], name: str) -> dict[str, float]:
    """Number, median, quartiles, smallest and largest of a column; empty where no case has it."""
    values = sorted(row.values[name] for row in rows if name in row.values)
    if not values:
        return {}
    quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {
        "n": len(values),
        "min": values[0],
        "q1": quartiles[0],
        "median": quartiles[1],
        "q3": quartiles[2],
        "max": values[-1],
        "mean": statistics.fmean(values),
    }


def flag(rows: Sequence[Row]) -> None:
    """Mark what deserves a look: rules that hold for any case, then cases far from the others of the cohort."""
    for row in rows:
        if row.state != "done":
            continue
        if row.verdict not in ("plausible", ""):
            row.flags.append(f"the verdict is {row.verdict}{f': {row.reason}' if row.reason else ''}")
        if row.values.get("folds", 0) > 0:
            row.flags.append("the transform folds")
        if row.values.get("inverse_consistency_max_mm", 0) > INVERSE_CONSISTENCY_MAX_MM:
            row.flags.append("the inverse is inexact")
    for column in COLUMNS:
        known = [row.values[column.name] for row in rows if column.name in row.values]
        if not column.worse or len(known) < FEWEST_FOR_OUTLIERS:
            continue
        middle = statistics.median(known)
        spread = statistics.median(abs(value - middle) for value in known) / 0.6745
        for row in rows:
            away = row.values.get(column.name, middle) - middle
            if spread > 0 and (away if column.worse == "high" else -away) > OUTLIER_DEVIATIONS * spread:
                row.flags.append(f"{column.label.lower()} is unusually {column.worse}")


def _row(study: Study, case: str) -> Row:
    state = study.state(case)
    if state == "failed":
        return Row(case, state, message=str((study.failure(case) or {}).get("message", "")))
    result = study.result(case) if state == "done" else None
    if result is None:
        return Row(case, "waiting")
    made, verdict = result.get("provenance") or {}, result.get("verdict") or {}
    level = str(verdict.get("level", ""))
    overlap = study.read(case, OVERLAP) or {}
    return Row(
        case,
        state,
        verdict=level,
        reason="" if level in ("plausible", "") else str(next(iter(verdict.get("reasons") or ()), "")),
        fixed=_name(made, "fixed"),
        moving=_name(made, "moving"),
        preset=str((made.get("preset") or {}).get("name", "")),
        values=_values(result, overlap),
    )


def _name(provenance: Mapping[str, Any], side: str) -> str:
    return str((provenance.get(side) or {}).get("name", ""))


def _values(result: Mapping[str, Any], overlap: Mapping[str, Any]) -> dict[str, float]:
    metrics = dict(result.get("metrics") or {})
    metrics |= {name: (overlap.get(name) or {}).get("mean") for name in ("dice_before", "dice_after")}
    metrics["seconds"] = (result.get("timings") or {}).get("total")
    metrics["peak_memory_mb"] = result.get("peak_memory_mb")
    before, after = metrics.get("similarity_before"), metrics.get("similarity_after")
    if before and after is not None:
        metrics["improvement_percent"] = 100 * (1 - after / before)
    values = {}
    for column in COLUMNS:
        value = metrics.get(column.name)
        value = value.get("mean") if isinstance(value, Mapping) else value
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            values[column.name] = float(value)
    return values


def _csv(rows: Sequence[Row]) -> str:
    names = ["id", "state", "verdict", "flags", "message", "fixed", "moving", "preset"]
    names += [column.name for column in COLUMNS]
    return csv_text(({**vars(row), **row.values, "flags": "; ".join(row.flags)} for row in rows), names)


def rebuild(folder: Path) -> Path:
    """The report of a study again, from what lies in its folder. Raises `InputError`, `ResourceError`."""
    study = Study(folder)
    recorded = study.recorded()
    if recorded is None:
        raise InputError("There is no study in this folder.")
    failed = sorted(path.stem for path in study.failures.glob("*.json"))
    return write(study, list(dict.fromkeys([*recorded[1], *failed])))
