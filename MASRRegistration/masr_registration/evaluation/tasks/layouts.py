"""The layouts by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...errors import InputError
from . import abdomen_mr_ct, brain, hcp, multiphase_ct
from .cases import Choice, Task

LAYOUTS: dict[str, tuple[Callable[[Path, Choice], Task], str]] = {
    abdomen_mr_ct.NAME: (abdomen_mr_ct.read, "Learn2Reg AbdomenMRCT: MR and CT of one patient"),
    brain.LUMIR: (brain.read_lumir, "LUMIR: T1w brains of different persons, as packed by Learn2Reg"),
    brain.OASIS: (brain.read_oasis, "OASIS: as packed by Learn2Reg, or one folder for each person"),
    hcp.NAME: (hcp.read, "Human Connectome Project: T1w of one person to T2w of another"),
    multiphase_ct.NAME: (multiphase_ct.read, "Contrast phases of CT, one folder for each patient"),
}


def read(name: str, folder: Path, choice: Choice) -> Task:
    """The task `name` in a data folder. Raises `InputError`."""
    if name not in LAYOUTS:
        raise InputError(f'There is no task "{name}". Tasks: {", ".join(LAYOUTS)}.')
    if not folder.is_dir():
        raise InputError(f'There is no data folder "{folder.name}".')
    return LAYOUTS[name][0](folder, choice).chosen(choice)
