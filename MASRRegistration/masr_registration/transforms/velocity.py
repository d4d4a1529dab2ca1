"""Stationary velocity fields: the exponential, and its split into factors that are provably one-to-one.

Source: Arsigny et al., MICCAI 2006.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..solver.kernels import self_compose
from ..volume import Geometry
from .chain import DisplacementField
from .grid import box
from .jacobian import STRICT_BOUND, row_bound

FACTOR_COUNTS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
MAX_FACTORS = FACTOR_COUNTS[-1]
SMOOTHING_ROUNDS = 10
INVERSE_RESIDUAL_MM = 0.02
HOPELESS = 1.3
"""A factor whose velocity is this much steeper than the strict bound is not worth its exponential."""


def exponential(velocity: Tensor, *, step_voxels: float = 0.5) -> Tensor:
    """Displacement ``exp(velocity) - id`` on the grid of `velocity` ``(3, D, H, W)``, in voxels.

    The field is halved until no component is longer than `step_voxels`, then composed with itself as often.
    """
    longest = float(velocity.detach().abs().amax())
    squarings = max(0, math.ceil(math.log2(longest / step_voxels))) if longest > step_voxels else 0
    displacement = velocity / 2**squarings
    for _ in range(squarings):
        displacement = self_compose(displacement)
    return displacement


def one_to_one_factors(
    velocity: Tensor, geometry: Geometry
) -> tuple[list[DisplacementField], list[DisplacementField]]:
    """``exp(velocity)`` as n equal factors ``exp(velocity / n)`` and their inverses, all within the strict bound.

    n is the smallest of `FACTOR_COUNTS` for which the factor and its inverse pass `row_bound` < `STRICT_BOUND` and,
    there and back, n of them miss by less than `INVERSE_RESIDUAL_MM`: between nodes an inverse is not exact; finer
    steps make it better (with `MAX_FACTORS` it is taken as it is). Where more than `MAX_FACTORS` would be needed, the
    velocity is smoothed around the cells that fail, and after `SMOOTHING_ROUNDS` it is scaled down: this always ends,
    because the zero field passes.

    Args:
        velocity: ``(3, D, H, W)`` in voxels of the isotropic grid `geometry`, zero at its border.

    Returns:
        Factors in the order of a chain (all equal), and inverse factors likewise. Both empty for a zero velocity.
    """
    for attempt in range(SMOOTHING_ROUNDS + 64):
        if not velocity.abs().amax() > 0:
            break
        steepness = row_bound(velocity)
        least = float(steepness.amax()) / (HOPELESS * STRICT_BOUND)
        for count in FACTOR_COUNTS:
            pair = _factor(velocity / count, geometry) if count >= least else None
            if pair is not None and (count == MAX_FACTORS or count * _residual(*pair) < INVERSE_RESIDUAL_MM):
                return [pair[0]] * count, [pair[1]] * count
        if attempt < SMOOTHING_ROUNDS:
            velocity = smoothed_where(velocity, steepness > 0.6 * STRICT_BOUND * MAX_FACTORS)
        else:
            velocity = velocity * 0.8
    return [], []


def _factor(velocity: Tensor, geometry: Geometry) -> tuple[DisplacementField, DisplacementField] | None:
    """The exponential of a small velocity and its inverse as fields in mm; None where one breaks the strict bound."""
    to_mm = torch.tensor(geometry.index_to_physical[:3, :3], dtype=torch.float32, device=velocity.device)
    displacement = exponential(velocity)
    if not float(row_bound(displacement).amax()) < STRICT_BOUND:
        return None
    field = DisplacementField(torch.einsum("ab,bdhw->adhw", to_mm, displacement), geometry)
    inverse = field.inverse(torch.einsum("ab,bdhw->adhw", to_mm, exponential(-velocity)))
    back = torch.einsum("ab,bdhw->adhw", torch.linalg.inv(to_mm), inverse.displacement)
    return (field, inverse) if float(row_bound(back).amax()) < STRICT_BOUND else None


def _residual(field: DisplacementField, inverse: DisplacementField) -> float:
    """Distance in mm from a point to where field and inverse lead it: mean of the worse half of the cells' middles."""
    geometry = field.geometry
    middles = [torch.arange(0.5, n - 1, 2.0, dtype=torch.float64) for n in geometry.size]
    index = torch.stack(torch.meshgrid(*middles, indexing="ij"), dim=-1).reshape(-1, 3)
    matrix = torch.from_numpy(geometry.index_to_physical)
    points = (index @ matrix[:3, :3].T + matrix[:3, 3]).to(field.displacement.device)
    missed = (inverse.apply(field.apply(points)) - points).norm(dim=1)
    return float(missed[missed >= missed.median()].mean())


def smoothed_where(velocity: Tensor, cells: Tensor) -> Tensor:
    """`velocity` ``(3, D, H, W)``, smoothed around the given cells ``(D-1, H-1, W-1)`` bool; the border stays."""
    chosen = torch.nn.functional.pad(cells.float()[None], (0, 1) * 3)
    blend = (box(chosen, radius=2, repeats=2) * 4).clamp_max(1)
    blend[:, [0, -1]] = blend[:, :, [0, -1]] = blend[:, :, :, [0, -1]] = 0
    return torch.lerp(velocity, box(velocity, radius=1, repeats=2), blend)
