"""Pairs for the registration network: two views of one anatomy or of two, on the grid that the encoder sees.

A known pair is cut through ``exp(v/2)`` and ``exp(-v/2)``, so that v itself is the answer, in the form in which the
network gives it. A pair of two brains has no answer; there the network learns from its similarity alone. Pair number n
of a seed is always the same pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.data import Dataset

from ..transforms.grid import identity, pool, resize, sample
from ..transforms.velocity import exponential
from .appearance import degrade, render
from .pairs import ProceduralPairs, cut_labels, random_orientation
from .shapes import chance, integer, seeded, uniform

CELL = 2
"""Voxels of a view per cell of the finest velocity."""
BETWEEN_SHARE = 0.4
"""Of the pairs with brains: two different ones."""
USUAL_EXTENT = 32.0
"""Standard deviation of a brain along an axis, in voxels of 1 mm: brains are scaled to it."""
CUT_SHARE = 0.15
"""Of the views: a part beyond the field of view."""


class WarpPair(NamedTuple):
    """What one training step looks at.

    Attributes:
        images: ``(2, S, S, S)`` in [0, 1], the fixed and the moving view.
        weights: ``(2, S, S, S)``, 1 where the view shows something.
        velocity: ``(3, s, s, s)`` in cells, s = S / 2: its exponential takes the fixed view to the moving one.
        known: ``(s, s, s)``, 1 where the velocity is known and can be seen; all 0 in a pair of two anatomies.
    """

    images: Tensor
    weights: Tensor
    velocity: Tensor
    known: Tensor


class WarpPairs(Dataset[WarpPair]):
    """Pairs made from the anatomies of `source`."""

    def __init__(self, source: ProceduralPairs) -> None:
        self.source, self.size = source, source.size

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, number: int) -> WarpPair:
        if number >= len(self):
            raise IndexError(number)
        generator = seeded(self.source.seed, number)
        velocity = random_velocity(generator, self.size)
        positions = half_way(velocity)
        brains = self.source.anatomies.brains
        if len(brains) > 1 and chance(generator, BETWEEN_SHARE):
            labels, structure = _two_brains(generator, brains, positions)
            images = degrade(render(labels, structure, generator, brain=True), generator)
            return as_warp_pair(images, labels > 0, velocity, generator, known=False)
        labels, structure, brain = self.source.anatomy(generator, positions)
        images = degrade(render(labels, structure, generator, brain=brain), generator)
        return as_warp_pair(images, labels > 0, velocity, generator)


def random_velocity(generator: Generator, size: int) -> Tensor:
    """A smooth velocity ``(3, s, s, s)`` in cells: a little affine, and noise of a large and a small scale."""
    cells = size // CELL
    shape = (cells,) * 3
    angle, stretch, shift = 0.08, 0.06, 1.5
    matrix = stretch * torch.randn(3, 3, generator=generator).clamp(-1.5, 1.5)
    matrix += angle * _skew(torch.randn(3, generator=generator).clamp(-1.5, 1.5))
    centred = identity(shape) - (cells - 1) / 2
    share = float(torch.rand((), generator=generator))
    overall = uniform(generator, 0.2, 1.2)
    velocity = share * torch.einsum("ab,bkji->akji", matrix, centred)
    velocity += share * shift * torch.randn(3, 1, 1, 1, generator=generator).clamp(-1.5, 1.5)
    for low, high, slope in ((7, 16, 0.35), (3, 6, 0.22)):
        scale = uniform(generator, low, high)
        strength = uniform(generator, 0.0, slope) * scale
        nodes = round(cells / scale) + 4
        noise = torch.randn(3, nodes, nodes, nodes, generator=generator).clamp(-2, 2)
        velocity += strength * _spline(noise, cells, scale, generator)
    return overall * velocity


def _skew(vector: Tensor) -> Tensor:
    x, y, z = vector.tolist()
    return torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])


def _spline(nodes: Tensor, cells: int, scale: float, generator: Generator) -> Tensor:
    """Cubic B-spline ``(3, s, s, s)`` of nodes ``(3, n, n, n)``, `scale` cells apart, at a random offset."""
    result = nodes
    for axis in (1, 2, 3):
        start = 1 + float(torch.rand((), generator=generator))
        at = torch.arange(cells) / scale + start
        distance = (at[:, None] - torch.arange(nodes.shape[axis])).abs()
        near = 2 / 3 - distance**2 + distance**3 / 2
        weights = torch.where(distance < 1, near, (2 - distance).clamp_min(0) ** 3 / 6)
        result = torch.movedim(torch.movedim(result, axis, -1) @ weights.T, -1, axis)
    return 2 * result


def half_way(velocity: Tensor) -> Tensor:
    """Where the voxels of both views come from: ``(3, 2, S, S, S)`` in voxels between them.

    The fixed view shows at x what lies at exp(v/2) x and the moving one at y what lies at exp(-v/2) y, so that
    exp(v) x is where the moving view shows what the fixed one shows at x.
    """
    size = velocity.shape[1] * CELL
    here = identity((size,) * 3)
    moved = [CELL * resize(exponential(sign * 0.5 * velocity), (size,) * 3) + here for sign in (1.0, -1.0)]
    return torch.stack(moved, dim=1)


def as_warp_pair(
    images: Tensor, foreground: Tensor, velocity: Tensor, generator: Generator, *, known: bool = True
) -> WarpPair:
    """The pair of images and foregrounds ``(2, S, S, S)``, sometimes with a part beyond the field of view."""
    size = images.shape[-1]
    seen = torch.ones(images.shape, dtype=torch.bool)
    for view in range(2):
        if chance(generator, CUT_SHARE):
            axis, start = integer(generator, 0, 2), integer(generator, size // 2, size - 4)
            seen[view].movedim(axis, 0)[start:] = False
            if chance(generator, 0.5):
                seen[view] = seen[view].flip(axis)
    told = torch.zeros(velocity.shape[1:])
    if known:
        both = (foreground & seen).float()
        told = pool(both, CELL).amin(dim=0)
    return WarpPair(images * seen, seen.float(), velocity, told)


def _two_brains(
    generator: Generator, brains: Sequence[np.ndarray], positions: Tensor
) -> tuple[Tensor, Tensor]:
    """Labels and structure noise ``(2, S, S, S)`` of two brains whose centres and extents agree."""
    first = integer(generator, 0, len(brains) - 1)
    second = (first + integer(generator, 1, len(brains) - 1)) % len(brains)
    size = positions.shape[-1]
    turn = random_orientation(generator)
    scale = uniform(generator, 1.5, 3.0)
    offset = 12 * torch.randn(3, generator=generator).clamp(-2, 2)
    stripped = chance(generator, 0.7)
    labels, noise = [], []
    for view, number in enumerate((first, second)):
        anatomy = torch.from_numpy(brains[number])
        centre, extent = brain_frame(anatomy)
        relative = scale * torch.einsum("ab,b...->a...", turn, positions[:, view] - (size - 1) / 2)
        index = (relative + offset[:, None, None, None]) / USUAL_EXTENT * extent[:, None, None, None]
        found = cut_labels(anatomy, index + centre[:, None, None, None])
        if stripped:
            found[found >= 200] = 0
        labels.append(found)
        nodes = torch.randn(1, 24, 24, 24, generator=generator)
        noise.append(1.5 * sample(nodes, (positions[:, view] + size / 2) / 8.0)[0])
    return torch.stack(labels), torch.stack(noise)


def brain_frame(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Centre and standard deviation of the brain along (i, j, k), in voxels, of a label map as `Anatomies` has them."""
    sparse = labels[::2, ::2, ::2]
    places = 2.0 * ((sparse > 0) & (sparse < 200) & (sparse != 24)).nonzero().flip(1).float()
    return places.mean(dim=0), places.std(dim=0)
