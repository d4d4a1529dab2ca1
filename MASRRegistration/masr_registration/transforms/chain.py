"""`TransformChain`: the result of a registration, applied, inverted and exported.

``T(p) = factors[0](factors[1](... factors[-1](p)))`` maps LPS millimetres of the fixed image to the moving image. A
displacement field is linear between its nodes and zero outside its grid, exactly as ITK has it; fields made by the
engine fade to zero at their border, so that 3D Slicer, which repeats the edge, agrees.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from .. import compiled
from ..errors import InputError
from ..volume import Geometry
from .grid import sample

INVERSE_TOLERANCE_MM = 1e-3
INVERSE_ITERATIONS = 60
LARGEST_INVERSE = 100_000_000
SMALLEST_DETERMINANT = 1e-6
NODES_PER_CELL, MOST_NODES = 8, 20_000_000
_SLAB_POINTS = 2_000_000


@dataclass(frozen=True, eq=False)
class Affine:
    """A 4x4 float64 matrix in LPS mm."""

    matrix: np.ndarray

    def apply(self, points: Tensor) -> Tensor:
        matrix = torch.from_numpy(self.matrix).to(points)
        return points @ matrix[:3, :3].T + matrix[:3, 3]

    def inverse(self) -> Affine:
        return Affine(np.linalg.inv(self.matrix))

    def to_sitk(self) -> sitk.Transform:
        transform = sitk.AffineTransform(3)
        transform.SetMatrix(self.matrix[:3, :3].ravel().tolist())
        transform.SetTranslation(self.matrix[:3, 3].tolist())
        return transform


@dataclass(frozen=True, eq=False)
class DisplacementField:
    """Displacements ``(3, D, H, W)`` float32, LPS mm, at the nodes of `geometry`."""

    displacement: Tensor
    geometry: Geometry

    def at(self, points: Tensor, *, zeros: bool = True) -> Tensor:
        """Displacements ``(N, 3)`` in mm at LPS points ``(N, 3)``; outside the grid zero, or those of its edge."""
        to_index = torch.from_numpy(self.geometry.physical_to_index).to(points)
        index = to_index[:3, :3] @ points.T + to_index[:3, 3:]
        return sample(self.displacement, index.float(), zeros=zeros).T.to(points.dtype)

    def apply(self, points: Tensor) -> Tensor:
        if compiled.sampling is not None and points.device.type == "cpu" and points.dtype == torch.float64:
            moved: Tensor = compiled.sampling.displace(
                points, self.geometry.physical_to_index, self.displacement
            )
            return moved
        return points + self.at(points)

    def inverse(self, guess: Tensor | None = None) -> DisplacementField:
        """The inverse at the nodes by fixed point ``y -> x = y - u(x)``, on a grid that covers what this one moves.

        Where a field that does not fade moves a point out of its grid, the place has two origins; the inner one counts.

        Args:
            guess: what the iteration begins with where the field fades to zero at its border, ``(3, D, H, W)`` in mm.
        """
        geometry = self._reached()
        nodes = grid_points(geometry, 0, geometry.shape[0], self.displacement.device)
        if guess is None or geometry is not self.geometry:
            found = -self.at(nodes, zeros=False)
        else:
            found = guess.reshape(3, -1).T.to(nodes.dtype)
        for _ in range(INVERSE_ITERATIONS):
            update = -self.at(nodes + found)
            change = float((update - found).abs().amax())
            found = update
            if change < INVERSE_TOLERANCE_MM:
                break
        return DisplacementField(found.T.reshape(3, *geometry.shape).float().contiguous(), geometry)

    def _reached(self) -> Geometry:
        """The grid, extended as far as displacements at its border reach; the engine's own fields fade before it."""
        lengths = self.displacement.norm(dim=0)
        border = [x.amax() for x in (lengths[[0, -1]], lengths[:, [0, -1]], lengths[:, :, [0, -1]])]
        reach = float(torch.stack(border).amax())
        if reach == 0:
            return self.geometry
        more = [int(np.ceil(reach / s)) + 1 for s in self.geometry.spacing]
        origin = self.geometry.index_to_physical @ [*(-n for n in more), 1]
        size = [n + 2 * m for n, m in zip(self.geometry.size, more, strict=True)]
        if math.prod(size) > LARGEST_INVERSE:
            raise InputError(
                "A displacement field moves its own border so far that its inverse would not fit into memory; save its "
                "linear part and its deformation separately."
            )
        return Geometry(
            (size[0], size[1], size[2]),
            self.geometry.spacing,
            (float(origin[0]), float(origin[1]), float(origin[2])),
            self.geometry.direction,
        )

    def to_sitk(self) -> sitk.Transform:
        vectors = self.displacement.permute(1, 2, 3, 0).cpu().double().numpy()
        return sitk.DisplacementFieldTransform(
            self.geometry.stamp(sitk.GetImageFromArray(vectors, isVector=True))
        )


@dataclass(frozen=True, eq=False)
class TransformChain:
    """Maps applied from the last factor to the first."""

    factors: tuple[Affine | DisplacementField, ...]

    @property
    def is_linear(self) -> bool:
        return all(isinstance(factor, Affine) for factor in self.factors)

    @property
    def matrix(self) -> np.ndarray:
        """Product of the linear factors, 4x4."""
        result = np.eye(4)
        for factor in self.factors:
            if isinstance(factor, Affine):
                result = result @ factor.matrix
        return result

    def apply(self, points: Tensor) -> Tensor:
        """LPS points ``(..., 3)`` through the chain; same shape and type."""
        moved = points.reshape(-1, 3)
        for factor in reversed(self.factors):
            moved = factor.apply(moved)
        return moved.reshape(points.shape)

    def dense(self, geometry: Geometry) -> Tensor:
        """Displacement ``T(p) - p`` at every voxel of `geometry`: ``(3, D, H, W)`` float32, LPS mm."""
        depth, height, width = geometry.shape
        device = next((f.displacement.device for f in self.factors if isinstance(f, DisplacementField)), None)
        result = torch.empty(3, depth, height, width, device=device)
        step = max(1, _SLAB_POINTS // (height * width))
        for start in range(0, depth, step):
            stop = min(start + step, depth)
            points = grid_points(geometry, start, stop, device)
            moved = (self.apply(points) - points).T
            result[:, start:stop] = moved.reshape(3, stop - start, height, width).float()
        return result

    def inverse(self) -> TransformChain:
        """The inverse chain, its fields stored explicitly. Fields that passed the strict test invert exactly."""
        return TransformChain(tuple(factor.inverse() for factor in reversed(self.factors)))

    def to_sitk(self) -> sitk.Transform:
        """A flat ITK composite (ITK applies the transform added last first), or an affine when the chain is linear."""
        if self.is_linear:
            return Affine(self.matrix).to_sitk()
        return sitk.CompositeTransform([factor.to_sitk() for factor in self.factors])

    @classmethod
    def from_sitk(cls, transform: sitk.Transform) -> TransformChain:
        """A chain from linear transforms, displacement fields, B-splines and composites; `InputError` for others."""
        return cls(tuple(_factors(transform)))


def grid_points(geometry: Geometry, start: int, stop: int, device: torch.device | None) -> Tensor:
    """LPS points ``(N, 3)`` float64 of the voxels of slices `start` to `stop`, k slowest."""
    matrix = torch.from_numpy(geometry.index_to_physical).to(device)
    k, j, i = torch.meshgrid(
        torch.arange(start, stop, dtype=torch.float64, device=device),
        torch.arange(geometry.size[1], dtype=torch.float64, device=device),
        torch.arange(geometry.size[0], dtype=torch.float64, device=device),
        indexing="ij",
    )
    return torch.stack((i, j, k), dim=-1).reshape(-1, 3) @ matrix[:3, :3].T + matrix[:3, 3]


def _factors(transform: sitk.Transform) -> list[Affine | DisplacementField]:
    transform = transform.Downcast()
    if isinstance(transform, sitk.CompositeTransform):
        parts = [transform.GetNthTransform(n) for n in range(transform.GetNumberOfTransforms())]
        return [factor for part in parts for factor in _factors(part)]
    if isinstance(transform, sitk.DisplacementFieldTransform):
        field = transform.GetDisplacementField()
        vectors = torch.from_numpy(sitk.GetArrayFromImage(field)).float()
        if not vectors.isfinite().all():
            raise InputError("The initial transform holds displacements that are not finite numbers.")
        return [DisplacementField(vectors.permute(3, 0, 1, 2).contiguous(), Geometry.of(field))]
    if isinstance(transform, sitk.BSplineTransform):
        return _factors(_sampled(transform))
    if transform.IsLinear():
        origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
        matrix = np.eye(4)
        matrix[:3, 3] = origin
        for axis in range(3):
            matrix[:3, axis] = np.array(transform.TransformPoint(np.eye(3)[axis].tolist())) - origin
        if not abs(np.linalg.det(matrix)) > SMALLEST_DETERMINANT:
            raise InputError("The initial transform flattens space and cannot be inverted.")
        return [Affine(matrix)]
    raise InputError(
        f"Initial transforms of the kind {transform.GetName()} are not supported; save it as a displacement field."
    )


def _sampled(transform: sitk.BSplineTransform) -> sitk.DisplacementFieldTransform:
    """A B-spline as a field on its own domain, with `NODES_PER_CELL` along each axis of a cell of its control grid.

    Linear between its nodes it misses a cubic B-spline by 1 % of the largest coefficient, more in its outermost layer.
    """
    extent = np.asarray(transform.GetTransformDomainPhysicalDimensions())
    cells = np.asarray(transform.GetTransformDomainMeshSize())
    size = np.ceil(cells * min(NODES_PER_CELL, np.cbrt(MOST_NODES / cells.prod()))).astype(int)
    spacing = extent / size
    direction = np.reshape(transform.GetTransformDomainDirection(), (3, 3))
    origin = np.asarray(transform.GetTransformDomainOrigin()) + direction @ (spacing / 2)
    field = sitk.TransformToDisplacementField(
        transform,
        sitk.sitkVectorFloat64,
        size.tolist(),
        origin.tolist(),
        spacing.tolist(),
        direction.ravel().tolist(),
    )
    return sitk.DisplacementFieldTransform(field)
