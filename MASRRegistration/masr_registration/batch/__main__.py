"""A study as a background process: ``python -P -m masr_registration.batch``, for 3D Slicer. Needs no typer.

The first line on standard input is one JSON object: ``manifest`` and ``output`` (paths), and any of ``preset``,
``seed`` and the fields of `run.Settings`. Lines of JSON come out (see `events`). A further line, or the end of the
input because the parent died, ends the run cleanly; so does SIGTERM.
"""

import json
import threading
from pathlib import Path
from typing import Any

from ..errors import InputError, MasrError
from ..worker.lines import run as run_lines
from . import events, manifest
from .progress import Event
from .run import Run, Settings

_SETTINGS = ("device", "jobs", "threads", "resume", "dry_run", "keep_going")


def serve(request: str, tell: Any, cancel: threading.Event) -> int:
    """Do what the first line asks; `tell` gets every event. Returns the exit code, that of ``masr batch``."""
    try:
        data = json.loads(request)
        paths = [Path(data.pop(name)) for name in ("manifest", "output")]
        whole = manifest.read(paths[0], data.pop("preset", "general"), data.pop("seed", 0))
        if not set(data) <= set(_SETTINGS):
            raise InputError("The request has an unknown entry.")

        def show(event: Event) -> None:
            tell(events.of_case(event))

        with Run(whole, paths[1], Settings(**data)).opened(show, cancel) as run:
            tell(events.of_forecast(run.forecast))
            summary = None if run.settings.dry_run else run.execute(show, cancel)
        if summary is not None:
            tell(events.of_end(summary))
    except MasrError as error:
        tell(events.of_error(error))
        return error.exit_code
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        tell(events.of_error(InputError(f"The request cannot be understood ({type(error).__name__}).")))
        return InputError.exit_code
    return 4 if summary is not None and summary.failed else 0


if __name__ == "__main__":
    run_lines(serve)
