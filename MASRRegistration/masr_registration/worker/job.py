"""One request -> one output folder. This half needs no torch: it checks what can be checked before the long import."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from ..case.files import ALL_FILES, PLAN_FILE, refuse_overwriting, sequence_results
from ..errors import InputError
from ..presets import Preset
from .context import Context
from .messages import Request, Result
from .staging import Staging


def register_files(request: Request, context: Context) -> Result:
    """Register the request's images and write its files (see `case.files`) into its output folder.

    A failure or a cancel leaves the output folder exactly as it was.

    Raises:
        InputError, ResourceError, CancelledError.
    """
    Preset.from_json(json.dumps(request.preset))  # before the long import
    check_paths(request)
    place = Staging(Path(request.output))
    context.folder.record(place)
    try:
        place.open()
        context.check()
        start = time.perf_counter()
        _limit_threads(request.threads)
        from .registration import run  # torch, SimpleITK

        files, summary = run(request, context, place, time.perf_counter() - start)
        context.check()
        with context.uninterrupted:
            place.commit(_replaced(request))
    except BaseException:
        place.discard()
        raise
    return Result(
        files={name: str(place.output / file) for name, file in files.items()},
        metrics=summary["metrics"],
        warnings=summary["warnings"],
        verdict=summary["verdict"],
        provenance=summary["provenance"],
        timings=summary["timings"],
    )


def _replaced(request: Request) -> tuple[str, ...]:
    """What an earlier job may have left in the output folder and this one replaces."""
    if request.plan_only:
        return (PLAN_FILE,)
    if request.frames:
        return (*ALL_FILES.values(), *sequence_results(Path(request.output)))
    return (ALL_FILES["features"],) if request.features_only else tuple(ALL_FILES.values())


def check_paths(request: Request) -> None:
    """Raises `InputError` for an input that is missing or that a result would replace."""
    for what, path in request.inputs.items():
        if not os.access(path, os.F_OK):  # false, not an error, for a name that is too long
            raise InputError(f'The {what} "{Path(path).name}" does not exist.')
    refuse_overwriting(request.inputs, Path(request.output), sequence=bool(request.frames))


def _limit_threads(threads: int | None) -> None:
    """Before the libraries are loaded; `Registration` tells those that can be told later.

    Threads that wait sleep instead of spinning: where other programs want the cores too, spinning made a job of 20 s
    take minutes.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if threads is not None:
        for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
            os.environ[variable] = str(threads)
