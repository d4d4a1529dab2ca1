"""Cases of a study from what Slicer holds: volumes of the scene, studies of the DICOM database."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import slicer
from masr_registration.batch.discover import Found
from masr_registration.errors import InputError, ResourceError
from slicer.i18n import tr as _

from .dicom_database import filesOfSeries
from .inputs import InputVolume, checkRequest

_MOST_REMARKS = 5


def fromScene(fixedNode: Any, folder: Path) -> Found:
    """Every other scalar volume to the fixed one, written as NRRD into `folder`; rows with absolute paths.

    Volumes that cannot be registered are left out, with the reason. Raises `InputError` when there is none, and
    `ResourceError` when they cannot be written.
    """
    found = Found()
    if fixedNode is None:
        raise InputError(_("Choose a fixed volume in the tab Register: the others are registered to it."))
    fixed = InputVolume.of(fixedNode)
    moving = []
    for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
        if node is fixedNode or node.IsA("vtkMRMLLabelMapVolumeNode"):
            continue
        try:
            checkRequest(fixedNode, node)
            moving.append(InputVolume.of(node))
        except InputError as error:
            found.remarks.append(str(error))
    if not moving:
        raise InputError(_("There is no other volume in the scene."))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(_('The folder "{name}" cannot be made.').format(name=folder.name)) from error
    fixed.write(folder / "fixed.nrrd")
    for number, volume in enumerate(moving, start=1):
        path = folder / f"moving-{number:03}.nrrd"
        volume.write(path)
        found.rows.append(
            {"id": f"case-{number:03}", "fixed": str(folder / "fixed.nrrd"), "moving": str(path)}
        )
        found.remarks.append(_('case-{number:03} is "{name}".').format(number=number, name=volume.name))
    return found


def fromDicomDatabase(database: Any, fixedText: str, movingText: str) -> Found:
    """A case for every study with one series whose description holds each text; ids carry no identity.

    A patient without such a study, but with one series for each text in all studies together, is a case as well.
    `database` is `slicer.dicomDatabase`. Raises `InputError` when nothing fits.
    """
    if not fixedText or not movingText:
        raise InputError(_("Say what the descriptions of the fixed and of the moving series contain."))
    found, texts = Found(), {"fixed": fixedText, "moving": movingText}
    number = 0
    for patientNumber, patient in enumerate(database.patients(), start=1):
        rows, remarks, ofPatient = [], [], []
        for study in database.studiesForPatient(patient):
            number += 1
            series = database.seriesForStudy(study)
            ofPatient += series
            try:
                rows.append({"id": f"study-{number:03}", **_pair(database, series, texts)})
            except InputError as error:
                sentence = _("Study {number} was left out: {reason}.")
                remarks.append(sentence.format(number=number, reason=error))
        if not rows and len(remarks) > 1:
            with suppress(InputError):
                rows = [{"id": f"patient-{patientNumber:03}", **_pair(database, ofPatient, texts)}]
                remarks = [
                    _("{case} is of two studies of one patient.").format(case=rows[0]["id"]),
                ]
        found.rows += rows
        found.remarks += remarks
    if not found.rows:
        raise InputError(
            "\n".join(
                [
                    _("No study of the DICOM database has one series for each of the two texts."),
                    *found.remarks[:_MOST_REMARKS],
                ]
            )
        )
    return found


def _pair(database: Any, series: Iterable[str], texts: Mapping[str, str]) -> dict[str, str]:
    """A file of the one series for each text. Raises `InputError` with the reason why there is none."""
    row = {}
    for column, text in texts.items():
        matching = [one for one in series if text.lower() in database.descriptionForSeries(one).lower()]
        if len(matching) != 1:
            raise InputError(_('{count} of its series match "{text}"').format(count=len(matching), text=text))
        row[column] = str(filesOfSeries(database, matching[0])[0])
    if row["fixed"] == row["moving"]:
        raise InputError(_("both texts match the same series"))
    return row
