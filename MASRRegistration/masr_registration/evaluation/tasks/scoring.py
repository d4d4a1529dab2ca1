"""The score of one displacement field of one pair: Learn2Reg's measures, and strict ones beside them.

Every method is scored by the same code from the same kind of field, ours no less than another's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from ...errors import InputError
from ...transforms.grid import sample
from ...transforms.jacobian import fold_count, jacobian_determinant
from ...volume import Geometry, check_same_grid, read_labels, read_volume
from .. import metrics
from ..landmarks import pair_landmarks, read_landmarks
from . import fields, learn2reg
from .cases import Side, Task, TaskCase

_GRID_VOXELS = 0.05


@dataclass(frozen=True, eq=False)
class Truth:
    """What is known about a pair. Maps are ``(I, J, K)``, landmarks ``(N, 3)`` indices (i, j, k) of their images."""

    fixed: Geometry
    moving: Geometry
    labels: tuple[np.ndarray, np.ndarray] | None
    mask: np.ndarray | None
    landmarks: tuple[np.ndarray, np.ndarray] | None
    balls: tuple[np.ndarray, np.ndarray] | None
    moving_image: np.ndarray | None

    @property
    def one_grid(self) -> bool:
        """Whether both images have the same number of voxels, which Learn2Reg's measures presume."""
        return self.fixed.size == self.moving.size

    @classmethod
    def of(cls, task: Task, case: TaskCase) -> Truth:
        """Raises `InputError`."""
        fixed, moving = geometry(case.fixed.image), geometry(case.moving.image)
        labels = None
        if case.has_labels:
            labels = _labels(case.fixed, fixed), _labels(case.moving, moving)
        mask = None
        if task.masked and case.fixed.mask is not None:
            mask = _map(case.fixed.mask, fixed, "mask")
        landmarks = balls = None
        if case.has_landmarks and case.landmark_kind == "balls":
            assert case.fixed.landmarks is not None
            assert case.moving.landmarks is not None
            balls = (
                _map(case.fixed.landmarks, fixed, "landmarks"),
                _map(case.moving.landmarks, moving, "landmarks"),
            )
        elif case.has_landmarks:
            landmarks = _landmarks(case, fixed, moving)
        image = read_volume(case.moving.image).array.transpose(2, 1, 0) if task.volumes else None
        return cls(fixed, moving, labels, mask, landmarks, balls, image)


def score(task: Task, truth: Truth, field: np.ndarray) -> dict[str, Any]:
    """``{"learn2reg": {...}, "strict": {...}}`` of a field ``(3, I, J, K)`` in voxels; null for what is not known.

    Learn2Reg's measures are left out where the images have different numbers of voxels: its evaluation cannot be run.
    """
    theirs: dict[str, Any] = {}
    numbers = _numbers(task, truth)
    warped = None
    if truth.labels is not None:
        warped = learn2reg.warp(truth.labels[1], field)
    if truth.one_grid:
        theirs["sdlogj"] = learn2reg.sdlogj(field, truth.mask)
        theirs["nonpositive_percent"] = 100 * learn2reg.nonpositive_share(field, truth.mask)
        if truth.labels is not None and warped is not None:
            theirs |= learn2reg.overlap(*truth.labels, warped, numbers)
        if truth.landmarks is not None:
            theirs["tre"] = float(learn2reg.tre(field, *truth.landmarks, truth.moving.spacing).mean())
        if truth.balls is not None:
            theirs["tre"] = learn2reg.tre_of_balls(*truth.balls, field)
        if truth.moving_image is not None:
            theirs["ndv_percent"] = learn2reg.nondiffeomorphic_percent(field, truth.moving_image)
    return {"learn2reg": theirs, "strict": _strict(truth, field, warped, numbers)}


def geometry(path: Path) -> Geometry:
    """Of an image's header alone."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        size, spacing, origin, direction = (
            reader.GetSize(), reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection()
        )  # fmt: skip
        if len(size) != 3:
            raise RuntimeError
    except RuntimeError as error:
        raise InputError(f'"{path.name}" is no 3-D image that can be read.') from error
    return Geometry(size, spacing, origin, direction)


def _strict(truth: Truth, field: np.ndarray, warped: np.ndarray | None, numbers: list[int]) -> dict[str, Any]:
    """All corners of all cells for folds, millimetres for lengths, 0 for the Dice of a label that was lost."""
    displacement = torch.from_numpy(fields.to_mm(field, truth.fixed, truth.moving))
    mask = (
        None
        if truth.mask is None
        else torch.from_numpy(np.ascontiguousarray(truth.mask.transpose(2, 1, 0)) > 0)
    )
    cells = int(np.prod([n - 1 for n in truth.fixed.size]))
    determinant = jacobian_determinant(displacement, truth.fixed).numpy()
    length = displacement.norm(dim=0)
    strict: dict[str, Any] = {
        "folds": fold_count(displacement, truth.fixed),
        "cells": cells,
        "folds_in_mask": None if mask is None else fold_count(displacement, truth.fixed, mask),
        "sdlogj": metrics.sdlogj(determinant, None if mask is None else mask.numpy()),
        "displacement_mean_mm": float(length.mean() if mask is None else length[mask].mean()),
        "displacement_max_mm": float(length.max()),
    }
    if truth.labels is not None and warped is not None:
        strict |= _overlap(
            truth.labels[0], warped, truth.fixed, [n for n in numbers if n in _values(truth.labels)]
        )
    if truth.landmarks is not None:
        errors = _landmark_errors(truth, field)
        strict |= {
            "tre_mm": float(errors.mean()),
            "tre_median_mm": float(np.median(errors)),
            "tre_max_mm": float(errors.max()),
            "landmarks": len(errors),
        }
    return strict


def _overlap(fixed: np.ndarray, warped: np.ndarray, grid: Geometry, labels: list[int]) -> dict[str, Any]:
    overlaps = {label: value or 0.0 for label, value in metrics.dice(fixed, warped, labels).items()}
    spacing = grid.spacing[::-1]  # of arrays (I, J, K), which `hd95` reads as (z, y, x)
    distances = {label: metrics.hd95(fixed == label, warped == label, spacing) for label in labels}
    known = [value for value in distances.values() if value is not None]
    return {
        "dice": float(np.mean(list(overlaps.values()))) if overlaps else None,
        "dice_each": overlaps,
        "hd95_mm": float(np.mean(known)) if known else None,
        "hd95_each_mm": distances,
        "labels_lost": sum(value is None for value in distances.values()),
    }


def _values(labels: tuple[np.ndarray, np.ndarray]) -> set[int]:
    """Those that occur in both maps."""
    return {int(v) for v in np.intersect1d(*labels) if v != 0}


def _numbers(task: Task, truth: Truth) -> list[int]:
    """Of the labels to be measured: the task's, or all that occur in both maps."""
    if task.labels:
        return list(task.labels)
    return sorted(_values(truth.labels)) if truth.labels is not None else []


def _landmark_errors(truth: Truth, field: np.ndarray) -> np.ndarray:
    """In mm, the field linear between voxels and constant beyond the border."""
    assert truth.landmarks is not None
    fixed, moving = truth.landmarks
    image = torch.from_numpy(np.ascontiguousarray(field.transpose(0, 3, 2, 1)))
    moved = fixed + sample(image, torch.from_numpy(fixed.T).float()).numpy().T
    axes = truth.moving.index_to_physical[:3, :3]
    errors: np.ndarray = np.linalg.norm((moved - moving) @ axes.T, axis=1)
    return errors


def _labels(side: Side, grid: Geometry) -> np.ndarray:
    assert side.labels is not None
    values = _map(side.labels, grid, "labels")
    if side.relabel is None:
        return values
    renumbered = np.zeros_like(values)
    for number, meaning in side.relabel.items():
        renumbered[values == number] = meaning
    return renumbered


def _map(path: Path, grid: Geometry, what: str) -> np.ndarray:
    """A label map ``(I, J, K)`` on the grid of its image. Raises `InputError`."""
    volume = read_labels(path)
    if not check_same_grid(volume.geometry, grid, tolerance=_GRID_VOXELS):
        raise InputError(f'The {what} "{path.name}" do not lie on the grid of their image.')
    return volume.array.transpose(2, 1, 0)


def _landmarks(case: TaskCase, fixed: Geometry, moving: Geometry) -> tuple[np.ndarray, np.ndarray]:
    assert case.fixed.landmarks is not None
    assert case.moving.landmarks is not None
    if case.landmark_kind == "voxels":
        first, second = (_voxels(path) for path in (case.fixed.landmarks, case.moving.landmarks))
        if len(first) != len(second):
            raise InputError(
                f'"{case.fixed.landmarks.name}" and its counterpart hold different numbers of landmarks.'
            )
        return first, second
    _, first, second = pair_landmarks(
        read_landmarks(case.fixed.landmarks), read_landmarks(case.moving.landmarks)
    )
    return _index(first, fixed), _index(second, moving)


def _voxels(path: Path) -> np.ndarray:
    try:
        points = np.loadtxt(path, delimiter=",", ndmin=2)
    except (OSError, ValueError) as error:
        raise InputError(f'"{path.name}" is no list of landmarks in voxels (i,j,k in every line).') from error
    if points.shape[1:] != (3,):
        raise InputError(f'"{path.name}" is no list of landmarks in voxels (i,j,k in every line).')
    return points


def _index(points: np.ndarray, grid: Geometry) -> np.ndarray:
    matrix = grid.physical_to_index
    index: np.ndarray = points @ matrix[:3, :3].T + matrix[:3, 3]
    return index
