"""The measures of Learn2Reg and of LUMIR as their public evaluation computes them, oddities included.

Displacement fields are ``(3, I, J, K)`` in voxels along (i, j, k), the order of a NIfTI file's axes: the voxel
p of the fixed image is found at p + u(p) in the moving one. Header geometry plays no part. The facts were taken from
MDL-UzL/L2R (evaluation of May 2022 and later) and JHU-MedImage-Reg/LUMIR_L2R; what differs from the textbook:

- Dice and HD95 leave out a label that is missing in the fixed or in the moving map, but not one that was lost;
- HD95 is in voxels whatever the spacing, infinite for a label that was lost, and weighted by the area of the surface;
- a place outside of the moving grid, be it by less than half a voxel, has the label 0;
- SDlogJ is the deviation of ln(clip(det J + 3, 1e-9, 1e9)), so that it hides folds, and the count of folds that is
  reported beside it, of that clipped number, is always 0;
- the TRE takes the displacement by cubic splines, and the spacing of the moving image;
- the "30 %" of a measure is the quantile 0.3 over the cases of Dice and of HD95 (good cases), 0.7 of the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import ResourceError
from ..metrics import dice_learn2reg, hd95_voxels_learn2reg

_SLAB = 16
_MARGIN = 2
SOLE = ("sdlogj", "tre")
"""Measures whose "30 %" is the quantile 0.7."""


def ndimage() -> Any:
    """Of SciPy, as the evaluation uses it. Raises `ResourceError` where SciPy is not installed."""
    try:
        from scipy import ndimage as module
    except ImportError as error:
        raise ResourceError(
            "The measures of Learn2Reg need the Python package scipy: install masr-registration[evaluate]."
        ) from error
    return module


def warp(moving: np.ndarray, field: np.ndarray) -> np.ndarray:
    """A label map ``(I, J, K)`` of the moving image at p + u(p): nearest voxel, 0 outside of its grid."""
    identity = np.indices(field.shape[1:], dtype=np.float64)
    warped: np.ndarray = ndimage().map_coordinates(moving, identity + field, order=0)
    return warped


def overlap(
    fixed: np.ndarray, moving: np.ndarray, warped: np.ndarray, labels: Sequence[int]
) -> dict[str, Any]:
    """Dice and HD95 by label, None where Learn2Reg leaves the label out, infinite for the HD95 of a lost one."""
    overlaps = dice_learn2reg(fixed, moving, warped, labels)
    distances: dict[int, float | None] = {}
    for label, value in overlaps.items():
        distance = None if value is None else hd95_voxels_learn2reg(fixed == label, warped == label)
        distances[label] = np.inf if value is not None and distance is None else distance
    return {"dice_each": overlaps, "hd95_each": distances, "dice": mean(overlaps), "hd95": mean(distances)}


def mean(values: Mapping[int, float | None]) -> float | None:
    """Over the labels that are not left out."""
    known = [value for value in values.values() if value is not None]
    return float(np.mean(known)) if known else None


def sdlogj(field: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Within `mask` ``(I, J, K)`` where it is 1; without one, over the grid less two voxels at every border."""
    logs = np.log(np.clip(_central(field) + 3.0, 1e-9, 1e9))
    if mask is not None:
        inner = mask[(slice(_MARGIN, -_MARGIN),) * 3]
        logs = logs[inner == 1]
    return float(logs.std())


def nonpositive_share(field: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Share of voxels whose determinant by central differences is not positive, over the same voxels as `sdlogj`."""
    folded = _central(field) <= 0
    if mask is not None:
        folded = folded[mask[(slice(_MARGIN, -_MARGIN),) * 3] == 1]
    return float(folded.mean())


def tre(
    field: np.ndarray, fixed: np.ndarray, moving: np.ndarray, moving_spacing: Sequence[float]
) -> np.ndarray:
    """Target registration errors ``(N,)`` in mm of landmarks ``(N, 3)``, indices (i, j, k) of their images."""
    interpolate = ndimage().map_coordinates
    moved = fixed + np.stack([interpolate(component, fixed.T) for component in field], axis=1)
    errors: np.ndarray = np.linalg.norm((moved - moving) * np.asarray(moving_spacing), axis=1)
    return errors


def tre_of_balls(fixed: np.ndarray, moving: np.ndarray, field: np.ndarray) -> float | None:
    """LUMIR's mean TRE in voxels: landmarks are labels of two maps ``(I, J, K)``; distances of their centroids.

    Of the warped balls; `None` where one was lost, for which LUMIR's code gives no number.
    """
    warped = warp(moving, field)
    errors = []
    for label in (value for value in np.unique(fixed) if value != 0):
        centres = [np.argwhere(map_ == label) for map_ in (warped, fixed)]
        if not len(centres[0]):
            return None
        errors.append(float(np.linalg.norm(centres[0].mean(axis=0) - centres[1].mean(axis=0))))
    return float(np.mean(errors)) if errors else None


def nondiffeomorphic_percent(field: np.ndarray, moving: np.ndarray) -> float:
    """LUMIR's NDV: volume of the tetrahedra that are turned inside out, in percent of the foreground.

    Ten tetrahedra around every voxel, which is how two ways of cutting a cell in five see it (Liu et al., On finite
    difference Jacobian computation in deformable image registration, 2024). The foreground is where the *moving* image
    ``(I, J, K)`` is over 0, less one voxel at every border.
    """
    inner = moving[1:-1, 1:-1, 1:-1] > 0
    volume = 0.0
    for start in range(0, inner.shape[0], _SLAB):
        stop = min(start + _SLAB, inner.shape[0])
        place = np.asarray(field[:, start : stop + 2], dtype=np.float64)
        place = place + np.indices(place.shape[1:])
        for first, second, third in _tetrahedra():
            edges = [
                sign * (_shifted(place, offset) - _shifted(place, (0, 0, 0)))
                for sign, offset in (first, second, third)
            ]
            turned = np.minimum(_determinant(*edges), 0.0)
            volume += float(-(turned * inner[start:stop]).sum()) / 12
    return 100 * volume / max(int(inner.sum()), 1)


Edge = tuple[int, tuple[int, int, int]]


def _tetrahedra() -> Iterator[tuple[Edge, Edge, Edge]]:
    """Three edges each, with the sign that makes their determinant positive for the identity."""
    for bits in np.ndindex(2, 2, 2):
        signs = [1 if bit == 0 else -1 for bit in bits]
        offsets = [tuple(signs[axis] if axis == other else 0 for other in range(3)) for axis in range(3)]
        first, second, third = ((sign, (o[0], o[1], o[2])) for sign, o in zip(signs, offsets, strict=True))
        yield first, second, third
    yield (1, (-1, -1, 0)), (1, (-1, 0, -1)), (1, (0, -1, -1))
    yield (1, (1, 1, 0)), (1, (0, 1, 1)), (1, (1, 0, 1))


def _shifted(values: np.ndarray, offset: tuple[int, int, int]) -> np.ndarray:
    """`values` ``(3, I, J, K)`` at the inner voxels, seen from `offset` away."""
    box = [slice(1 + o, n - 1 + o) for o, n in zip(offset, values.shape[1:], strict=True)]
    return values[:, box[0], box[1], box[2]]


def _central(field: np.ndarray) -> np.ndarray:
    """Determinant of p + u(p) by central differences, less two voxels at every border."""
    parts = []
    for start in range(_MARGIN, field.shape[1] - _MARGIN, _SLAB):
        stop = min(start + _SLAB, field.shape[1] - _MARGIN)
        part = np.asarray(field[:, start - 1 : stop + 1, 1:-1, 1:-1], dtype=np.float64)
        columns = []
        for axis in range(3):
            ahead = tuple(slice(2, None) if a == axis else slice(1, -1) for a in range(3))
            behind = tuple(slice(None, -2) if a == axis else slice(1, -1) for a in range(3))
            column = 0.5 * (part[(slice(None), *ahead)] - part[(slice(None), *behind)])
            column[axis] += 1
            columns.append(column)
        parts.append(_determinant(*columns))
    return np.concatenate(parts)


def _determinant(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Of three vectors ``(3, ...)``."""
    determinant: np.ndarray = (
        a[0] * (b[1] * c[2] - b[2] * c[1])
        - a[1] * (b[0] * c[2] - b[2] * c[0])
        + a[2] * (b[0] * c[1] - b[1] * c[0])
    )
    return determinant


def over_cases(measure: str, values: Sequence[float]) -> dict[str, float]:
    """Mean, deviation and "30 %" over the cases, as in Learn2Reg's result files."""
    quantile = 0.7 if measure in SOLE else 0.3
    with np.errstate(invalid="ignore"):
        return {
            "mean": float(np.mean(values)),
            "std": float(np.std(values)),
            "30": float(np.quantile(values, quantile)),
        }
