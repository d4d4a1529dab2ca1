"""What a run tells a program: one JSON object a line. Plain Python, for the command line and for 3D Slicer alike.

``{"type": "forecast", ...}`` once everything is checked, ``case`` whenever something happened to a case (see
`progress.Event`), and last either ``end`` (done, failed, report) or ``error`` (code, message, faults).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import MasrError
from .progress import Event

if TYPE_CHECKING:
    from .run import Forecast, Summary


def line(content: Mapping[str, Any]) -> str:
    """ASCII, without a line feed inside."""
    return json.dumps(content)


def of_case(event: Event) -> dict[str, Any]:
    return event.to_json()


def of_forecast(forecast: Forecast) -> dict[str, Any]:
    return {"type": "forecast", **vars(forecast), "faults": [vars(fault) for fault in forecast.faults]}


def of_end(summary: Summary) -> dict[str, Any]:
    return {"type": "end", "done": summary.done, "failed": summary.failed, "report": str(summary.report)}


def of_error(error: MasrError) -> dict[str, Any]:
    faults = [vars(fault) for fault in getattr(error, "faults", ())]
    return {"type": "error", "code": error.code, "message": str(error), "faults": faults}
