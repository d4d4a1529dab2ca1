"""Discriminability: can a representation find a place of one image again in another of a different contrast?

Anchors are places in the fixed body. Every anchor's descriptor is compared with those of the moving image over a
window of candidates; where the best one lies is held against the true place. Descriptors are those that the discrete
stage sees: on cells of two working voxels, averaged over 3 x 3 x 3 cells.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..presets import Modality, Normalisation
from ..representation.descriptor import Scan, region_box
from ..transforms import affine
from ..transforms.grid import box, inside, sample
from ..volume import Geometry, Volume

Descriptor = Callable[[Tensor], Tensor]
"""An image ``(D, H, W)`` in [0, 1], even sides, to descriptors ``(C, D/2, H/2, W/2)``."""
PointMap = Callable[[np.ndarray], np.ndarray]
"""LPS points ``(N, 3)`` of the fixed image to the moving one."""

CELL = 2
HITS_MM = (2.0, 4.0, 8.0)
MARGIN_MM = 24.0
INTERIOR_CELLS = 2
PROFILE_MM = 24
DIRECTIONS = [np.array(d) / np.linalg.norm(d) for d in itertools.product((-1, 0, 1), repeat=3) if any(d)]
_AT_ONCE = 100


@dataclass(frozen=True)
class Protocol:
    """How retrieval is tried.

    Attributes:
        spacing_mm: of the working grid.
        window_mm: candidates lie within this distance of the anchor along each axis.
        step_mm: between candidates.
        pooling: radius in cells of the averaging of descriptors.
        anchors: how many places, drawn with `seed` from the body less a rim of two cells.
    """

    spacing_mm: float = 2.0
    window_mm: float = 20.0
    step_mm: float = 4.0
    pooling: int = 1
    anchors: int = 800
    seed: int = 0

    @property
    def radius(self) -> int:
        """Of the window, in candidates."""
        return int(self.window_mm / self.step_mm + 1e-6)

    def offsets(self) -> np.ndarray:
        """Candidates ``(L, 3)`` in cells along (i, j, k), k slowest."""
        axis = np.arange(-self.radius, self.radius + 1) * self.step_mm / (CELL * self.spacing_mm)
        k, j, i = np.meshgrid(axis, axis, axis, indexing="ij")
        return np.stack((i, j, k), axis=-1).reshape(-1, 3)


@dataclass(frozen=True, eq=False)
class Pair:
    """Two scans on one working grid, anchors and where they truly lie.

    Attributes:
        fixed, moving: images ``(D, H, W)`` in [0, 1] on the working grid.
        cells: the grid of the descriptors, `CELL` working voxels to a cell.
        anchors, truth: ``(N, 3)`` indices (i, j, k) in `cells`; anchors are whole, the truth is not.
    """

    fixed: Tensor
    moving: Tensor
    cells: Geometry
    anchors: np.ndarray
    truth: np.ndarray

    @classmethod
    def of(
        cls,
        fixed: Volume,
        moving: Volume,
        truth: PointMap,
        protocol: Protocol,
        modalities: tuple[Modality, Modality] = ("auto", "auto"),
    ) -> Pair:
        """Raises `InputError` where no anchor's true place lies in its window and in the moving image."""
        settings = Normalisation()
        scans = [
            Scan.of(volume, modality, settings)
            for volume, modality in zip((fixed, moving), modalities, strict=True)
        ]
        grid = region_box(scans[0], protocol.spacing_mm, MARGIN_MM, multiple=8)
        images = [scan.smoothed(protocol.spacing_mm).on(grid, np.eye(4)) for scan in scans]
        cells = grid.reduced(CELL)
        body = scans[0].region_on(cells, np.eye(4))[None].float()
        interior = box(body, INTERIOR_CELLS)[0] > 0.999
        anchors = interior.nonzero().flip(1).double().numpy()
        points = truth(affine.apply(cells.index_to_physical, anchors))
        found = affine.apply(cells.physical_to_index, points)
        reach = np.abs(found - anchors).max(axis=1) * CELL * protocol.spacing_mm
        seen = inside(
            torch.from_numpy(affine.apply(moving.geometry.physical_to_index, points).T), moving.geometry.shape
        ).numpy()
        usable = np.flatnonzero((reach <= protocol.window_mm) & seen)
        if not usable.size:
            raise InputError("No place of the fixed body has its true place within the search window.")
        count = min(protocol.anchors, usable.size)
        chosen = np.sort(np.random.default_rng(protocol.seed).choice(usable, count, replace=False))
        return cls(images[0], images[1], cells, anchors[chosen], found[chosen])

    @property
    def cell_mm(self) -> float:
        return self.cells.spacing[0]


@dataclass(frozen=True, eq=False)
class Retrieval:
    """What one descriptor found.

    Attributes:
        fixed, moving: the descriptors ``(C, d, h, w)``.
        found: ``(N, 3)`` best candidates, indices in cells.
        rank: ``(N,)`` place of the candidate nearest to the truth in the order of similarity, 1 is best.
        contrast: ``(N,)`` depth of the best minimum against that of the second, both below the window's mean; NaN
            where there is no second one.
        profile: ``(directions, r)`` mean dissimilarity r = 0, 1, .. mm from the truth.
    """

    pair: Pair
    fixed: Tensor
    moving: Tensor
    found: np.ndarray
    rank: np.ndarray
    contrast: np.ndarray
    profile: np.ndarray

    @property
    def error_mm(self) -> np.ndarray:
        """Distances ``(N,)`` of the found place from the true one."""
        distance: np.ndarray = np.linalg.norm(self.found - self.pair.truth, axis=1) * self.pair.cell_mm
        return distance

    @property
    def capture_mm(self) -> np.ndarray:
        """Per direction, how far from the truth the mean dissimilarity keeps rising: ``(directions,)``."""
        falls = np.diff(self.profile, axis=1) <= 0
        first: np.ndarray = np.where(falls.any(axis=1), falls.argmax(axis=1), falls.shape[1])
        return first

    def summary(self, hits_mm: Sequence[float] = HITS_MM) -> dict[str, float | list[float]]:
        """The numbers of a table; lengths in mm, the signed error in working voxels along (i, j, k).

        The signed error is the mean over hits within the largest of `hits_mm`: of the others it tells only where the
        window was cut.
        """
        error = self.error_mm
        hits = error <= max(hits_mm)
        signed = ((self.found - self.pair.truth)[hits] * CELL).mean(axis=0) if hits.any() else np.zeros(3)
        contrast = self.contrast[np.isfinite(self.contrast)]
        return {
            "anchors": len(error),
            "median_error_mm": float(np.median(error)),
            **{f"hit_{limit:g}mm": float((error <= limit).mean()) for limit in hits_mm},
            "signed_error_voxels": [float(s) for s in signed],
            "median_rank": float(np.median(self.rank)),
            "second_mode_ratio": float(np.median(contrast)) if contrast.size else 0.0,
            "capture_range_mm": float(self.capture_mm.mean()),
        }


def describe(image: Tensor, descriptor: Descriptor, protocol: Protocol) -> Tensor:
    """Pooled descriptors ``(C, d, h, w)`` on the cells of an image ``(D, H, W)``."""
    features = descriptor(image)
    return box(features, protocol.pooling) if protocol.pooling else features


def mirrored(descriptor: Descriptor) -> Descriptor:
    """The descriptor of the mirrored image, mirrored back: the same for one that prefers no side."""
    return lambda image: descriptor(image.flip(0, 1, 2)).flip(1, 2, 3)


def preferred_side(found: Retrieval, in_mirror: Retrieval) -> list[float]:
    """Half the difference of the signed errors of a descriptor and of `mirrored`, working voxels along (i, j, k).

    What the truth, the pair and the warp leave in the signed error is in both and cancels: images that are not quite
    aligned, or a warp that is averaged over the reach of the features. What the descriptor prefers is turned round.
    """
    own, other = (np.asarray(r.summary()["signed_error_voxels"]) for r in (found, in_mirror))
    return [float(side) for side in (own - other) / 2]


def retrieve(pair: Pair, descriptor: Descriptor, protocol: Protocol) -> Retrieval:
    """Search every anchor in its window."""
    fixed, moving = (describe(image, descriptor, protocol) for image in (pair.fixed, pair.moving))
    offsets = protocol.offsets()
    found, rank, contrast = [], [], []
    for start in range(0, len(pair.anchors), _AT_ONCE):
        anchors, truth = (x[start : start + _AT_ONCE] for x in (pair.anchors, pair.truth))
        candidates = anchors[:, None] + offsets
        cost = dissimilarity(_at(fixed, anchors)[:, :, None], moving, candidates)
        best = cost.argmin(dim=1).numpy()
        nearest = np.linalg.norm(candidates - truth[:, None], axis=2).argmin(axis=1)
        of_nearest = cost[torch.arange(len(anchors)), torch.from_numpy(nearest)]
        found.append(candidates[np.arange(len(anchors)), best])
        rank.append(1 + (cost < of_nearest[:, None]).sum(dim=1).numpy())
        contrast.append(_mode_contrast(cost, 2 * protocol.radius + 1).numpy())
    steps = np.arange(PROFILE_MM + 1) / pair.cell_mm
    rays = (np.stack(DIRECTIONS)[:, None] * steps[:, None]).reshape(-1, 3)
    around = dissimilarity(_at(fixed, pair.anchors)[:, :, None], moving, pair.truth[:, None] + rays)
    profile = torch.where(around.isfinite(), around, torch.nan).nanmean(dim=0)
    return Retrieval(
        pair,
        fixed,
        moving,
        np.concatenate(found),
        np.concatenate(rank),
        np.concatenate(contrast),
        profile.reshape(len(DIRECTIONS), -1).numpy(),
    )


def dissimilarity(descriptors: Tensor, moving: Tensor, places: np.ndarray) -> Tensor:
    """Mean squared difference ``(N, L)`` of descriptors ``(C, N, 1)`` and those of `moving` at places ``(N, L, 3)``.

    Infinite outside of the grid.
    """
    index = torch.from_numpy(np.moveaxis(places, -1, 0)).float()
    cost = (sample(moving, index) - descriptors).square().mean(dim=0)
    return torch.where(inside(index, moving.shape[1:]), cost, torch.inf)


def _at(features: Tensor, places: np.ndarray) -> Tensor:
    return sample(features, torch.from_numpy(places.T).float())


def _mode_contrast(cost: Tensor, side: int) -> Tensor:
    """Depth of the deepest local minimum over that of the second, ``(N,)``, for windows ``(N, side^3)``."""
    finite = torch.where(cost.isfinite(), cost, torch.nan)
    depth = (finite.nanmean(dim=1, keepdim=True) - cost).reshape(-1, 1, side, side, side)
    peaks = torch.where(depth == torch.nn.functional.max_pool3d(depth, 3, 1, 1), depth, -torch.inf)
    best = peaks.flatten(1).topk(2, dim=1).values
    second = torch.where(best[:, 1] > 0, best[:, 1], torch.nan)
    return best[:, 0] / second


def invariance(
    pair: Pair, descriptor: Descriptor, protocol: Protocol, appearances: Sequence[Tensor]
) -> dict[str, float]:
    """How little a descriptor changes where the fixed image changes its contrast.

    For each of `appearances`, the fixed image ``(D, H, W)`` in other contrasts: 1 - (difference at the same anchor) /
    (difference between anchors): 1 for a descriptor that does not change, 0 for one that has forgotten the place. Mean
    and 5th percentile over them.
    """
    order = np.random.default_rng(protocol.seed).permutation(len(pair.anchors))
    reference = _at(describe(pair.fixed, descriptor, protocol), pair.anchors)
    values = []
    for image in appearances:
        changed = _at(describe(image, descriptor, protocol), pair.anchors)
        same = (reference - changed).square().mean()
        other = (reference - changed[:, order]).square().mean()
        values.append(float(1 - same / other.clamp_min(1e-12)))
    return {"invariance_mean": float(np.mean(values)), "invariance_p5": float(np.percentile(values, 5))}
