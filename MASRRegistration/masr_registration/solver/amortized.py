"""The learned stage: one pass of a small network instead of a search, from feature pyramids to a velocity.

Level by level, both images are moved to the middle between them by what is known so far, ``exp(-v/2)`` and
``exp(v/2)``; every cell is compared with a window of cells of the other image, a few convolutions turn the comparisons
into displacements with a confidence, and what is sure spreads to what is not. The step of a level is
``f(a, b) - f(b, a)``, so that swapped images give the negative velocity, exactly, and identical ones give zero; from
the middle, steps add up to second order.

Sources: Sun et al., CVPR 2018 (windows of comparisons on warped features, coarse to fine); Mok and Chung, CVPR 2020
(symmetric network, both images moved half-way) and MICCAI 2021 (conditioning on the regularisation); Heinrich, MICCAI
2019 (displacements as expectations over a window). The smoothing by confidence is Knutsson's normalised convolution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from .. import compiled
from ..presets import Method
from ..representation import models
from ..representation.encoder import DSIR_SCALE
from ..representation.masr_net import COARSEST_STRIDE
from ..representation.models import WeightsError
from ..representation.self_similarity import mind_ssc
from ..transforms.grid import pool, upsample_lattice, warp
from ..transforms.velocity import exponential
from .convex import window

NETWORK, ENCODER = "masr-registration", "masr"
STRIDES = (16, 8, 4)
"""Working voxels per cell of the levels, coarse to fine."""
STEPS = ((0, 3), (1, 2), (2, 1), (2, 1))
"""Number of the level and radius of the window in cells: a reach of 48 + 16 + 4 + 4 working voxels along each axis."""
SPREADS = (0, 1, 2, 4)
"""How often the smoothings are repeated among which the network chooses by the regularisation."""
REGULARISATION = (0.25, 16.0)
"""Weights of the smoothness that the training has seen; others are taken as the nearest of these."""
USUAL = 2.0
SHARPNESS, PRIOR, COUPLINGS = 20.0, 0.1, (0.5, 2.0)
"""Before training: factors of the inner products in the expectation over a window, of the squared distances, and of
those to the smoothed field, one for each repetition."""
LEAST = 1e-3
"""Confidence of a cell that says nothing."""
NEGATIVE_SLOPE = 0.1
LEAST_SIDE = 2 * COARSEST_STRIDE
"""Voxels of an image along each axis that the encoder is given at least."""


class Pyramid(NamedTuple):
    """What the network sees of one image.

    Attributes:
        features: ``(C, d, h, w)`` for each of `STRIDES`; sides are those of the working grid / stride, rounded up.
        weights: ``(d, h, w)`` in [0, 1], how much is known there.
    """

    features: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]


class RegistrationNetwork(nn.Module):
    """Feature pyramids of two images and a weight of the smoothness to a stationary velocity.

    Args:
        channels: of the features at each of `STRIDES`.
        width: channels of the convolutions.
    """

    def __init__(self, channels: Sequence[int], width: int = 32) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.steps = nn.ModuleList(_Step(channels[level], width, radius) for level, radius in STEPS)

    def forward(self, fixed: Pyramid, moving: Pyramid, regularisation: float) -> list[Tensor]:
        """The velocity after each of `STEPS`, ``(3, d, h, w)`` in cells of the step's level, fixed -> moving.

        Every step learns by itself: no gradient passes from a step to the one before.
        """
        velocity = fixed.features[0].new_zeros(3, *fixed.features[0].shape[1:])
        found: list[Tensor] = []
        for (level, _), step in zip(STEPS, self.steps, strict=True):
            velocity = to_level(velocity.detach(), fixed.features[level].shape[1:])
            with torch.no_grad():
                first, first_weight = _moved(fixed, level, exponential(-0.5 * velocity))
                second, second_weight = _moved(moving, level, exponential(0.5 * velocity))
            there, back = step(
                torch.stack((first, second)), torch.stack((first_weight, second_weight)), regularisation
            )
            velocity = velocity + 0.5 * (there - back)
            found.append(velocity)
        return found


def _moved(image: Pyramid, level: int, displacement: Tensor) -> tuple[Tensor, Tensor]:
    weight = image.weights[level][None]
    if not displacement.any():
        return image.features[level], weight
    return warp(image.features[level], displacement), warp(weight, displacement)


class _Step(nn.Module):
    """From features of two images that lie almost on each other to what is missing, there and back."""

    def __init__(self, channels: int, width: int, radius: int) -> None:
        super().__init__()
        self.radius = radius
        candidates = (2 * radius + 1) ** 3
        self.embed = nn.Conv3d(channels, channels, 1)
        self.sharpness = nn.Parameter(torch.tensor(math.log(SHARPNESS)))
        self.prior = nn.Parameter(torch.tensor(math.log(PRIOR)))
        self.couplings = nn.Parameter(torch.tensor(COUPLINGS).log())
        self.enter = nn.Conv3d(candidates + channels + 2, width, 1)
        self.layers = nn.ModuleList(nn.Conv3d(width, width, 3, padding=1) for _ in range(3))
        self.condition = _perceptron(6 * width)
        self.leave = nn.Conv3d(width, candidates + 1, 1)
        self.spread = _perceptron(len(SPREADS))
        nn.init.dirac_(self.embed.weight)
        nn.init.zeros_(self.leave.weight)
        for bias in (self.embed.bias, self.leave.bias):
            if bias is not None:
                nn.init.zeros_(bias)

    def forward(self, features: Tensor, weights: Tensor, regularisation: float) -> Tensor:
        """Displacements ``(2, 3, d, h, w)`` in cells, from the first image to the second and back.

        Args:
            features: ``(2, C, d, h, w)``.
            weights: ``(2, 1, d, h, w)``.
        """
        setting = _setting(regularisation, features.device)
        means = features.mean(dim=(2, 3, 4), keepdim=True)
        centre = 0.5 * (means[:1] + means[1:])
        embedded = functional.normalize(self.embed(features - centre).float(), dim=1)
        likeness = torch.stack(
            [
                local_products(embedded[0], embedded[1], self.radius),
                local_products(embedded[1], embedded[0], self.radius),
            ]
        )
        likeness = self.sharpness.exp() * _smoothed(likeness - likeness.mean(dim=1, keepdim=True))
        x = self.enter(torch.cat((likeness, embedded, weights, weights.flip(0)), dim=1))
        scales, shifts = self.condition(setting).reshape(2, len(self.layers), 1, -1, 1, 1, 1)
        for layer, scale, shift in zip(self.layers, scales, shifts, strict=True):
            x = x + layer(functional.leaky_relu(x * (1 + scale) + shift, NEGATIVE_SLOPE))
        x = self.leave(functional.leaky_relu(x, NEGATIVE_SLOPE)).float()
        confidence = weights * torch.sigmoid(x[:, -1:]) + LEAST
        shares = self.spread(setting).softmax(dim=0)
        return self._agree(likeness + x[:, :-1], confidence, shares)

    def _agree(self, score: Tensor, confidence: Tensor, shares: Tensor) -> Tensor:
        """The smooth displacement that scores well: expectations, coupled ever more to their smoothed field."""
        places = window(self.radius, score.device)
        squares = places.square().sum(dim=1)[:, None, None, None]
        score = score - self.prior.exp() * squares
        displacement = torch.zeros_like(score[:, :3])
        for coupling in (0.0, *self.couplings.exp()):
            pull = torch.einsum("lc,ncdhw->nldhw", 2 * coupling * places, displacement) - coupling * squares
            expected = torch.einsum("lc,nldhw->ncdhw", places, (score + pull).softmax(dim=1))
            displacement = _spread(expected, confidence, shares)
        return displacement


def _perceptron(outputs: int) -> nn.Sequential:
    """Of the weight of the smoothness; zeros before training."""
    last = nn.Linear(16, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(1, 16), nn.LeakyReLU(NEGATIVE_SLOPE), last)


def _setting(regularisation: float, device: torch.device) -> Tensor:
    low, high = REGULARISATION
    return torch.tensor([math.log2(min(max(regularisation, low), high) / USUAL)], device=device)


def _spread(field: Tensor, confidence: Tensor, shares: Tensor) -> Tensor:
    """A mixture of the field ``(N, 3, d, h, w)`` under normalised smoothings of `SPREADS` repeats."""
    both = torch.cat((field * confidence, confidence), dim=1)
    result = torch.zeros_like(field)
    done = 0
    for repeats, share in zip(SPREADS, shares, strict=True):
        for _ in range(repeats - done):
            both = _smoothed(both)
        done = repeats
        result = result + share * both[:, :3] / both[:, 3:]
    return result


def _smoothed(x: Tensor) -> Tensor:
    """Mean over the 3^3 cells around each of ``(N, C, D, H, W)``, edges repeated: `grid.box`, but fast both ways."""
    for axis in (2, 3, 4):
        n = x.shape[axis]
        before = torch.cat((x.narrow(axis, 0, 1), x.narrow(axis, 0, n - 1)), dim=axis)
        after = torch.cat((x.narrow(axis, 1, n - 1), x.narrow(axis, n - 1, 1)), dim=axis)
        x = (before + x + after) / 3
    return x


class _LocalProducts(torch.autograd.Function):
    """Inner products over a window, without keeping a copy of the features for each of its places."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, padded: Tensor, radius: int) -> Tensor:
        ctx.save_for_backward(first, padded)
        ctx.radius = radius
        result: Tensor = compiled.products.forward(first, padded, radius)
        return result

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        first, padded = ctx.saved_tensors
        return *compiled.products.backward(first, padded, outer[0], ctx.radius), None


def local_products(first: Tensor, second: Tensor, radius: int) -> Tensor:
    """Inner products of every cell of `first` with the cells around it in `second`.

    Both are ``(C, D, H, W)``; the result is ``(L, D, H, W)`` in the order of `convex.window`. Edges are repeated.
    """
    padded = functional.pad(second[None], (radius,) * 6, mode="replicate")[0]
    if compiled.products is None or first.device.type != "cpu" or first.dtype != torch.float32:
        return local_products_reference(first, padded, radius)
    result: Tensor = _LocalProducts.apply(first, padded, radius)  # type: ignore[no-untyped-call]
    return result


def local_products_reference(first: Tensor, padded: Tensor, radius: int) -> Tensor:
    """The same in torch, of `second` with its edges repeated `radius` times."""
    depth, height, width = first.shape[1:]
    starts = range(2 * radius + 1)
    return torch.stack(
        [
            (first * padded[:, k : k + depth, j : j + height, i : i + width]).sum(dim=0)
            for k in starts
            for j in starts
            for i in starts
        ]
    )


def to_level(velocity: Tensor, shape: Sequence[int]) -> Tensor:
    """A velocity ``(3, d, h, w)`` in cells, on a level of `shape` with as large or half as large cells, in those."""
    if tuple(velocity.shape[1:]) == tuple(shape):
        return velocity
    k, j, i = ((torch.arange(n, device=velocity.device) + 0.5) / 2 - 0.5 for n in shape)
    return 2 * upsample_lattice(velocity, (k, j, i))


def pooled_weights(weight: Tensor, finest: int) -> tuple[Tensor, ...]:
    """``(D, H, W)`` averaged over the cells of each of `STRIDES`; `finest` is the finest level's in voxels of it."""
    factors = [finest * stride // STRIDES[-1] for stride in STRIDES]
    return tuple(pool(weight[None], factor)[0] for factor in factors)


class Amortized:
    """The network that ships, with its encoder: from images on the working grid to displacements.

    Attributes:
        sha256: of the network's weights.
    """

    def __init__(self, network: RegistrationNetwork, encoder: nn.Module, sha256: str | None = None) -> None:
        self.network, self.encoder, self.sha256 = network, encoder, sha256

    @classmethod
    def of(cls, device: torch.device) -> Amortized:
        """Raises `WeightsError` when the weights of the network or of its encoder cannot be used."""
        network, model = models.load(NETWORK)
        encoder, its_model = models.load(ENCODER)
        if model.encoder_sha256 != its_model.sha256:
            raise WeightsError(
                f'The weights "{NETWORK}" were made for other weights than the "{ENCODER}" here.'
            )
        if not isinstance(network, RegistrationNetwork):
            raise WeightsError(f'The weights "{NETWORK}" are not those of a registration network.')
        return cls(network.to(device), encoder.to(device), model.sha256)

    @classmethod
    def or_none(cls, method: Method, device: torch.device) -> tuple[Amortized | None, list[str]]:
        """None for "optimise"; also, with a sentence that says why, where the weights cannot be used."""
        if method == "optimise":
            return None, []
        try:
            return cls.of(device), []
        except WeightsError as error:
            return None, [f"{error} The images were registered by optimisation alone instead."]

    def __call__(
        self, images: Sequence[Tensor], weights: Sequence[Tensor], regularisation: float
    ) -> tuple[Tensor, Tensor]:
        """Displacements fixed -> moving and moving -> fixed ``(3, D/4, H/4, W/4)``, in cells of 4 working voxels.

        Args:
            images, weights: of the fixed and of the moving image ``(D, H, W)``, both in [0, 1], sides multiples of 4.
            regularisation: weight of the smoothness, as of the continuous stage.
        """
        with torch.no_grad():
            pyramids = [
                Pyramid(structure(self.encoder, pool(image[None], 2)[0]), pooled_weights(weight, STRIDES[-1]))
                for image, weight in zip(images, weights, strict=True)
            ]
            velocity = self.network(*pyramids, regularisation)[-1]
            return exponential(velocity), exponential(-velocity)


def structure(encoder: nn.Module, image: Tensor) -> tuple[Tensor, ...]:
    """DSIR and MIND-SSC of an image ``(D/2, H/2, W/2)`` at half the working resolution, for each of `STRIDES`."""
    with torch.no_grad():
        # the coarsest level of the encoder normalises over its cells, of which it needs more than one
        missing = [max(0, LEAST_SIDE - n) for n in image.shape]
        large = functional.pad(
            image[None, None], (0, missing[2], 0, missing[1], 0, missing[0]), mode="replicate"
        )
        found, mind = encoder(large), mind_ssc(image)
        levels = []
        for dsir, stride in zip((found.stride8, found.stride4, found.stride2), STRIDES, strict=True):
            pooled = pool(mind, stride // 2)
            depth, height, width = pooled.shape[1:]
            levels.append(torch.cat((DSIR_SCALE * dsir[0, :, :depth, :height, :width].float(), pooled)))
        return tuple(levels)
