"""A result as a DICOM spatial registration object, rigid or deformable, made by SlicerRT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import slicer
from masr_registration.errors import InputError, MasrError, ResourceError
from slicer.i18n import tr as _

from .results import FIXED_ROLE, MOVING_ROLE, storedResult

PLUGIN = "DicomSroImportExportPlugin"
_MODULES = ("dicomsroimportexport", "plastimatch_slicer_bspline")


def missingForExport(transformNode: Any) -> list[str]:
    """Sentences on what keeps a result from being exported; empty when nothing does."""
    missing = []
    if PLUGIN not in getattr(slicer.modules, "dicomPlugins", {}) or not all(
        hasattr(slicer.modules, name) for name in _MODULES
    ):
        missing.append(
            _("The extension SlicerRT is not installed, which writes DICOM spatial registration objects.")
        )
    content = storedResult(transformNode)
    if content is None:
        return [*missing, _("This transform is not the result of a registration.")]
    for role, sentence in (
        (FIXED_ROLE, _("The fixed volume is gone, and with it what the object would refer to.")),
        (MOVING_ROLE, _("The moving volume is gone, and with it what the object would refer to.")),
    ):
        if transformNode.GetNodeReference(role) is None:
            missing.append(sentence)
    if not np.allclose(content["scene"]["fixed"]["parentToWorld"], np.eye(4), atol=1e-6):
        missing.append(
            _(
                "The fixed volume was under a transform, which a DICOM object cannot express; harden it and "
                "register again."
            )
        )
    return missing


def exportSpatialRegistration(transformNode: Any, folder: str | Path) -> list[Path]:
    """Write the object, and what SlicerRT writes with it, into `folder`; returns the new files.

    Raises `InputError` with all that is missing, `ResourceError` when the folder cannot be written, `MasrError` when
    SlicerRT fails.
    """
    missing = missingForExport(transformNode)
    if missing:
        raise InputError(" ".join(missing))
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(_("The folder for the DICOM files cannot be made.")) from error
    before = set(folder.rglob("*"))
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    plugin = slicer.modules.dicomPlugins[PLUGIN]()
    exportables = plugin.examineForExport(hierarchy.GetItemByDataNode(transformNode))
    for exportable in exportables:
        exportable.directory = str(folder)
    problem = plugin.export(exportables) if exportables else _("it offers no export")
    made = sorted(path for path in set(folder.rglob("*")) - before if path.is_file())
    if problem or not made:
        reason = str(problem).strip() or _("it wrote no file")
        raise MasrError(_("SlicerRT could not write the registration: {reason}.").format(reason=reason))
    return made
