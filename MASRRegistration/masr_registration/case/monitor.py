"""How a registration tells what it does, and how it is asked to stop. Plain Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from ..errors import CancelledError

ProgressCallback = Callable[[str, float, Mapping[str, float]], None]
"""Called with the stage, the fraction of the whole (0 to 1, never falling) and metrics of the moment."""
WarningCallback = Callable[[str], None]


class CancelFlag(Protocol):
    """For example `threading.Event`."""

    def is_set(self) -> bool: ...


class Monitor(Protocol):
    """Gets progress and warnings. `check` and `progress` raise `CancelledError` once the user has cancelled."""

    def check(self) -> None: ...

    def warn(self, message: str) -> None: ...

    def progress(self, stage: str, fraction: float, metrics: Mapping[str, float] | None = None) -> None: ...


class Listener:
    """A `Monitor` of plain callbacks; `whole` is the fraction at which its job is done (the callback gets 1 there)."""

    def __init__(
        self,
        progress: ProgressCallback | None = None,
        warn: WarningCallback | None = None,
        cancel: CancelFlag | None = None,
        whole: float = 1.0,
    ) -> None:
        self._progress, self._warn, self._cancel, self._whole = progress, warn, cancel, whole
        self._fraction = 0.0

    def check(self) -> None:
        if self._cancel is not None and self._cancel.is_set():
            raise CancelledError

    def warn(self, message: str) -> None:
        if self._warn is not None:
            self._warn(message)

    def progress(self, stage: str, fraction: float, metrics: Mapping[str, float] | None = None) -> None:
        self.check()
        self._fraction = max(self._fraction, min(fraction / self._whole, 1.0))
        if self._progress is not None:
            self._progress(stage, self._fraction, metrics or {})
