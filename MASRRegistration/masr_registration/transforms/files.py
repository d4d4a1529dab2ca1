"""Transforms from files: ITK's formats as SimpleITK, 3D Slicer and elastix write them, and images of displacements."""

from __future__ import annotations

from pathlib import Path

import SimpleITK as sitk

from ..errors import InputError
from ..volume import read_displacements

IMAGES = (".nrrd", ".nhdr", ".nii", ".nii.gz", ".mha", ".mhd")
_SEVERAL = "more than one transform"


def read_transform(path: str | Path, what: str) -> sitk.Transform:
    """A 3-D transform in LPS mm; `what` names it, e.g. "initial transform".

    An image with three values in every voxel is a displacement field: what 3D Slicer saves for a grid transform, with
    its RAS vectors in NIfTI, and our own displacement.nrrd.

    Raises:
        InputError: missing, unreadable, not 3-D, or several transforms of which ITK would use the first.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f'The {what} "{path.name}" does not exist.')
    if path.name.lower().endswith(IMAGES):
        return sitk.DisplacementFieldTransform(read_displacements(path))
    log = _Warnings()
    previous = log.SetAsGlobalITKLogger()  # type: ignore[no-untyped-call]
    try:
        transform: sitk.Transform = sitk.ReadTransform(str(path))
    except RuntimeError as error:
        raise InputError(f'The {what} "{path.name}" is not a transform file that can be read.') from error
    finally:
        previous.SetAsGlobalITKLogger()
    if any(_SEVERAL in text for text in log.texts):
        raise InputError(f'The {what} "{path.name}" holds several transforms; save them as one composite.')
    if transform.GetDimension() != 3:
        raise InputError(f'The {what} "{path.name}" is not a 3-D transform.')
    return transform


class _Warnings(sitk.LoggerBase):
    """Keeps what ITK would print."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.texts: list[str] = []

    def DisplayWarningText(self, text: str) -> None:  # noqa: N802
        self.texts.append(text)

    DisplayText = DisplayErrorText = DisplayDebugText = DisplayGenericOutputText = DisplayWarningText
