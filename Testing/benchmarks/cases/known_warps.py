"""Aligned pairs of one head in two contrasts, the moving one warped by a known deformation without folds."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from masr_registration.volume import Geometry, Volume

from ..problem import Problem, voxel_points
from ..synthesis import apply_transform, draw_flow, padded
from . import Case

PAIRS = {
    "stroke-T2": ("brain_t1t2_stroke/T1", "brain_t1t2_stroke/T2"),
    "stroke-FLAIR": ("brain_t1t2_stroke/T1", "brain_t1t2_stroke/FLAIR"),
    "ms07-T2": ("brain_t1t2_ms/07/T1", "brain_t1t2_ms/07/T2"),
    "ms07-FLAIR": ("brain_t1t2_ms/07/T1", "brain_t1t2_ms/07/FLAIR"),
    "ms19-T2": ("brain_t1t2_ms/19/T1", "brain_t1t2_ms/19/T2"),
    "ms19-FLAIR": ("brain_t1t2_ms/19/T1", "brain_t1t2_ms/19/FLAIR"),
}
MEANS_MM = (4, 8, 12)
CAPTURE_MEANS_MM = (2, 6, 10, 14, 18)
CAPTURE_PAIRS = ("stroke-T2", "stroke-FLAIR")
TRUTH_POINTS = 20_000
MARGIN_MM = 5.0


def cases() -> list[Case]:
    warps = [
        Case(f"warp-{mm}mm/{name}", partial(build, name, mm, seed=number))
        for mm in MEANS_MM
        for number, name in enumerate(PAIRS)
    ]
    capture = [
        Case(f"capture-warp-{mm:02d}mm/{name}", partial(build, name, mm, seed=100 + number))
        for mm in CAPTURE_MEANS_MM
        for number, name in enumerate(CAPTURE_PAIRS)
    ]
    return warps + capture


def build(name: str, mean_mm: float, data: Path, *, seed: int) -> Problem:
    fixed, source = (sitk.ReadImage(str(data / f"{part}.nii.gz"), sitk.sitkFloat32) for part in PAIRS[name])
    points = voxel_points(Geometry.of(fixed), brain(fixed), TRUTH_POINTS, seed)
    flow = draw_flow(points, mean_mm, seed)
    targets = flow.inverse(points)
    residual = np.linalg.norm(apply_transform(flow.transform(), targets) - points, axis=1)
    fixed = padded(fixed, targets, MARGIN_MM)
    moving = sitk.Resample(source, fixed, flow.transform(), sitk.sitkBSpline3, 0.0, sitk.sitkFloat32)
    image = Volume.from_sitk(sitk.Clamp(fixed, lowerBound=0.0))
    return Problem(
        fixed=image,
        moving=Volume.from_sitk(sitk.Clamp(moving, lowerBound=0.0)),
        foreground=image.with_array(brain(fixed).astype(np.uint8)),
        preset="brain-mr",
        points=points,
        targets=targets,
        notes={
            "truth": "known",
            "seed": seed,
            "mean_mm": float(np.linalg.norm(targets - points, axis=1).mean()),
            "steps": flow.count,
            "slope_of_a_step": flow.slope,
            "inverse_residual_mm": float(residual.max()),
        },
    )


def brain(image: sitk.Image) -> np.ndarray:
    """The foreground ``(D, H, W)`` of an image whose skull and background were set to zero."""
    array: np.ndarray = sitk.GetArrayViewFromImage(image) > 0
    return array
