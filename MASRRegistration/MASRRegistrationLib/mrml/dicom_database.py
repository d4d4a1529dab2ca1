"""The DICOM database of the application (ctkDICOMDatabase)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer
from masr_registration.errors import InputError
from slicer.i18n import tr as _


def openDatabase() -> Any:
    """That of the DICOM module, which sets it when it is loaded. Raises `InputError` when it is not open."""
    database = getattr(slicer, "dicomDatabase", None)
    if database is None or not database.isOpen:
        raise InputError(_("The DICOM database is not open; open it in the module DICOM."))
    return database


def filesOfSeries(database: Any, series: str) -> list[Path]:
    """All files of a series. Raises `InputError` when some are not on this computer, or not in one folder."""
    files = [Path(file) for file in database.filesForSeries(series)]
    if not files or not all(file.is_file() for file in files):
        raise InputError(_("some of its files are not on this computer"))
    if len({file.parent for file in files}) > 1:
        raise InputError(_("its files are in several folders"))
    return files
