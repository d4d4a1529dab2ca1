"""MASR-Net: from an image to structural features that look alike in every modality.

`MasrNet` is for daily use: it answers at half resolution and below, so that a volume costs a few CPU-seconds.
`FaithfulMasrNet` is the network of the paper, at full resolution, for comparison; both answer in the same form.

Every cell of a coarser map lies at the centre of its block of finer cells, as `transforms.grid.pool` has it, so the
features fit MIND-SSC channels pooled to the same stride. All strides are anti-aliased: a fixed symmetric low-pass
filter comes first, hence no preferred side.

Sources: Mok et al., CVPR 2024 (extractor, deep neighbourhood self-similarity, squeezing); Zhang, ICML 2019 (BlurPool).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from .self_similarity import deep_neighbourhood_self_similarity, pair_distances, relations

NEGATIVE_SLOPE = 0.1
DNS_CHANNELS = 8
COARSEST_STRIDE = 16
SLAB = 16
"""Cells of stride 2 that are decoded at a time, an even number."""


class Features(NamedTuple):
    """Unit-norm features, ``(N, C, D / s, H / s, W / s)`` at stride s, sides rounded up."""

    stride2: Tensor
    stride4: Tensor
    stride8: Tensor


class MasrNet(nn.Module):
    """The practical MASR-Net: an encoder-decoder that starts at stride 2, with self-similarity of its own features.

    Ours, not the paper's: output at stride 2, 4 and 8; distances summed over the channels, which makes 24 relation maps
    instead of 96; instance norm from stride 4 down; the relations join the features instead of replacing them.

    Args:
        width: channels at stride 2; 2, 4 and 4 times as many at strides 4, 8 and 16.
        radii: layouts of the self-similarity at stride 2, direct and dilated; empty for none: the squeezing head then
            looks at the projected features themselves.
    """

    def __init__(self, width: int = 16, radii: Sequence[int] = (1, 2)) -> None:
        super().__init__()
        self.radii = tuple(radii)
        w = width
        relations = 12 * len(self.radii) or DNS_CHANNELS
        self.stem = nn.Sequential(_Conv(8, w), _Conv(w, w))
        self.project = nn.Conv3d(w, DNS_CHANNELS, 1)
        self.squeeze = nn.Sequential(_Conv(relations, w), _Conv(w, w))
        self.down4 = nn.Sequential(_Conv(2 * w, 2 * w, norm=True), _Conv(2 * w, 2 * w, norm=True))
        self.down8 = nn.Sequential(_Conv(2 * w, 4 * w, norm=True), _Conv(4 * w, 4 * w, norm=True))
        self.down16 = nn.Sequential(_Conv(4 * w, 4 * w, norm=True), _Conv(4 * w, 4 * w, norm=True))
        self.up8 = _Conv(8 * w, 4 * w, norm=True)
        self.up4 = _Conv(6 * w, 2 * w, norm=True)
        self.up2 = _Conv(4 * w, w)
        self.head2 = nn.Conv3d(w, 16, 3, padding=1, padding_mode="replicate")
        self.head4 = nn.Conv3d(2 * w, 16, 1)
        self.head8 = nn.Conv3d(4 * w, 32, 1)

    def forward(self, image: Tensor) -> Features:
        """Features of `image` ``(N, 1, D, H, W)`` in [0, 1], of any size."""
        shape = image.shape[2:]
        image = _padded(image, COARSEST_STRIDE)
        fine = self.stem(_blocks(_blurred(image)))
        projected = self.project(fine)
        structure = self._self_similarity(projected) if self.radii else projected
        fine = torch.cat((fine, self.squeeze(structure)), dim=1)
        middle = self.down4(blur_pool(fine))
        coarse = self.down8(blur_pool(middle))
        coarse = self.up8(torch.cat((coarse, _doubled(self.down16(blur_pool(coarse)))), dim=1))
        middle = self.up4(torch.cat((middle, _doubled(coarse)), dim=1))
        fine = self._finest(fine, middle)
        heads = ((self.head2, fine, 2), (self.head4, middle, 4), (self.head8, coarse, 8))
        return Features(*(_unit(_cropped(head(x), shape, stride)) for head, x, stride in heads))

    def _finest(self, fine: Tensor, middle: Tensor) -> Tensor:
        """`up2` of both; slab by slab where no gradient is wanted, because the joined channels are the most memory."""
        depth = fine.shape[2]
        step = depth if torch.is_grad_enabled() else SLAB
        parts = []
        for start in range(0, depth, step):
            low, high = max(start - 2, 0), min(start + step + 2, depth)
            joined = torch.cat((fine[:, :, low:high], _doubled(middle[:, :, low // 2 : high // 2])), dim=1)
            parts.append(self.up2(joined)[:, :, start - low : start - low + step])
        return torch.cat(parts, dim=2)

    def _self_similarity(self, features: Tensor) -> Tensor:
        """``(N, 12 len(radii), D, H, W)`` relations of features ``(N, C, D, H, W)``, distances summed over C."""
        layouts = [
            torch.cat([relations(pair_distances(f, radius, join_channels=True)) for radius in self.radii])
            for f in features
        ]
        return torch.stack(layouts)[:, :, 0]


class FaithfulMasrNet(nn.Module):
    """MASR-Net as far as the paper is known: extractor, deep neighbourhood self-similarity, squeezing head.

    From the paper: channels 1-8-16-32-64-64-32-16-8-4 on four levels, BlurPool down, trilinear up, skips, LeakyReLU;
    12 relations in a direct and 12 in a dilated layout, feature channels kept; two 3x3x3 convolutions.
    Ours, where the paper is silent: filter [1, 3, 3, 1]^3 of the BlurPool, skips joined by concatenation, slope 0.2, no
    normalisation layer, dilation 2, 24 channels in and out of the last convolution, unit norm.
    """

    def __init__(self) -> None:
        super().__init__()
        down = ((1, 8), (8, 16), (16, 32), (32, 64))
        up = ((64 + 32, 32), (32 + 16, 16), (16 + 8, 8))
        self.down = nn.ModuleList(_Conv(*channels, slope=0.2) for channels in down)
        self.bottom = _Conv(64, 64, slope=0.2)
        self.up = nn.ModuleList(_Conv(*channels, slope=0.2) for channels in up)
        self.features = nn.Conv3d(8, 4, 3, padding=1, padding_mode="replicate")
        self.squeeze = nn.Sequential(
            _Conv(24 * 4, 24, slope=0.2), nn.Conv3d(24, 24, 3, padding=1, padding_mode="replicate")
        )

    def forward(self, image: Tensor) -> Features:
        """Features of `image` ``(N, 1, D, H, W)`` in [0, 1], of any size: 24 channels, averaged over the cells."""
        full = _padded(self.full_resolution(image), 8)
        return Features(
            *(_unit(_cropped(functional.avg_pool3d(full, s), image.shape[2:], s)) for s in (2, 4, 8))
        )

    def full_resolution(self, image: Tensor) -> Tensor:
        """Unit-norm features ``(N, 24, D, H, W)`` of `image` ``(N, 1, D, H, W)`` in [0, 1], of any size."""
        features = self.extract(image)
        similarity = torch.stack([deep_neighbourhood_self_similarity(f).flatten(0, 1) for f in features])
        return _unit(self.squeeze(similarity))

    def extract(self, image: Tensor) -> Tensor:
        """The 4 feature channels ``(N, 4, D, H, W)`` that the self-similarity looks at."""
        x = _padded(image, 8)
        skips: list[Tensor] = []
        for level, convolution in enumerate(self.down):
            x = convolution(blur_pool(x) if level else x)
            skips.append(x)
        x = self.bottom(skips.pop())
        for convolution in self.up:
            x = convolution(torch.cat((skips.pop(), _doubled(x)), dim=1))
        return _cropped(self.features(x), image.shape[2:], 1)


class _Conv(nn.Module):
    """Convolution 3x3x3, instance norm if wanted, LeakyReLU.

    Edge values are repeated beyond the border. Zeros would tell the features where in the grid they lie, and they would
    learn to answer "nothing moved".
    """

    def __init__(self, inputs: int, outputs: int, norm: bool = False, slope: float = NEGATIVE_SLOPE) -> None:
        super().__init__()
        self.norm, self.slope = norm, slope
        self.convolution = nn.Conv3d(inputs, outputs, 3, padding=1, padding_mode="replicate")

    def forward(self, x: Tensor) -> Tensor:
        x = self.convolution(x)
        if self.norm:
            x = functional.instance_norm(x)
        return functional.leaky_relu(x, self.slope)


def blur_pool(x: Tensor) -> Tensor:
    """``(N, C, D, H, W)`` with even sides at half the resolution: filter [1, 3, 3, 1] / 8 along each axis."""
    for axis in (2, 3, 4):
        half = x.shape[axis] // 2
        even, odd = x.unflatten(axis, (half, 2)).unbind(axis + 1)
        before = torch.cat((even.narrow(axis, 0, 1), odd.narrow(axis, 0, half - 1)), dim=axis)
        after = torch.cat((even.narrow(axis, 1, half - 1), odd.narrow(axis, half - 1, 1)), dim=axis)
        x = 0.375 * (even + odd) + 0.125 * (before + after)
    return x


def _blurred(image: Tensor) -> Tensor:
    """``(N, C, D, H, W)`` with filter [1, 2, 1] / 4 along each axis: nothing is left at the Nyquist frequency."""
    for axis in (2, 3, 4):
        n = image.shape[axis]
        before = torch.cat((image.narrow(axis, 0, 1), image.narrow(axis, 0, n - 1)), dim=axis)
        after = torch.cat((image.narrow(axis, 1, n - 1), image.narrow(axis, n - 1, 1)), dim=axis)
        image = 0.5 * image + 0.25 * (before + after)
    return image


def _blocks(image: Tensor) -> Tensor:
    """The 8 voxels of every block as channels: ``(N, 1, D, H, W)`` to ``(N, 8, D/2, H/2, W/2)``."""
    depth, height, width = (n // 2 for n in image.shape[2:])
    blocks = image.reshape(image.shape[0], depth, 2, height, 2, width, 2)
    return blocks.permute(0, 2, 4, 6, 1, 3, 5).flatten(1, 3)


def _doubled(x: Tensor) -> Tensor:
    """Trilinear interpolation to twice the resolution, block centres kept."""
    return functional.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)


def _padded(image: Tensor, multiple: int) -> Tensor:
    """Edge values repeated at the end of each axis until the sides are a multiple."""
    missing = [-n % multiple for n in image.shape[2:]]
    padding = (0, missing[2], 0, missing[1], 0, missing[0])
    return functional.pad(image, padding, mode="replicate") if any(missing) else image


def _cropped(x: Tensor, shape: Sequence[int], stride: int) -> Tensor:
    depth, height, width = (-(-n // stride) for n in shape)
    return x[:, :, :depth, :height, :width]


def _unit(x: Tensor) -> Tensor:
    return functional.normalize(x.float(), dim=1)
