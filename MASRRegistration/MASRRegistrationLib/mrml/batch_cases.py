"""Cases of a study from what Slicer holds: volumes of the scene, studies of the DICOM database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer
from masr_registration.batch.discover import Found
from masr_registration.errors import InputError
from slicer.i18n import tr as _

from .inputs import InputVolume, checkRequest


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
    folder.mkdir(parents=True, exist_ok=True)
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

    `database` is `slicer.dicomDatabase`. Raises `InputError` when no study fits.
    """
    if not fixedText or not movingText:
        raise InputError(_("Say what the descriptions of the fixed and of the moving series contain."))
    found = Found()
    number = 0
    for patient in database.patients():
        for study in database.studiesForPatient(patient):
            number += 1
            row = {"id": f"study-{number:03}"}
            for column, text in (("fixed", fixedText), ("moving", movingText)):
                series = [
                    one
                    for one in database.seriesForStudy(study)
                    if text.lower() in database.descriptionForSeries(one).lower()
                ]
                if len(series) == 1 and database.filesForSeries(series[0]):
                    row[column] = database.filesForSeries(series[0])[0]
                else:
                    found.remarks.append(
                        _('Study {number} was left out: {count} of its series match "{text}".').format(
                            number=number, count=len(series), text=text
                        )
                    )
                    break
            else:
                found.rows.append(row)
    if not found.rows:
        raise InputError(_("No study of the DICOM database has one series for each of the two texts."))
    return found
