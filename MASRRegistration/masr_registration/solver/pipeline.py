"""`register`: two volumes in, a checked transform out.

normalise -> linear -> features on the working grid -> coupled convex, or the registration network -> symmetric velocity
-> chain -> checks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..device import release_memory, resolve_device
from ..errors import InputError, ResourceError, is_out_of_memory
from ..evaluation.metrics import sdlogj
from ..matching.features import FeaturePair
from ..presets import Method, Preset
from ..representation.descriptor import Scan
from ..representation.encoder import Encoder
from ..representation.self_similarity import mind_ssc
from ..transforms import affine
from ..transforms.chain import Affine, DisplacementField, TransformChain
from ..transforms.grid import pool
from ..transforms.jacobian import fold_count, folded_cells, jacobian_determinant, row_bound
from ..transforms.resample import resample
from ..transforms.velocity import one_to_one_factors, smoothed_where
from ..volume import Geometry, Volume
from . import convex, instance, plan
from .amortized import STRIDES, Amortized
from .cost import refinement
from .feature_export import export
from .kernels import compact
from .landmarks import LandmarkPull, landmark_pull
from .linear import register_linear
from .linear_landmarks import LinearLandmarks

Progress = Callable[[str, float, dict[str, float]], None]
STAGES = {"linear": (0.0, 0.25), "discrete": (0.25, 0.40), "continuous": (0.40, 0.92), "check": (0.92, 1.0)}
CHECK_POINTS = 50_000
UNFOLDING_ROUNDS = 8


@dataclass
class RegistrationResult:
    """What `register` found.

    Attributes:
        transform, inverse: chains in LPS mm, fixed -> moving and back.
        metrics: numbers for result.json; similarities are mean squared MIND-SSC differences on half the
            working resolution, lower is better.
        warnings: sentences for a person.
        timings: seconds by stage.
        representation, weights_sha256: what the images were compared by; no weights with MIND-SSC alone.
        method, network_sha256: how the deformation was found; no network with "optimise".
        foreground: ``(D, H, W)`` bool on the fixed grid, the body the metrics speak of.
        plan: what was run.
        features: what was compared, where it was asked for and no deformable initial transform stands in between.
    """

    transform: TransformChain
    inverse: TransformChain
    foreground: np.ndarray
    plan: plan.Plan
    metrics: dict[str, float | int | bool | None] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)
    representation: str = "mind-ssc"
    weights_sha256: str | None = None
    method: Method = "optimise"
    network_sha256: str | None = None
    features: FeaturePair | None = None


def register(
    fixed: Volume,
    moving: Volume,
    preset: Preset,
    *,
    fixed_mask: Volume | None = None,
    moving_mask: Volume | None = None,
    initial_transform: TransformChain | None = None,
    landmarks: tuple[np.ndarray, np.ndarray] | None = None,
    keep_features: bool = False,
    device: str = "auto",
    seed: int = 0,
    replayed: plan.Plan | None = None,
    progress: Progress = lambda stage, fraction, metrics: None,
) -> RegistrationResult:
    """Register `moving` to `fixed`.

    Args:
        fixed, moving: scalar volumes, at least 4 voxels along each axis, finite.
        fixed_mask, moving_mask: on their image's grid, labels or weights in [0, 1] (`mask_weights`); where zero, the
            image says nothing.
        initial_transform: fixed -> moving, LPS mm; what is believed so far.
        landmarks: corresponding points ``(N, 3)`` of the fixed and of the moving image, LPS mm, to which the linear
            stage and the deformation are pulled with the preset's weight.
        keep_features: return the features of both images as well.
        replayed: the plan of an earlier run; without one, the finest that fits into the memory is chosen.
        progress: called with the stage, the fraction of the whole and metrics. It may raise `CancelledError`.

    Raises:
        InputError: an unknown device name, an initial transform that mirrors, a plan for other images.
        ResourceError: a device that is not there, memory that is not enough for the coarsest plan.
    """
    run = _Run(fixed, moving, preset, resolve_device(device), seed, progress)
    run.landmarks, run.keep_features = landmarks, keep_features
    run.prepare(fixed_mask, moving_mask, initial_transform)
    plans = run.plans(replayed)
    run.linear()
    if replayed is None:
        plans[0] = run.fitting(plans[0])
    while True:
        try:
            return run.deformable(plans[0])
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        del plans[0]
        if not plans:
            raise ResourceError("The memory ran out, and there is no smaller plan.")
        plans[0] = replace(plans[0], roomy=False)
        run.start_again(plans[0])


def make_plan(
    fixed: Volume,
    moving: Volume,
    preset: Preset,
    *,
    fixed_mask: Volume | None = None,
    device: str = "auto",
) -> tuple[plan.Plan, list[str]]:
    """The plan that `register` would follow now, and its warnings. Raises as `register` does.

    What it is expected to cost is that of the fixed body's grid: the `plan.room` comes on top.
    """
    run = _Run(fixed, moving, preset, resolve_device(device), 0, lambda stage, fraction, metrics: None)
    run.fixed = Scan.of(fixed, preset.normalisation.fixed, preset.normalisation, fixed_mask)
    return run.plans(None)[0], run.warnings


def encode_pair(
    fixed: Volume,
    moving: Volume,
    preset: Preset,
    *,
    fixed_mask: Volume | None = None,
    moving_mask: Volume | None = None,
    initial_transform: TransformChain | None = None,
    device: str = "auto",
    progress: Progress = lambda stage, fraction, metrics: None,
) -> tuple[FeaturePair, list[str]]:
    """The features that `register` would compare, and warnings: the linear stage alone, no deformation.

    Raises as `register` does, and `InputError` for an initial transform that is not linear.
    """
    if initial_transform is not None and not initial_transform.is_linear:
        raise InputError("Features are made through a linear transform only.")
    run = _Run(fixed, moving, preset, resolve_device(device), 0, progress)
    run.prepare(fixed_mask, moving_mask, initial_transform)
    run.plan = run.plans(None)[0]
    run.linear()
    run.plan = run.fitting(run.plan)
    return export(run.encode(), run.grid, run.matrix), run.warnings


class _Run:
    """The state of one registration, stage by stage."""

    def __init__(
        self,
        fixed: Volume,
        moving: Volume,
        preset: Preset,
        device: torch.device,
        seed: int,
        progress: Progress,
    ) -> None:
        self.fixed_volume, self.moving_volume = fixed, moving
        self.preset, self.device, self.seed, self.progress = preset, device, seed, progress
        self.encoder, self.warnings = Encoder.or_mind(preset.representation, device)
        self.amortized, missing = Amortized.or_none(preset.method, device)
        self.warnings.extend(missing)
        self.method: Method = "optimise" if self.amortized is None else preset.method
        self.timings = dict.fromkeys(("encode", *STAGES), 0.0)
        self.fields: list[DisplacementField] = []
        self.inverse_fields: list[DisplacementField] = []
        self.landmarks: tuple[np.ndarray, np.ndarray] | None = None
        self.keep_features = False
        self.features: FeaturePair | None = None

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.timings[stage] += time.perf_counter() - start

    def _tick(self, stage: str, fraction: float, metrics: dict[str, float] | None = None) -> None:
        low, high = STAGES[stage]
        self.progress(stage, low + (high - low) * fraction, metrics or {})

    def prepare(
        self, fixed_mask: Volume | None, moving_mask: Volume | None, initial: TransformChain | None
    ) -> None:
        """Normalised scans. A deformable initial transform is applied to the moving image beforehand."""
        self._tick("linear", 0.0)
        settings = self.preset.normalisation
        with self._timed("encode"):
            self.fixed = Scan.of(self.fixed_volume, settings.fixed, settings, fixed_mask, self.device)
            moving = Scan.of(self.moving_volume, settings.moving, settings, moving_mask, self.device)
        self.outer: tuple[Affine | DisplacementField, ...] = ()
        self.outer_inverse: tuple[Affine | DisplacementField, ...] = ()
        self.start = np.eye(4)
        if initial is not None and np.linalg.det(initial.matrix[:3, :3]) <= 0:
            raise InputError("The initial transform mirrors the patient: left and right would be exchanged.")
        if initial is not None and initial.is_linear:
            self.start = initial.matrix
        elif initial is not None:
            self.outer = initial.factors
            self.outer_inverse = initial.inverse().factors
            moving = _through(moving, initial, self.fixed.geometry)
        self.moving = moving

    def plans(self, replayed: plan.Plan | None) -> list[plan.Plan]:
        """What to try, in this order."""
        if replayed is not None:
            grid = plan.working_grid(self.fixed, replayed.working_spacing_mm, self.preset)
            if grid.size != replayed.working_size:
                raise InputError("The plan was made for other images, masks or settings.")
            return [replayed]
        geometries = [volume.geometry for volume in (self.fixed_volume, self.moving_volume)]
        plans = plan.ladder(self.fixed, geometries, self.preset, self.device, torch.get_num_threads())
        chosen = plan.choose(plans, plan.usable_host_mb(), plan.usable_device_mb(self.device))
        if chosen.coarsened > 1:
            self.warnings.append(
                f"The memory is not enough for a working grid of {plans[0].working_spacing_mm:.2f} mm; "
                f"{chosen.working_spacing_mm:.2f} mm was used, which finds less detail."
            )
        return plans[plans.index(chosen) :]

    def fitting(self, chosen: plan.Plan) -> plan.Plan:
        """After the linear stage: the plan, without the `plan.room` where the memory does not suffice for it."""
        release_memory()
        geometries = [volume.geometry for volume in (self.fixed_volume, self.moving_volume)]
        needed = plan.costed(chosen, geometries, self.preset, self.working_grid(chosen).size)
        try:
            plan.choose([needed], plan.usable_host_mb(), plan.usable_device_mb(self.device))
        except ResourceError:
            self.warnings.append(
                "The memory is not enough for a working grid that holds the moving body too; "
                "what lies farther out than the fixed body was not followed all the way."
            )
            return replace(chosen, roomy=False)
        return chosen

    def working_grid(self, chosen: plan.Plan) -> Geometry:
        room = plan.room(self.fixed, self.moving, self.matrix) if chosen.roomy else 0.0
        return plan.working_grid(self.fixed, chosen.working_spacing_mm, self.preset, room)

    def start_again(self, smaller: plan.Plan) -> None:
        """After the memory ran out: nothing of the deformable stages is kept."""
        self.fields, self.inverse_fields = [], []
        release_memory()
        self.warnings.append(
            f"The memory ran out; the registration was repeated on a working grid of "
            f"{smaller.working_spacing_mm:.2f} mm, which finds less detail."
        )

    def deformable(self, chosen: plan.Plan) -> RegistrationResult:
        """Everything after the linear stage."""
        self.plan = chosen
        release_memory()
        pair = self.encode()
        if self.keep_features and not self.outer:
            self.features = export(pair, self.grid, self.matrix)
        if self.landmarks is not None and self.method == "amortized":
            self.warnings.append(
                "The landmarks did not pull the deformation: the network knows nothing of them."
            )
        velocity = self.discrete(pair)
        if velocity is not None:
            self.continuous(pair, velocity)
        del pair
        release_memory()
        return self.check()

    def linear(self) -> None:
        with self._timed("linear"):
            self.matrix = self.start
            if self.preset.linear.model != "none":
                result = register_linear(
                    self.fixed,
                    self.moving,
                    self.preset.linear,
                    self.start,
                    lambda f: self._tick("linear", f),
                    self._linear_landmarks(),
                )
                self.matrix = result.matrix
                self.warnings.extend(result.warnings)

    def _linear_landmarks(self) -> LinearLandmarks | None:
        weight = self.preset.continuous.landmark_weight
        if self.landmarks is None or not weight or not len(self.landmarks[0]):
            return None
        fixed, moving = (np.asarray(points, dtype=np.float64) for points in self.landmarks)
        seen = TransformChain(tuple(self.outer_inverse)).apply(torch.from_numpy(moving)).cpu().numpy()
        return LinearLandmarks(fixed, seen, weight)

    def encode(self) -> instance.Pair:
        """Features of both scans on the working grid, the moving one through the linear result."""
        with self._timed("encode"):
            spacing = self.plan.working_spacing_mm
            self.grid = self.working_grid(self.plan)
            fixed, moving, eye = self.fixed.smoothed(spacing), self.moving.smoothed(spacing), np.eye(4)
            weights = [
                scan.known_on(self.grid, matrix) for scan, matrix in ((fixed, eye), (moving, self.matrix))
            ]
            self._tick("discrete", 0.0)
            images = fixed.on(self.grid, eye), moving.on(self.grid, self.matrix)
            features = []
            for number, image in enumerate(images):
                features.append(self._features(image))
                self._tick("discrete", 0.05 * (number + 1))
            minds, dsirs = zip(*features, strict=True)
            return instance.Pair(
                minds[0], minds[1], weights[0], weights[1], spacing, images[0], images[1], dsirs[0], dsirs[1]
            )

    def _features(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the search and the optimisation compare; no channels where the network alone is asked."""
        if self.method == "amortized" and not self.keep_features:
            return image.new_empty(0, *image.shape, dtype=torch.int16), None
        encoded = self.encoder(image)
        return compact(encoded.mind), encoded.dsir

    def discrete(self, pair: instance.Pair) -> instance.Velocity | None:
        """A first velocity by the network or the coupled convex search; None where no deformation is wanted."""
        if not (self.preset.discrete.enabled or self.preset.continuous.enabled):
            return None
        velocity = instance.Velocity(pair.shape, pair.spacing_mm, self.preset.continuous.control_spacing_mm)
        velocity.to(self.device)
        if self.amortized is not None:
            with self._timed("discrete"):
                images, weights = (
                    (pair.fixed_image, pair.moving_image),
                    (pair.fixed_weight, pair.moving_weight),
                )
                found = self.amortized(images, weights, self.preset.continuous.regularisation)
                velocity.fit(*(velocity.nodes_of(f, stride=STRIDES[-1]) for f in found))
        elif self.preset.discrete.enabled:
            with self._timed("discrete"):
                forward, backward = convex.search(
                    *pair.halved(),
                    pool(pair.fixed_weight[None], 2)[0],
                    pool(pair.moving_weight[None], 2)[0],
                    self.preset.discrete.reach_mm / (2 * pair.spacing_mm),
                    lambda f: self._tick("discrete", 0.1 + 0.9 * f),
                )
                velocity.fit(*(velocity.nodes_of(f, stride=2) for f in (forward, backward)))
        return velocity

    def continuous(self, pair: instance.Pair, velocity: instance.Velocity) -> None:
        """Instance optimisation, then the split into one-to-one factors on the half-resolution grid."""
        with self._timed("continuous"):
            if self.preset.continuous.enabled and self.method != "amortized":
                settings = self.preset.continuous
                if self.amortized is not None:
                    settings = refinement(settings)
                pair.pull = self._pull(velocity)
                instance.optimise(
                    pair, velocity, settings, self.seed, lambda f, m: self._tick("continuous", 0.9 * f, m)
                )
            self._split(velocity.on_stride(2), self.grid.reduced(2))
            self._tick("continuous", 1.0)

    def _pull(self, velocity: instance.Velocity) -> LandmarkPull | None:
        if self.landmarks is None:
            return None
        back = TransformChain((Affine(np.linalg.inv(self.matrix)), *self.outer_inverse))
        fixed, moving = (np.asarray(points, dtype=np.float64) for points in self.landmarks)
        seen = back.apply(torch.from_numpy(moving)).cpu().numpy()
        return landmark_pull(velocity, self.grid, fixed, seen, self.preset.continuous.landmark_weight)

    def _split(self, velocity: Tensor, geometry: Geometry) -> None:
        """One-to-one factors whose chain, sampled on the fixed image's grid, does not fold between its voxels either.

        Where it does (a coarse grid samples a steep place), the velocity is smoothed, and scaled down in the end.
        """
        index = torch.from_numpy(geometry.physical_to_index @ self.fixed.geometry.index_to_physical)
        for attempt in range(UNFOLDING_ROUNDS + 20):
            forward, backward = one_to_one_factors(velocity, geometry)
            self.fields = [replace(f, displacement=f.displacement.cpu()) for f in forward]
            self.inverse_fields = [replace(f, displacement=f.displacement.cpu()) for f in backward]
            chain = TransformChain((Affine(self.matrix), *self.fields))
            self.dense = chain.dense(self.fixed.geometry)
            folds = folded_cells(self.dense, self.fixed.geometry).nonzero().flip(1).double() + 0.5
            self.folds = len(folds)
            if not self.folds:
                break
            if attempt < UNFOLDING_ROUNDS:
                cells = torch.zeros([n - 1 for n in velocity.shape[1:]], dtype=torch.bool)
                place = (folds @ index[:3, :3].T + index[:3, 3]).floor().long()
                i, j, k = (p.clamp(0, n - 1) for p, n in zip(place.T, reversed(cells.shape), strict=True))
                cells[k, j, i] = True
                velocity = smoothed_where(velocity, cells.to(velocity.device))
            else:
                velocity = velocity * 0.8

    def check(self) -> RegistrationResult:
        """Similarity before and after, folding, inverse consistency: what the verdict rests on."""
        with self._timed("check"):
            self._tick("check", 0.0)
            grid, eye = self.grid.reduced(2), np.eye(4)
            fixed, moving = (scan.smoothed(grid.spacing[0]) for scan in (self.fixed, self.moving))
            region = self.fixed.region_in(grid) * self.fixed.weight_on(grid, eye)
            reference = mind_ssc(fixed.on(grid, eye))

            def dissimilarity(index: Tensor) -> float:
                image, known = moving.at(index)
                difference = (reference - mind_ssc(image)).square_().mean(dim=0)
                seen = region * known
                return float((difference * seen).sum() / seen.sum()) if seen.any() else float("nan")

            before = dissimilarity(moving.index(grid, self.start))
            after_linear = after = dissimilarity(moving.index(grid, self.matrix))
            self._tick("check", 0.3)
            if self.fields:
                after = dissimilarity(self._moved_index(moving, grid))
            if self.fields and not after < after_linear and self.landmarks is not None:
                self.warnings.append(
                    "The images match worse with the deformation that the landmarks ask for."
                )
            elif self.fields and not after < after_linear:
                self.warnings.append("The deformable part did not improve the match and was left out.")
                self.fields, self.inverse_fields, after = [], [], after_linear
            self._tick("check", 0.5)
            transform = TransformChain((*self.outer, Affine(self.matrix), *self.fields))
            inverse = TransformChain(
                (*self.inverse_fields, Affine(np.linalg.inv(self.matrix)), *self.outer_inverse)
            )
            result = RegistrationResult(
                transform, inverse, self._native_foreground(), self.plan, warnings=self.warnings
            )
            result.metrics = {
                "similarity_before": before,
                "similarity_linear": after_linear,
                "similarity_after": after,
                **self._field_metrics(result),
                **self._linear_metrics(),
            }
            self._tick("check", 1.0)
        result.timings = self.timings
        result.representation, result.weights_sha256 = self.encoder.name, self.encoder.sha256
        result.method = self.method
        result.network_sha256 = None if self.amortized is None else self.amortized.sha256
        result.features = self.features
        return result

    def _moved_index(self, moving: Scan, grid: Geometry) -> Tensor:
        """Where the points of `grid` lie in `moving`: ``(3, D, H, W)``."""
        chain = TransformChain((Affine(self.matrix), *self.fields))
        to_index = torch.tensor(moving.geometry.physical_to_index[:3, :3], dtype=torch.float32)
        displacement = torch.einsum("ab,bdhw->adhw", to_index, chain.dense(grid))
        return moving.index(grid, np.eye(4)) + displacement.to(self.device)

    def _native_foreground(self) -> np.ndarray:
        return np.asarray(self.fixed.region.cpu().numpy())

    def _linear_metrics(self) -> dict[str, float]:
        stretch = affine.scales(self.matrix)
        centre = self.fixed.geometry.centre
        return {
            "linear_rotation_deg": affine.rotation_degrees(self.matrix),
            "linear_translation_mm": float(
                np.linalg.norm(affine.apply(self.matrix, centre[None])[0] - centre)
            ),
            "linear_scale_min": float(stretch[-1]),
            "linear_scale_max": float(stretch[0]),
        }

    def _field_metrics(self, result: RegistrationResult) -> dict[str, float | int | bool | None]:
        geometry = self.fixed.geometry
        own = self.fields and not self.outer
        dense = self.dense if own else result.transform.dense(geometry)
        folds = self.folds if own else fold_count(dense, geometry)
        deformable = TransformChain(
            tuple(f for f in result.transform.factors if isinstance(f, DisplacementField))
        )
        foreground = torch.from_numpy(result.foreground)
        determinant = jacobian_determinant(dense, geometry)[foreground]
        self._tick("check", 0.8)
        points = self._foreground_points(foreground)
        moved = result.transform.apply(points)
        residual = (result.inverse.apply(moved) - points).norm(dim=1)
        index = torch.from_numpy(self.moving_volume.geometry.physical_to_index)
        seen = moved @ index[:3, :3].T + index[:3, 3]
        size = torch.tensor(self.moving_volume.geometry.size)
        lengths = (deformable.apply(points) - points).norm(dim=1)
        bounds = [self._bound(f) for f in result.transform.factors if isinstance(f, DisplacementField)]
        if folds:
            result.warnings.append(
                f"The transform folds in {folds} cells of the fixed image's grid: do not move anything with it there."
            )
        overlap = float(((seen >= -0.5) & (seen <= size - 0.5)).all(dim=1).double().mean())
        if overlap == 0:
            result.warnings.append(
                "The images do not meet: no part of the fixed body lies in the moving image."
            )
        if max(bounds, default=0.0) >= 1:
            result.warnings.append("The initial transform is not provably one-to-one; neither is the result.")
        return {
            "folds": int(sum(b >= 1 for b in bounds)),
            "folds_dense": folds,
            "strict_bound": max(bounds, default=0.0),
            "fields": len(bounds),
            "sdlogj": sdlogj(determinant.numpy()),
            "jacobian_min": float(determinant.min()),
            "jacobian_max": float(determinant.max()),
            "inverse_consistency_mean_mm": float(residual.mean()),
            "inverse_consistency_max_mm": float(residual.max()),
            "displacement_mean_mm": float(lengths.mean()),
            "displacement_p95_mm": float(lengths.quantile(0.95)),
            "displacement_max_mm": float(lengths.max()),
            "overlap": overlap,
        }

    @staticmethod
    def _bound(item: DisplacementField) -> float:
        basis = torch.tensor(item.geometry.physical_to_index[:3, :3], dtype=torch.float32)
        return float(row_bound(torch.einsum("ab,bdhw->adhw", basis, item.displacement)).amax())

    def _foreground_points(self, foreground: Tensor) -> Tensor:
        """At most `CHECK_POINTS` LPS points ``(N, 3)`` float64, evenly strided over the foreground."""
        chosen = foreground.nonzero().flip(1)
        chosen = chosen[:: max(1, -(-len(chosen) // CHECK_POINTS))].double()
        matrix = torch.from_numpy(self.fixed.geometry.index_to_physical)
        return chosen @ matrix[:3, :3].T + matrix[:3, 3]


def _through(scan: Scan, chain: TransformChain, geometry: Geometry) -> Scan:
    """`scan` resampled through `chain` on `geometry`; what was out of sight is masked out."""
    weight = scan.weight if scan.weight is not None else torch.ones_like(scan.intensity)

    def moved(image: Tensor, order: Literal["linear", "nearest"], default: float | None) -> Tensor:
        volume = Volume(image.cpu().numpy(), scan.geometry)
        return torch.from_numpy(resample(volume, chain, geometry, order=order, default=default).array).to(
            image.device
        )

    region = moved(scan.region.float(), "nearest", 0) > 0.5
    return Scan(moved(scan.intensity, "linear", None), region, geometry, moved(weight, "nearest", 0))
