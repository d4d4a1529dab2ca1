"""A problem: two images to register, and what is known to score the answer by."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from masr_registration.volume import Geometry, Volume, write_volume

_IMAGES = ("fixed", "moving", "fixed_labels", "moving_labels", "foreground")


@dataclass(frozen=True)
class Problem:
    """What a case consists of, once built.

    Attributes:
        fixed, moving: the images.
        foreground: uint8 mask of the fixed body on the fixed grid; everything is scored inside it.
        preset: the preset that suits the images.
        fixed_labels, moving_labels: label maps, each on its image's grid.
        points, targets: ``(N, 3)`` LPS mm: centres of fixed voxels and where they truly lie in the moving image.
        notes: facts about the problem for the reader of the table (a silver truth, a surrogate, a warp's size).
    """

    fixed: Volume
    moving: Volume
    foreground: Volume
    preset: str
    fixed_labels: Volume | None = None
    moving_labels: Volume | None = None
    points: np.ndarray | None = None
    targets: np.ndarray | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write the problem into `folder`; `about.json` comes last and marks it complete."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in _IMAGES:
            volume = getattr(self, name)
            if volume is not None:
                write_volume(volume, image_path(folder, name))
        if self.points is not None and self.targets is not None:
            np.savez(folder / "truth.npz", points=self.points, targets=self.targets)
        about = {"preset": self.preset, "notes": self.notes}
        (folder / "about.json").write_text(json.dumps(about, indent=1), encoding="utf-8")


def image_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.nii.gz"


def read_about(folder: Path) -> dict[str, Any]:
    about: dict[str, Any] = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    return about


def read_image(folder: Path, name: str) -> Volume | None:
    """One of a saved problem's images: float32 for the two scans, int32 for labels and masks."""
    path = image_path(folder, name)
    if not path.is_file():
        return None
    kind = sitk.sitkFloat32 if name in ("fixed", "moving") else sitk.sitkInt32
    return Volume.from_sitk(sitk.ReadImage(str(path), kind), name)


def load(folder: Path) -> Problem:
    """A saved problem. Raises `FileNotFoundError` when it is incomplete."""
    about = read_about(folder)
    images = {name: read_image(folder, name) for name in _IMAGES}
    fixed, moving, foreground = (images.pop(name) for name in ("fixed", "moving", "foreground"))
    if fixed is None or moving is None or foreground is None:
        raise FileNotFoundError(folder)
    truth = folder / "truth.npz"
    known = dict(np.load(truth)) if truth.is_file() else {}
    return Problem(fixed, moving, foreground, about["preset"], **images, **known, notes=about["notes"])


def voxel_points(geometry: Geometry, mask: np.ndarray, count: int, seed: int) -> np.ndarray:
    """LPS mm ``(N, 3)`` of at most `count` voxels of `mask` ``(D, H, W)``, drawn with `seed`."""
    voxels = np.flatnonzero(mask)
    if len(voxels) > count:
        voxels = np.sort(np.random.default_rng(seed).choice(voxels, count, replace=False))
    index = np.stack(np.unravel_index(voxels, geometry.shape)[::-1], axis=-1)
    matrix = geometry.index_to_physical
    points: np.ndarray = index @ matrix[:3, :3].T + matrix[:3, 3]
    return points
