"""Landmarks in the linear stage: a start, and a term of its cost.

The term is that of the continuous stage (`landmarks`): the squared distance that is left, growing only linearly beyond
`OUTLIER_MM`, so one misplaced landmark cannot turn the patient. It is the mean over the landmarks, in units of the cost
of unrelated images: at `FULL_WEIGHT` and 8 mm it weighs half as much as the images can.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..transforms import affine
from .landmarks import OUTLIER_MM

FULL_WEIGHT = 60.0
"""The presets' `landmark_weight` at which the landmarks count once."""
LEAST_SPREAD_MM = 10.0
"""Root of the second principal moment of the points: thinner sets say nothing about a rotation."""


@dataclass(frozen=True, eq=False)
class LinearLandmarks:
    """Corresponding points ``(N, 3)`` LPS mm of both scans, N > 0, and the preset's `landmark_weight`."""

    fixed: np.ndarray
    moving: np.ndarray
    weight: float

    def start(self, given: np.ndarray) -> np.ndarray:
        """`given` (4x4 LPS mm, fixed -> moving) moved so that it meets the landmarks: rigidly with three or more that
        do not lie on a line, else by a shift. Least squares (Kabsch 1976)."""
        seen = affine.apply(np.linalg.inv(given), self.moving)
        centred = self.fixed - self.fixed.mean(axis=0)
        moments = np.linalg.svd(centred, compute_uv=False) / np.sqrt(len(centred))
        if len(moments) == 3 and moments[1] >= LEAST_SPREAD_MM:
            return np.asarray(given @ affine.fit_rigid(self.fixed, seen, np.ones(len(seen))))
        shift = np.eye(4)
        shift[:3, 3] = (seen - self.fixed).mean(axis=0)
        return np.asarray(given @ shift)

    def cost(self, matrix: np.ndarray) -> float:
        """Of a linear transform; 0 where it meets all landmarks."""
        distance = np.linalg.norm(affine.apply(matrix, self.fixed) - self.moving, axis=1) / OUTLIER_MM
        huber = np.where(distance < 1, distance**2 / 2, distance - 0.5)
        return float(self.weight / FULL_WEIGHT * huber.mean())

    def normal_equations(self, matrix: np.ndarray, arms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Hessian ``(12, 12)`` and force ``(12,)`` of the cost in the parameters of a small motion before `matrix`.

        `arms` ``(N, 4)`` are those of the fixed points (see `LinearStage.normal_equations`). The distances count as
        they are seen in the fixed scan, which is the same where `matrix` is rigid.
        """
        rest = affine.apply(np.linalg.inv(matrix), self.moving) - self.fixed
        distance = np.maximum(np.linalg.norm(rest, axis=1), 1e-9)
        each = np.minimum(1.0, OUTLIER_MM / distance)
        each *= self.weight / FULL_WEIGHT / (len(rest) * OUTLIER_MM**2)
        hessian = np.einsum("n,na,nb,ij->iajb", each, arms, arms, np.eye(3)).reshape(12, 12)
        return hessian, ((each[:, None] * rest).T @ arms).ravel()
