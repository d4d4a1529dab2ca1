"""An adaptation as a background process: ``python -P -m masr_registration.training``, for 3D Slicer. Needs no typer.

The first line on standard input is one JSON object: ``data`` and ``folder`` (paths), the fields of `adapt.Settings`,
and any of ``device`` and ``threads``. Lines of JSON come out (see `events`). A further line, or the end of the input
because the parent died, ends the run cleanly, with its checkpoint written; so does SIGTERM.
"""

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from ..errors import InputError, MasrError, ResourceError, is_out_of_memory
from ..worker.lines import run as run_lines
from . import events


def serve(request: str, tell: Any, cancel: threading.Event) -> int:
    """Do what the first line asks; `tell` gets every event. Returns the exit code, that of ``masr train``."""
    try:
        try:
            data = json.loads(request)
            paths = [Path(data.pop(name)) for name in ("data", "folder")]
            device, threads = data.pop("device", "auto"), int(data.pop("threads", 1))
            from .adapt import Settings

            settings = Settings(**data)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"The request cannot be understood ({type(error).__name__}).") from error
        return _adapt(paths[0], paths[1], settings, device, threads, tell, cancel)
    except MasrError as error:
        tell(events.of_error(error))
        return error.exit_code


def _adapt(
    data: Path, folder: Path, settings: Any, device: str, threads: int, tell: Any, cancel: threading.Event
) -> int:
    import torch

    from .adapt import adapt

    torch.set_num_threads(threads)
    try:
        outcome = adapt(
            data,
            folder,
            settings,
            device=device,
            progress=lambda told: tell(events.of_progress(told)),
            cancel=cancel,
        )
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ResourceError(
            "The memory is not enough; a larger spacing or fewer images need less."
        ) from error
    tell(events.of_end(outcome))
    return 0


def _serve_or_say(request: str, tell: Any, cancel: threading.Event) -> int:
    """`serve`, and one sentence for what nobody expected."""
    try:
        return serve(request, tell, cancel)
    except Exception:
        sys.excepthook(*sys.exc_info())
        tell(
            events.of_error(MasrError("An internal error occurred during the adaptation; the log says more."))
        )
        return MasrError.exit_code


if __name__ == "__main__":
    if hasattr(os, "nice"):
        os.nice(5)
    run_lines(_serve_or_say)
