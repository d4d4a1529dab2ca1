"""Scores of all cases and methods as numbers over the cases, and as a page in Markdown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import learn2reg
from .cases import Choice, Task
from .published import FIGURES

_THEIRS = ("dice", "hd95", "sdlogj", "tre", "ndv_percent")
_STRICT = ("dice", "hd95_mm", "tre_mm", "sdlogj")


@dataclass
class Rated:
    """One method on all cases that it did.

    Attributes:
        kind: "before" (no registration), "masr" or "others".
        settings: what it was run with, for the table.
        scores: by case.
        seconds: by case, where known.
        failed: why a case has no score, by case.
    """

    name: str
    kind: str
    settings: str = ""
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def over_cases(self) -> dict[str, Any]:
        """Numbers over the cases: Learn2Reg's, and strict ones."""
        theirs = {name: list(_known(self.scores, "learn2reg", name)) for name in _THEIRS}
        strict: dict[str, Any] = {}
        for name in _STRICT:
            values = list(_known(self.scores, "strict", name))
            if values:
                strict[name] = {"mean": statistics.fmean(values), "median": statistics.median(values)}
        labels = [
            value
            for score in self.scores.values()
            for value in score["strict"].get("dice_each", {}).values()
            if value is not None
        ]
        if labels:
            strict["dice_labels"] = {
                "median": statistics.median(labels),
                "30": float(np.quantile(labels, 0.3)),
            }
        folds = [(s["strict"]["folds"], s["strict"]["cells"]) for s in self.scores.values()]
        strict["folds"] = sum(count for count, _ in folds)
        strict["folds_percent"] = 100 * strict["folds"] / max(sum(cells for _, cells in folds), 1)
        strict["cases_with_folds"] = sum(count > 0 for count, _ in folds)
        strict["labels_lost"] = sum(s["strict"].get("labels_lost", 0) for s in self.scores.values())
        return {
            "cases": len(self.scores),
            "failed": len(self.failed),
            "learn2reg": {name: learn2reg.over_cases(name, v) for name, v in theirs.items() if v},
            "strict": strict,
            "seconds_median": statistics.median(self.seconds.values()) if self.seconds else None,
        }


def to_json(task: Task, choice: Choice, rated: Sequence[Rated]) -> dict[str, Any]:
    """The content of results.json."""
    return {
        "masr_evaluation": 1,
        "task": task.name,
        "title": task.title,
        "direction": task.direction,
        "alignment": task.alignment,
        "masks": _masks(task, choice),
        "labels": {str(number): name for number, name in task.labels.items()},
        "pairs": [case.id for case in task.cases],
        "remarks": list(task.remarks),
        "methods": [{**vars(one), "over_cases": one.over_cases()} for one in rated],
        "published": [vars(figure) for figure in FIGURES.get(task.name, ())],
    }


def page(task: Task, choice: Choice, rated: Sequence[Rated]) -> str:
    """The tables in Markdown, with what has to be known to read them."""
    about = {
        "Direction": task.direction,
        "Before the registration": task.alignment,
        "Masks": _masks(task, choice),
        "Labels": ", ".join(f"{n} {name}" for n, name in task.labels.items())
        or "all that occur in both images",
        "Pairs": str(len(task.cases)),
    }
    lines = [f"# {task.title}", "", *(f"- {name}: {text}." for name, text in about.items())]
    lines += [f"- {remark}" for remark in task.remarks]
    means = [(one, one.over_cases()) for one in rated]
    lines += ["", "## As Learn2Reg computes it", ""]
    lines += _table(_learn2reg_row(one, numbers) for one, numbers in means)
    lines += [
        "",
        "DSC30: quantile 0.3 over the cases. HD95 in voxels. SDlogJ of det J + 3.",
        "",
        "## Strict",
        "",
    ]
    lines += _table(_strict_row(one, numbers) for one, numbers in means)
    lines += [
        "",
        "Mean / median over the cases. A lost label has a Dice of 0. DSC30: quantile 0.3 over all labels of all cases. "
        "Folds: cells with a corner whose determinant is not positive.",
    ]
    failures = [f"- {one.name}, {case}: {why}" for one in rated for case, why in one.failed.items()]
    if failures:
        lines += ["", "## Without a score", "", *failures]
    lines += ["", "## Published by others", ""]
    figures = FIGURES.get(task.name, ())
    if figures:
        lines += ["Other protocols, not run here: an order of magnitude, no ranking.", ""]
        lines += _table(
            {"Method": f.method, "Reported": f.reported, "Protocol": f.protocol, "Source": f.source}
            for f in figures
        )
    else:
        lines += ["No comparable figures are known."]
    return "\n".join(lines) + "\n"


def _masks(task: Task, choice: Choice) -> str:
    used = "used by the registration" if choice.masks else "not used by the registration"
    there = [case for case in task.cases if case.fixed.mask is not None]
    if not task.masked or not there:
        return f"{used if there else 'none'}; SDlogJ over the whole grid"
    which = "the mask of the fixed image" + (", where there is one" if len(there) < len(task.cases) else "")
    return f"{used}; SDlogJ within {which}"


def _learn2reg_row(one: Rated, numbers: Mapping[str, Any]) -> dict[str, str]:
    theirs = numbers["learn2reg"]
    return {
        **_head(one, numbers),
        "Dice": _number(theirs.get("dice"), "mean", 3),
        "DSC30": _number(theirs.get("dice"), "30", 3),
        "HD95": _number(theirs.get("hd95"), "mean", 2),
        "SDlogJ": _number(theirs.get("sdlogj"), "mean", 3),
        "TRE": _number(theirs.get("tre"), "mean", 2),
        "NDV %": _number(theirs.get("ndv_percent"), "mean", 4),
    }


def _strict_row(one: Rated, numbers: Mapping[str, Any]) -> dict[str, str]:
    strict, seconds = numbers["strict"], numbers["seconds_median"]
    folds = f"{strict['folds_percent']:.4f} ({strict['cases_with_folds']} cases)" if one.scores else "-"
    return {
        **_head(one, numbers),
        "Dice": _both(strict.get("dice"), 3),
        "DSC30": _number(strict.get("dice_labels"), "30", 3),
        "HD95 mm": _both(strict.get("hd95_mm"), 2),
        "TRE mm": _both(strict.get("tre_mm"), 2),
        "SDlogJ": _both(strict.get("sdlogj"), 3),
        "Folds %": folds,
        "Lost": str(strict["labels_lost"]),
        "s": "-" if seconds is None else f"{seconds:.1f}",
    }


def _head(one: Rated, numbers: Mapping[str, Any]) -> dict[str, str]:
    failed = f", {numbers['failed']} without" if numbers["failed"] else ""
    return {"Method": one.name, "Run with": one.settings or "-", "Cases": f"{numbers['cases']}{failed}"}


def _both(values: Mapping[str, float] | None, digits: int) -> str:
    if values is None:
        return "-"
    return f"{_number(values, 'mean', digits)} / {_number(values, 'median', digits)}"


def _number(values: Mapping[str, float] | None, name: str, digits: int) -> str:
    if values is None:
        return "-"
    return f"{values[name]:.{digits}f}" if math.isfinite(values[name]) else "inf"


def _table(rows: Iterable[Mapping[str, str]]) -> list[str]:
    """Columns that are empty in all rows are left out."""
    rows = list(rows)
    columns = [name for name in rows[0] if any(row[name] != "-" for row in rows)]
    lines = [
        columns,
        ["---"] * len(columns),
        *([row[name].replace("|", "/") for name in columns] for row in rows),
    ]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _known(scores: Mapping[str, Mapping[str, Any]], group: str, name: str) -> Iterable[float]:
    for score in scores.values():
        value = score[group].get(name)
        if value is not None:
            yield float(value)
