"""One request -> one output folder. This half needs no torch: it checks what can be checked before the long import."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from ..errors import InputError
from ..presets import Preset
from .context import Context
from .messages import Request, Result
from .staging import Staging

RESULT_FILES = {
    "transform": "transform.h5",
    "inverse": "inverse.h5",
    "displacement": "displacement.nrrd",
    "warped": "warped.nii.gz",
    "warped_labels": "warped_labels.nii.gz",
    "result": "result.json",
    "report": "report.html",
}
PLAN_FILE = "plan.json"


def register_files(request: Request, context: Context) -> Result:
    """Register the request's images and write `RESULT_FILES` into its output folder.

    A failure or a cancel leaves the output folder exactly as it was.

    Raises:
        InputError, ResourceError, CancelledError.
    """
    preset = Preset.from_json(json.dumps(request.preset))
    check_paths(request)
    place = Staging(Path(request.output))
    context.folder.record(place)
    try:
        place.open()
        context.check()
        start = time.perf_counter()
        _limit_threads(request.threads)
        from .registration import Registration  # torch, SimpleITK

        job = Registration(request, preset, context, place)
        job.timings["import"] = time.perf_counter() - start
        job.run()
        context.check()
        with context.uninterrupted:
            place.commit((PLAN_FILE,) if request.plan_only else tuple(RESULT_FILES.values()))
    except BaseException:
        place.discard()
        raise
    return Result(
        files={name: str(place.output / {**RESULT_FILES, "plan": PLAN_FILE}[name]) for name in job.written},
        metrics=job.summary["metrics"],
        warnings=job.summary["warnings"],
        verdict=job.summary["verdict"],
        provenance=job.summary["provenance"],
        timings=job.summary["timings"],
    )


def check_paths(request: Request) -> None:
    """Raises `InputError` for an input that is missing or that a result would replace."""
    for what, path in request.inputs.items():
        name = Path(path).name
        if not os.access(path, os.F_OK):  # false, not an error, for a name that is too long
            raise InputError(f'The {what} "{name}" does not exist.')
        for result in RESULT_FILES.values():
            target = Path(request.output) / result
            same = os.path.realpath(path) == os.path.realpath(target)
            if same or (os.access(target, os.F_OK) and target.samefile(path)):
                raise InputError(
                    f'The {what} "{name}" would be overwritten by the result; choose another output folder.'
                )


def _limit_threads(threads: int | None) -> None:
    """Before the libraries are loaded; `Registration` tells those that can be told later.

    Threads that wait sleep instead of spinning: where other programs want the cores too, spinning made a job of 20 s
    take minutes.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if threads is not None:
        for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
            os.environ[variable] = str(threads)
