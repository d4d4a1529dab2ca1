"""Brains of different persons on one grid: LUMIR and OASIS.

Either as Learn2Reg packs them (with a list of pairs), or OASIS as its makers publish it: one folder for each person.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ...errors import InputError
from . import learn2reg_data
from .cases import Choice, Side, Task, TaskCase, identity_of, rotated

LUMIR, OASIS = "lumir", "oasis"
_ALIGNED = (
    "as the data set comes: skull-stripped, aligned to a common space and resampled to one grid by its makers"
)
_IMAGE, _LABELS = "aligned_norm.nii.gz", "aligned_seg35.nii.gz"


def read_lumir(folder: Path, choice: Choice) -> Task:
    """Raises `InputError`."""
    path = learn2reg_data.find(folder)
    if path is None:
        raise InputError("There is no list of pairs (LUMIR_dataset.json) in the data folder.")
    cases = learn2reg_data.pairs(path, choice, "balls")
    return _task(LUMIR, f"LUMIR (Learn2Reg), {choice.split}", cases, volumes=True)


def read_oasis(folder: Path, choice: Choice) -> Task:
    """Raises `InputError`."""
    path = learn2reg_data.find(folder)
    if path is not None:
        return _task(OASIS, f"OASIS (Learn2Reg), {choice.split}", learn2reg_data.pairs(path, choice))
    people = sorted(place.parent.name for place in folder.glob(f"*/{_IMAGE}"))
    if len(people) < 2:
        raise InputError(
            f"There is neither a list (OASIS_dataset.json) nor two folders with {_IMAGE} in the data folder."
        )
    cases = []
    for one, two in rotated(people):
        sides = [_side(folder / name) for name in (one, two)]
        identity = identity_of(one, two)
        cases.append(TaskCase(identity, sides[0], sides[1], (f"disp_{identity}",)))
    task = _task(OASIS, "OASIS, one folder for each person", cases)
    return replace(task, remarks=("Each person with the next; the data set has no list of pairs.",))


def _side(person: Path) -> Side:
    labels = person / _LABELS
    return Side(person / _IMAGE, labels=labels if labels.is_file() else None)


def _task(name: str, title: str, cases: list[TaskCase], volumes: bool = False) -> Task:
    return Task(
        name,
        title,
        tuple(cases),
        "T1w MR of one person (moving) to that of another (fixed)",
        _ALIGNED,
        "brain-mr",
        volumes=volumes,
    )
