"""The half of a job that needs torch: a request's images registered, the result files in a staging folder."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ..case import provenance, solve, writing
from ..case.files import ALL_FILES, PLAN_FILE
from ..case.inputs import Given, Inputs
from ..case.result import FORMAT_VERSION
from ..case.settings import Settings
from .context import Context
from .messages import Request, jsonable
from .sequence import run_sequence
from .staging import Staging


def run(
    request: Request, context: Context, place: Staging, import_s: float
) -> tuple[dict[str, str], dict[str, Any]]:
    """Leaves all files in the staging folder; returns them by name (see `ALL_FILES`) and result.json.

    Raises `InputError`, `ResourceError`, `CancelledError`.
    """
    given = Given(**{field.name: getattr(request, field.name) for field in fields(Given)})
    settings = Settings.of(request.preset, request.device, request.threads, request.seed, request.plan)
    with settings.in_force():
        context.check()
        context.hello(provenance.describe_device(settings.device))
        if request.frames:
            return run_sequence(request, settings, context, place, import_s)
        inputs, read_s = solve.read(given, context)
        place.require_space(writing.needed_bytes(inputs))
        if request.plan_only:
            return {"plan": PLAN_FILE}, _write_plan(inputs, settings, context, place)
        if request.features_only:
            files = {"features": ALL_FILES["features"]}
            return files, _write_features(inputs, settings, context, place)
        result = solve.solve(inputs, settings, context, read_s, keep_features=request.features)
        result.timings["import"] = import_s
        result.timings["total"] += import_s
        names = result.write(place.new, context, report=request.report)
    return {name: ALL_FILES[name] for name in names}, result.to_json()


def _write_plan(inputs: Inputs, settings: Settings, context: Context, place: Staging) -> dict[str, Any]:
    """The plan alone, with what the user would be warned of."""
    plan = solve.make_plan(inputs, settings, context)
    summary = _unregistered({**solve.repeatable(settings, plan), **inputs.described}, context)
    writing.write_json(summary, place.new / PLAN_FILE)
    return summary


def _write_features(inputs: Inputs, settings: Settings, context: Context, place: Staging) -> dict[str, Any]:
    """The features alone."""
    solve.describe(inputs, settings, context).write(place.new / ALL_FILES["features"])
    return _unregistered(inputs.described, context)


def _unregistered(provenance: dict[str, Any], context: Context) -> dict[str, Any]:
    """The content of result.json for a job that registers nothing."""
    content: dict[str, Any] = jsonable(
        {
            "format": FORMAT_VERSION,
            "metrics": {},
            "warnings": list(context.warnings),
            "verdict": {"level": "not run", "reasons": []},
            "timings": {},
            "provenance": provenance,
        }
    )
    return content
