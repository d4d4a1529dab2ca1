"""The linear stage: rigid, then affine, from starts that may be far off.

1. Starts: the given one, the two bodies' centres on each other, the landmarks on each other where landmarks are to
   pull, and rotations about the centre.
2. Block matching: every node of a coarse grid finds its best place in a window; a least-trimmed-squares fit of the
   forward and backward matches moves the image; the image is encoded anew and matched again, coarse to fine.
3. Refinement: Gauss-Newton on the feature difference and, where they are to pull, on the distance of the landmarks.
A step is taken only when it lowers the cost; the result keeps `SCALE_LIMITS` and, where the preset trusts the
orientation, `MAX_TRUSTED_ROTATION`.

Sources: Ourselin et al., MICCAI 2000, Modat et al., JMI 2014 (symmetric block matching); Heinrich et al. 2013 (MIND).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..presets import Linear
from ..representation.descriptor import Scan, region_box
from ..representation.self_similarity import mind_ssc
from ..transforms import affine
from ..transforms.grid import pool
from .convex import cost_volume, window
from .linear_landmarks import LinearLandmarks

SCALE_LIMITS = (0.7, 1.4)
MAX_TRUSTED_ROTATION = 45.0
START_ROTATION = 30.0
COARSE_MM, FINE_MM = 5.0, 3.0
COARSE_VOXELS = 80_000
"""The coarse grid has about as many voxels at most: larger bodies are matched on a coarser one."""
MARGIN_MM = 16.0
GRADIENT_POINTS = 40_000
ROTATION_UNIT = 50.0
"""Millimetres from the centre at which a rotation parameter moves as far as a translation parameter."""
STEPS, ENOUGH = 12, 2e-4
"""Gauss-Newton steps at most, and the share of the cost that a step must gain to be followed by another."""
Tick = Callable[[float], None]


@dataclass(frozen=True)
class LinearResult:
    """`matrix` 4x4 LPS mm, fixed -> moving; cost before and after; sentences for a person."""

    matrix: np.ndarray
    cost_before: float
    cost_after: float
    warnings: tuple[str, ...]


class LinearStage:
    """Both scans at one resolution: the cost of a matrix and the moves that lower it."""

    def __init__(
        self, fixed: Scan, moving: Scan, spacing_mm: float, landmarks: LinearLandmarks | None = None
    ) -> None:
        self.landmarks = landmarks
        self.grid = region_box(fixed, spacing_mm, MARGIN_MM, multiple=2)
        self.fixed, self.moving = fixed.smoothed(spacing_mm), moving.smoothed(spacing_mm)
        self.features = mind_ssc(self.fixed.on(self.grid, np.eye(4)), radius=1)
        self.region = fixed.region_in(self.grid)
        self.known = self.fixed.known_on(self.grid, np.eye(4))
        self.counted = self.region * self.fixed.weight_on(self.grid, np.eye(4))
        generator = torch.Generator().manual_seed(0)
        body = self.features[:, self.region]
        shuffled = body[:, torch.randperm(body.shape[1], generator=generator).to(body.device)]
        self.unrelated = float((body - shuffled).square().mean())
        voxels = self.region.nonzero()
        voxels = voxels[:: max(1, len(voxels) // GRADIENT_POINTS)]
        points = affine.apply(self.grid.index_to_physical, voxels.flip(1).double().cpu().numpy())
        self.centre = points.mean(0)
        self._voxels = voxels.T
        self._arms = self._arms_of(points)
        self._encoded: tuple[bytes, Tensor] = (b"", self.features)

    def _arms_of(self, points: np.ndarray) -> np.ndarray:
        return np.c_[np.ones(len(points)), (points - self.centre) / ROTATION_UNIT]

    def encode_moving(self, matrix: np.ndarray) -> Tensor:
        """Features of the moving scan on the fixed grid through `matrix`; the last ones are kept."""
        if self._encoded[0] != matrix.tobytes():
            self._encoded = matrix.tobytes(), mind_ssc(self.moving.on(self.grid, matrix), radius=1)
        return self._encoded[1]

    def cost(self, matrix: np.ndarray) -> float:
        """Mean squared feature difference over the fixed region, weighted by both masks, and what landmarks add.

        What lies outside the moving field of view counts as unrelated; what is masked out does not count.
        """
        images = self._image_cost(matrix)
        return images if self.landmarks is None else images + self.unrelated * self.landmarks.cost(matrix)

    def _image_cost(self, matrix: np.ndarray) -> float:
        difference = (self.features - self.encode_moving(matrix)).square().mean(dim=0)
        seen = self.moving.seen_on(self.grid, matrix)
        weight = self.counted * torch.where(seen, self.moving.weight_on(self.grid, matrix), 1.0)
        if not weight.any():
            return self.unrelated
        return float((torch.where(seen, difference, self.unrelated) * weight).sum() / weight.sum())

    def matches(self, matrix: np.ndarray, radius: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Block matches in both directions: fixed points, where they should lie before `matrix`, and weights."""
        moving, known = self.encode_moving(matrix), self.moving.known_on(self.grid, matrix)
        images = [pool(features, 2) for features in (self.features, moving)]
        weights = [pool(mask[None], 2)[0] for mask in (self.known, known)]
        bodies = [
            pool((body * mask)[None], 2)[0]
            for body, mask in (
                (self.region, self.known),
                (self.moving.region_on(self.grid, matrix), known),
            )
        ]
        to_mm = self._node_to_physical()
        at, step, gains = [], [], []
        for own, other in ((0, 1), (1, 0)):
            cost = cost_volume(
                images[own], images[other], torch.ones_like(weights[own]), weights[other], radius
            )
            minimum, label = cost.min(dim=0)
            gain = (cost.mean(dim=0) - minimum).clamp_min(0) * bodies[own]
            nodes = bodies[own] > 0.5 * bodies[own].max()
            at.append(affine.apply(to_mm, nodes.nonzero().flip(1).double().cpu().numpy()))
            step.append(window(radius)[label[nodes].cpu()].double().numpy() @ to_mm[:3, :3].T)
            gains.append(gain[nodes].double().cpu().numpy())
        source = np.concatenate([at[0], at[1] + step[1]])
        target = np.concatenate([at[0] + step[0], at[1]])
        return source, target, np.concatenate(gains) + 1e-9

    def _node_to_physical(self) -> np.ndarray:
        node_to_index = np.diag([2.0, 2.0, 2.0, 1.0])
        node_to_index[:3, 3] = 0.5
        return self.grid.index_to_physical @ node_to_index

    def step_by_matching(self, matrix: np.ndarray, radius: int, fit: affine.FitFunction) -> np.ndarray:
        """`matrix` after one round of block matching."""
        source, target, weights = self.matches(matrix, radius)
        if len(source) < 32:
            return matrix
        return matrix @ affine.fit_trimmed(fit, source, target, weights)

    def normal_equations(self, matrix: np.ndarray, rigid: bool) -> tuple[np.ndarray, np.ndarray]:
        """Hessian ``(P, P)`` and force ``(P,)`` of the cost in the parameters of a small motion.

        The motion of a point at `arms` ``(N, 4)``, homogeneous and in `ROTATION_UNIT`, is a 3x4 matrix times its arm;
        P is 12 or, with the combinations of `_RIGID`, 6.
        """
        features = self.encode_moving(matrix)
        k, j, i = self._voxels
        depth, height, width = features.shape[1:]
        slopes = [
            features[:, k, j, (i + 1).clamp_max(width - 1)] - features[:, k, j, (i - 1).clamp_min(0)],
            features[:, k, (j + 1).clamp_max(height - 1), i] - features[:, k, (j - 1).clamp_min(0), i],
            features[:, (k + 1).clamp_max(depth - 1), j, i] - features[:, (k - 1).clamp_min(0), j, i],
        ]
        to_index = torch.from_numpy(np.linalg.inv(self.grid.index_to_physical[:3, :3])).to(features)
        gradient = torch.einsum("icn,ij->cjn", torch.stack(slopes) / 2, to_index)
        weight = (self.counted * self.moving.known_on(self.grid, matrix))[k, j, i]
        residual = (self.features[:, k, j, i] - features[:, k, j, i]) * weight
        pairs = torch.einsum("cin,cjn->nij", gradient * weight, gradient).double().cpu().numpy()
        force = torch.einsum("cin,cn->in", gradient, residual).double().cpu().numpy() @ self._arms
        arms = (self._arms[:, :, None] * self._arms[:, None]).reshape(-1, 16)
        hessian = (arms.T @ pairs.reshape(-1, 9)).reshape(4, 4, 3, 3).transpose(2, 0, 3, 1).reshape(12, 12)
        force = force.ravel()
        if self.landmarks is not None:
            scale = 0.5 * len(features) * float(weight.sum()) * self.unrelated
            more = self.landmarks.normal_equations(matrix, self._arms_of(self.landmarks.fixed))
            hessian, force = hessian + scale * more[0], force + scale * more[1]
        if not rigid:
            return hessian, force
        return _RIGID @ hessian @ _RIGID.T, _RIGID @ force

    def step_by_gradient(
        self, matrix: np.ndarray, equations: tuple[np.ndarray, np.ndarray], damping: float
    ) -> np.ndarray:
        """`matrix` after one Levenberg-Marquardt step from its `normal_equations`."""
        hessian, force = equations
        delta = np.linalg.lstsq(hessian + damping * np.diag(np.diag(hessian)), force, rcond=1e-10)[0]
        rigid = len(delta) == 6
        motion = (delta @ _RIGID if rigid else delta).reshape(3, 4)
        linear = (
            affine.rotation(delta[3:] / ROTATION_UNIT) if rigid else np.eye(3) + motion[:, 1:] / ROTATION_UNIT
        )
        return matrix @ affine.about(self.centre, linear, motion[:, 0])


def _rigid_motions() -> np.ndarray:
    """The motions of a rigid body among those of an affine one: ``(6, 12)``, translations first."""
    motions = np.zeros((6, 3, 4))
    for axis, unit in enumerate(np.eye(3)):
        motions[axis, axis, 0] = 1.0
        motions[3 + axis, :, 1:] = np.cross(unit, np.eye(3)).T
    return motions.reshape(6, 12)


_RIGID = _rigid_motions()


def _starts(stage: LinearStage, moving: Scan, given: np.ndarray) -> list[np.ndarray]:
    """The given start, then centres on each other, then landmarks on each other, then rotations about the centre of
    the best of these."""
    body = moving.region.nonzero().flip(1).double().cpu().numpy()
    if not len(body):
        return [given]
    target = affine.apply(moving.geometry.index_to_physical, body).mean(0)
    shift = np.eye(4)
    shift[:3, 3] = target - affine.apply(given, stage.centre[None])[0]
    candidates = [given, shift @ given]
    if stage.landmarks is not None:
        candidates.append(stage.landmarks.start(given))
    best = min(candidates, key=stage.cost)
    turns = [
        affine.about(stage.centre, affine.rotation(sign * np.radians(START_ROTATION) * axis))
        for axis in np.eye(3)
        for sign in (1, -1)
    ]
    return candidates + [best @ turn for turn in turns]


def allowed(matrix: np.ndarray, start: np.ndarray, settings: Linear) -> bool:
    """Whether a linear result may be returned: no reflection, sane scales, no untrusted turn."""
    stretch = affine.scales(matrix)
    if np.linalg.det(matrix[:3, :3]) <= 0 or stretch[0] > SCALE_LIMITS[1] or stretch[-1] < SCALE_LIMITS[0]:
        return False
    turned = affine.rotation_degrees(np.linalg.inv(start) @ matrix)
    return not settings.orientation_trusted or turned <= MAX_TRUSTED_ROTATION


def register_linear(
    fixed: Scan,
    moving: Scan,
    settings: Linear,
    start: np.ndarray,
    tick: Tick = lambda _: None,
    landmarks: LinearLandmarks | None = None,
) -> LinearResult:
    """Align two scans linearly.

    Args:
        start: 4x4 LPS mm, fixed -> moving: what is believed so far (the identity trusts the headers).
        tick: called with the fraction done, 0 to 1.
        landmarks: those that are to pull; the limits on what may be returned hold with them as well.
    """
    volume = np.prod(region_box(fixed, FINE_MM, MARGIN_MM).extent_mm)
    coarse_mm = max(COARSE_MM, float(np.cbrt(volume / COARSE_VOXELS)))
    fine_mm = FINE_MM / COARSE_MM * coarse_mm
    fixed, moving = fixed.smoothed(fine_mm), moving.smoothed(fine_mm)
    coarse = LinearStage(fixed, moving, coarse_mm, landmarks)

    def improve(
        stage: LinearStage, matrix: np.ndarray, cost: float, candidate: np.ndarray
    ) -> tuple[np.ndarray, float]:
        if not allowed(candidate, start, settings):
            return matrix, cost
        new = stage.cost(candidate)
        return (candidate, new) if new < cost else (matrix, cost)

    trials: list[tuple[float, int, np.ndarray]] = []
    candidates = _starts(coarse, moving, start)
    for number, candidate in enumerate(candidates):
        moved = coarse.step_by_matching(candidate, 3, affine.fit_rigid)
        for option in (candidate, moved):
            if allowed(option, start, settings):
                trials.append((coarse.cost(option), len(trials), option))
        tick(0.4 * (number + 1) / len(candidates))
    before = coarse.cost(start)
    if not trials:
        return LinearResult(
            start, before, before, ("The linear stage found no admissible alignment and was left out.",)
        )
    trials.sort()
    finalists = []
    for cost, order, matrix in trials[:2]:
        for radius in (3, 2, 2):
            matrix, cost = improve(
                coarse, matrix, cost, coarse.step_by_matching(matrix, radius, affine.fit_rigid)
            )
        finalists.append((cost, order, matrix))
    cost, _, matrix = min(finalists)
    tick(0.6)

    for stage in (coarse, LinearStage(fixed, moving, fine_mm, landmarks)):
        cost = stage.cost(matrix)
        if settings.model == "affine":
            for _ in range(2):
                matrix, cost = improve(
                    stage, matrix, cost, stage.step_by_matching(matrix, 2, affine.fit_affine)
                )
        damping, equations = 1e-3, None
        for _ in range(STEPS):
            equations = equations or stage.normal_equations(matrix, settings.model == "rigid")
            new, new_cost = improve(stage, matrix, cost, stage.step_by_gradient(matrix, equations, damping))
            if new is matrix:
                damping *= 30
                if damping > 1:
                    break
                continue
            gained = cost - new_cost
            matrix, cost, equations, damping = new, new_cost, None, damping / 3
            if gained < ENOUGH * cost:
                break
        tick(0.8 if stage is coarse else 1.0)

    final_before = stage.cost(start)
    if cost >= final_before:
        return LinearResult(start, final_before, final_before, ())
    warnings = []
    turned = affine.rotation_degrees(np.linalg.inv(start) @ matrix)
    if turned > MAX_TRUSTED_ROTATION:
        warnings.append(
            f"The moving image was turned by {turned:.0f} degrees: make sure that left and right are right."
        )
    return LinearResult(matrix, final_before, cost, tuple(warnings))
