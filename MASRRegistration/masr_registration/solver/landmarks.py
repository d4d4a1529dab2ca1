"""Landmarks in the continuous stage: a soft pull of the velocity towards corresponding points.

Each landmark adds the squared distance that is left between the two points, growing only linearly beyond
`OUTLIER_MM` so that one misplaced landmark cannot tear the field. It acts on the same velocity as the images do, so
smoothness, the one-to-one test and the inverse hold as without landmarks.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from ..transforms.grid import inside, sample
from ..volume import Geometry
from .instance import Velocity

OUTLIER_MM = 8.0


@dataclass(frozen=True, eq=False)
class LandmarkPull:
    """What the landmarks add to the loss, called with the flows at the nodes, forward and backward ``(3, d, h, w)``.

    Attributes:
        fixed, moving: ``(3, N)`` (i, j, k) in the node grid, the moving points as the linear result sees them.
        weight: of a landmark, relative to the smoothness of the nodes around it.
        outlier: `OUTLIER_MM` in nodes.
    """

    fixed: Tensor
    moving: Tensor
    weight: float
    outlier: float

    def __call__(self, flows: tuple[Tensor, Tensor]) -> Tensor:
        """A scalar. It is divided by the number of nodes as the roughness is, so the weight suits any image."""
        rests = self._rests(flows)
        total = torch.stack(
            [huber_loss(rest, torch.zeros_like(rest), reduction="sum", delta=self.outlier) for rest in rests]
        ).sum()
        return self.weight * total / flows[0][0].numel()

    def curvature(self, flows: tuple[Tensor, Tensor]) -> Tensor:
        """Of the loss in the velocity ``(6, d, h, w)``: each landmark's, shared out among the nodes around it."""
        nodes = flows[0].new_zeros(flows[0].shape[1:])
        for rest, start in zip(self._rests(flows), (self.fixed, self.moving), strict=True):
            pull = (self.outlier / rest.detach()).clamp_max(1)
            low = start.floor()
            for corner in itertools.product((0, 1), repeat=3):
                at = low + start.new_tensor(corner)[:, None]
                share = (1 - (start - at).abs()).clamp_min(0).prod(dim=0)
                i, j, k = (x.long().clamp(0, n - 1) for x, n in zip(at, reversed(nodes.shape), strict=True))
                nodes.index_put_((k, j, i), share * pull, accumulate=True)
        diagonal = self.weight * nodes / nodes.numel()
        return torch.stack((diagonal,) * 3 + (torch.zeros_like(diagonal),) * 3)

    def _rests(self, flows: tuple[Tensor, Tensor]) -> list[Tensor]:
        """Distances ``(N,)`` in nodes that are left, from the fixed points and from the moving ones."""
        ends = ((flows[0], self.fixed, self.moving), (flows[1], self.moving, self.fixed))
        return [
            (start + sample(flow, start) - end).square().sum(dim=0).clamp_min(1e-12).sqrt()
            for flow, start, end in ends
        ]


def landmark_pull(
    velocity: Velocity,
    grid: Geometry,
    fixed: np.ndarray,
    moving: np.ndarray,
    weight: float,
) -> LandmarkPull | None:
    """The pull of the landmarks that lie on the working grid; None where there is none or the weight is 0.

    Args:
        grid: the working grid.
        fixed, moving: ``(N, 3)`` LPS mm, both in the fixed image's frame (the moving ones through the inverse of
            everything that acts after the velocity).
        weight: `Continuous.landmark_weight`.
    """
    voxels = [
        torch.from_numpy(points @ grid.physical_to_index[:3, :3].T + grid.physical_to_index[:3, 3]).T.float()
        for points in (np.asarray(fixed, dtype=np.float64), np.asarray(moving, dtype=np.float64))
    ]
    usable = inside(voxels[0], grid.shape) & inside(voxels[1], grid.shape)
    if not weight or not usable.any():
        return None
    device = velocity.coefficients.device
    nodes = [((v[:, usable] + 0.5) / velocity.step - 0.5).to(device) for v in voxels]
    return LandmarkPull(nodes[0], nodes[1], weight, OUTLIER_MM / (velocity.step * grid.spacing[0]))
