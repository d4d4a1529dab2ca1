"""The score of one displacement: ``python -m benchmarks.score PROBLEM OUTPUT`` writes `score.json` there.

A process of its own with the benchmark's own copy of the package, so that every method and every checkout of MASR is
judged by the same code.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from masr_registration.evaluation.metrics import dice, hd95, inverse_consistency, sdlogj, tre_mm
from masr_registration.transforms.chain import TransformChain
from masr_registration.transforms.jacobian import fold_count, jacobian_determinant
from masr_registration.volume import Geometry, Volume

from .problem import Problem, load, voxel_points

INVERSE_POINTS = 50_000


def main(problem: Path, output: Path) -> None:
    displacement = np.load(output / "displacement.npy")
    inverse = output / "inverse.h5"
    transform = sitk.ReadTransform(str(inverse)) if inverse.is_file() else None
    result = score(load(problem), displacement, transform)
    (output / "score.json").write_text(json.dumps(result, indent=1), encoding="utf-8")


def score(problem: Problem, displacement: np.ndarray, inverse: sitk.Transform | None) -> dict[str, Any]:
    """All numbers that the problem allows; `displacement` ``(3, D, H, W)`` in LPS mm on the fixed grid."""
    geometry = problem.fixed.geometry
    body = problem.foreground.array > 0
    field = torch.from_numpy(displacement)
    determinant = jacobian_determinant(field, geometry).numpy()
    length = np.linalg.norm(displacement[:, body], axis=0)
    result: dict[str, Any] = {
        "folds": fold_count(field, geometry, torch.from_numpy(body)),
        "folds_everywhere": fold_count(field, geometry),
        "cells": int(np.prod([n - 1 for n in geometry.size])),
        "sdlogj": sdlogj(determinant, body),
        "displacement_mean_mm": float(length.mean()),
        "displacement_max_mm": float(length.max()),
    }
    if problem.fixed_labels is not None and problem.moving_labels is not None:
        warped = warp_labels(problem.moving_labels, displacement, geometry)
        result |= _overlap(problem.fixed_labels.array, warped, geometry)
    if problem.points is not None and problem.targets is not None:
        result |= _error(geometry, displacement, problem.points, problem.targets)
    if inverse is not None:
        result |= _inverse_error(geometry, body, displacement, inverse)
    return result


def warp_labels(labels: Volume, displacement: np.ndarray, geometry: Geometry) -> np.ndarray:
    """`labels` seen through the displacement on `geometry`, nearest voxel, 0 outside."""
    to_index = labels.geometry.physical_to_index @ geometry.index_to_physical
    k, j, i = np.indices(geometry.shape, dtype=np.float32)
    own = np.stack([i, j, k]).reshape(3, -1)
    steps = labels.geometry.physical_to_index[:3, :3] @ displacement.reshape(3, -1).astype(np.float64)
    place = np.floor(to_index[:3, :3] @ own + to_index[:3, 3:] + steps + 0.5).astype(np.int64)
    size = np.array(labels.geometry.size)[:, None]
    seen = np.all((place >= 0) & (place < size), axis=0)
    i, j, k = place[:, seen]
    warped = np.zeros(own.shape[1], labels.array.dtype)
    warped[seen] = labels.array[k, j, i]
    return warped.reshape(geometry.shape)


def _overlap(fixed: np.ndarray, warped: np.ndarray, geometry: Geometry) -> dict[str, Any]:
    """Dice and HD95 over the labels of the fixed image; a label that was lost has a Dice of 0."""
    labels = [int(v) for v in np.unique(fixed) if v]
    overlaps = {label: value or 0.0 for label, value in dice(fixed, warped, labels).items()}
    distances = [hd95(fixed == label, warped == label, geometry.spacing) for label in labels]
    found = [d for d in distances if d is not None]
    return {
        "dice": float(np.mean(list(overlaps.values()))),
        "dice_each": overlaps,
        "hd95_mm": float(np.mean(found)) if found else None,
        "labels_lost": len(distances) - len(found),
    }


def _error(
    geometry: Geometry, displacement: np.ndarray, points: np.ndarray, targets: np.ndarray
) -> dict[str, Any]:
    own = _at_voxels(geometry, displacement, points)
    error = tre_mm(lambda p: p + own, points, targets)
    before = np.linalg.norm(targets - points, axis=1)
    return {
        "tre_mm": float(error.mean()),
        "tre_median_mm": float(np.median(error)),
        "tre_p95_mm": float(np.percentile(error, 95)),
        "tre_max_mm": float(error.max()),
        "tre_before_mm": float(before.mean()),
    }


def _inverse_error(
    geometry: Geometry, body: np.ndarray, displacement: np.ndarray, inverse: sitk.Transform
) -> dict[str, Any]:
    points = voxel_points(geometry, body, INVERSE_POINTS, seed=0)
    forward = points + _at_voxels(geometry, displacement, points)
    chain = TransformChain.from_sitk(inverse)
    error = inverse_consistency(
        lambda _: forward, lambda moved: chain.apply(torch.from_numpy(moved)).numpy(), points
    )
    return {"inverse_mean_mm": float(error.mean()), "inverse_max_mm": float(error.max())}


def _at_voxels(geometry: Geometry, displacement: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Displacements ``(N, 3)`` at points that are voxel centres."""
    matrix = geometry.physical_to_index
    i, j, k = np.rint(points @ matrix[:3, :3].T + matrix[:3, 3]).astype(np.int64).T
    return np.asarray(displacement[:, k, j, i].T, dtype=np.float64)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
