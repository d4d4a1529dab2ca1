"""The names of the result files, and that none of them replaces an input. Plain Python."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ..errors import InputError

RESULT_FILES = {
    "transform": "transform.h5",
    "inverse": "inverse.h5",
    "displacement": "displacement.nrrd",
    "warped": "warped.nii.gz",
    "warped_labels": "warped_labels.nii.gz",
    "result": "result.json",
    "report": "report.html",
}
ALL_FILES = {**RESULT_FILES, "features": "features.npz"}
"""With what is written only where it was asked for; an earlier run may have left any of it."""
PLAN_FILE = "plan.json"


def refuse_overwriting(inputs: Mapping[str, str], output: Path) -> None:
    """Raises `InputError` when a result in the folder `output` would replace one of `inputs` (name -> path)."""
    for what, path in inputs.items():
        for result in RESULT_FILES.values():
            target = output / result
            same = os.path.realpath(path) == os.path.realpath(target)
            if same or (os.access(target, os.F_OK) and os.access(path, os.F_OK) and target.samefile(path)):
                raise InputError(
                    f'The {what} "{Path(path).name}" would be overwritten by the result; '
                    "choose another output folder."
                )
