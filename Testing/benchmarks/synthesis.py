"""Deformations that are known exactly and proven not to fold.

A moving image is made by pulling the source back through a map W: ``moving(y) = source(W(y))``. The fixed image lies on
the source, so the truth is ``T = W^-1``, found at points as exactly as wanted by fixed-point iteration.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from masr_registration.demo import largest_slope
from masr_registration.volume import Geometry

CONTROL_SPACING_MM = 45.0
STEP_SLOPE = 0.8
INVERSE_ITERATIONS = 60
INVERSE_TOLERANCE_MM = 1e-4
_CALIBRATION_POINTS = 1000
_CALIBRATION_ROUNDS = 6
_LAYERS = 3


@dataclass(frozen=True)
class Flow:
    """``W = step o step o ... o step``: one small B-spline warp applied many times.

    Every step has a slope bound (`largest_slope`) under 1 and so is one-to-one; W is one-to-one as their composition.

    Attributes:
        step: the small warp, LPS mm; it fades out inside its domain.
        count: how often it is applied.
        slope: the bound of one step.
    """

    step: sitk.BSplineTransform
    count: int
    slope: float

    def transform(self) -> sitk.CompositeTransform:
        return sitk.CompositeTransform([self.step] * self.count)

    def inverse(self, points: np.ndarray) -> np.ndarray:
        """The points ``(N, 3)`` that W takes to `points`, to 1e-4 mm for each step."""
        for _ in range(self.count):
            guess = points
            for _ in range(INVERSE_ITERATIONS):
                better = points - (_apply(self.step, guess) - guess)
                change = np.abs(better - guess).max()
                guess = better
                if change < INVERSE_TOLERANCE_MM:
                    break
            points = guess
        return points


def draw_flow(body: np.ndarray, mean_mm: float, seed: int, spacing_mm: float = CONTROL_SPACING_MM) -> Flow:
    """A flow whose inverse moves the points `body` ``(N, 3)`` LPS mm by `mean_mm` in the mean (within 1 %).

    The velocity's controls are white noise, zero in the three outer layers.
    """
    rng = np.random.default_rng(seed)
    low, high = body.min(axis=0), body.max(axis=0)
    mesh = np.ceil((high - low) / spacing_mm).astype(int) + 4
    origin = (low + high - mesh * spacing_mm) / 2
    velocity = np.zeros((3, *(mesh[::-1] + 3)))
    inner = (slice(None), *[slice(_LAYERS, -_LAYERS)] * 3)
    velocity[inner] = rng.normal(size=velocity[inner].shape)
    some = body[:: max(1, len(body) // _CALIBRATION_POINTS)]
    scale = mean_mm
    for _ in range(_CALIBRATION_ROUNDS):
        flow = _flow(scale * velocity, origin, mesh, spacing_mm)
        mean = np.linalg.norm(flow.inverse(some) - some, axis=1).mean()
        if abs(mean / mean_mm - 1) < 0.01:
            break
        scale *= mean_mm / mean
    return flow


def _flow(velocity: np.ndarray, origin: np.ndarray, mesh: np.ndarray, spacing_mm: float) -> Flow:
    count = max(1, int(np.ceil(largest_slope(velocity, spacing_mm) / STEP_SLOPE)))
    step = sitk.BSplineTransform(3)
    step.SetTransformDomainOrigin(origin.tolist())
    step.SetTransformDomainPhysicalDimensions((mesh * spacing_mm).tolist())
    step.SetTransformDomainMeshSize(mesh.tolist())
    step.SetParameters((velocity / count).ravel().tolist())
    return Flow(step, count, largest_slope(velocity / count, spacing_mm))


def draw_rigid(
    centre: np.ndarray, degrees: float, shift_mm: float, rng: np.random.Generator
) -> sitk.Euler3DTransform:
    """A rotation by `degrees` about a random axis through `centre`, and a shift of `shift_mm` in a random direction."""
    axis, direction = (v / np.linalg.norm(v) for v in rng.normal(size=(2, 3)))
    rigid = sitk.Euler3DTransform()
    rigid.SetCenter(np.asarray(centre, dtype=float).tolist())
    rigid.SetMatrix(sitk.VersorTransform(axis.tolist(), float(np.radians(degrees))).GetMatrix())
    rigid.SetTranslation((direction * shift_mm).tolist())
    return rigid


def padded(image: sitk.Image, points: np.ndarray, margin_mm: float) -> sitk.Image:
    """`image` with whole voxels of zeros around it, so that it holds all `points` (LPS mm) and a margin."""
    axes = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    index = (points - image.GetOrigin()) @ np.linalg.inv(axes).T
    margin = margin_mm / np.asarray(image.GetSpacing())
    below = np.maximum(0, np.ceil(margin - index.min(axis=0))).astype(int)
    above = np.maximum(0, np.ceil(index.max(axis=0) + margin - image.GetSize() + 1)).astype(int)
    return sitk.ConstantPad(image, below.tolist(), above.tolist(), 0.0)


@dataclass(frozen=True)
class Breathing:
    """A map that slides the inside of the body along the patient's axis (LPS z); the wall stays.

    ``z -> z + shift(x, y, z)``, the shift an elliptic cylinder in (x, y), 0 to 1 over `edge_mm`, times a sine arch in
    z. A shear along z with a slope under 1 in z alone is one-to-one however sharp its edge is.

    Attributes:
        centre, radii: ``(3,)`` LPS mm, of the box around the inside.
        peak_mm: the largest shift.
    """

    centre: np.ndarray
    radii: np.ndarray
    peak_mm: float
    edge_mm: float = 4.0

    @classmethod
    def inside(cls, patient: np.ndarray, wall_mm: float, peak_mm: float, height: float) -> Breathing:
        """Within the box around the points `patient` ``(N, 3)``, less a wall around it; largest at z = `height`."""
        low, high = np.percentile(patient, 1, axis=0), np.percentile(patient, 99, axis=0)
        radii = (high - low) / 2 - [wall_mm, wall_mm, 0.0]
        centre = (low + high) / 2
        centre[2] = height
        return cls(centre, radii, peak_mm)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        moved = points.copy()
        moved[..., 2] += self._shift(points)
        return moved

    def inverse(self, points: np.ndarray) -> np.ndarray:
        """The points that this map takes to `points`."""
        guess = points.copy()
        for _ in range(INVERSE_ITERATIONS):
            guess[..., 2] = points[..., 2] - self._shift(guess)
        return guess

    def field(self, geometry: Geometry) -> sitk.DisplacementFieldTransform:
        """The map at the voxels of a grid."""
        k, j, i = np.indices(geometry.shape)
        matrix = geometry.index_to_physical
        points = np.stack([i, j, k], axis=-1) @ matrix[:3, :3].T + matrix[:3, 3]
        shift = np.zeros_like(points)
        shift[..., 2] = self._shift(points)
        return sitk.DisplacementFieldTransform(geometry.stamp(sitk.GetImageFromArray(shift, isVector=True)))

    def _shift(self, points: np.ndarray) -> np.ndarray:
        x, y, z = np.moveaxis((points - self.centre) / self.radii, -1, 0)
        depth = (1 - np.hypot(x, y)) * self.radii[:2].min()
        arch = np.where(np.abs(z) < 1, np.cos(0.5 * np.pi * z), 0.0)
        return self.peak_mm * np.clip(depth / self.edge_mm, 0, 1) * arch


def random_field(geometry: Geometry, scale_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise ``(D, H, W)`` smoothed with sigma `scale_mm`, mean 0 and standard deviation 1."""
    noise = geometry.stamp(sitk.GetImageFromArray(rng.normal(size=geometry.shape).astype(np.float32)))
    smooth = sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(noise, scale_mm))
    field: np.ndarray = (smooth - smooth.mean()) / smooth.std()
    return field


def body(dense: np.ndarray) -> np.ndarray:
    """The largest piece of a mask ``(D, H, W)``, its holes filled slice by slice."""
    pieces = sitk.RelabelComponent(sitk.ConnectedComponent(sitk.GetImageFromArray(dense.astype(np.uint8))))
    largest = sitk.Cast(pieces == 1, sitk.sitkUInt8)
    slices = [sitk.BinaryFillhole(largest[:, :, k]) for k in range(largest.GetSize()[2])]
    filled: np.ndarray = sitk.GetArrayFromImage(sitk.JoinSeries(slices)) > 0
    return filled


def moved_header(image: sitk.Image, rigid: sitk.Transform) -> sitk.Image:
    """The same voxels where a rigid motion of the patient puts them."""
    origin = np.array(rigid.TransformPoint(image.GetOrigin()))
    axes = np.reshape(image.GetDirection(), (3, 3))
    turned = [rigid.TransformVector(axis.tolist(), image.GetOrigin()) for axis in axes.T]
    moved = sitk.Image(image)
    moved.SetOrigin(origin.tolist())
    moved.SetDirection(np.transpose(turned).ravel().tolist())
    return moved


def regridded(image: sitk.Image, spacing_mm: float, interpolator: int, outside: float) -> sitk.Image:
    """`image` on cubic voxels over the same box."""
    grid = Geometry.of(image).resized((spacing_mm,) * 3)
    like = grid.stamp(sitk.Image(grid.size, sitk.sitkUInt8))
    return sitk.Resample(image, like, sitk.Transform(), interpolator, outside, sitk.sitkFloat32)


def apply_transform(transform: sitk.Transform, points: np.ndarray) -> np.ndarray:
    """LPS points ``(N, 3)`` through a transform."""
    return _apply(transform, points)


def _apply(transform: sitk.Transform, points: np.ndarray) -> np.ndarray:
    return np.array([transform.TransformPoint(point) for point in points.tolist()])
