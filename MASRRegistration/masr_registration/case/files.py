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


SEQUENCE_FILES = ("transform-*.h5", "warped-*.nii.gz", "motion.csv", "motion.png")
"""Patterns of what a sequence writes besides result.json; with four digits for the number of the item."""


def sequence_results(output: Path) -> tuple[str, ...]:
    """Names of the files in a folder that a sequence may have written."""
    return tuple(sorted(path.name for pattern in SEQUENCE_FILES for path in output.glob(pattern)))


def refuse_overwriting(inputs: Mapping[str, str], output: Path, sequence: bool = False) -> None:
    """Raises `InputError` when a result in the folder `output` would replace one of `inputs` (name -> path)."""
    results = (*RESULT_FILES.values(), *(sequence_results(output) if sequence else ()))
    for what, path in inputs.items():
        for result in results:
            target = output / result
            same = os.path.realpath(path) == os.path.realpath(target)
            if same or (os.access(target, os.F_OK) and os.access(path, os.F_OK) and target.samefile(path)):
                raise InputError(
                    f'The {what} "{Path(path).name}" would be overwritten by the result; '
                    "choose another output folder."
                )
