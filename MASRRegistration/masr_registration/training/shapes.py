"""Procedural anatomy: label maps of bodies, organs, folded sheets, vessels and shells that belong to nobody.

All randomness comes from the given generator, so the same seed gives the same map. Maps are uint8 with 0 for the
background. Sources: SynthMorph (Hoffmann et al., TMI 2022; arg-max noise) and anatomix (Dey et al., ICLR 2025;
ensembles of shapes); level sets of noise as folded sheets and vessels are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor
from torch.nn import functional


def seeded(seed: int, number: int) -> Generator:
    """The generator of item `number` of a `seed`. torch reads only 32 bits of a seed: both have to fit into them."""
    return Generator().manual_seed((number + seed * 0x9E3779B1) % 2**32)


def uniform(generator: Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def integer(generator: Generator, low: int, high: int) -> int:
    """One of ``low .. high``, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def chance(generator: Generator, probability: float) -> bool:
    return float(torch.rand((), generator=generator)) < probability


def smooth_noise(generator: Generator, channels: int, shape: Sequence[int], scale: float) -> Tensor:
    """Noise ``(C, D, H, W)`` with zero mean and about unit deviation that varies over `scale` voxels."""
    coarse = [max(2, round(n / scale) + 1) for n in shape]
    noise = torch.randn(1, channels, *coarse, generator=generator)
    fine = functional.interpolate(noise, size=tuple(shape), mode="trilinear", align_corners=True)[0]
    return fine * 1.6


def label_map(generator: Generator, size: int) -> Tensor:
    """One procedural anatomy: uint8 ``(size, size, size)``."""
    makers: tuple[Callable[[Generator, int], Tensor], ...] = (_patches, _organs, _folds, _folds)
    labels = makers[integer(generator, 0, len(makers) - 1)](generator, size)
    if chance(generator, 0.6):
        _add_thin(generator, labels)
    if chance(generator, 0.6):
        _add_body(generator, labels)
    return labels


def _patches(generator: Generator, size: int) -> Tensor:
    """Arg-max of noise fields of different scales."""
    count = integer(generator, 6, 24)
    scales = [uniform(generator, 6, 40) for _ in range(count)]
    fields = torch.cat([smooth_noise(generator, 1, (size,) * 3, scale) for scale in scales])
    return (fields.argmax(dim=0) + 1).byte()


def _organs(generator: Generator, size: int) -> Tensor:
    """Warped ellipsoids, tubes and shells over a ground of a few tissues."""
    labels = _patches(generator, size) % integer(generator, 1, 3) + 1
    grids = [_warped_grid(generator, size, uniform(generator, 0.0, 0.1)) for _ in range(3)]
    for label in range(4, 4 + integer(generator, 12, 32)):
        radius = size * torch.empty(3).uniform_(0.03, 0.22, generator=generator)
        if chance(generator, 0.2):
            radius[integer(generator, 0, 2)] = 2.0 * size
        centre = size * torch.rand(3, generator=generator)
        rotation = torch.linalg.qr(torch.randn(3, 3, generator=generator))[0]
        grid = grids[integer(generator, 0, 2)]
        matrix = rotation / radius[:, None]
        offset = matrix @ centre
        distance = torch.zeros_like(grid[0])
        for row, shift in zip(matrix, offset, strict=True):
            distance += (row[0] * grid[0] + row[1] * grid[1] + row[2] * grid[2] - shift).square()
        labels[distance < 1] = label
        if chance(generator, 0.4):
            labels[distance < uniform(generator, 0.4, 0.85)] = label + 60
    return labels


def _folds(generator: Generator, size: int) -> Tensor:
    """Layers between level sets of noise, as the cortex lies between white matter and fluid; nuclei deep inside."""
    scale = uniform(generator, 8, 22)
    shape = (size,) * 3
    height = smooth_noise(generator, 1, shape, scale)[0]
    height += uniform(generator, 0.2, 0.8) * smooth_noise(generator, 1, shape, scale / 2)[0]
    height += uniform(generator, 0.0, 1.5) * smooth_noise(generator, 1, shape, size / 2)[0]
    thickness = uniform(generator, 1.5, 5.0) / scale
    levels = integer(generator, 1, 4)
    start = uniform(generator, -0.6, 0.6)
    bounds = start + thickness * torch.cumsum(
        torch.empty(levels).uniform_(0.7, 1.6, generator=generator), dim=0
    )
    labels = torch.bucketize(height, torch.cat((torch.tensor([start]), bounds))).byte() + 1
    inside = height < start - 0.5
    nuclei = _patches(generator, size) % integer(generator, 3, 9)
    return torch.where(inside & (nuclei > 1), nuclei + 10, labels)


def _add_thin(generator: Generator, labels: Tensor) -> None:
    """Vessels (where two level sets meet) and sheets (a thin level set), over what is there."""
    size = labels.shape[0]
    for number in range(integer(generator, 1, 3)):
        scale = uniform(generator, 12, 40)
        first, second = smooth_noise(generator, 2, labels.shape, scale)
        width = uniform(generator, 1.5, 4.5) / scale
        thin = first.abs() < width
        if chance(generator, 0.7):
            thin &= second.abs() < width
        if chance(generator, 0.5):
            thin &= smooth_noise(generator, 1, labels.shape, size / 2)[0] > 0
        labels[thin] = 100 + number


def _add_body(generator: Generator, labels: Tensor) -> None:
    """Background outside a warped ellipsoid or a half space, with one to three shells as skin, fat and bone."""
    size = labels.shape[0]
    grid = _warped_grid(generator, size, uniform(generator, 0.02, 0.08)) / size - 0.5
    if chance(generator, 0.6):
        radius = torch.empty(3).uniform_(0.32, 0.62, generator=generator)
        depth = 1 - (grid / radius[:, None, None, None]).square().sum(dim=0).sqrt()
        depth *= float(radius.mean()) * size
    else:
        normal = functional.normalize(torch.randn(3, generator=generator), dim=0)
        depth = size * ((grid * normal[:, None, None, None]).sum(dim=0) + uniform(generator, 0.05, 0.35))
    if chance(generator, 0.6):
        inner = 0.0
        for number in range(integer(generator, 1, 3)):
            outer, inner = inner, inner + uniform(generator, 1.5, 7.0)
            labels[(depth >= outer) & (depth < inner)] = 110 + number
    labels[depth < 0] = 0


def _warped_grid(generator: Generator, size: int, strength: float) -> Tensor:
    """Voxel indices ``(3, size, size, size)`` moved by smooth noise of `strength` times the size."""
    axes = torch.meshgrid(*(torch.arange(size, dtype=torch.float32),) * 3, indexing="ij")
    scale = uniform(generator, size / 6, size / 2)
    return torch.stack(axes) + strength * size * smooth_noise(generator, 3, (size,) * 3, scale)
