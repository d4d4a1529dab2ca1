"""Learn2Reg AbdomenMRCT: MR and CT of one patient on one grid, with regions of interest and four organs.

Its labels come in two conventions: Learn2Reg's own, and the numbers of TotalSegmentator, in which others have labelled
the patients 9 to 16. Each map is looked at; both become Learn2Reg's. Two patients have no left kidney in the labels.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ...errors import InputError
from ...volume import read_labels
from . import learn2reg_data
from .cases import Choice, Side, Task, TaskCase

NAME = "abdomen-mr-ct"
ORGANS = {1: "liver", 2: "spleen", 3: "right kidney", 4: "left kidney"}
TOTALSEGMENTATOR = {5: 1, 1: 2, 2: 3, 3: 4}
"""The numbers of TotalSegmentator in those of Learn2Reg."""


def read(folder: Path, choice: Choice) -> Task:
    """Raises `InputError`."""
    path = learn2reg_data.find(folder)
    cases = learn2reg_data.pairs(path, choice) if path else _paired_files(folder, choice)
    remarks = []
    for number, case in enumerate(cases):
        fixed, moving = (_with_convention(side) for side in (case.fixed, case.moving))
        cases[number] = replace(case, fixed=fixed, moving=moving)
        if fixed.relabel or moving.relabel:
            remarks.append(f"{case.id}: labels in the numbers of TotalSegmentator.")
    same = {case.fixed.image.name.split("_")[-1].split(".")[0] for case in cases}
    kinds = {"0000": "MR", "0001": "CT"}
    fixed_kind = kinds.get(next(iter(same)), "?") if len(same) == 1 else "mixed"
    moving_kind = {"MR": "CT", "CT": "MR"}.get(fixed_kind, "the other")
    return Task(
        NAME,
        f"Learn2Reg AbdomenMRCT, {choice.split}",
        tuple(cases),
        f"{moving_kind} (moving) to {fixed_kind} (fixed) of the same patient",
        "as the data set comes: one grid for both images, aligned by its makers",
        "abdomen-mr-ct",
        ORGANS,
        masked=True,
        remarks=tuple(remarks),
    )


def convention(values: np.ndarray) -> dict[int, int] | None:
    """How the values of a label map become `ORGANS`: `TOTALSEGMENTATOR`, or None where they are `ORGANS` already.

    Only TotalSegmentator has numbers from 5 on, where 5 is the liver, which lies in every scan of an abdomen.
    """
    return TOTALSEGMENTATOR if np.any(values >= 5) else None


def _with_convention(side: Side) -> Side:
    if side.labels is None:
        return side
    return replace(side, relabel=convention(np.unique(read_labels(side.labels).array)))


def _paired_files(folder: Path, choice: Choice) -> list[TaskCase]:
    """Without a list: each ``*_0000`` of the split's folder with the ``*_0001`` of the same patient."""
    images = {"train": "imagesTr", "val": "imagesTr", "test": "imagesTs"}[choice.split]
    found = []
    for fixed in sorted((folder / images).glob("*_0000.nii.gz")):
        moving = fixed.with_name(fixed.name.replace("_0000.nii.gz", "_0001.nii.gz"))
        if moving.is_file():
            places = [str(path.relative_to(folder)) for path in (fixed, moving)]
            found.append(learn2reg_data.pair(folder, places[0], places[1]))
    if not found:
        raise InputError(
            f"There is neither a list (*_dataset.json) nor a pair of images *_0000 and *_0001 in {images}."
        )
    return found
