"""Landmarks in the continuous stage: a soft pull of the velocity towards corresponding points.

Each landmark adds the squared distance that is left between the two points, growing only linearly beyond
`OUTLIER_MM` so that one misplaced landmark cannot tear the field. It acts on the same velocity as the images do, so
smoothness, the one-to-one test and the inverse hold as without landmarks.
"""

from __future__ import annotations

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
        nodes = flows[0][0].numel()
        total = torch.zeros((), device=flows[0].device)
        for flow, start, end in ((flows[0], self.fixed, self.moving), (flows[1], self.moving, self.fixed)):
            rest = (start + sample(flow, start) - end).square().sum(dim=0).clamp_min(1e-12).sqrt()
            total = total + huber_loss(rest, torch.zeros_like(rest), reduction="sum", delta=self.outlier)
        return self.weight * total / nodes


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
