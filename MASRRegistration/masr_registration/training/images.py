"""Pairs from a user's own unlabelled volumes, as the paper trains: an image and its stochastic intensity transform.

Ours: the second view is moved against the first by a known warp, too, and both pass through the usual artefacts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.data import Dataset

from ..errors import InputError
from ..presets import Normalisation
from ..representation.descriptor import Scan, region_box
from ..transforms.grid import sample
from ..volume import read_volume
from .appearance import degrade, intensity_transform
from .pairs import CELL, Pair, SeededPairs, as_pair, two_views
from .shapes import chance, integer, uniform


@dataclass(frozen=True, eq=False)
class Image:
    """A normalised volume on an isotropic grid: intensities ``(D, H, W)`` in [0, 1] and the body, bool."""

    intensity: Tensor
    body: Tensor

    @classmethod
    def read(cls, file: Path, spacing_mm: float) -> Image:
        """Raises `InputError` when the file is no image."""
        scan = Scan.of(read_volume(file), "auto", Normalisation())
        grid = region_box(scan, spacing_mm, margin_mm=8 * spacing_mm)
        return cls(scan.smoothed(spacing_mm).on(grid, np.eye(4)), scan.region_on(grid, np.eye(4)))


def image_files(folder: Path) -> list[Path]:
    """Every NIfTI, NRRD and MetaImage file in `folder`. Raises `InputError` where there is none."""
    files = sorted(f for f in folder.glob("*") if f.name.endswith((".nii", ".nii.gz", ".nrrd", ".mha")))
    if not files:
        raise InputError(f"There are no images (.nii, .nii.gz, .nrrd, .mha) in the folder {folder.name}.")
    return files


def read_folder(folder: Path, spacing_mm: float) -> list[Image]:
    """The images of `image_files`. Raises `InputError`."""
    return [Image.read(file, spacing_mm) for file in image_files(folder)]


class ImagePairs(SeededPairs):
    """Pairs of real images; with `others`, only a `share` of the numbers, and those of `others` else."""

    def __init__(
        self,
        images: Sequence[Image],
        size: int,
        seed: int,
        length: int,
        others: Dataset[Pair] | None = None,
        share: float = 0.5,
    ) -> None:
        super().__init__(size, seed, length)
        self.images, self.others, self.share = images, others, share

    def make(self, number: int, generator: Generator) -> Pair:
        if self.others is not None and not chance(generator, self.share):
            return self.others[number]
        image = self.images[integer(generator, 0, len(self.images) - 1)]
        first, second = two_views(generator, self.size)
        places = image.body.nonzero()
        centre = places[integer(generator, 0, len(places) - 1)].flip(0).float()
        scale = uniform(generator, 0.8, 1.25)
        index = (torch.stack((first, second), dim=1) - (self.size - 1) / 2) * scale
        index = index + centre[:, None, None, None, None]
        views = sample(image.intensity[None], index)[0]
        body = sample(image.body[None].float(), index, nearest=True, zeros=True)[0] > 0.5
        views = torch.stack((views[0], intensity_transform(views[1], generator)))
        cells = self.size // CELL
        labels = torch.arange(cells**3).reshape(cells, cells, cells)
        return as_pair(degrade(views, generator), body, labels, second, generator)
