"""What is compared: an image as features for network and optimiser, and how features of two images are judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from masr_registration.representation import models
from masr_registration.representation.encoder import DSIR_SCALE
from masr_registration.representation.self_similarity import mind_ssc
from masr_registration.solver.amortized import STRIDES, structure
from masr_registration.training.train_amortized import View, squared_difference
from masr_registration.transforms.grid import pool
from torch import Tensor

NAMES = ("mi", "mind", "dsir", "dsir+mind")
BINS = 16
MI_SCALE = 0.25
"""Of the mutual information in nats, so that its loss falls about as far as that of MIND-SSC does."""
EPSILON = 1e-6


@dataclass(frozen=True)
class Similarity:
    """One way to compare images.

    Attributes:
        view: for the network, from an image at half the working resolution.
        dense: the same image as features ``(C, D, H, W)``, for the optimiser.
        local: whether places can be compared one by one, as the discrete search does, by squared differences.
    """

    view: View
    dense: Callable[[Tensor], Tensor]
    local: bool = True


def make(name: str) -> Similarity:
    """The similarity of this name. Raises `KeyError`, and `WeightsError` without the encoder's weights."""
    return {"mi": _mutual_information, "mind": _mind, "dsir": _dsir, "dsir+mind": _both}[name]()


def _mind() -> Similarity:
    def levels(image: Tensor) -> tuple[Tensor, ...]:
        whole = mind_ssc(image)
        return tuple(pool(whole, stride // 2) for stride in STRIDES)

    view = View((12,) * len(STRIDES), levels, squared_difference)
    return Similarity(view, mind_ssc)


def _dsir() -> Similarity:
    encoder = models.load("masr")[0]

    def levels(image: Tensor) -> tuple[Tensor, ...]:
        found = structure(encoder, image)
        return tuple(level[:-12] for level in found)

    def dense(image: Tensor) -> Tensor:
        """The features of the image at twice its resolution lie on its own voxels."""
        larger = torch.nn.functional.interpolate(image[None, None], scale_factor=2, mode="trilinear")
        with torch.no_grad():
            return DSIR_SCALE * encoder(larger).stride2[0]

    view = View(
        tuple(level.shape[0] for level in levels(torch.zeros(32, 32, 32))), levels, squared_difference
    )
    return Similarity(view, dense)


def _both() -> Similarity:
    encoder, dsir = models.load("masr")[0], _dsir()

    def levels(image: Tensor) -> tuple[Tensor, ...]:
        return structure(encoder, image)

    def dense(image: Tensor) -> Tensor:
        return torch.cat((mind_ssc(image), dsir.dense(image)))

    view = View(
        tuple(level.shape[0] for level in levels(torch.zeros(32, 32, 32))), levels, squared_difference
    )
    return Similarity(view, dense)


def bins(image: Tensor) -> Tensor:
    """Linear Parzen windows of intensities ``(...)`` in [0, 1]: ``(BINS, ...)``, whose sum is 1 everywhere."""
    places = torch.arange(BINS, device=image.device).reshape(-1, *[1] * image.ndim)
    return (1 - (image[None] * (BINS - 1) - places).abs()).clamp_min(0)


def joint(first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """Joint distribution ``(BINS, BINS)`` of two images' bins ``(BINS, ...)`` under a weight ``(...)``."""
    table = torch.einsum("an,bn->ab", (first * weight).flatten(1), second.flatten(1))
    return table / table.sum().clamp_min(EPSILON)


def negative_mutual_information(first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """In nats, times `MI_SCALE`; intensities are the last channel of the features, and are sorted into bins only here.

    Moving the bins instead of the intensities would blur them, and reward a displacement of whole voxels.
    """
    both = joint(bins(first[-1]), bins(second[-1]), weight)
    apart = both.sum(dim=1, keepdim=True) * both.sum(dim=0, keepdim=True)
    return -MI_SCALE * (both * ((both + EPSILON) / (apart + EPSILON)).log()).sum()


def _mutual_information() -> Similarity:
    def levels(image: Tensor) -> tuple[Tensor, ...]:
        whole = torch.cat((bins(image), image[None]))
        return tuple(pool(whole, stride // 2) for stride in STRIDES)

    view = View((BINS + 1,) * len(STRIDES), levels, negative_mutual_information)
    return Similarity(view, lambda image: image[None], local=False)
