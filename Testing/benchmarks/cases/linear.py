"""T1 and FLAIR of one head, aligned, the FLAIR then moved by a known rigid motion: in its header, no voxel is changed.

A turned header is an oblique scan of a patient who lies elsewhere. The truth is exact and nothing leaves the image.
The elderly pairs (whole heads, two grids) start 1 to 12 mm apart; theirs is a SILVER truth: the motion on top of a
rigid registration by mutual information from the undisturbed start (`rigid_by_information`).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from masr_registration.volume import Geometry, Volume

from ..problem import Problem, voxel_points
from ..synthesis import apply_transform, draw_rigid, moved_header
from . import Case
from .known_warps import PAIRS, TRUTH_POINTS, brain

NAMES = ("stroke-FLAIR", "ms07-FLAIR", "ms19-FLAIR")
DISTURBANCES = ((10, 15), (20, 30), (30, 50))
"""Degrees and millimetres."""
ELDERLY = ("1", "2", "3", "4", "5", "6")
ELDERLY_DISTURBANCE = (20, 30)
CAPTURE_DEG = (15, 30, 45, 60)
CAPTURE_MM = (25, 50, 75, 100)


def cases() -> list[Case]:
    disturbed = [
        Case(f"linear/{name}-{degrees}deg-{mm}mm", partial(build, name, degrees, mm, seed=10 * number + step))
        for number, name in enumerate(NAMES)
        for step, (degrees, mm) in enumerate(DISTURBANCES)
    ]
    turned = [
        Case(f"capture-turn-{degrees:03d}deg/{name}", partial(build, name, degrees, 0, seed=200 + number))
        for degrees in CAPTURE_DEG
        for number, name in enumerate(NAMES)
    ]
    shifted = [
        Case(f"capture-shift-{mm:03d}mm/{name}", partial(build, name, 0, mm, seed=300 + number))
        for mm in CAPTURE_MM
        for number, name in enumerate(NAMES)
    ]
    elderly = [
        Case(f"linear-silver/elderly-{subject}", partial(build_elderly, subject)) for subject in ELDERLY
    ]
    return disturbed + elderly + turned + shifted


def build(name: str, degrees: float, shift_mm: float, data: Path, *, seed: int) -> Problem:
    fixed, source = (sitk.ReadImage(str(data / f"{part}.nii.gz"), sitk.sitkFloat32) for part in PAIRS[name])
    return disturb(fixed, source, brain(fixed), sitk.Transform(), (degrees, shift_mm), seed, "known")


def build_elderly(subject: str, data: Path) -> Problem:
    folder = data / "brain_t1flair_elderly" / subject
    fixed, source = (sitk.ReadImage(str(folder / f"{n}.nii.gz"), sitk.sitkFloat32) for n in ("T1", "FLAIR"))
    labels = sitk.ReadImage(str(folder / "labels_T1.nii.gz"))
    head = sitk.GetArrayViewFromImage(labels) > 0
    silver = rigid_by_information(fixed, source)
    return disturb(fixed, source, head, silver, ELDERLY_DISTURBANCE, int(subject), "SILVER")


def disturb(
    fixed: sitk.Image,
    source: sitk.Image,
    inside: np.ndarray,
    aligning: sitk.Transform,
    motion: tuple[float, float],
    seed: int,
    truth: str,
) -> Problem:
    """`source` lies on `fixed` through `aligning`; it is moved by `motion` (degrees, mm) about the head's centre."""
    points = voxel_points(Geometry.of(fixed), inside, TRUTH_POINTS, seed)
    rigid = draw_rigid(points.mean(axis=0), *motion, np.random.default_rng(seed))
    targets = apply_transform(rigid, apply_transform(aligning, points))
    image = Volume.from_sitk(fixed)
    return Problem(
        fixed=image,
        moving=Volume.from_sitk(moved_header(source, rigid)),
        foreground=image.with_array(inside.astype(np.uint8)),
        preset="brain-mr",
        points=points,
        targets=targets,
        notes={
            "truth": truth,
            "seed": seed,
            "degrees": motion[0],
            "shift_mm": motion[1],
            "mean_mm": float(np.linalg.norm(targets - points, axis=1).mean()),
        },
    )


def rigid_by_information(fixed: sitk.Image, moving: sitk.Image) -> sitk.Transform:
    """The rigid transform of largest mutual information near the images' headers, fixed -> moving."""
    centre = fixed.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in fixed.GetSize()])
    start = sitk.Euler3DTransform()
    start.SetCenter(centre)
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(48)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(0.2)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(2.0, 1e-3, 200)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([4.0, 2.0, 0.0])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetInitialTransform(start, inPlace=True)
    method.Execute(fixed, moving)
    return start
