"""The linear stage: rigid, then affine, from starts that may be far off.

1. Starts: the given one, the two bodies' centres on each other, and rotations about the centre.
2. Block matching: every node of a coarse grid finds its best place in a window; a least-trimmed-squares fit of the
   forward and backward matches moves the image; the image is encoded anew and matched again, coarse to fine.
3. Refinement: Gauss-Newton on the feature difference.
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

SCALE_LIMITS = (0.7, 1.4)
MAX_TRUSTED_ROTATION = 45.0
START_ROTATION = 30.0
COARSE_MM, FINE_MM = 4.0, 3.0
COARSE_VOXELS = 150_000
"""The coarse grid has about as many voxels at most: larger bodies are matched on a coarser one."""
MARGIN_MM = 16.0
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

    def __init__(self, fixed: Scan, moving: Scan, spacing_mm: float) -> None:
        self.grid = region_box(fixed, spacing_mm, MARGIN_MM, multiple=2)
        self.moving = moving.smoothed(spacing_mm)
        scan, eye = fixed.smoothed(spacing_mm), np.eye(4)
        self.features = mind_ssc(scan.on(self.grid, eye), radius=1)
        self.region = fixed.region_in(self.grid)
        self.known = scan.known_on(self.grid, eye)
        generator = torch.Generator().manual_seed(0)
        body = self.features[:, self.region]
        shuffled = body[:, torch.randperm(body.shape[1], generator=generator).to(body.device)]
        self.unrelated = float((body - shuffled).square().mean())
        self.centre = affine.apply(
            self.grid.index_to_physical, self.region.nonzero().flip(1).double().cpu().numpy()
        ).mean(0)

    def encode_moving(self, matrix: np.ndarray) -> Tensor:
        """Features of the moving scan on the fixed grid through `matrix`."""
        return mind_ssc(self.moving.on(self.grid, matrix), radius=1)

    def cost(self, matrix: np.ndarray) -> float:
        """Mean squared feature difference over the fixed region.

        What lies outside the moving field of view counts as unrelated; what is masked out does not count.
        """
        difference = (self.features - self.encode_moving(matrix)).square().mean(dim=0)
        seen = self.moving.seen_on(self.grid, matrix)
        counted = self.region & (self.moving.allowed_on(self.grid, matrix) | ~seen)
        if not counted.any():
            return self.unrelated
        return float(torch.where(seen, difference, self.unrelated)[counted].mean())

    def matches(self, matrix: np.ndarray, radius: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Block matches in both directions: fixed points, where they should lie before `matrix`, and weights."""
        moving, known = self.encode_moving(matrix), self.moving.known_on(self.grid, matrix)
        images = [pool(features, 2) for features in (self.features, moving)]
        weights = [pool(mask.float()[None], 2)[0] for mask in (self.known, known)]
        bodies = [
            pool(body.float()[None], 2)[0]
            for body in (self.region & self.known, self.moving.region_on(self.grid, matrix) & known)
        ]
        to_mm = self._node_to_physical()
        at, step, gains = [], [], []
        for own, other in ((0, 1), (1, 0)):
            cost = cost_volume(
                images[own], images[other], torch.ones_like(weights[own]), weights[other], radius
            )
            minimum, label = cost.min(dim=0)
            gain = (cost.mean(dim=0) - minimum).clamp_min(0)
            nodes = bodies[own] > 0.5
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

    def step_by_gradient(self, matrix: np.ndarray, damping: float, rigid: bool) -> np.ndarray:
        """`matrix` after one Levenberg-Marquardt step on the feature difference."""
        features = self.encode_moving(matrix)
        mask = self.region & self.moving.known_on(self.grid, matrix)
        residual = (self.features - features)[:, mask].double()
        gradient = torch.stack(torch.gradient(features, dim=(3, 2, 1)), dim=1)[:, :, mask].double()
        points = mask.nonzero().flip(1).double().cpu().numpy()
        axes = self.grid.index_to_physical[:3, :3]
        arms = affine.apply(self.grid.index_to_physical, points) - self.centre
        gradient = torch.einsum("cin,ij->cjn", gradient, torch.from_numpy(np.linalg.inv(axes)).to(gradient))
        normal = torch.einsum("cin,cjn->ijn", gradient, gradient).cpu().numpy()
        force = torch.einsum("cin,cn->in", gradient, residual).cpu().numpy()
        basis = _motion_basis(arms, rigid)
        hessian = np.einsum("pin,ijn,qjn->pq", basis, normal, basis, optimize=True)
        right = np.einsum("pin,in->p", basis, force, optimize=True)
        delta = np.linalg.lstsq(hessian + damping * np.diag(np.diag(hessian)), right, rcond=1e-10)[0]
        if rigid:
            linear = affine.rotation(delta[3:] / ROTATION_UNIT)
        else:
            linear = np.eye(3) + delta[3:].reshape(3, 3) / ROTATION_UNIT
        return matrix @ affine.about(self.centre, linear, delta[:3])


ROTATION_UNIT = 50.0
"""Millimetres from the centre at which a rotation parameter moves as far as a translation parameter."""


def _motion_basis(arms: np.ndarray, rigid: bool) -> np.ndarray:
    """Motion of points at `arms` ``(N, 3)`` for each parameter: ``(6 or 12, 3, N)``, translations first."""
    count = len(arms)
    basis = np.zeros((6 if rigid else 12, 3, count))
    for a in range(3):
        basis[a, a] = 1.0
        if rigid:
            basis[3 + a] = np.cross(np.eye(3)[a], arms / ROTATION_UNIT).T
        else:
            for b in range(3):
                basis[3 + 3 * a + b, a] = arms[:, b] / ROTATION_UNIT
    return basis


def _starts(stage: LinearStage, moving: Scan, given: np.ndarray) -> list[np.ndarray]:
    """The given start, then centres on each other, then rotations about the centre of the better of the two."""
    body = moving.region.nonzero().flip(1).double().cpu().numpy()
    if not len(body):
        return [given]
    target = affine.apply(moving.geometry.index_to_physical, body).mean(0)
    shift = np.eye(4)
    shift[:3, 3] = target - affine.apply(given, stage.centre[None])[0]
    candidates = [given, shift @ given]
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
    fixed: Scan, moving: Scan, settings: Linear, start: np.ndarray, tick: Tick = lambda _: None
) -> LinearResult:
    """Align two scans linearly.

    Args:
        start: 4x4 LPS mm, fixed -> moving: what is believed so far (the identity trusts the headers).
        tick: called with the fraction done, 0 to 1.
    """
    volume = np.prod(region_box(fixed, FINE_MM, MARGIN_MM).extent_mm)
    coarse_mm = max(COARSE_MM, float(np.cbrt(volume / COARSE_VOXELS)))
    coarse = LinearStage(fixed, moving, coarse_mm)

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
        moved = coarse.step_by_matching(candidate, 4, affine.fit_rigid)
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
        for radius in (4, 3):
            for _ in range(2):
                matrix, cost = improve(
                    coarse, matrix, cost, coarse.step_by_matching(matrix, radius, affine.fit_rigid)
                )
        finalists.append((cost, order, matrix))
    cost, _, matrix = min(finalists)
    tick(0.6)

    for stage in (coarse, LinearStage(fixed, moving, FINE_MM * coarse_mm / COARSE_MM)):
        cost = stage.cost(matrix)
        if settings.model == "affine":
            for _ in range(3):
                matrix, cost = improve(
                    stage, matrix, cost, stage.step_by_matching(matrix, 2, affine.fit_affine)
                )
        damping = 1e-3
        for _ in range(12):
            candidate = stage.step_by_gradient(matrix, damping, settings.model == "rigid")
            new, new_cost = improve(stage, matrix, cost, candidate)
            gained = cost - new_cost
            matrix, cost = new, new_cost
            damping = damping / 3 if gained > 0 else damping * 10
            if gained < 1e-4 * cost and damping > 1:
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
