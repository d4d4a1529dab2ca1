"""A request with frames: a sequence registered in one process, a transform and a warped volume for every item."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..batch.manifest import csv_text
from ..case import writing
from ..case.files import RESULT_FILES
from ..case.inputs import ImageLike, read_points
from ..case.result import FORMAT_VERSION
from ..case.settings import Settings
from ..errors import InputError
from ..sequence import SequenceResult, Target, read_sequence, solve_sequence
from ..volume import write_volume
from .context import Context
from .messages import Request, jsonable
from .staging import Staging
from .staging import writing as writing_file

ITEM = "item"
_LEVELS = ("plausible", "doubtful", "failed")


def run_sequence(
    request: Request, settings: Settings, context: Context, place: Staging, import_s: float
) -> tuple[dict[str, str], dict[str, Any]]:
    """Leaves ``transform-NNNN.h5``, ``warped-NNNN.nii.gz`` and result.json in the staging folder.

    With points also motion.csv (mm, a row for every item, a column for every point) and, with matplotlib, motion.png.
    Returns the files by name (``transform-NNNN``, ...) and the content of result.json: metrics, timings and provenance
    by item, the worst verdict, which items failed. Raises `InputError`, `ResourceError`, `CancelledError`.
    """
    unused = (
        request.moving_mask,
        request.initial_transform,
        request.labels,
        request.landmarks,
        request.truth,
    )
    if any(value is not None for value in unused) or request.plan_only or request.plan is not None:
        raise InputError("A sequence takes no other input than its items and a mask of the reference.")
    items: Sequence[ImageLike] = request.frames
    if len(request.frames) == 1:
        items = read_sequence(request.frames[0])
    if request.points is not None:
        read_points(request.points)  # before the long work
    found = solve_sequence(
        items,
        request.reference,
        cast(Target, request.target),
        settings,
        context,
        request.fixed_mask,
    )
    files = {}
    for number, (transform, warped) in enumerate(zip(found.transforms, found.warped, strict=True)):
        context.check()
        if transform is None or warped is None:
            continue
        for name, ending in (("transform", "h5"), ("warped", "nii.gz")):
            files[f"{name}-{number:04}"] = f"{name}-{number:04}.{ending}"
        writing.write_transform(transform, place.new / files[f"transform-{number:04}"])
        write_volume(warped, place.new / files[f"warped-{number:04}"])
    if request.points is not None:
        files |= _write_motion(found, request.points, place.new, context)
    summary = _summary(found, request, context, import_s)
    files["result"] = RESULT_FILES["result"]
    writing.write_json(summary, place.new / files["result"])
    return files, summary


def _write_motion(found: SequenceResult, points: str, folder: Path, context: Context) -> dict[str, str]:
    labels, _ = read_points(points)
    columns = [
        f"{label} ({n})" if labels.count(label) > 1 else label for n, label in enumerate(labels, start=1)
    ]
    rows = []
    for number, distances in enumerate(found.motion(points)):
        told = ["" if np.isnan(mm) else f"{mm:.4f}" for mm in distances]
        rows.append({**dict(zip(columns, told, strict=True)), ITEM: str(number)})
    text = csv_text(rows, [ITEM, *columns])
    with writing_file('"motion.csv"'):
        (folder / "motion.csv").write_text(text, encoding="utf-8", newline="")
    files = {"motion": "motion.csv"}
    try:
        with writing_file('"motion.png"'):
            found.plot_motion(points, folder / "motion.png")
    except ImportError:
        context.warn("There is no plot of the motion: matplotlib is not installed.")
    else:
        files["motion_plot"] = "motion.png"
    return files


def _summary(found: SequenceResult, request: Request, context: Context, import_s: float) -> dict[str, Any]:
    items = {f"{n:04}": result for n, result in enumerate(found.results) if result is not None}
    verdicts = {name: result.verdict for name, result in items.items()}
    failed = [f"Item {number} failed: {sentence}" for number, sentence in found.failures.items()]
    doubts = [
        f"Item {int(name)} is {verdict.level}: {verdict.reasons[0]}"
        for name, verdict in verdicts.items()
        if verdict.level != "plausible"
    ]
    levels = [*(verdict.level for verdict in verdicts.values()), *("failed" for _ in failed)]
    summary: dict[str, Any] = jsonable(
        {
            "format": FORMAT_VERSION,
            "verdict": {
                "level": max(levels, key=_LEVELS.index),
                "reasons": failed + doubts,
            },
            "failures": {f"{number:04}": sentence for number, sentence in found.failures.items()},
            "metrics": {name: result.metrics for name, result in items.items()},
            "warnings": found.warnings,
            "timings": {
                "import": import_s,
                "total": context.elapsed_s,
                **{name: result.timings["total"] for name, result in items.items()},
            },
            "provenance": {
                "reference": found.reference,
                "target": request.target,
                "items": {name: result.provenance for name, result in items.items()},
            },
        }
    )
    return summary
