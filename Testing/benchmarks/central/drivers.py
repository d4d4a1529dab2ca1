"""The same network and the same optimiser for every similarity, from two images to a chain without folds.

The optimiser is that of the product in its outline (linear stage, coupled convex search, symmetric velocity on a
B-spline, coarse to fine), with automatic gradients so that any similarity can drive it; it works at half the
resolution. Mutual information is not a sum over places, so it has no search and begins with the linear result.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from masr_registration import presets
from masr_registration.representation.descriptor import Scan
from masr_registration.solver import convex, plan
from masr_registration.solver.amortized import STRIDES, Pyramid, RegistrationNetwork, pooled_weights
from masr_registration.solver.instance import STEEP_WEIGHT, Velocity, data_weight, roughness, steepness
from masr_registration.solver.linear import register_linear
from masr_registration.solver.pipeline import make_plan
from masr_registration.transforms.chain import Affine, TransformChain
from masr_registration.transforms.grid import pool, sample, upsample_lattice
from masr_registration.transforms.velocity import exponential, one_to_one_factors
from masr_registration.volume import Geometry, Volume
from torch import Tensor

from .views import Similarity

ITERATIONS, RATE = (40, 60), 0.3
LATTICE = 2
"""In the fine level, every iteration looks at every second voxel of the half-resolution grid, at a random offset."""


@dataclass(frozen=True)
class Prepared:
    """A problem after the linear stage, the same for all similarities.

    Attributes:
        images, weights: ``(D, H, W)`` of both images on the grid at half the working resolution.
        grid: the working grid; `matrix` the linear result; `seconds` what came so far has cost.
    """

    images: tuple[Tensor, Tensor]
    weights: tuple[Tensor, Tensor]
    grid: Geometry
    spacing_mm: float
    matrix: np.ndarray
    preset: presets.Preset
    seconds: float


def prepare(fixed: Volume, moving: Volume, name: str) -> Prepared:
    preset = presets.load(name)
    start = time.process_time()
    scans = [
        Scan.of(volume, kind, preset.normalisation)
        for volume, kind in ((fixed, preset.normalisation.fixed), (moving, preset.normalisation.moving))
    ]
    matrix = register_linear(*scans, preset.linear, np.eye(4), lambda fraction: None).matrix
    spacing = make_plan(fixed, moving, preset, device="cpu")[0].working_spacing_mm
    grid = plan.working_grid(scans[0], spacing, preset, plan.room(scans[0], scans[1], matrix))
    images, weights = [], []
    for scan, own in zip(scans, (np.eye(4), matrix), strict=True):
        images.append(pool(scan.smoothed(spacing).on(grid, own)[None], 2)[0])
        weights.append(pool(scan.known_on(grid, own)[None], 2)[0])
    seconds = time.process_time() - start
    return Prepared((images[0], images[1]), (weights[0], weights[1]), grid, spacing, matrix, preset, seconds)


def by_network(problem: Prepared, similarity: Similarity, network: RegistrationNetwork) -> Velocity:
    pyramids = [
        Pyramid(similarity.view.features(image), pooled_weights(weight, STRIDES[-1] // 2))
        for image, weight in zip(problem.images, problem.weights, strict=True)
    ]
    with torch.no_grad():
        found = network(*pyramids, problem.preset.continuous.regularisation)[-1]
    return _fitted(problem, exponential(found), exponential(-found), STRIDES[-1])


def by_optimiser(problem: Prepared, similarity: Similarity) -> Velocity:
    features = [similarity.dense(image) for image in problem.images]
    if similarity.local:
        reach = problem.preset.discrete.reach_mm / (2 * problem.spacing_mm)
        velocity = _fitted(problem, *convex.search(features[0], features[1], *problem.weights, reach), 2)
    else:
        velocity = _velocity(problem)
    coarse = [pool(f, 2) for f in features], [pool(w[None], 2)[0] for w in problem.weights]
    _descend(
        problem, similarity, velocity, *coarse, stride=4, lattice=1, iterations=ITERATIONS[0], anneal=False
    )
    fine = features, problem.weights
    _descend(
        problem, similarity, velocity, *fine, stride=2, lattice=LATTICE, iterations=ITERATIONS[1], anneal=True
    )
    return velocity


def _descend(
    problem: Prepared,
    similarity: Similarity,
    velocity: Velocity,
    features: Sequence[Tensor],
    weights: Sequence[Tensor],
    *,
    stride: int,
    lattice: int,
    iterations: int,
    anneal: bool,
) -> None:
    coefficients = velocity.coefficients.detach().requires_grad_()
    velocity.coefficients = coefficients
    descent = torch.optim.Adam([coefficients], lr=RATE, betas=(0.9, 0.99))
    random = np.random.default_rng(0)
    for number in range(iterations):
        field = velocity.at_nodes()
        offset = random.integers(0, lattice, 3)
        data = torch.zeros(())
        for sign, own, other in ((1.0, 0, 1), (-1.0, 1, 0)):
            flow = exponential(sign * field)
            places, index = _lattice(flow, velocity.step / stride, weights[own].shape, offset, lattice)
            weight = weights[own][places] * sample(weights[other][None], index.detach())[0]
            data = data + similarity.view.dissimilarity(
                features[own][(slice(None), *places)], sample(features[other], index), weight
            )
        penalty = problem.preset.continuous.regularisation * roughness(field)
        loss = data_weight(*problem.weights) * data + penalty + STEEP_WEIGHT * steepness(field)
        descent.zero_grad()
        loss.backward()
        if anneal:
            descent.param_groups[0]["lr"] = 0.5 * RATE * (1 - 0.9 * number / iterations)
        descent.step()
    velocity.coefficients = coefficients.detach()


def chains(problem: Prepared, velocity: Velocity) -> tuple[TransformChain, TransformChain]:
    """Fixed -> moving and back in LPS mm, every factor within the strict bound."""
    forward, backward = one_to_one_factors(velocity.on_stride(2), problem.grid.reduced(2))
    there = TransformChain((Affine(problem.matrix), *forward))
    return there, TransformChain((*backward, Affine(np.linalg.inv(problem.matrix))))


def _velocity(problem: Prepared) -> Velocity:
    return Velocity(problem.grid.shape, problem.spacing_mm, problem.preset.continuous.control_spacing_mm)


def _fitted(problem: Prepared, forward: Tensor, backward: Tensor, stride: int) -> Velocity:
    velocity = _velocity(problem)
    velocity.fit(*(velocity.nodes_of(f, stride=stride) for f in (forward, backward)))
    return velocity


def _lattice(
    flow: Tensor, per_node: float, shape: Sequence[int], offset: np.ndarray, lattice: int
) -> tuple[tuple[slice, ...], Tensor]:
    """Every `lattice`-th voxel of a grid with `per_node` voxels to a node, and where `flow` at the nodes takes it."""
    places = tuple(slice(int(o), None, lattice) for o in offset)
    axes = [torch.arange(n, dtype=torch.float32)[place] for n, place in zip(shape, places, strict=True)]
    nodes = [(axis + 0.5) / per_node - 0.5 for axis in axes]
    k, j, i = torch.meshgrid(*axes, indexing="ij")
    bent = upsample_lattice(flow, (nodes[0], nodes[1], nodes[2])) * per_node
    return places, torch.stack((i, j, k)) + bent
