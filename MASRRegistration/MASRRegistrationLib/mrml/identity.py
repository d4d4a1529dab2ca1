"""Doubts whether two volumes belong together, to be asked about before they are registered."""

from __future__ import annotations

import re
from typing import Any

import slicer
from slicer.i18n import tr as _

PATIENT_ID, PATIENT_LEVEL = "DICOM.PatientID", "Patient"
LATERALITY_ATTRIBUTES = ("DICOM.ImageLaterality", "DICOM.Laterality")
_SIDES = {"left": "left", "lt": "left", "l": "left", "right": "right", "rt": "right", "r": "right"}


def doubts(fixed: Any, moving: Any) -> list[str]:
    """Sentences about patient IDs or sides of the body that differ; empty where they agree or are not known.

    IDs are those of DICOM (attributes of the node, or of its patient in the subject hierarchy); sides are those of
    DICOM, otherwise single words or letters in the names such as "knee left" or "hip_R".
    """
    found = []
    ids = [patientId(node) for node in (fixed, moving)]
    if all(ids) and ids[0] != ids[1]:
        found.append(
            _('The patient IDs differ: "{fixed}" (fixed) and "{moving}" (moving).').format(
                fixed=ids[0], moving=ids[1]
            )
        )
    sides = [laterality(node) for node in (fixed, moving)]
    if all(sides) and sides[0] != sides[1]:
        found.append(
            _("The sides of the body seem to differ: {fixed} (fixed) and {moving} (moving).").format(
                fixed=sides[0], moving=sides[1]
            )
        )
    return found


def patientId(node: Any) -> str:
    """Empty when it is not known."""
    own = node.GetAttribute(PATIENT_ID)
    if own:
        return str(own)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = hierarchy.GetItemByDataNode(node) if hierarchy is not None else 0
    return str(hierarchy.GetAttributeFromItemAncestor(item, PATIENT_ID, PATIENT_LEVEL)) if item else ""


def laterality(node: Any) -> str:
    """left, right, or empty when it is not known or both are named."""
    values = [node.GetAttribute(name) for name in LATERALITY_ATTRIBUTES]
    words = [value for value in values if value] or re.split(r"[^A-Za-z]+", node.GetName())
    sides = {_SIDES[word.lower()] for word in words if word.lower() in _SIDES}
    return sides.pop() if len(sides) == 1 else ""
