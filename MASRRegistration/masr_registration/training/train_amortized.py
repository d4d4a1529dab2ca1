"""Training of the registration network, without labels: similarity and smoothness, and known warps where there are.

The encoder stays as it is. Each step of the network learns on its own level: from the velocity through which a
procedural pair was cut, where it is known, and from the similarity of the features that the result brings together,
against its roughness with a weight that is drawn anew for each pair and told to the network.

Sources: Mok and Chung, MICCAI 2021 (the weight of the smoothness as a condition); Balakrishnan et al., TMI 2019
(registration networks trained by similarity and smoothness).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..representation import models
from ..solver.amortized import (
    ENCODER,
    REGULARISATION,
    STEPS,
    STRIDES,
    Pyramid,
    RegistrationNetwork,
    pooled_weights,
    structure,
)
from ..solver.instance import STEEP_WEIGHT, data_weight, roughness, steepness
from ..transforms.grid import pool, warp
from ..transforms.velocity import exponential
from .shapes import seeded
from .train_encoder import BaseTrainer, Schedule
from .warps import CELL, WarpPair

TERMS = ("known", "similarity", "roughness", "error")
STEP_WEIGHTS = (0.2, 0.4, 0.7, 1.0)
FEW_FACTOR = 5.0
"""By how much faster scales, couplings and biases learn: there are few of them, and they have far to go."""
ROBUST = 0.25
"""Error in cells below which the loss of a known velocity is quadratic."""


class View(NamedTuple):
    """How images are given to the network and compared in its training.

    Attributes:
        channels: of the features of each level.
        features: an image ``(S, S, S)`` in [0, 1] to the features ``(C, d, h, w)`` of each level, coarse to fine.
        dissimilarity: features of two images and a weight ``(d, h, w)`` to a number, lower is more alike.
    """

    channels: tuple[int, ...]
    features: Callable[[Tensor], tuple[Tensor, ...]]
    dissimilarity: Callable[[Tensor, Tensor, Tensor], Tensor]


def dsir_view(device: torch.device, bfloat16: bool = True) -> View:
    """By the encoder that ships, beside MIND-SSC. Raises `WeightsError`."""
    encoder = models.load(ENCODER)[0].to(device)

    def features(image: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast(image.device.type, torch.bfloat16, enabled=bfloat16):
            return structure(encoder, image)

    channels = tuple(level.shape[0] for level in features(torch.zeros(32, 32, 32, device=device)))
    return View(channels, features, squared_difference)


def squared_difference(first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean over the cells of the squared difference, summed over the channels and in units of 12 of them."""
    difference = (first - second).square().sum(dim=0) / 12
    return (difference * weight).sum() / weight.sum().clamp_min(1.0)


@dataclass(frozen=True)
class AmortizedRecipe(Schedule):
    """How to train the registration network.

    Attributes:
        weights: of the known velocity, of the similarity and of the roughness.
    """

    steps: int = 6000
    rate: float = 2e-3
    warm_up: int = 100
    average: float = 0.998
    width: int = 32
    weights: tuple[float, ...] = (1.0, 1.0, 1.0)


class AmortizedTrainer(BaseTrainer[WarpPair, RegistrationNetwork]):
    """Of the registration network, on features that stay as they are."""

    recipe: AmortizedRecipe

    def __init__(self, recipe: AmortizedRecipe, view: View, device: torch.device) -> None:
        torch.manual_seed(recipe.seed)
        network = RegistrationNetwork(view.channels, recipe.width).to(device)
        few = [p for p in network.parameters() if p.ndim < 2]
        many = [p for p in network.parameters() if p.ndim >= 2]
        groups = [{"params": many}, {"params": few, "weight_decay": 0.0, "factor": FEW_FACTOR}]
        super().__init__(recipe, device, network, groups)
        self.view = view

    def train_on(self, pair: WarpPair, stream: int) -> dict[str, float]:
        """One step on one pair; `stream` is the pair's number, from which the weight of the smoothness is drawn."""
        generator = seeded(self.recipe.seed, stream)
        low, high = (math.log(x) for x in REGULARISATION)
        regularisation = math.exp(low + (high - low) * float(torch.rand((), generator=generator)))
        pair = WarpPair(*(t.to(self.device, non_blocking=True) for t in pair))
        *terms, error = loss_terms(self.model, self.view, pair, self.recipe, regularisation)
        loss = sum((w * t for w, t in zip(self.recipe.weights, terms, strict=True)), torch.zeros(()))
        norm = self.descend(loss)
        values = [float(t.detach()) for t in (loss, *terms, error, norm)]
        return dict(zip(("loss", *TERMS, "gradient"), values, strict=True))


def loss_terms(
    network: nn.Module, view: View, pair: WarpPair, recipe: AmortizedRecipe, regularisation: float
) -> tuple[Tensor, ...]:
    """The terms in the order of `TERMS`; the last, the error of a known velocity in cells, is for the log."""
    with torch.no_grad():
        pyramids = [
            Pyramid(view.features(image), pooled_weights(weight, CELL))
            for image, weight in zip(pair.images, pair.weights, strict=True)
        ]
    with torch.autocast(pair.images.device.type, torch.bfloat16, enabled=recipe.bfloat16):
        velocities = network(*pyramids, regularisation)
    known, alike, rough = (torch.zeros((), device=pair.images.device) for _ in range(3))
    last = {level: number for number, (level, _) in enumerate(STEPS)}
    for number, (velocity, weight) in enumerate(zip(velocities, STEP_WEIGHTS, strict=True)):
        level = STEPS[number][0]
        known = known + weight * _known(velocity, pair, level)
        if number != last[level]:
            continue
        alike = alike + weight * _dissimilarity(velocity, pyramids, level, view)
        cost = regularisation * roughness(velocity) + STEEP_WEIGHT * steepness(velocity)
        rough = rough + weight * cost
    with torch.no_grad():
        error = (velocities[-1] - pair.velocity).norm(dim=0)
        mean = (error * pair.known).sum() / pair.known.sum().clamp_min(1)
    return known, 2 * data_weight(*pair.weights) * alike, rough, mean


def _known(velocity: Tensor, pair: WarpPair, level: int) -> Tensor:
    """Robust error of a known velocity, in cells of the finest level."""
    factor = STRIDES[level] // STRIDES[-1]
    truth = pool(pair.velocity, factor) if factor > 1 else pair.velocity
    weight = pool(pair.known[None], factor)[0] if factor > 1 else pair.known
    error = factor * velocity - truth
    robust = ((error / ROBUST).square().sum(dim=0) + 1).sqrt() - 1
    return ROBUST * (robust * weight).sum() / weight.sum().clamp_min(1.0)


def _dissimilarity(velocity: Tensor, pyramids: list[Pyramid], level: int, view: View) -> Tensor:
    """Of both images moved to the middle between them."""
    fixed, moving = pyramids
    backward, forward = exponential(-0.5 * velocity), exponential(0.5 * velocity)
    weight = warp(fixed.weights[level][None], backward.detach()) * warp(
        moving.weights[level][None], forward.detach()
    )
    first, second = warp(fixed.features[level], backward), warp(moving.features[level], forward)
    return view.dissimilarity(first, second, weight[0])
