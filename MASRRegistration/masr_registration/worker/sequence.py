"""A request with frames: a sequence registered in one process, a transform and a warped volume for every item."""

from __future__ import annotations

from typing import Any, cast

from ..case import writing
from ..case.files import RESULT_FILES
from ..case.result import FORMAT_VERSION
from ..case.settings import Settings
from ..errors import InputError
from ..sequence import SequenceResult, Target, solve_sequence
from ..volume import write_volume
from .context import Context
from .messages import Request, jsonable
from .staging import Staging

_LEVELS = ("plausible", "doubtful", "failed")


def run_sequence(
    request: Request, settings: Settings, context: Context, place: Staging, import_s: float
) -> tuple[dict[str, str], dict[str, Any]]:
    """Leaves ``transform-NNNN.h5``, ``warped-NNNN.nii.gz`` and result.json in the staging folder.

    Returns the files by name (``transform-NNNN``, ...) and the content of result.json: metrics, timings and provenance
    by item, the worst verdict. Raises `InputError`, `ResourceError`, `CancelledError`.
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
    found = solve_sequence(
        request.frames,
        request.reference,
        cast(Target, request.target),
        settings,
        context,
        request.fixed_mask,
    )
    files = {}
    for number, (transform, warped) in enumerate(zip(found.transforms, found.warped, strict=True)):
        context.check()
        for name, ending in (("transform", "h5"), ("warped", "nii.gz")):
            files[f"{name}-{number:04}"] = f"{name}-{number:04}.{ending}"
        writing.write_transform(transform, place.new / files[f"transform-{number:04}"])
        write_volume(warped, place.new / files[f"warped-{number:04}"])
    summary = _summary(found, request, context, import_s)
    files["result"] = RESULT_FILES["result"]
    writing.write_json(summary, place.new / files["result"])
    return files, summary


def _summary(found: SequenceResult, request: Request, context: Context, import_s: float) -> dict[str, Any]:
    items = {f"{n:04}": result for n, result in enumerate(found.results) if result is not None}
    verdicts = {name: result.verdict for name, result in items.items()}
    summary: dict[str, Any] = jsonable(
        {
            "format": FORMAT_VERSION,
            "verdict": {
                "level": max((v.level for v in verdicts.values()), key=_LEVELS.index),
                "reasons": [
                    f"Item {int(name)} is {verdict.level}: {verdict.reasons[0]}"
                    for name, verdict in verdicts.items()
                    if verdict.level != "plausible"
                ],
            },
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
