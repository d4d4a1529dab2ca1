"""The error in millimetres, where something is known: landmarks, or a true transform."""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from ..evaluation.metrics import tre_mm
from ..transforms.chain import TransformChain
from ..volume import Geometry
from .inputs import Landmarks

_POINTS = 200_000


def landmark_error(chain: TransformChain, landmarks: Landmarks) -> dict[str, Any]:
    """Target registration error in mm: mean, median, max, and `each` in the order of the fixed landmarks."""

    def transform(points: np.ndarray) -> np.ndarray:
        return np.asarray(chain.apply(torch.as_tensor(points)).cpu(), dtype=np.float64)

    error = tre_mm(transform, landmarks.fixed, landmarks.moving)
    return {
        "mean": float(error.mean()),
        "median": float(np.median(error)),
        "max": float(error.max()),
        "each": [float(e) for e in error],
    }


class TrueError:
    """Distance in mm from where the true transform puts points of the fixed foreground (200,000 at most, seeded).

    `truth` maps fixed -> moving in LPS mm; `foreground` is a mask ``(D, H, W)`` on `geometry`.
    """

    def __init__(self, truth: sitk.Transform, geometry: Geometry, foreground: np.ndarray, seed: int) -> None:
        voxels = np.flatnonzero(foreground)
        if len(voxels) > _POINTS:
            voxels = np.sort(np.random.default_rng(seed).choice(voxels, _POINTS, replace=False))
        index = np.stack(np.unravel_index(voxels, geometry.shape)[::-1], axis=-1)
        matrix = geometry.index_to_physical
        self._points = index @ matrix[:3, :3].T + matrix[:3, 3]
        self._true = np.array([truth.TransformPoint(point) for point in self._points.tolist()])

    def of(self, chain: TransformChain) -> dict[str, float]:
        """Mean, median, p95 and max for a transform fixed -> moving."""
        moved = np.asarray(chain.apply(torch.from_numpy(self._points)).cpu())
        error = np.linalg.norm(self._true - moved, axis=1)
        return {
            "mean": float(error.mean()),
            "median": float(np.median(error)),
            "p95": float(np.percentile(error, 95)),
            "max": float(error.max()),
        }
