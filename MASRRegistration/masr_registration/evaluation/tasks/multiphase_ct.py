"""Contrast phases of CT: one folder for each patient, with one image for each phase.

::

    PATIENT/portal.nii.gz  PATIENT/portal_labels.nii.gz  PATIENT/portal_mask.nii.gz  PATIENT/portal_landmarks.csv
    PATIENT/arterial.nii.gz ...

All but the images may be missing. Landmarks are points in LPS or RAS mm (.csv or .mrk.json).
"""

from __future__ import annotations

from pathlib import Path

from ...errors import InputError
from .cases import IMAGES, LANDMARKS, Choice, Side, Task, TaskCase, beside, identity_of, rotated, stem

NAME = "multiphase-ct"
_BESIDE = ("_labels", "_mask", "_landmarks")
_USUAL = ("portal", "venous", "portal-venous", "pv")


def read(folder: Path, choice: Choice) -> Task:
    """Each other phase onto the fixed one of the same patient, or of the next with `choice.between`.

    The fixed phase is `choice.fixed`, or the portal venous one, or the first of the alphabet. Raises `InputError`.
    """
    patients = {place.name: _phases(place) for place in sorted(folder.iterdir()) if place.is_dir()}
    patients = {name: phases for name, phases in patients.items() if phases}
    known = sorted({phase for phases in patients.values() for phase in phases})
    if not known:
        raise InputError("There are no folders of patients with images of phases in the data folder.")
    for wanted in (choice.fixed, choice.moving):
        if wanted is not None and wanted not in known:
            raise InputError(f'No patient has a phase "{wanted}"; there are: {", ".join(known)}.')
    fixed = choice.fixed or next((p for p in _USUAL if p in known), known[0])
    couples = rotated(list(patients)) if choice.between else [(name, name) for name in patients]
    cases, remarks = [], []
    for one, two in couples:
        moving = [p for p in patients[two] if choice.moving in (None, p) and (choice.between or p != fixed)]
        if fixed not in patients[one] or not moving:
            remarks.append(f"{one}: no pair, for want of a phase.")
            continue
        for phase in moving:
            identity = identity_of(f"{one}_{fixed}", f"{two}_{phase}")
            sides = _side(patients[one][fixed]), _side(patients[two][phase])
            cases.append(TaskCase(identity, *sides, (f"disp_{identity}",)))
    who = "the next patient" if choice.between else "the same patient"
    alignment = "none beside the coordinates of the scanner" + (
        ", of other patients" if choice.between else ""
    )
    return Task(
        NAME,
        "Multiphase CT, " + ("different patients" if choice.between else "one patient"),
        tuple(cases),
        f"{choice.moving or 'each other phase'} of {who} (moving) to {fixed} (fixed)",
        alignment,
        "liver-ct-phases",
        masked=True,
        remarks=tuple(remarks),
    )


def _phases(place: Path) -> dict[str, Path]:
    images = [path for path in sorted(place.iterdir()) if path.name.lower().endswith(IMAGES)]
    return {stem(path): path for path in images if not stem(path).endswith(_BESIDE)}


def _side(image: Path) -> Side:
    return Side(
        image,
        labels=beside(image, "_labels"),
        mask=beside(image, "_mask"),
        landmarks=beside(image, "_landmarks", LANDMARKS),
    )
