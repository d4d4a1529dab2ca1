"""SURROGATE liver phases: one real CT and a second phase made from it, for want of public pairs with a truth.

The second phase: vessels and organs take other Hounsfield values (seeded), the liver washes out unevenly, noise is
added, and breathing slides what is inside the body wall along the patient's axis, with a small smooth warp beside it.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from masr_registration.volume import Geometry, Volume

from ..problem import Problem, voxel_points
from ..synthesis import Breathing, apply_transform, body, draw_flow, random_field, regridded
from . import Case
from .known_warps import TRUTH_POINTS

IMAGES = {
    "chaos": ("abdomen_ct_chaos/image", "abdomen_ct_chaos/liver", 1, 1.5),
    "totalseg": ("abdomen_totalseg/example_ct", "abdomen_totalseg/example_seg", 5, 3.0),
}
"""Image, labels (of totalseg only the lower 30 slices have any), the liver's label, voxel in mm."""
PEAKS_MM = (10, 20)
WALL_MM = 25.0
SMOOTH_WARP_MM = 2.0
AIR_HU = -1000.0
NOISE_HU = 12.0
WASHOUT_HU = 15.0
WASHOUT_SCALE_MM = 25.0


def cases() -> list[Case]:
    return [
        Case(f"liver-surrogate-{peak}mm/{name}-{seed}", partial(build, name, peak, seed=seed))
        for peak in PEAKS_MM
        for name in IMAGES
        for seed in (1, 2)
    ]


def build(name: str, peak_mm: float, data: Path, *, seed: int) -> Problem:
    image_name, label_name, liver_label, spacing = IMAGES[name]
    read = partial(_read, data)
    fixed = regridded(read(image_name), spacing, sitk.sitkLinear, AIR_HU)
    labels = sitk.Resample(read(label_name), fixed, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    geometry = Geometry.of(fixed)
    hounsfield = sitk.GetArrayFromImage(fixed)
    liver = sitk.GetArrayFromImage(labels) == liver_label
    patient = body(hounsfield > -300)
    points = voxel_points(geometry, liver, TRUTH_POINTS, seed)
    around = voxel_points(geometry, patient, TRUTH_POINTS, seed)
    breathing = Breathing.inside(around, WALL_MM, peak_mm, height=points[:, 2].mean())
    flow = draw_flow(points, SMOOTH_WARP_MM, seed)
    targets = breathing.inverse(flow.inverse(points))
    warp = sitk.CompositeTransform([flow.transform(), breathing.field(geometry)])
    phase = geometry.stamp(sitk.GetImageFromArray(second_phase(hounsfield, liver, geometry, seed)))
    moving = sitk.Resample(phase, fixed, warp, sitk.sitkLinear, AIR_HU, sitk.sitkFloat32)
    mask = geometry.stamp(sitk.GetImageFromArray(liver.astype(np.int32)))
    residual = np.linalg.norm(apply_transform(flow.transform(), breathing(targets)) - points, axis=1)
    return Problem(
        fixed=Volume.from_sitk(fixed),
        moving=Volume.from_sitk(moving),
        foreground=Volume.from_sitk(fixed).with_array(patient.astype(np.uint8)),
        preset="liver-ct-phases",
        fixed_labels=Volume.from_sitk(mask),
        moving_labels=Volume.from_sitk(sitk.Resample(mask, fixed, warp, sitk.sitkNearestNeighbor, 0)),
        points=points,
        targets=targets,
        notes={
            "truth": "known, SURROGATE phase",
            "seed": seed,
            "mean_mm": float(np.linalg.norm(targets - points, axis=1).mean()),
            "inverse_residual_mm": float(residual.max()),
        },
    )


def second_phase(hounsfield: np.ndarray, liver: np.ndarray, geometry: Geometry, seed: int) -> np.ndarray:
    """Another phase of ``(D, H, W)`` Hounsfield units, float32; lung, fat, air and bone stay.

    Soft tissue that enhances more than the liver (vessels, kidneys, spleen) goes up or down by a seeded factor; the
    liver by a seeded step with a smooth unevenness; noise is smooth on the scale of a voxel.
    """
    rng = np.random.default_rng(seed)
    inside = np.median(hounsfield[liver])
    blood = np.clip((hounsfield - inside - 20) / 30, 0, 1) * np.clip((350 - hounsfield) / 100, 0, 1)
    gain, step = rng.uniform(-0.8, 1.0), rng.uniform(-45, -15)
    uneven = WASHOUT_HU * random_field(geometry, WASHOUT_SCALE_MM, rng)
    noise = NOISE_HU * random_field(geometry, float(np.mean(geometry.spacing)), rng)
    phase = hounsfield + gain * blood * (hounsfield - inside) + liver * (step + uneven) + noise
    return phase.astype(np.float32)


def _read(data: Path, name: str) -> sitk.Image:
    return sitk.ReadImage(str(data / f"{name}.nii.gz"), sitk.sitkFloat32)
