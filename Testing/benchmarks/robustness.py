"""How inputs that are less than ideal change the error, on the development images.

    PYTHONPATH=MASRRegistration python Testing/benchmarks/robustness.py linear --seeds 20
    PYTHONPATH=MASRRegistration python Testing/benchmarks/robustness.py deformable

`linear`: T1 to FLAIR with FLAIR turned by 20 to 30 degrees and moved by 40 to 50 mm, seeded; error of the linear stage
against the known disturbance (elderly: against it and the result without disturbance, because those pairs are not
aligned). `deformable`: stroke T1 to T2 under a known smooth warp, whole, with a part of one image missing, and with a
cavity painted into one image; error where both images show the same.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from masr_registration import presets
from masr_registration.representation.descriptor import Scan
from masr_registration.solver.linear import register_linear
from masr_registration.solver.pipeline import register
from masr_registration.transforms import affine
from masr_registration.volume import Geometry, Volume, read_volume

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
LINEAR_CASES = (
    "brain_t1t2_stroke",
    *(f"brain_t1t2_ms/{n}" for n in ("07", "19")),
    *(f"brain_t1flair_elderly/{n}" for n in range(1, 7)),
)
PRESET = presets.load("brain-mr")
MISSING = 0.4
CAVITY_INDEX, CAVITY_MM = np.array([70.0, 75.0, 85.0]), 40.0
WARP_MM, WARP_SIGMA_MM = 6.0, 18.0
Row = dict[str, str | float]


def disturbance(centre: np.ndarray, seed: int) -> np.ndarray:
    """A rotation by 20 to 30 degrees about `centre` and a shift of 40 to 50 mm, as a 4x4 matrix."""
    rng = np.random.default_rng(seed)
    axis, direction = (v / np.linalg.norm(v) for v in rng.normal(size=(2, 3)))
    turned = affine.rotation(np.radians(rng.uniform(20, 30)) * axis)
    return affine.about(centre, turned, rng.uniform(40, 50) * direction)


def moved(scan: Scan, matrix: np.ndarray) -> Scan:
    old = scan.geometry
    new = matrix @ old.index_to_physical
    axes = new[:3, :3] / np.asarray(old.spacing)
    place = Geometry(old.size, old.spacing, tuple(new[:3, 3].tolist()), tuple(axes.ravel().tolist()))
    return replace(scan, geometry=place)


def body_points(scan: Scan, count: int = 3000) -> np.ndarray:
    voxels = scan.region.nonzero().flip(1).double().numpy()
    return affine.apply(scan.geometry.index_to_physical, voxels[:: max(1, len(voxels) // count)])


def linear(data: Path, seeds: int) -> Iterator[Row]:
    for case in LINEAR_CASES:
        fixed, flair = (
            Scan.of(read_volume(data / case / f"{name}.nii.gz"), "mr", PRESET.normalisation)
            for name in ("T1", "FLAIR")
        )
        points, centre = body_points(fixed), body_points(flair).mean(0)
        truth = np.eye(4)
        if "elderly" in case:
            truth = register_linear(fixed, flair, PRESET.linear, np.eye(4)).matrix
        errors, seconds = [], []
        for seed in range(seeds):
            matrix = disturbance(centre, seed)
            start = time.process_time()
            found = register_linear(fixed, moved(flair, matrix), PRESET.linear, np.eye(4)).matrix
            seconds.append(time.process_time() - start)
            apart = affine.apply(found, points) - affine.apply(matrix @ truth, points)
            errors.append(np.linalg.norm(apart, axis=1).mean())
        yield {
            "case": case,
            "mean TRE mm": float(np.mean(errors)),
            "worst mean TRE mm": float(np.max(errors)),
            "CPU s": float(np.mean(seconds)),
        }


@dataclass(frozen=True)
class Warp:
    """A smooth displacement ``(3, D, H, W)`` in voxels (1 mm), moving -> fixed."""

    field: np.ndarray

    @classmethod
    def draw(cls, fixed: Volume, seed: int = 1) -> Warp:
        rng = np.random.default_rng(seed)
        noise = [sitk.GetImageFromArray(rng.normal(size=fixed.array.shape)) for _ in range(3)]
        field = np.stack(
            [sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(n, WARP_SIGMA_MM)) for n in noise]
        ).astype(np.float64)  # what a displacement field of SimpleITK holds; the filter gives float32
        return cls(field * WARP_MM / np.linalg.norm(field, axis=0)[fixed.array > 0].mean())

    def of(self, volume: Volume) -> Volume:
        """What the moving image shows."""
        vectors = sitk.GetImageFromArray(np.moveaxis(self.field, 0, -1), isVector=True)
        image = sitk.GetImageFromArray(volume.array)
        warped = sitk.Resample(image, sitk.DisplacementFieldTransform(vectors), sitk.sitkLinear)
        return volume.with_array(sitk.GetArrayFromImage(warped))

    def truth(self, index: np.ndarray) -> np.ndarray:
        """Voxels ``(N, 3)`` fixed -> moving."""
        field, found = torch.from_numpy(self.field)[None], index.copy()
        size = np.array(self.field.shape[:0:-1])
        for _ in range(60):
            unit = torch.from_numpy(2 * found / (size - 1) - 1)[None, None, None]
            step = torch.nn.functional.grid_sample(field, unit, align_corners=True, padding_mode="border")
            found = index - step[0, :, 0, 0].T.numpy()
        return found


def cropped(volume: Volume, axis: int, start: int, stop: int) -> Volume:
    """Slices `start` to `stop` along an (i, j, k) axis."""
    old = volume.geometry
    corner = old.index_to_physical @ [*(start if a == axis else 0 for a in range(3)), 1]
    array = np.ascontiguousarray(np.take(volume.array, range(start, stop), 2 - axis))
    depth, height, width = array.shape
    place = Geometry((width, height, depth), old.spacing, tuple(corner[:3].tolist()), old.direction)
    return Volume(array, place, volume.name)


def with_cavity(volume: Volume, share: float) -> Volume:
    """A ball filled with `share` of the largest value."""
    k, j, i = np.indices(volume.array.shape)
    inside = np.linalg.norm(np.stack((i, j, k), -1) - CAVITY_INDEX, axis=-1) < CAVITY_MM / 2
    return volume.with_array(np.where(inside, np.float32(share * volume.array.max()), volume.array))


def deformable(data: Path, spacing_mm: float) -> Iterator[Row]:
    fixed, other = (read_volume(data / "brain_t1t2_stroke" / f"{name}.nii.gz") for name in ("T1", "T2"))
    warp = Warp.draw(fixed)
    moving = warp.of(other)
    index = np.argwhere(fixed.array > 0)[::97, ::-1].astype(float)
    there = warp.truth(index)
    slices = np.flatnonzero(fixed.array.any(axis=(1, 2)))
    height = int(slices[-1] - slices[0])
    low, high = slices[0] + int(MISSING * height), slices[-1] - int(MISSING * height)
    depth = fixed.array.shape[0]
    near = CAVITY_MM / 2 + 10
    cases = {
        "whole": (fixed, moving, np.ones(len(index), bool)),
        "moving without its top": (fixed, cropped(moving, 2, 0, high), there[:, 2] < high - 5),
        "moving without its bottom": (fixed, cropped(moving, 2, low, depth), there[:, 2] > low + 5),
        "fixed without its top": (cropped(fixed, 2, 0, high), moving, index[:, 2] < high - 5),
        "fixed without its bottom": (cropped(fixed, 2, low, depth), moving, index[:, 2] > low + 5),
        "bright cavity in moving": (
            fixed,
            with_cavity(moving, 0.95),
            np.linalg.norm(there - CAVITY_INDEX, axis=1) > near,
        ),
        "dark cavity in fixed": (
            with_cavity(fixed, 0.04),
            moving,
            np.linalg.norm(index - CAVITY_INDEX, axis=1) > near,
        ),
    }
    to_mm, to_index = fixed.geometry.index_to_physical, fixed.geometry.physical_to_index
    whole = np.zeros(0)
    for name, (first, second, common) in cases.items():
        result = register(first, second, replace(PRESET, working_spacing_mm=spacing_mm), device="cpu")
        found = result.transform.apply(torch.from_numpy(affine.apply(to_mm, index))).numpy()
        errors = np.linalg.norm(affine.apply(to_index, found) - there, axis=1)
        whole = errors if name == "whole" else whole
        yield {
            "case": name,
            "mean TRE mm": float(errors[common].mean()),
            "p95 mm": float(np.percentile(errors[common], 95)),
            "whole, same points": float(whole[common].mean()),
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("linear", "deformable"))
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--spacing", type=float, default=1.5, help="working spacing of deformable, mm")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    chosen = (
        linear(options.data, options.seeds)
        if options.what == "linear"
        else deformable(options.data, options.spacing)
    )
    for row in chosen:
        if not rows:
            print("| " + " | ".join(row) + " |\n|" + "---|" * len(row))
        print(
            "| " + " | ".join(v if isinstance(v, str) else f"{v:.2f}" for v in row.values()) + " |",
            flush=True,
        )
        rows.append(row)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
