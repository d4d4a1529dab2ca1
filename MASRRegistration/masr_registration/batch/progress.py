"""How far a whole study is, and how long it still takes. Plain Python."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["checking", "checked", "faulty", "running", "done", "failed"]
_FIRST_ESTIMATE = 0.01


@dataclass(frozen=True)
class Event:
    """What happened to a case, and how the whole stands.

    Attributes:
        case: id, or "" for the whole.
        state: checking (whether a case can be run), then checked or faulty; running, then done or failed.
        stage, fraction: of the case.
        message: reason of a failure.
        finished, failed, total: numbers of cases; `finished` includes the failed ones.
        whole: fraction of the study, 0 to 1.
        eta_s: seconds that remain, None as long as nothing is known.
    """

    case: str
    state: State
    stage: str = ""
    fraction: float = 0.0
    message: str = ""
    finished: int = 0
    failed: int = 0
    total: int = 0
    whole: float = 0.0
    eta_s: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {"type": "case", **asdict(self)}


OnEvent = Callable[[Event], None]


class Tracker:
    """Turns what engines tell into events. Cases count by their predicted seconds; thread-safe.

    `seconds` are the predictions of the cases that will be run now, `before` how many cases ended earlier.
    """

    def __init__(
        self,
        seconds: Mapping[str, float],
        on_event: OnEvent,
        state: State,
        before: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds = {case: max(s, 1e-3) for case, s in seconds.items()}
        self._done = dict.fromkeys(self._seconds, 0.0)
        self._on_event, self._state, self._before, self._clock = on_event, state, before, clock
        self._begun = clock()
        self._finished = self._failed = 0
        self._lock = threading.Lock()

    def progress(self, case: str, stage: str, fraction: float) -> None:
        """Of a case; without one, what the whole waits for."""
        with self._lock:
            if case:
                self._done[case] = fraction * self._seconds[case]
            self._tell(case, self._state, stage, fraction)

    def ended(self, case: str, state: State, message: str = "") -> None:
        with self._lock:
            self._done[case] = self._seconds[case]
            self._finished += 1
            self._failed += state == "failed"
            self._tell(case, state, fraction=1.0, message=message)

    def _tell(
        self,
        case: str,
        state: State,
        stage: str = "",
        fraction: float = 0.0,
        message: str = "",
    ) -> None:
        whole = sum(self._done.values()) / max(sum(self._seconds.values()), 1e-3)
        elapsed = self._clock() - self._begun
        eta = elapsed * (1 - whole) / whole if whole > _FIRST_ESTIMATE else None
        total = self._before + len(self._seconds)
        self._on_event(
            Event(
                case,
                state,
                stage,
                fraction,
                message,
                self._before + self._finished,
                self._failed,
                total,
                whole,
                eta,
            )
        )
