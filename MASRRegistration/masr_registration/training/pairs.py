"""Two views of one anatomy, moved against each other by a known warp, each with a contrast of its own.

Views are cubes of `size` voxels. Coordinates are voxel indices ``(3, ...)`` in (i, j, k) order, as in
`transforms.grid`. Pair number n of a seed is always the same pair, in whatever process and order it is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.data import Dataset

from ..errors import InputError
from ..transforms.grid import identity, inside, sample
from ..volume import read_labels
from .appearance import degrade, render
from .shapes import chance, integer, label_map, seeded, uniform

CELL = 2
"""Voxels per cell: the stride of the features that the pair teaches."""
BRAIN_SHARE = 0.5
SHIFT = 0.375
"""Largest shift between the views along an axis, as a share of their size: beyond the candidates that the losses
compare, or a code for the place in the grid would answer most of them."""
_RIGHT = (41, 42, 43, 44, 46, 47, 49, 50, 51, 52, 53, 54, 57, 58, 60, 62, 137, 164)
_LEFT = (2, 3, 4, 5, 7, 8, 10, 11, 12, 13, 17, 18, 25, 26, 28, 30, 136, 163)
_OUTSIDE_BRAIN = 200
_FLUID_AROUND = 24


class Pair(NamedTuple):
    """What one training step looks at.

    Attributes:
        images: ``(2, 1, S, S, S)`` in [0, 1], the first and the second view.
        place: ``(3, s, s, s)``, where in the first view each cell of the second lies, in cells.
        valid: ``(s, s, s)`` bool, cells of the second view that are foreground and are seen in the first.
        labels: ``(s, s, s)`` long, their tissues.
    """

    images: Tensor
    place: Tensor
    valid: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Anatomies:
    """Label maps in memory: procedural ones ``(N, S, S, S)`` and brains of any size, all uint8."""

    procedural: np.ndarray
    brains: Sequence[np.ndarray]

    @classmethod
    def prepare(cls, folder: Path, count: int, size: int = 96, brains: Path | None = None) -> Anatomies:
        """Read them from `folder`, after making them there if they are missing; `brains` is a folder of label maps."""
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"procedural-{count}-{size}.npy"
        if not file.exists():
            maps = [label_map(Generator().manual_seed(number), size).numpy() for number in range(count)]
            np.save(file, np.stack(maps) if maps else np.zeros((0, size, size, size), np.uint8))
        names = sorted(brains.glob("*.nii*")) if brains else []
        if brains and not names:
            raise InputError(f"There are no label maps (*.nii.gz) in the folder {brains.name}.")
        return cls(np.load(file, mmap_mode="r"), [_read_brain(name) for name in names])


def _read_brain(file: Path) -> np.ndarray:
    """A whole-head label map at 1 mm with FreeSurfer's numbers, cut to the head, as uint8.

    Left and right become one tissue; numbers from 500, outside of the brain, become those from 200.
    """
    array = read_labels(file).array.astype(np.int64)
    table = np.arange(1000)
    table[list(_RIGHT)] = _LEFT
    table[500:556] = np.arange(200, 256)
    folded = table[array.clip(0, 999)].clip(0, 255).astype(np.uint8)
    places = np.argwhere(folded)
    low, high = places.min(axis=0), places.max(axis=0) + 1
    return np.ascontiguousarray(folded[tuple(slice(a, b) for a, b in zip(low, high, strict=True))])


class SeededPairs(Dataset[Pair]):
    """Pair n of a seed, for n = 0, 1, 2, ... `length`; `make` makes it from its own generator."""

    def __init__(self, size: int, seed: int, length: int) -> None:
        self.size, self.seed, self.length = size, seed, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> Pair:
        if number >= self.length:
            raise IndexError(number)
        return self.make(number, seeded(self.seed, number))

    def make(self, number: int, generator: Generator) -> Pair:
        raise NotImplementedError


class ProceduralPairs(SeededPairs):
    """Pairs of procedural anatomies and of brains; `merging` as in `render`."""

    def __init__(
        self, anatomies: Anatomies, size: int, seed: int, length: int, *, merging: bool = True
    ) -> None:
        super().__init__(size, seed, length)
        self.anatomies, self.merging = anatomies, merging

    def make(self, number: int, generator: Generator) -> Pair:
        first, second = two_views(generator, self.size)
        labels, structure, brain = self.anatomy(generator, torch.stack((first, second), dim=1))
        images = render(labels, structure, generator, brain=brain, merging=self.merging)
        return as_pair(
            degrade(images, generator), labels > 0, labels[1, ::CELL, ::CELL, ::CELL], second, generator
        )

    def anatomy(self, generator: Generator, positions: Tensor) -> tuple[Tensor, Tensor, bool]:
        """One anatomy at positions ``(3, 2, S, S, S)`` in voxels of the first view.

        Returns:
            Labels and structure noise ``(2, S, S, S)``, and whether it is a brain.
        """
        count = len(self.anatomies.procedural)
        brain = bool(self.anatomies.brains) and (count == 0 or chance(generator, BRAIN_SHARE))
        if brain:
            anatomy = self.anatomies.brains[integer(generator, 0, len(self.anatomies.brains) - 1)]
        else:
            anatomy = np.array(self.anatomies.procedural[integer(generator, 0, count - 1)])
        labels = _cut(generator, torch.from_numpy(anatomy), positions, self.size, brain=brain)
        scale = uniform(generator, 4, 14)
        nodes = int(2 * self.size / scale) + 2
        noise = torch.randn(1, nodes, nodes, nodes, generator=generator)
        structure = 1.5 * sample(noise, (positions + self.size / 2) / scale)[0]
        if brain and chance(generator, 0.6):
            stripped = labels >= _OUTSIDE_BRAIN
            if chance(generator, 0.5):
                stripped |= (labels == _FLUID_AROUND) & (structure > uniform(generator, -2, 2))
            labels[stripped] = 0
        return labels, structure, brain


def two_views(generator: Generator, size: int) -> tuple[Tensor, Tensor]:
    """Voxels of both views in the first view's indices ``(3, S, S, S)``: a rotation, scaling, shift and smooth warp."""
    first = identity((size,) * 3)
    centre = (size - 1) / 2
    angles = torch.empty(3).uniform_(-0.3, 0.3, generator=generator)
    stretch = torch.empty(3).uniform_(-0.15, 0.15, generator=generator).exp()
    matrix = _rotation(angles) * stretch
    shift = SHIFT * size * torch.empty(3).uniform_(-1, 1, generator=generator)
    second = torch.einsum("ab,bkji->akji", matrix, first - centre) + (centre + shift)[:, None, None, None]
    scale = uniform(generator, 12, 32)
    nodes = int(size / scale) + 2
    strength = uniform(generator, 0.0, 0.16) * scale
    warp = strength * torch.randn(3, nodes, nodes, nodes, generator=generator).clamp(-1.5, 1.5)
    return first, second + sample(warp, first / scale)


def _rotation(angles: Tensor) -> Tensor:
    x, y, z = angles.tolist()
    skew = torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return torch.linalg.matrix_exp(skew)


def random_orientation(generator: Generator) -> Tensor:
    """A rotation ``(3, 3)`` by up to 0.6 rad after a random exchange and flipping of the axes."""
    axes = torch.randperm(3, generator=generator)
    matrix = torch.eye(3)[axes] * torch.where(torch.rand(3, generator=generator) < 0.5, -1.0, 1.0)
    return _rotation(torch.empty(3).uniform_(-0.6, 0.6, generator=generator)) @ matrix


def cut_labels(anatomy: Tensor, index: Tensor) -> Tensor:
    """Labels (long) ``(*S)`` at voxel indices ``(3, *S)``, nearest voxel, 0 outside."""
    known = inside(index, anatomy.shape)
    i, j, k = (
        axis.round().long().clamp(0, n - 1) for axis, n in zip(index, reversed(anatomy.shape), strict=True)
    )
    return anatomy[k, j, i].long() * known


def _cut(generator: Generator, anatomy: Tensor, positions: Tensor, size: int, *, brain: bool) -> Tensor:
    """Labels (long) at `positions` in voxels of the first view, which lies somewhere in the anatomy, turned anyhow."""
    matrix = random_orientation(generator)
    low, high = (0.8, 2.2) if brain else (0.6, 1.3)
    matrix = matrix * low * (high / low) ** float(torch.rand((), generator=generator))
    sparse = anatomy[::4, ::4, ::4]
    occupied = ((sparse > 0) & (sparse < _OUTSIDE_BRAIN) if brain else sparse > 0).nonzero()
    somewhere = 4.0 * occupied[integer(generator, 0, len(occupied) - 1)].flip(0)
    relative = positions - (size - 1) / 2
    index = torch.einsum("ab,b...->a...", matrix, relative)
    return cut_labels(anatomy, index + somewhere[:, None, None, None, None])


def as_pair(images: Tensor, foreground: Tensor, labels: Tensor, second: Tensor, generator: Generator) -> Pair:
    """The pair of images and foregrounds ``(2, S, S, S)``, sometimes with a part of a view beyond its field of view.

    `labels` ``(s, s, s)`` are the tissues of the second view's cells; `second` as `two_views` gives it.
    """
    size = images.shape[-1]
    seen = torch.ones(images.shape, dtype=torch.bool)
    for view in range(2):
        if chance(generator, 0.15):
            axis, start = integer(generator, 0, 2), integer(generator, size // 2, size - 4)
            seen[view].movedim(axis, 0)[start:] = False
            if chance(generator, 0.5):
                seen[view] = seen[view].flip(axis)
    centres = identity((size // CELL,) * 3) * CELL + (CELL - 1) / 2
    place = sample(second, centres)
    visible = foreground & seen
    valid = visible[1, ::CELL, ::CELL, ::CELL] & inside(place, (size,) * 3)
    valid &= sample(visible[:1].float(), place, nearest=True)[0] > 0.5
    return Pair((images * seen)[:, None], (place - (CELL - 1) / 2) / CELL, valid, labels)
