"""What an adaptation tells a program: one JSON object a line. Plain Python, for the command line and 3D Slicer alike.

``{"type": "progress", "stage", "fraction", "eta_s", "step", "loss"}`` on the way, and last either ``end`` (kept, name,
sentence, numbers) or ``error`` (code, message).
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..errors import MasrError

if TYPE_CHECKING:
    from .adapt import Outcome, Progress


def of_progress(told: Progress) -> dict[str, Any]:
    return {"type": "progress", **asdict(told)}


def of_end(outcome: Outcome) -> dict[str, Any]:
    return {
        "type": "end",
        "kept": outcome.kept,
        "name": None if outcome.model is None else outcome.model.name,
        "sentence": outcome.sentence,
        "numbers": outcome.numbers,
    }


def of_error(error: MasrError) -> dict[str, Any]:
    return {"type": "error", "code": error.code, "message": str(error)}
