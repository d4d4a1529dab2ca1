"""The errors a user can meet: each carries one sentence for a person and the exit code of the command line."""

from __future__ import annotations

import re


class MasrError(Exception):
    """Base of every error raised on purpose. ``str(error)`` is one sentence for a person."""

    exit_code = 1
    code = "internal"


class InputError(MasrError):
    """What the user gave cannot be used: a file, a mask, a preset, an option."""

    exit_code = 2
    code = "input"


class ResourceError(MasrError):
    """The machine cannot do it: memory, disk, a device that is missing, a folder that cannot be written."""

    exit_code = 3
    code = "resources"


class CancelledError(MasrError):
    """The user cancelled. Nothing was written."""

    exit_code = 130
    code = "cancelled"

    def __init__(self, message: str = "Cancelled.") -> None:
        super().__init__(message)


BY_CODE: dict[str, type[MasrError]] = {
    cls.code: cls for cls in (MasrError, InputError, ResourceError, CancelledError)
}

NOT_ENOUGH_MEMORY = "The memory is not enough; a preset with a larger working spacing needs less."
_OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|bad.?alloc|failed to allocate|allocation failed",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, torch, numba or ITK means that memory could not be had."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None
    )
