"""From an image to what the solver compares: MIND-SSC alone, or with the structural representation of a network (DSIR).

MIND-SSC tells places apart finely and needs no weights; the DSIR tells contrasts apart less and reaches further. The
solver looks at both, MIND-SSC at full and the DSIR at half resolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..presets import Representation
from ..transforms.grid import pool
from . import models
from .models import WeightsError
from .self_similarity import mind_ssc

DSIR_SCALE = 1.4
"""Of the unit-norm DSIR beside MIND-SSC, whose 12 channels lie in [0, 1]."""


@dataclass(frozen=True, eq=False)
class Features:
    """What the solver compares of one image.

    Attributes:
        mind: ``(12, D, H, W)`` in [0, 1] on the working grid.
        dsir: ``(C, D/2, H/2, W/2)`` of length `DSIR_SCALE` on cells of 2 working voxels; None with MIND-SSC alone.
    """

    mind: Tensor
    dsir: Tensor | None = None

    def pooled(self) -> Tensor:
        """All channels on the cells: ``(12 + C, D/2, H/2, W/2)``, MIND-SSC first."""
        mind = pool(self.mind, 2)
        return mind if self.dsir is None else torch.cat((mind, self.dsir))


class Encoder:
    """Encodes images for one registration.

    Attributes:
        name: "mind-ssc", or the representation joined to it.
        sha256: of the weights; None without any.
    """

    def __init__(
        self, network: nn.Module | None = None, name: str = "mind-ssc", sha256: str | None = None
    ) -> None:
        self.network, self.name, self.sha256 = network, name, sha256

    @classmethod
    def of(cls, representation: Representation, device: torch.device) -> Encoder:
        """Raises `WeightsError` when the weights cannot be used."""
        if representation == "mind":
            return cls()
        network, model = models.load(representation)
        return cls(network.to(device), f"{representation}+mind-ssc", model.sha256)

    @classmethod
    def or_mind(cls, representation: Representation, device: torch.device) -> tuple[Encoder, list[str]]:
        """The encoder, or MIND-SSC alone and a sentence that says why."""
        try:
            return cls.of(representation, device), []
        except WeightsError as error:
            return cls(), [f"{error} The images were compared by MIND-SSC alone instead."]

    def __call__(self, image: Tensor) -> Features:
        """Features of an image ``(D, H, W)`` in [0, 1] with even sides; the network first, which needs most memory."""
        half = None if self.network is None else dsir(self.network, image)
        return Features(mind_ssc(image), half)


def dsir(network: nn.Module, image: Tensor) -> Tensor:
    """The DSIR ``(C, D/2, H/2, W/2)`` of an image ``(D, H, W)`` in [0, 1], of length `DSIR_SCALE`."""
    with torch.no_grad():
        unit: Tensor = network(image[None, None]).stride2[0]
    return unit * DSIR_SCALE
