"""Neighbourhood self-similarity of any feature map: DNS, and MIND-SSC when the map is the image itself.

Around every voxel stand the 6 face neighbours at radius r; 12 pairs of them are sqrt(2) r apart. Each relation is
``exp(-D / sigma^2)``, D the squared difference of the two neighbours' features and sigma^2 the local mean of D over the
12 pairs. Only the structure around a voxel enters, not its intensity: hence its use across modalities.

Sources: Heinrich et al., MICCAI 2013 (MIND-SSC); Mok et al., CVPR 2024 (DNS: direct and dilated layouts, feature
channels kept through the distance, no patch because the receptive field takes its place).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from .. import compiled

FACES: tuple[tuple[int, int, int], ...] = (
    (0, 0, -1),
    (0, 0, 1),
    (0, -1, 0),
    (0, 1, 0),
    (-1, 0, 0),
    (1, 0, 0),
)
"""The 6 face neighbours as (k, j, i) offsets; opposite faces are adjacent in this list."""

PAIRS: tuple[tuple[int, int], ...] = tuple(
    (a, b) for a, b in itertools.combinations(range(6), 2) if a // 2 != b // 2
)
"""The 12 pairs of faces that are not opposite: sqrt(2) r apart."""

VARIANCE_FLOOR = 1e-3
VARIANCE_CEILING = 1e3


def pair_distances(
    features: Tensor, radius: int, patch_radius: int = 0, *, join_channels: bool = False
) -> Tensor:
    """Squared differences of the 12 neighbour pairs, per feature channel.

    Args:
        features: ``(C, D, H, W)``.
        radius: distance of the neighbours in voxels.
        patch_radius: the differences are averaged over a cube of this radius (1 in MIND-SSC, 0 in DNS).
        join_channels: the differences are summed over the channels, which leaves C = 1.

    Returns:
        ``(12, C, D, H, W)``. Beyond the border the edge voxel is repeated.
    """
    depth, height, width = features.shape[1:]
    reach = radius + patch_radius
    padded = functional.pad(features[None], (reach,) * 6, mode="replicate")[0]

    def neighbour(face: int) -> Tensor:
        k, j, i = (radius * (1 + o) for o in FACES[face])
        grow = 2 * patch_radius
        return padded[:, k : k + depth + grow, j : j + height + grow, i : i + width + grow]

    def distance(a: int, b: int) -> Tensor:
        squares = (neighbour(a) - neighbour(b)).square_()
        return squares.sum(dim=0, keepdim=True) if join_channels else squares

    distances = torch.stack([distance(a, b) for a, b in PAIRS])
    if patch_radius:
        distances = functional.avg_pool3d(distances, 2 * patch_radius + 1, stride=1)
    return distances


def relations(distances: Tensor, *, subtract_minimum: bool = False) -> Tensor:
    """``exp(-D / sigma^2)`` of pair distances ``(12, C, D, H, W)``; same shape, values in (0, 1].

    sigma^2 is the mean over the 12 pairs, held between 1e-3 and 1e3 times its mean over the volume so that flat regions
    do not amplify noise. `subtract_minimum` makes the most similar pair exactly 1, as MIND-SSC does.
    """
    if subtract_minimum:
        distances = distances - distances.amin(dim=0, keepdim=True)
    variance = distances.mean(dim=0, keepdim=True)
    scale = variance.mean(dim=(-3, -2, -1), keepdim=True)
    variance = torch.clamp(variance, scale * VARIANCE_FLOOR, scale * VARIANCE_CEILING)
    return torch.exp(-distances / variance.clamp_min(torch.finfo(distances.dtype).tiny))


def deep_neighbourhood_self_similarity(features: Tensor, radii: Sequence[int] = (1, 2)) -> Tensor:
    """DNS of a feature map: a direct (radius 1) and a dilated layout, channels kept.

    Args:
        features: ``(C, D, H, W)``.
        radii: one layout of 12 relations for each; the dilation 2 is our choice, the paper gives none.

    Returns:
        ``(12 * len(radii), C, D, H, W)`` in (0, 1].
    """
    return torch.cat([relations(pair_distances(features, radius)) for radius in radii])


def mind_ssc(image: Tensor, radius: int = 2, patch_radius: int = 1) -> Tensor:
    """MIND-SSC of an image ``(D, H, W)``: ``(12, D, H, W)`` in (0, 1], channels in the order of `PAIRS`."""
    if compiled.mind is not None and image.device.type == "cpu" and image.dtype == torch.float32:
        offsets = tuple((FACES[a], FACES[b]) for a, b in PAIRS)
        result: Tensor = compiled.mind.mind_ssc(
            image, radius, patch_radius, offsets, (VARIANCE_FLOOR, VARIANCE_CEILING)
        )
        return result
    return mind_ssc_reference(image, radius, patch_radius)


def mind_ssc_reference(image: Tensor, radius: int = 2, patch_radius: int = 1) -> Tensor:
    """`mind_ssc` in plain torch, for any device and precision."""
    distances = pair_distances(image[None], radius, patch_radius)
    return relations(distances, subtract_minimum=True)[:, 0]
