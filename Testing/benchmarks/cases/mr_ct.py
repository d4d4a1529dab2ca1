"""Abdominal MR of CHAOS to the CT of another patient, scored by the liver. Volume centres are put together first.

Two patients: there is no true correspondence, only two livers. The CT is brought to 2 mm.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from masr_registration.volume import Volume

from ..problem import Problem
from ..synthesis import body, moved_header, regridded
from . import Case

SUBJECTS = ("1", "2", "3", "5", "8")
CT_SPACING_MM = 2.0
AIR_HU = -1000.0


def cases() -> list[Case]:
    return [Case(f"mr-ct/{subject}", partial(build, subject)) for subject in SUBJECTS]


def build(subject: str, data: Path) -> Problem:
    read = partial(_read, data)
    fixed = regridded(read("abdomen_ct_chaos/image"), CT_SPACING_MM, sitk.sitkLinear, AIR_HU)
    labels = regridded(read("abdomen_ct_chaos/liver"), CT_SPACING_MM, sitk.sitkNearestNeighbor, 0)
    moving, moving_labels = (read(f"abdomen_mr_chaos/{subject}_{kind}") for kind in ("image", "labels"))
    shift = sitk.TranslationTransform(3, (_centre(fixed) - _centre(moving)).tolist())
    image = Volume.from_sitk(fixed)
    return Problem(
        fixed=image,
        moving=Volume.from_sitk(moved_header(moving, shift)),
        foreground=image.with_array(body(image.array > -300).astype(np.uint8)),
        preset="abdomen-mr-ct",
        fixed_labels=Volume.from_sitk(sitk.Cast(labels > 0.5, sitk.sitkInt32)),
        moving_labels=Volume.from_sitk(sitk.Cast(moved_header(moving_labels, shift) == 1, sitk.sitkInt32)),
        notes={"truth": "manual livers of two patients", "start": "volume centres together"},
    )


def _read(data: Path, name: str) -> sitk.Image:
    return sitk.ReadImage(str(data / f"{name}.nii.gz"), sitk.sitkFloat32)


def _centre(image: sitk.Image) -> np.ndarray:
    middle = [(n - 1) / 2 for n in image.GetSize()]
    return np.array(image.TransformContinuousIndexToPhysicalPoint(middle))
