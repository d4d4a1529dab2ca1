"""What a result does to space, sampled over the fixed volume: displacement, local volume, and where it folds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from .inputs import InputVolume

MOST_SAMPLES = 1_000_000
FINEST_MM = 1.5
SLAB_SAMPLES = 30_000
"""Sampled at a time, in well under 0.1 s."""


@dataclass(frozen=True)
class Fold:
    """Cells that hang together and in which the transform is not one-to-one: their centre (RAS mm), and how many."""

    place: np.ndarray
    cells: int


class DeformationMap:
    """Samples of a transform node over a volume, taken step by step so that the window stays alive.

    The displacement is what is left of the transform without its linear factors, in the fixed volume's space; the
    Jacobian determinant is that of the whole transform.

    Attributes:
        ijkToRas: 4x4, indices of the samples to world RAS mm.
        magnitude: ``(D, H, W)`` float32, mm; after `steps`.
        jacobian: ``(D, H, W)`` float32, local volume in the moving image over that in the fixed one; after `steps`.
        folds: largest first; after `steps`.
    """

    def __init__(self, transformNode: Any, fixedNode: Any) -> None:
        volume = InputVolume.of(fixedNode)
        spacing = np.linalg.norm(volume.ijkToWorld[:3, :3], axis=0)
        size = np.array(fixedNode.GetImageData().GetDimensions())
        coarser = np.maximum(1.0, FINEST_MM / spacing)
        while np.prod(np.floor((size - 1) / coarser) + 1) > MOST_SAMPLES:
            coarser = np.maximum(coarser, 1.1 * (coarser * spacing).min() / spacing)
        self._size = np.maximum(np.floor((size - 1) / coarser).astype(int) + 1, 2)
        self.ijkToRas = volume.ijkToWorld @ np.diag([*coarser, 1.0])
        self._whole = transformNode.GetTransformFromParent()

    def steps(self) -> Iterator[float]:
        """Sample slab by slab; yields how much is done, last of all 1."""
        width, height, depth = (int(n) for n in self._size)
        moved = np.empty((depth, height, width, 3), np.float32)
        per = max(1, SLAB_SAMPLES // (width * height))
        for start in range(0, depth, per):
            stop = min(start + per, depth)
            moved[start:stop] = _sampled(self._whole, self.ijkToRas, self._size, start, stop)
            yield 0.8 * stop / depth
        places = self._places()
        back = np.linalg.inv(linearPart(self._whole))
        self.magnitude = np.empty(moved.shape[:3], np.float32)
        for start in range(0, depth, per):
            part = slice(start, start + per)
            straight = moved[part] @ back[:3, :3].T.astype(np.float32) + back[:3, 3].astype(np.float32)
            self.magnitude[part] = np.linalg.norm(straight - places(part), axis=-1)
        yield 0.85
        cell = np.linalg.det(self.ijkToRas[:3, :3])
        self.jacobian = np.empty(moved.shape[:3], np.float32)
        folded = np.zeros([n - 1 for n in moved.shape[:3]], np.uint8)
        for start in range(0, depth, per):
            stop = min(start + per, depth)
            low, high = max(start - 1, 0), min(stop + 1, depth)
            slopes = np.gradient(moved[low:high], axis=(2, 1, 0))
            self.jacobian[start:stop] = (_determinant(*slopes) / cell)[start - low : stop - low]
            cells = slice(start, min(stop, depth - 1))
            folded[cells] = _folded(moved[start : min(stop, depth - 1) + 1], cell)
            yield 0.85 + 0.14 * stop / depth
        self.folds = _clusters(folded, self.ijkToRas)
        yield 1.0

    def _places(self) -> Any:
        """World RAS of the samples of a slab, as a function of the slab."""
        matrix = self.ijkToRas.astype(np.float32)
        j, i = np.indices(self._size[1::-1], dtype=np.float32)
        plane = i[..., None] * matrix[:3, 0] + j[..., None] * matrix[:3, 1] + matrix[:3, 3]
        k = np.arange(self._size[2], dtype=np.float32)
        return lambda part: plane + k[part, None, None, None] * matrix[:3, 2]


def linearPart(transform: Any) -> np.ndarray:
    """4x4, the linear factors of a transform one after the other, without its displacement fields."""
    parts, matrix = vtk.vtkCollection(), np.eye(4)
    if transform is None:
        return matrix
    slicer.vtkMRMLTransformNode.FlattenGeneralTransform(parts, transform)
    for index in range(parts.GetNumberOfItems()):  # the first one acts first
        part = parts.GetItemAsObject(index)
        if isinstance(part, vtk.vtkLinearTransform):
            matrix = slicer.util.arrayFromVTKMatrix(part.GetMatrix()) @ matrix
    return matrix


def _sampled(transform: Any, ijkToRas: np.ndarray, size: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Where the samples of slices `start` to `stop` go: ``(stop - start, H, W, 3)`` RAS mm."""
    general = vtk.vtkGeneralTransform()
    if transform is not None:
        general.Concatenate(transform)
    general.Concatenate(slicer.util.vtkMatrixFromArray(ijkToRas))
    sampler = vtk.vtkTransformToGrid()
    sampler.SetInput(general)
    sampler.SetGridExtent(0, int(size[0]) - 1, 0, int(size[1]) - 1, start, stop - 1)
    sampler.SetGridScalarTypeToFloat()
    sampler.Update()
    vectors = vtk_to_numpy(sampler.GetOutput().GetPointData().GetScalars())
    vectors = vectors.reshape(stop - start, int(size[1]), int(size[0]), 3).copy()
    k, j, i = np.indices(vectors.shape[:3], dtype=np.float32)
    vectors += np.stack((i, j, k + start), axis=-1)
    return vectors


def _determinant(i: np.ndarray, j: np.ndarray, k: np.ndarray) -> np.ndarray:
    result: np.ndarray = np.einsum("...a,...a->...", i, np.cross(j, k))
    return result


def _folded(moved: np.ndarray, cell: float) -> np.ndarray:
    """Cells ``(d-1, h-1, w-1)`` with a corner at which the determinant is not positive."""
    i, j, k = (np.diff(moved, axis=axis) for axis in (2, 1, 0))
    folded = np.zeros([n - 1 for n in moved.shape[:3]], bool)
    for corner in range(8):
        a, b, c = corner & 1, corner >> 1 & 1, corner >> 2
        depth, height, width = folded.shape
        determinant = _determinant(
            i[c : c + depth, b : b + height],
            j[c : c + depth, :, a : a + width],
            k[:, b : b + height, a : a + width],
        )
        folded |= determinant / cell <= 0
    return folded


def _clusters(folded: np.ndarray, ijkToRas: np.ndarray) -> list[Fold]:
    if not folded.any():
        return []
    import SimpleITK as sitk

    labels = sitk.GetArrayFromImage(sitk.ConnectedComponent(sitk.GetImageFromArray(folded), True))
    found = []
    for label in range(1, labels.max() + 1):
        cells = np.argwhere(labels == label)[:, ::-1] + 0.5
        centre = ijkToRas @ [*cells.mean(axis=0), 1.0]
        found.append(Fold(centre[:3], len(cells)))
    return sorted(found, key=lambda fold: -fold.cells)
