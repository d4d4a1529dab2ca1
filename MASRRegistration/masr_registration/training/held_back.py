"""Before and after an adaptation: places of blocks that were held back, found again under other contrasts and warps.

The user's images have no labels and need not be aligned, so truth is made: a block is moved and warped by a known
smooth field, and what it is compared with is the same block under a stochastic intensity transform, unmoved. Both pass
through the artefacts of the training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from ..errors import InputError
from ..evaluation.discriminability import CELL, INTERIOR_CELLS, Descriptor, Pair, Protocol, retrieve
from ..transforms.grid import box, identity, sample
from ..volume import Geometry
from .appearance import degrade, intensity_transform
from .images import Image

SHARE = 0.3
"""Of each image's body along its longest axis that is held back."""
FEWEST_VOXELS = 32
"""Of a block along each axis; fewer leave no place whose window lies in it."""
LARGEST_WARP = 3.0
SHIFTS = (2.5, 5.0)
"""Voxels by which a whole block is moved along each axis: features that only know where in the grid they lie would find
every place where nothing has moved."""
WARP_NODES = 14
TIMES = 4
HIT_CELLS = 1.0
REPRESENTATIONS = ("masr", "dsir")
"""What the solver compares, and the features of the network alone."""
_MULTIPLE = 8
_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def split(image: Image) -> tuple[Image, Image]:
    """What is trained on, and the block that is held back: the last part along the axis in which the body is longest.

    Raises `InputError` for an image that is too small to be cut.
    """
    places = image.body.nonzero()
    low, high = places.amin(dim=0), places.amax(dim=0) + 1
    axis = int((high - low).argmax())
    cut = int(high[axis] - max(SHARE * float(high[axis] - low[axis]), FEWEST_VOXELS))
    ends = slice(None, cut), slice(cut, int(high[axis]))
    parts = [Image(*(_along(tensor, axis, end) for tensor in (image.intensity, image.body))) for end in ends]
    if any(min(part.intensity.shape) < FEWEST_VOXELS or not part.body.any() for part in parts):
        raise InputError(
            f"An image is too small to hold a part of it back: it needs {2 * FEWEST_VOXELS} voxels of the working "
            "spacing along its longest axis and half as many along the others."
        )
    return parts[0], parts[1]


def _along(tensor: Tensor, axis: int, part: slice) -> Tensor:
    return tensor.movedim(axis, 0)[part].movedim(0, axis).contiguous()


@dataclass(frozen=True)
class Comparison:
    """Errors of the same places with two models.

    Attributes:
        before, after: by representation, ``(N,)`` in cells of two voxels.
    """

    before: dict[str, np.ndarray]
    after: dict[str, np.ndarray]

    def gain(self, name: str) -> tuple[float, float]:
        """By how much the share of hits rose, and the standard error of that (paired over the places)."""
        hits = [(errors[name] <= HIT_CELLS).astype(float) for errors in (self.before, self.after)]
        difference = hits[1] - hits[0]
        return float(difference.mean()), float(difference.std() / np.sqrt(len(difference)))

    @property
    def better(self) -> bool:
        """Whether what the solver compares finds more places by two standard errors, and features alone not fewer."""
        rise, error = self.gain("masr")
        alone, its_error = self.gain("dsir")
        return rise > 2 * error and rise > 0 and alone >= -2 * its_error

    def to_json(self) -> dict[str, Any]:
        """Shares of hits and medians before and after, in cells, by representation."""
        numbers: dict[str, Any] = {"places": len(next(iter(self.before.values()))), "hit_cells": HIT_CELLS}
        for name in self.before:
            rise, error = self.gain(name)
            numbers[name] = {
                "hits_before": float((self.before[name] <= HIT_CELLS).mean()),
                "hits_after": float((self.after[name] <= HIT_CELLS).mean()),
                "gain": rise,
                "gain_error": error,
                "median_before": float(np.median(self.before[name])),
                "median_after": float(np.median(self.after[name])),
            }
        return numbers


def errors(
    pairs: Sequence[tuple[Pair, Protocol]],
    descriptors: dict[str, Descriptor],
    check: Callable[[], None] = lambda: None,
) -> dict[str, np.ndarray]:
    """Of every place of every pair, in cells; `check` is called between them."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in descriptors}
    for pair, protocol in pairs:
        for name, descriptor in descriptors.items():
            check()
            found[name].append(retrieve(pair, descriptor, protocol).error_mm / pair.cell_mm)
    return {name: np.concatenate(parts) for name, parts in found.items()}


def pairs(blocks: Sequence[Image], anchors: int, seed: int) -> list[tuple[Pair, Protocol]]:
    """`TIMES` pairs of every block, with `anchors` places in all.

    Lengths are in voxels of the working spacing, whatever that is in mm.
    """
    protocol = Protocol(
        spacing_mm=1.0, window_mm=10.0, step_mm=2.0, anchors=-(-anchors // (TIMES * len(blocks)))
    )
    made = []
    for number, block in enumerate(blocks):
        for time in range(TIMES):
            own = replace(protocol, seed=(seed << 16) + TIMES * number + time)
            made.append((_pair(block, own), own))
    return made


def _pair(block: Image, protocol: Protocol) -> Pair:
    """The block warped (fixed) and in another contrast (moving), sides cut to what the network takes."""
    generator = Generator().manual_seed(protocol.seed)
    size = [n // _MULTIPLE * _MULTIPLE for n in block.intensity.shape]
    cut = tuple(slice(0, n) for n in size)
    still, body = block.intensity[cut], block.body[cut]
    places = identity(size)
    nodes = torch.randn(3, *(n // WARP_NODES + 2 for n in size), generator=generator)
    warp = sample(nodes, places / WARP_NODES)
    warp = warp * (LARGEST_WARP / warp.abs().max())
    signs = torch.where(torch.rand(3, generator=generator) < 0.5, -1.0, 1.0)
    shift = signs * torch.empty(3).uniform_(*SHIFTS, generator=generator)
    warp = warp + shift[:, None, None, None]
    fixed = sample(still[None], places + warp)[0]
    moving = intensity_transform(still, generator)
    fixed, moving = degrade(torch.stack((fixed, moving)), generator)
    cells = Geometry((size[2], size[1], size[0]), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), _IDENTITY).reduced(CELL)
    centres = identity(cells.shape) * CELL + (CELL - 1) / 2
    seen = sample(body[None].float(), centres + sample(warp, centres), nearest=True, zeros=True)
    interior = box(seen, INTERIOR_CELLS)[0] > 0.999
    known = interior.nonzero().flip(1)
    if not len(known):
        raise InputError("No place of the part of an image that is held back lies well inside the body.")
    chosen = known[torch.randperm(len(known), generator=generator)[: protocol.anchors]]
    centre = chosen.T.float() * CELL + (CELL - 1) / 2
    truth = (centre + sample(warp, centre) - (CELL - 1) / 2) / CELL
    return Pair(fixed, moving, cells, chosen.double().numpy(), truth.T.double().numpy())
