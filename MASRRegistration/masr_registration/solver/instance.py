"""The continuous stage: one stationary velocity field, symmetric in both images, sparse to dense.

``v`` is a cubic B-spline. The loss compares the fixed features with the moving ones under exp(v), and the moving
features with the fixed ones under exp(-v), so that neither image is preferred and the inverse comes for free.
Full-resolution features are read on a lattice of every fourth voxel, later of every second, whose offset changes from
step to step: the detail of full resolution for a fraction of its cost, so that there can be many steps. What is far
from its place gets there step by step, led by neighbours that have arrived. The intensities count too, by their local
correlation, which finds edges that the self-similarities blur.

Each iteration is a damped `gauss_newton.step`.

Sources: Arsigny et al. 2006 (log-Euclidean diffeomorphisms); Avants et al. 2008 (symmetric formulation, local
correlation); Rueckert et al. 1999 (B-splines); Siebert et al. 2021 (instance optimisation on MIND-SSC).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..presets import Continuous
from ..transforms.grid import (
    add_differences,
    box,
    bspline_controls,
    bspline_upsample,
    identity,
    laplacian,
    lattice_weights,
    pool,
    upsample_lattice,
    warp,
)
from ..transforms.velocity import exponential
from . import gauss_newton
from .gauss_newton import lumped
from .kernels import Comparison, channels_last, feature_difference, local_correlation, pool_compact

DATA_WEIGHT = 10.0
FIRST_STEP, LAST_STEP = 1.0, 0.6
"""Share of a Gauss-Newton step that is taken, from the first to the last iteration of a level: the later ones average
over the offsets of the lattice."""
LONGEST_STEP = 1.0
"""No node moves farther in one iteration, in nodes."""
MOMENTUM = 0.5
CURVATURE_MEMORY = 0.5
"""What is kept of the curvature of earlier iterations, which saw other offsets of the lattice."""
SHARPENINGS = 2
"""Corrections by which the spline comes closer to a change that is asked for at the nodes."""
STEEP, STEEP_WEIGHT = 1.0, 30.0
"""Slope of the velocity (a local stretch or squeeze by a factor of e^STEEP along an axis) that is made expensive."""
SLOPES, BENDS = 2.5, 2.5
"""Weights of the first and of the second differences in the roughness."""
GENTLE_SLOPE, GENTLE_BEND = 0.05, 0.1
"""Up to about these the roughness grows with the square of a difference, beyond them linearly: where the images ask for
a strong stretch, or organs slide along each other, a steep place costs less than half of what squares would."""
FADE_MM = 8.0
INITIAL_ROUNDS = 4
DSIR_SHARE = 1.0
"""Weight of the mean squared difference of the DSIR beside that of MIND-SSC."""
CORRELATION_SHARE = 0.15
"""Weight of the intensities' local correlation beside that of MIND-SSC."""
SPARSE, DENSE = 4, 2
"""Voxels from one that is compared to the next, first and then."""
Tick = Callable[[float, dict[str, float]], None]
Compare = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Comparison]


class Pull(Protocol):
    """A part of the loss by the flows at the nodes, forward and backward ``(3, d, h, w)``."""

    def __call__(self, flows: tuple[Tensor, Tensor]) -> Tensor: ...

    def curvature(self, flows: tuple[Tensor, Tensor]) -> Tensor:
        """Of this part in the velocity ``(6, d, h, w)``, `lumped` at the nodes."""
        ...


@dataclass(eq=False)
class Pair:
    """What the deformable stages see, all on one working grid. `optimise` consumes it: features are large.

    Attributes:
        fixed, moving: full-resolution features ``(C, D, H, W)`` from `kernels.compact`; sides are multiples of 8.
        fixed_dsir, moving_dsir: half-resolution features ``(C', D/2, H/2, W/2)``, if there are any.
        fixed_weight, moving_weight: ``(D, H, W)`` in [0, 1]: zero where an image shows nothing or is masked out.
        spacing_mm: of the isotropic working grid.
        fixed_image, moving_image: intensities ``(D, H, W)`` in [0, 1].
        pull: what else acts on the velocity (landmarks), if anything.
    """

    fixed: Tensor
    moving: Tensor
    fixed_weight: Tensor
    moving_weight: Tensor
    spacing_mm: float
    fixed_image: Tensor
    moving_image: Tensor
    fixed_dsir: Tensor | None = None
    moving_dsir: Tensor | None = None
    pull: Pull | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.fixed.shape[1], self.fixed.shape[2], self.fixed.shape[3]

    def halved(self) -> tuple[Tensor, Tensor]:
        """All features of both images at half the resolution ``(C + C', D/2, H/2, W/2)``."""
        return _halved(self.fixed, self.fixed_dsir), _halved(self.moving, self.moving_dsir)


def _halved(full: Tensor, half: Tensor | None) -> Tensor:
    pooled = pool_compact(full, 2)
    return pooled if half is None else torch.cat((pooled, half))


def _node_step(spacing_mm: float, control_spacing_mm: float) -> int:
    """Working voxels between control points."""
    return max(3, round(control_spacing_mm / spacing_mm))


def border_mm(spacing_mm: float, control_spacing_mm: float) -> float:
    """Width of the rim in which a `Velocity` fades: what must lie around the body on the working grid."""
    node = _node_step(spacing_mm, control_spacing_mm) * spacing_mm
    return 1.5 * node + max(node, FADE_MM)


class Velocity:
    """A cubic B-spline velocity on a working grid that fades to zero at the grid's border.

    Attributes:
        coefficients: ``(3, ...)`` in voxels of the node grid, one control point per node and one more around.
        nodes: shape of the node grid, where the exponential is computed during the optimisation.
    """

    def __init__(
        self, working_shape: tuple[int, int, int], spacing_mm: float, control_spacing_mm: float
    ) -> None:
        self.working_shape = working_shape
        step = self.step = _node_step(spacing_mm, control_spacing_mm)
        self.nodes = tuple(-(-n // step) for n in working_shape)
        controls = [bspline_controls(n, 1)[0] for n in self.nodes]
        self.coefficients = torch.zeros(3, *controls)
        self.fade_nodes = max(1.0, FADE_MM / (step * spacing_mm))

    def to(self, device: torch.device) -> Velocity:
        self.coefficients = self.coefficients.to(device)
        return self

    def at_nodes(self) -> Tensor:
        """Velocity at the nodes ``(3, d, h, w)``, in node voxels."""
        return bspline_upsample(self.coefficients, self.nodes, 1) * self.fade()

    def fade(self) -> Tensor:
        """The window ``(d, h, w)`` of the nodes by which the spline is multiplied."""
        return self._fade(self.nodes, 1)

    def change(self, nodes: Tensor) -> Tensor:
        """Coefficients whose spline comes close to ``(3, d, h, w)`` at the nodes, a little smoother than that."""
        coefficients = _padded(nodes)
        for _ in range(SHARPENINGS):
            coefficients = coefficients + _padded(nodes - bspline_upsample(coefficients, self.nodes, 1))
        return coefficients

    def nodes_of(self, displacement: Tensor, stride: int) -> Tensor:
        """A displacement ``(3, D/stride, ...)`` in voxels of that grid, at the nodes and in node voxels."""
        ratio = self.step / stride
        k, j, i = ((torch.arange(n, device=displacement.device) + 0.5) * ratio - 0.5 for n in self.nodes)
        return upsample_lattice(displacement, (k, j, i)) / ratio

    def on_stride(self, stride: int) -> Tensor:
        """Velocity ``(3, D/stride, ...)`` on the working grid reduced by `stride`, in voxels of that grid."""
        shape = tuple(n // stride for n in self.working_shape)
        ratio = self.step / stride
        index = (identity(shape, device=self.coefficients.device) + 0.5) / ratio - 0.5
        axes = [index[0, 0, 0], index[1, 0, :, 0], index[2, :, 0, 0]]
        result = self.coefficients
        for axis, positions in zip((3, 2, 1), axes, strict=True):
            distance = (
                positions[:, None] + 1 - torch.arange(result.shape[axis], device=positions.device)
            ).abs()
            near = 2 / 3 - distance**2 + distance**3 / 2
            weights = torch.where(distance < 1, near, (2 - distance).clamp_min(0) ** 3 / 6)
            result = torch.movedim(torch.movedim(result, axis, -1) @ weights.T, -1, axis)
        return result * ratio * self._fade(shape, ratio)

    def _fade(self, shape: tuple[int, ...], per_node: float) -> Tensor:
        """A smooth window: 1 inside, 0 within one node of the border, on a grid with `per_node` voxels to a node."""
        window = torch.ones(shape, device=self.coefficients.device)
        for axis, n in enumerate(shape):
            at = (torch.arange(n, device=window.device) + 0.5) / per_node - 0.5
            depth = torch.minimum(at, n / per_node - 1 - at) - 1
            ramp = (depth / self.fade_nodes).clamp(0, 1)
            ramp = ramp * ramp * (3 - 2 * ramp)
            window = window * ramp.reshape([-1 if a == axis else 1 for a in range(3)])
        return window

    def fit(self, forward: Tensor, backward: Tensor) -> None:
        """Start from a pair of displacement fields, forward and inverse, ``(3, ...)`` in node voxels at the nodes.

        First-order corrections: v += (exp(v)^-1 o forward - exp(-v)^-1 o backward) / 2, smoothed by the spline.
        """
        window = self.fade()
        forward, backward = forward * window, backward * window
        for _ in range(INITIAL_ROUNDS):
            velocity = self.at_nodes()
            plus, minus = exponential(velocity), exponential(-velocity)
            correction = (minus + warp(forward, minus)) - (plus + warp(backward, plus))
            self.coefficients = self.coefficients + _padded(box(correction / 2))


def _padded(nodes: Tensor) -> Tensor:
    return torch.nn.functional.pad(nodes[None], (1,) * 6, mode="replicate")[0]


def optimise(pair: Pair, velocity: Velocity, settings: Continuous, seed: int, tick: Tick) -> None:
    """Improve `velocity` in place, on the sparse lattice first and then on the dense one.

    The features of `pair` are released on the way.
    """
    features = []
    for name in ("fixed", "moving"):
        features.append(channels_last(getattr(pair, name)))
        setattr(pair, name, features[-1].new_empty(0))
    images = pair.fixed_image, pair.moving_image
    full = pair.fixed_weight, pair.moving_weight
    half = [pool(w[None], 2)[0] for w in full]
    dsir = [channels_last(x) for x in (pair.fixed_dsir, pair.moving_dsir) if x is not None]
    work = [steps / stride for stride, steps in zip((SPARSE, DENSE), settings.iterations, strict=True)]

    def terms(stride: int) -> list[Term]:
        result = [
            Term(velocity, features, full, stride=stride),
            Term(velocity, images, full, stride=stride, share=CORRELATION_SHARE, compare=local_correlation),
        ]
        if dsir:
            result.append(Term(velocity, dsir, half, stride=stride // 2, share=DSIR_SHARE))
        return result

    for number, (stride, steps) in enumerate(zip((SPARSE, DENSE), settings.iterations, strict=True)):
        if not steps:
            continue

        def report(n: int, metrics: dict[str, float], number: int = number, steps: int = steps) -> None:
            tick((sum(work[:number]) + work[number] * n / steps) / sum(work), metrics)

        _descend(velocity, terms(stride), settings, data_weight(*full), steps, seed, report, pair.pull)


def data_weight(fixed_weight: Tensor, moving_weight: Tensor) -> float:
    """`DATA_WEIGHT` times the share of the grid that both images know, by their weights ``(D, H, W)``.

    The smoothness is a mean over the whole grid: so it means the same in a large grid and in a small one, with a mask
    and without. Weights count by their ratio to the largest.
    """
    both = fixed_weight * moving_weight
    return DATA_WEIGHT * float(both.mean() / (fixed_weight.max() * moving_weight.max()).clamp_min(1e-12))


class Term:
    """A part of the symmetric loss: both images at one resolution, compared on every `stride`-th voxel.

    Args:
        images: what `compare` takes of the fixed and of the moving one: channels-last features ``(D, H, W, C)`` or
            intensities ``(D, H, W)``.
        weights: of both, ``(D, H, W)``.
        share: factor of this part.
    """

    def __init__(
        self,
        velocity: Velocity,
        images: Sequence[Tensor],
        weights: Sequence[Tensor],
        *,
        stride: int = 1,
        share: float = 1.0,
        compare: Compare = feature_difference,
    ) -> None:
        self.fixed, self.moving = images
        self.compare = compare
        self.fixed_weight, self.moving_weight = (w.contiguous() for w in weights)
        self.stride, self.share = stride, share
        self.shape = tuple(weights[0].shape)
        self.nodes = velocity.nodes
        self.voxels_per_node = velocity.step * self.shape[0] / velocity.working_shape[0]
        self.index = identity(self.shape, device=self.fixed.device)

    @property
    def lattice(self) -> tuple[tuple[int, ...], int]:
        """Terms of the same lattice compare at the same `positions`."""
        return self.shape, self.stride

    def positions(self, flows: tuple[Tensor, Tensor], offset: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Where the voxels `offset` + multiples of the stride lie in the other image, by `flows` at the nodes."""
        at = self.index[(slice(None), *self._every(offset))]
        nodes = self._lattice_in_nodes(offset)
        forward, backward = (at + upsample_lattice(flow, nodes) * self.voxels_per_node for flow in flows)
        return forward, backward

    def compared(self, positions: tuple[Tensor, Tensor], offset: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The dissimilarity in both directions, at `positions` of the same `offset`.

        Returns:
            The loss, and its curvature in the velocity ``(6, d, h, w)``, `lumped` at the nodes.
        """
        loss, curvature = [], []
        for position, own, other, own_weight, other_weight in (
            (positions[0], self.fixed, self.moving, self.fixed_weight, self.moving_weight),
            (positions[1], self.moving, self.fixed, self.moving_weight, self.fixed_weight),
        ):
            seen, weight = (x[self._every(offset)].contiguous() for x in (own, own_weight))
            found = self.compare(seen, other, position, weight, other_weight)
            loss.append(found.cost)
            curvature.append(found.curvature)
        axes = [
            lattice_weights(at, n) for at, n in zip(self._lattice_in_nodes(offset), self.nodes, strict=True)
        ]
        scale = self.share * self.voxels_per_node**2
        return (loss[0] + loss[1]) * self.share, lumped(curvature[0] + curvature[1], axes) * scale

    def _lattice_in_nodes(self, offset: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Indices (k, j, i) of the lattice's planes in the node grid."""
        z, y, x = (
            (torch.arange(o.start, n, self.stride, device=self.index.device) + 0.5) / self.voxels_per_node
            - 0.5
            for o, n in zip(self._every(offset), self.shape, strict=True)
        )
        return z, y, x

    def _every(self, offset: Sequence[int]) -> tuple[slice, ...]:
        return tuple(slice(o % self.stride, None, self.stride) for o in offset)


def roughness(field: Tensor) -> Tensor:
    """How uneven ``(3, D, H, W)`` is: robust means of its first and second differences."""
    slopes = [field.diff(dim=axis) for axis in (1, 2, 3)]
    bends = [slope.diff(dim=axis) for slope in slopes for axis in (1, 2, 3)]
    return SLOPES * _robust(slopes, GENTLE_SLOPE) + BENDS * _robust(bends, GENTLE_BEND)


def _robust(parts: list[Tensor], gentle: float) -> Tensor:
    """Of differences ``(3, ...)``: their mean squares while they are small, summed over the parts."""
    means = [2 * gentle**2 / 3 * (_excess(part, gentle) - 1).mean() for part in parts if part.numel()]
    return torch.stack(means).sum()


def _excess(differences: Tensor, gentle: float) -> Tensor:
    """By how much slower than the square of its length the cost of a difference ``(3, ...)`` grows: ``(1, ...)``."""
    return (1 + differences.square().sum(dim=0, keepdim=True) / gentle**2).sqrt()


def steepness(field: Tensor) -> Tensor:
    """Mean squared excess of the first differences of ``(3, D, H, W)`` over `STEEP`, summed over the axes."""
    return _mean_squares([(field.diff(dim=axis).abs() - STEEP).clamp_min(0) for axis in (1, 2, 3)])


def _mean_squares(parts: list[Tensor]) -> Tensor:
    return torch.stack([part.square().mean() for part in parts if part.numel()]).sum()


def _descend(
    velocity: Velocity,
    terms: Sequence[Term],
    settings: Continuous,
    data_weight: float,
    iterations: int,
    seed: int,
    tick: Callable[[int, dict[str, float]], None],
    pull: Pull | None,
) -> None:
    """Gauss-Newton steps with momentum, ever smaller, each on another offset of the lattice."""
    offsets = list(itertools.product(range(max(term.stride for term in terms)), repeat=3))
    random = np.random.default_rng(seed)
    window = velocity.fade()
    moving = torch.zeros_like(velocity.coefficients)
    curvature: Tensor | None = None
    for number in range(iterations):
        if number % len(offsets) == 0:
            order = random.permutation(len(offsets))
        offset = offsets[order[number % len(offsets)]]
        field = velocity.at_nodes().requires_grad_()
        flows = exponential(field), exponential(-field)
        places = {
            lattice: term.positions(flows, offset)
            for lattice, term in {term.lattice: term for term in terms}.items()
        }
        losses, curvatures = zip(
            *(term.compared(places[term.lattice], offset) for term in terms), strict=True
        )
        data = torch.stack(losses).sum()
        loss = data_weight * data
        found = data_weight * torch.stack(curvatures).sum(dim=0)
        if pull is not None:
            loss = loss + pull(flows)
            found = found + pull.curvature(flows)
        (gradient,) = torch.autograd.grad(loss, field)
        curvature = found if curvature is None else torch.lerp(found, curvature, CURVATURE_MEMORY)
        smoothness, slopes, bends = _smoothness(field.detach(), settings.regularisation)
        change = gauss_newton.step((gradient + smoothness) * window, curvature, slopes, bends)
        length = change.square().sum(dim=0).sqrt()
        change = change * (LONGEST_STEP / length.clamp_min(LONGEST_STEP)) * window
        share = FIRST_STEP + (LAST_STEP - FIRST_STEP) * number / max(iterations - 1, 1)
        moving = MOMENTUM * moving + velocity.change(share * change)
        velocity.coefficients = velocity.coefficients + moving
        tick(number + 1, {"dissimilarity": float(data.detach()) / 2})


def _smoothness(field: Tensor, regularisation: float) -> tuple[Tensor, list[Tensor], Tensor]:
    """Of the roughness and the steepness: the gradient, and the curvature in the first differences along each axis and
    (of the roughness) in the Laplacian of every node."""
    gradient, slopes = torch.zeros_like(field), []
    for axis in (1, 2, 3):
        slope = field.diff(dim=axis)
        scale = 2 / max(slope.numel(), 1)
        gentle = scale * regularisation * SLOPES / _excess(slope, GENTLE_SLOPE)
        steep = scale * STEEP_WEIGHT * (slope.abs() > STEEP)
        slopes.append(gentle + steep)
        add_differences(gradient, slopes[-1] * slope - steep * STEEP * slope.sign(), axis)
        for other in range(axis, 4):
            bend = slope.diff(dim=other)
            both = 1 if other == axis else 2  # first along the one axis, then along the other: twice the same
            weight = both * 2 / max(bend.numel(), 1) * regularisation * BENDS / _excess(bend, GENTLE_BEND)
            change = torch.zeros_like(slope)
            add_differences(change, weight * bend, other)
            add_differences(gradient, change, axis)
    bend = laplacian(field) / 3**0.5  # about as long as the second differences that it adds up
    return gradient, slopes, 2 / field.numel() * regularisation * BENDS / _excess(bend, GENTLE_BEND)
