"""Measures of a registration: overlap, surface distance, landmarks, regularity, inverse consistency.

Lengths are millimetres; arrays are ``(D, H, W)``; spacing is (x, y, z) as in `Geometry`. Learn2Reg's evaluation code
differs from the textbook in places; its variants carry its name, for comparison with published figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import SimpleITK as sitk

from .surfels import surface

Points = np.ndarray
Transform = Callable[[Points], Points]


def dice(
    fixed: np.ndarray, warped: np.ndarray, labels: Iterable[int] | None = None
) -> dict[int, float | None]:
    """Dice overlap of every label, 2|A and B| / (|A| + |B|); `None` where the label is missing in either map.

    `labels` defaults to all values but 0. A label that was warped out of view is `None` here, 0 in `dice_learn2reg`.
    """
    chosen = _labels(labels, fixed, warped)
    count_fixed, count_warped, both = _counts(fixed), _counts(warped), _counts(fixed[fixed == warped])
    return {
        label: 2 * both.get(label, 0) / (count_fixed[label] + count_warped[label])
        if label in count_fixed and label in count_warped
        else None
        for label in chosen
    }


def dice_learn2reg(
    fixed: np.ndarray, moving: np.ndarray, warped: np.ndarray, labels: Iterable[int] | None = None
) -> dict[int, float | None]:
    """Learn2Reg's Dice: `None` where the label is missing in `fixed` or in `moving` before it was warped."""
    count_fixed, count_moving, count_warped = _counts(fixed), _counts(moving), _counts(warped)
    both = _counts(fixed[fixed == warped])
    return {
        label: 2 * both.get(label, 0) / (count_fixed[label] + count_warped.get(label, 0))
        if label in count_fixed and label in count_moving
        else None
        for label in _labels(labels, fixed, moving)
    }


def hd95(a: np.ndarray, b: np.ndarray, spacing: Sequence[float]) -> float | None:
    """95th percentile Hausdorff distance in mm between the surfaces of two masks: the larger of both directions.

    A mask's surface is the set of corners between its voxels and others, as in Learn2Reg; the outside of the grid is
    outside of every mask. `None` when a mask is empty.
    """
    box = _bounding_box(a, b)
    if box is None:
        return None
    surface_a, surface_b = surface(a[box])[0], surface(b[box])[0]
    return max(_directed_95(surface_a, surface_b, spacing), _directed_95(surface_b, surface_a, spacing))


def hd95_voxels_learn2reg(a: np.ndarray, b: np.ndarray) -> float | None:
    """Learn2Reg's `hd95`, in voxels whatever the spacing is; each piece of surface counts by its area.

    `None` when a mask is empty, where Learn2Reg's code gives infinity.
    """
    box = _bounding_box(a, b)
    if box is None:
        return None
    pieces = [surface(mask[box]) for mask in (a, b)]
    distances = [_distance(where, (1.0, 1.0, 1.0)) for where, _ in pieces]
    found = []
    for (where, areas), distance in zip(pieces, reversed(distances), strict=True):
        order = np.argsort(distance[where], kind="stable")
        share = np.cumsum(areas[where][order])
        at = np.searchsorted(share / share[-1], 0.95)
        found.append(float(distance[where][order][min(at, len(order) - 1)]))
    return max(found)


def tre_mm(transform_points: Transform, fixed_points: Points, moving_points: Points) -> np.ndarray:
    """Target registration error ``(N,)``: distance from each transformed fixed point to its moving point.

    `transform_points` maps ``(N, 3)`` LPS mm, fixed -> moving.
    """
    return _distances(transform_points(fixed_points), moving_points)


def inverse_consistency(forward: Transform, backward: Transform, points: Points) -> np.ndarray:
    """Distance in mm ``(N,)`` of each point from itself after `forward`, then `backward`."""
    return _distances(backward(forward(points)), points)


def sdlogj(determinant: np.ndarray, mask: np.ndarray | None = None) -> float | None:
    """Standard deviation of ln(det J) over the voxels of `mask` where det J > 0; `None` when there is no such voxel.

    Folded voxels (det J <= 0) have no logarithm and are left out: report the fold count beside this number.
    """
    values = determinant if mask is None else determinant[mask.astype(bool)]
    values = values[values > 0].astype(np.float64)
    return float(np.log(values).std()) if values.size else None


def _labels(labels: Iterable[int] | None, a: np.ndarray, b: np.ndarray) -> list[int]:
    if labels is not None:
        return [int(label) for label in labels]
    return [int(label) for label in np.union1d(a, b) if label != 0]


def _counts(array: np.ndarray) -> dict[int, int]:
    values, counts = np.unique(array, return_counts=True)
    return {int(value): int(count) for value, count in zip(values, counts, strict=True)}


def _bounding_box(a: np.ndarray, b: np.ndarray) -> tuple[slice, ...] | None:
    """Slices around both masks; `None` when one is empty."""
    if not a.any() or not b.any():
        return None
    box = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        used = np.flatnonzero(a.any(axis=others) | b.any(axis=others))
        box.append(slice(int(used[0]), int(used[-1]) + 1))
    return tuple(box)


def _directed_95(source: np.ndarray, target: np.ndarray, spacing: Sequence[float]) -> float:
    """95th percentile of the distances in mm from the points of `source` to the nearest point of `target`."""
    return float(np.percentile(_distance(target, spacing)[source], 95))


def _distance(points: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Of every node of the grid ``(D, H, W)`` from the nearest of `points`, bool, in mm."""
    image = sitk.GetImageFromArray(points.astype(np.uint8))
    image.SetSpacing([float(s) for s in spacing])
    map_ = sitk.SignedMaurerDistanceMap(
        image, insideIsPositive=False, squaredDistance=False, useImageSpacing=True
    )
    return np.abs(sitk.GetArrayFromImage(map_))


def _distances(a: Points, b: Points) -> np.ndarray:
    distances: np.ndarray = np.linalg.norm(
        np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64), axis=-1
    )
    return distances
