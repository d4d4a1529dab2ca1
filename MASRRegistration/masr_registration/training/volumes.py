"""Pairs for the registration network from a user's own unaligned volumes, of one body region in any modalities.

Every volume is first aligned linearly with the first one. A pair is then two of them, whose deformation nobody knows,
or one of them and its stochastic intensity transform under a known warp.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.data import Dataset

from ..presets import Linear, Normalisation
from ..representation.descriptor import Scan, region_box
from ..solver.linear import register_linear
from ..transforms.grid import sample
from ..volume import read_volume
from .appearance import degrade, intensity_transform
from .images import image_files
from .pairs import random_orientation
from .shapes import chance, integer, seeded, uniform
from .warps import CELL, WarpPair, as_warp_pair, half_way, random_velocity

BETWEEN_SHARE = 0.7
"""Of the pairs: two different volumes, where there are two."""
MARGIN_CELLS = 8


@dataclass(frozen=True, eq=False)
class AlignedVolume:
    """A volume on the grid that all share, ``(D, H, W)`` each: intensities in [0, 1], body, and 1 where it is known."""

    intensity: Tensor
    body: Tensor
    known: Tensor


def read_aligned(
    folder: Path, spacing_mm: float, tick: Callable[[int], None] = lambda number: None
) -> list[AlignedVolume]:
    """Every image in `folder`, aligned with the first, on voxels of twice the working spacing.

    `tick` is told the number of volumes done. Raises `InputError` where there is no image.
    """
    voxel = CELL * spacing_mm
    reference: Scan | None = None
    aligned = []
    for number, file in enumerate(image_files(folder)):
        scan = Scan.of(read_volume(file), "auto", Normalisation())
        matrix = np.eye(4)
        if reference is None:
            reference = scan
            grid = region_box(scan, voxel, MARGIN_CELLS * voxel, multiple=2)
        else:
            matrix = register_linear(reference, scan, Linear(), matrix, lambda fraction: None).matrix
        smooth = scan.smoothed(voxel)
        aligned.append(
            AlignedVolume(
                smooth.on(grid, matrix), smooth.region_on(grid, matrix), smooth.known_on(grid, matrix)
            )
        )
        tick(number + 1)
    return aligned


class VolumePairs(Dataset[WarpPair]):
    """Pair n of a seed, for n = 0, 1, 2, ... `length`; with `others`, only a `share` of the numbers."""

    def __init__(
        self,
        volumes: Sequence[AlignedVolume],
        size: int,
        seed: int,
        length: int,
        others: Dataset[WarpPair] | None = None,
        share: float = 1.0,
    ) -> None:
        self.volumes, self.size, self.seed, self.length = volumes, size, seed, length
        self.others, self.share = others, share

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> WarpPair:
        if number >= self.length:
            raise IndexError(number)
        generator = seeded(self.seed, number)
        if self.others is not None and not chance(generator, self.share):
            return self.others[number]
        first = second = integer(generator, 0, len(self.volumes) - 1)
        between = len(self.volumes) > 1 and chance(generator, BETWEEN_SHARE)
        if between:
            second = (first + integer(generator, 1, len(self.volumes) - 1)) % len(self.volumes)
        velocity = random_velocity(generator, self.size) * (0.5 if between else 1.0)
        index = self._places(generator, self.volumes[first].body, half_way(velocity))
        views = [self.volumes[number] for number in (first, second)]
        images = torch.stack([sample(v.intensity[None], i)[0] for v, i in zip(views, index, strict=True)])
        body, known = (
            torch.stack(
                [
                    sample(getattr(v, name)[None].float(), i, nearest=True, zeros=True)[0] > 0.5
                    for v, i in zip(views, index, strict=True)
                ]
            )
            for name in ("body", "known")
        )
        if not between:
            images = torch.stack((images[0], intensity_transform(images[1], generator)))
            images = degrade(images, generator)
        pair = as_warp_pair(images, body & known, velocity, generator, known=not between)
        return pair._replace(images=pair.images * known, weights=pair.weights * known)

    def _places(self, generator: Generator, body: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Where the voxels of both views lie in the volumes: turned anyhow around a place in the middle of the body."""
        places = body.nonzero().flip(1).float()
        middle = 0.7 * places.mean(dim=0) + 0.3 * places[integer(generator, 0, len(places) - 1)]
        turn = random_orientation(generator) * uniform(generator, 0.85, 1.2)
        relative = positions - (self.size - 1) / 2
        index = torch.einsum("ab,b...->a...", turn, relative) + middle[:, None, None, None, None]
        return index[:, 0], index[:, 1]
