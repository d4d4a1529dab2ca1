"""Small data sets in the layouts of `masr evaluate`, made from the sample pair: 4 mm voxels, known shifts."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from masr_registration import presets

STRIDE, SIZE = 4, (30, 40, 34)
SHIFT_MM = (8.0, -6.0, 5.0)
NO_SHIFT = (0.0, 0.0, 0.0)


def preset(path: Path) -> Path:
    """A quick one for such images."""
    general = presets.load("general")
    quick = replace(
        general,
        name="quick",
        working_spacing_mm=4.0,
        linear=replace(general.linear, model="none"),
        discrete=replace(general.discrete, reach_mm=24.0),
        continuous=replace(general.continuous, control_spacing_mm=12.0, iterations=(10, 10)),
    )
    path.write_text(quick.to_json())
    return path


def scan(contrast: str, shift: tuple[float, float, float] = NO_SHIFT) -> sitk.Image:
    """T1 or T2 of the sample, moved by `shift` LPS mm."""
    place = files("masr_registration").joinpath("data", "sample", f"{contrast}.nii.gz")
    image = sitk.ReadImage(str(place), sitk.sitkFloat32)
    coarse = sitk.SmoothingRecursiveGaussian(image, 2.0)
    grid = coarse[::STRIDE, ::STRIDE, ::STRIDE][: SIZE[0], : SIZE[1], : SIZE[2]]
    return sitk.Resample(coarse, grid, sitk.TranslationTransform(3, shift), sitk.sitkLinear, 0.0)


def parcels(shift: tuple[float, float, float] = NO_SHIFT, without: int | None = None) -> sitk.Image:
    """Labels 1 to 4: quarters of the head of `scan`, seen from above; with a lost one if wanted."""
    still = scan("T1")
    head = sitk.GetArrayFromImage(still) > 0.15 * sitk.GetArrayFromImage(still).max()
    k, j, i = np.indices(head.shape)
    labels = (1 + (i > SIZE[0] / 2) + 2 * (j > SIZE[1] / 2)) * head * ((k > 8) & (k < 26))
    if without is not None:
        labels[labels == without] = 0
    image = sitk.GetImageFromArray(labels.astype(np.uint8))
    image.CopyInformation(still)
    return sitk.Resample(image, image, sitk.TranslationTransform(3, shift), sitk.sitkNearestNeighbor)


def mask() -> sitk.Image:
    """Region of interest of the image that is not moved."""
    return sitk.Cast(sitk.BinaryDilate(parcels() > 0, (2, 2, 2)), sitk.sitkUInt8)


def renumbered(image: sitk.Image, numbers: dict[int, int]) -> sitk.Image:
    changed = sitk.ChangeLabel(image, {float(old): float(new) for old, new in numbers.items()})
    return sitk.Cast(changed, sitk.sitkUInt8)


def save(image: sitk.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def abdomen_mr_ct(folder: Path) -> Path:
    """Two patients: the second without label 4, its moving map in the numbers of TotalSegmentator."""
    pairs = []
    for number in (1, 2):
        without = 4 if number == 2 else None
        shift = SHIFT_MM if number == 1 else tuple(-s for s in SHIFT_MM)
        for modality, contrast, moved in (("0000", "T1", NO_SHIFT), ("0001", "T2", shift)):
            name = f"AbdomenMRCT_{number:04}_{modality}.nii.gz"
            labels = parcels(moved, without)
            if (number, modality) == (2, "0001"):
                labels = renumbered(labels, {1: 5, 2: 1, 3: 2})
            save(scan(contrast, moved), folder / "imagesTr" / name)
            save(labels, folder / "labelsTr" / name)
            save(mask(), folder / "masksTr" / name)
        pairs.append({side: f"./imagesTr/AbdomenMRCT_{number:04}_{m}.nii.gz" for side, m in _MODALITIES})
    content = {"name": "AbdomenMRCT", "registration_val": pairs, "training_paired_images": pairs[:1]}
    (folder / "AbdomenMRCT_dataset.json").write_text(json.dumps(content))
    return folder


_MODALITIES = (("fixed", "0000"), ("moving", "0001"))


def lumir(folder: Path) -> Path:
    """Two persons, with labels and with landmarks as small balls."""
    names = [f"LUMIRMRI_345{number}_0000.nii.gz" for number in (5, 4)]
    for name, shift in zip(names, (NO_SHIFT, SHIFT_MM), strict=True):
        save(scan("T1", shift), folder / "imagesVal" / name)
        save(parcels(shift), folder / "labelsVal" / name)
        balls = scan("T1") * 0
        for number, place in enumerate(((10, 12, 12), (18, 25, 15), (13, 20, 22)), start=1):
            for offset in np.ndindex(3, 3, 3):
                balls[tuple(int(p + o) for p, o in zip(place, offset, strict=True))] = number
        moved = sitk.Resample(balls, balls, sitk.TranslationTransform(3, shift), sitk.sitkNearestNeighbor)
        save(sitk.Cast(moved, sitk.sitkUInt8), folder / "landmarksVal" / name)
    pair = {"fixed": f"./imagesVal/{names[0]}", "moving": f"./imagesVal/{names[1]}"}
    (folder / "LUMIR_dataset.json").write_text(json.dumps({"name": "LUMIR", "registration_val": [pair]}))
    return folder


def oasis(folder: Path) -> Path:
    """Two persons as the makers of OASIS publish them."""
    for number, shift in ((1, NO_SHIFT), (2, SHIFT_MM)):
        person = folder / f"OASIS_OAS1_000{number}_MR1"
        save(scan("T1", shift), person / "aligned_norm.nii.gz")
        save(parcels(shift), person / "aligned_seg35.nii.gz")
    return folder


def hcp(folder: Path) -> Path:
    """Two persons with T1w and T2w."""
    for number, shift in ((100206, NO_SHIFT), (100307, SHIFT_MM)):
        place = folder / str(number) / "T1w"
        for contrast in ("T1", "T2"):
            save(scan(contrast, shift), place / f"{contrast}w_acpc_dc_restore_brain.nii.gz")
        save(parcels(shift), place / "aparc+aseg.nii.gz")
    return folder


def multiphase_ct(folder: Path) -> Path:
    """Two patients, two phases; labels and a mask for one, landmarks for the other."""
    for number in (1, 2):
        for phase, contrast, shift in (("portal", "T1", NO_SHIFT), ("arterial", "T2", SHIFT_MM)):
            place = folder / f"patient{number}"
            image = scan(contrast, shift)
            save(image, place / f"{phase}.nii.gz")
            if number == 1:
                save(parcels(shift), place / f"{phase}_labels.nii.gz")
                save(mask(), place / f"{phase}_mask.nii.gz")
            else:
                points = np.array([[10, 12, 12], [18, 25, 15], [13, 20, 22]], float)
                world = [image.TransformContinuousIndexToPhysicalPoint(p) for p in points.tolist()]
                lines = [",".join(f"{x - s:.3f}" for x, s in zip(p, shift, strict=True)) for p in world]
                (place / f"{phase}_landmarks.csv").write_text("\n".join(["x_lps,y_lps,z_lps", *lines]) + "\n")
    return folder
