"""The demonstration: a real T1/T2 pair, T2 moved by a transform that is known exactly, so the true error can be told.

T1 is fixed. The truth maps fixed points to moving points, ``T(p) = R(p + u(p))``: a cubic B-spline warp u, then a
rigid motion R, both in LPS millimetres. The moving image is therefore ``moving(y) = T2(T^-1(y))``.

``python -m masr_registration.demo FOLDER`` writes the pair there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from .errors import ResourceError

PRESET = "brain-mr"
CONTROL_SPACING_MM = 38.0
WARP_MEAN_MM = 4.5
ROTATION_DEG = (10.0, 15.0)
SHIFT_MM = (12.0, 20.0)
LARGEST_SLOPE = 0.9
INVERSE_SPACING_MM = 5.0
INVERSE_ITERATIONS = 12
INVERSE_RESIDUAL_MM = 0.02
ERROR_BEFORE_MM = 8.0
ERROR_AFTER_MM = 1.5


def prepare(folder: Path, seed: int = 0) -> dict[str, Any]:
    """Write `fixed.nii.gz`, `moving.nii.gz` and `truth.h5` into `folder`; returns these fields of a request.

    The same seed gives the same files. Raises `ResourceError` when `folder` cannot be written.
    """
    folder = Path(folder)
    with _writing():
        folder.mkdir(parents=True, exist_ok=True)
    fixed, source = _sample("T1"), _sample("T2")
    brain = _foreground_points(source)
    rng = np.random.default_rng(seed)
    warp = _draw_warp(rng, brain)
    rigid = _draw_rigid(rng, brain.mean(axis=0))
    truth = sitk.CompositeTransform([rigid, warp])
    moving = _move(source, rigid, warp, brain)
    paths = {name: folder / file for name, file in FILES.items()}
    with _writing():
        sitk.WriteImage(fixed, paths["fixed"])
        sitk.WriteImage(moving, paths["moving"])
        sitk.WriteTransform(truth, paths["truth"])
    return {**{name: str(path) for name, path in paths.items()}, "preset": PRESET, "seed": seed}


def check(result: Mapping[str, Any]) -> list[str]:
    """What is wrong with a demo's result (the content of result.json), as sentences; empty when nothing is."""
    metrics = result["metrics"]
    before, after = metrics["true_error_before_mm"]["mean"], metrics["true_error_after_mm"]["mean"]
    problems = []
    if not before > ERROR_BEFORE_MM:
        problems.append(
            f"The pair starts only {before:.2f} mm apart; the demo needs over {ERROR_BEFORE_MM:g} mm."
        )
    if not after < ERROR_AFTER_MM:
        problems.append(f"The mean true error is {after:.2f} mm; it must be under {ERROR_AFTER_MM:g} mm.")
    if metrics["folds"] != 0:
        problems.append(f"The transform folds in {metrics['folds']} places.")
    return problems


FILES = {"fixed": "fixed.nii.gz", "moving": "moving.nii.gz", "truth": "truth.h5"}


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise ResourceError(
            "The demo could not write its images: is the disk full or the folder read-only?"
        ) from error


def _sample(name: str) -> sitk.Image:
    resource = files(__package__).joinpath("data", "sample", f"{name}.nii.gz")
    with as_file(resource) as path:
        return sitk.ReadImage(path)


def _foreground_points(image: sitk.Image) -> np.ndarray:
    """Centres of every third foreground voxel along each axis: ``(N, 3)`` LPS mm."""
    index = 3 * np.argwhere(sitk.GetArrayViewFromImage(image)[::3, ::3, ::3] > 0)[:, ::-1]
    axes = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    return np.asarray(index @ axes.T + image.GetOrigin())


def _draw_rigid(rng: np.random.Generator, centre: np.ndarray) -> sitk.Euler3DTransform:
    rotation = sitk.VersorTransform(_unit_vector(rng), np.deg2rad(rng.uniform(*ROTATION_DEG)))
    rigid = sitk.Euler3DTransform()
    rigid.SetCenter(centre.tolist())
    rigid.SetMatrix(rotation.GetMatrix())
    rigid.SetTranslation((np.asarray(_unit_vector(rng)) * rng.uniform(*SHIFT_MM)).tolist())
    return rigid


def _unit_vector(rng: np.random.Generator) -> list[float]:
    vector = rng.normal(size=3)
    return [float(x) for x in vector / np.linalg.norm(vector)]


def _draw_warp(rng: np.random.Generator, brain: np.ndarray) -> sitk.BSplineTransform:
    """A smooth one-to-one warp with a mean displacement of `WARP_MEAN_MM` over the brain's points.

    Control values are white noise, zero in the three outer layers so that the warp fades out inside its domain.
    """
    low, high = brain.min(axis=0), brain.max(axis=0)
    mesh = np.ceil((high - low) / CONTROL_SPACING_MM).astype(int) + 4
    warp = sitk.BSplineTransform(3)
    warp.SetTransformDomainOrigin(((low + high - mesh * CONTROL_SPACING_MM) / 2).tolist())
    warp.SetTransformDomainPhysicalDimensions((mesh * CONTROL_SPACING_MM).tolist())
    warp.SetTransformDomainMeshSize(mesh.tolist())
    while True:
        controls = np.zeros((3, *(mesh[::-1] + 3)))
        inner = controls[:, 3:-3, 3:-3, 3:-3]
        inner[...] = rng.normal(size=inner.shape)
        warp.SetParameters(controls.ravel().tolist())
        moved = np.asarray([warp.TransformPoint(p) for p in brain[::20].tolist()])
        controls *= WARP_MEAN_MM / np.linalg.norm(moved - brain[::20], axis=1).mean()
        if largest_slope(controls) < LARGEST_SLOPE:
            warp.SetParameters(controls.ravel().tolist())
            return warp


def largest_slope(controls: np.ndarray, spacing_mm: float = CONTROL_SPACING_MM) -> float:
    """Upper bound of ``sum_j |d u_i / d x_j|`` over space and i, for cubic B-spline controls ``(3, K, J, I)`` in mm.

    Below 1, p -> p + u(p) is one-to-one. A B-spline's derivative is a weighted mean of neighbouring control
    differences, so the largest difference among the controls that act on a place bounds it; three subdivisions of
    the control grid make the bound tight. Controls outside the grid count as zero.
    """
    fine = np.pad(controls, ((0, 0), (2, 2), (2, 2), (2, 2)))
    for _ in range(3):
        for axis in (1, 2, 3):
            fine = _subdivide(fine, axis)
    slopes = sum(_largest_nearby(np.abs(np.diff(fine, axis=axis)), axis) for axis in (1, 2, 3))
    return float(np.max(slopes) * 8 / spacing_mm)


def _subdivide(controls: np.ndarray, axis: int) -> np.ndarray:
    """The same cubic B-spline on half the control spacing along `axis`; its two end controls are lost."""
    c = np.moveaxis(controls, axis, 0)
    fine = np.empty((2 * len(c) - 3, *c.shape[1:]))
    fine[1::2] = (c[:-2] + 6 * c[1:-1] + c[2:]) / 8
    fine[0::2] = (c[:-1] + c[1:]) / 2
    return np.moveaxis(fine, 0, axis)


def _largest_nearby(differences: np.ndarray, axis: int) -> np.ndarray:
    """Largest entry among those that act on one cell: 3 along `axis`, where there is one entry less, 4 elsewhere."""
    for other in (1, 2, 3):
        width = 3 if other == axis else 4
        differences = np.lib.stride_tricks.sliding_window_view(differences, width, axis=other).max(axis=-1)
    return differences


def _move(
    source: sitk.Image, rigid: sitk.Transform, warp: sitk.BSplineTransform, brain: np.ndarray
) -> sitk.Image:
    """``source(T^-1(y))`` on a grid that holds the whole moved brain, as int16 like a scanner stores it."""
    truth = sitk.CompositeTransform([rigid, warp])
    moved = np.asarray([truth.TransformPoint(p) for p in brain.tolist()])
    unwarp = _invert(warp, brain)
    back = sitk.CompositeTransform([unwarp, rigid.GetInverse()])
    residual = [
        np.subtract(back.TransformPoint(y), p) for y, p in zip(moved[::7].tolist(), brain[::7], strict=True)
    ]
    if np.linalg.norm(residual, axis=1).max() > INVERSE_RESIDUAL_MM:
        raise RuntimeError("The demo's transform was not inverted accurately enough.")
    grid = _grid_around(moved, source.GetDirection(), source.GetSpacing(), margin_mm=8.0)
    image = sitk.Resample(source, grid, back, sitk.sitkBSpline3, 0.0, sitk.sitkFloat32)
    return sitk.Cast(sitk.Round(sitk.Clamp(image, lowerBound=0.0)), sitk.sitkInt16)


def _invert(warp: sitk.BSplineTransform, brain: np.ndarray) -> sitk.BSplineTransform:
    """The warp's inverse around the brain: its values by fixed-point iteration, then the spline through them."""
    warped = np.asarray([warp.TransformPoint(p) for p in brain.tolist()])
    grid = _grid_around(warped, warp.GetTransformDomainDirection(), (INVERSE_SPACING_MM,) * 3, margin_mm=20.0)
    frame = grid.GetSize(), grid.GetOrigin(), grid.GetSpacing(), grid.GetDirection()
    field = np.zeros((*grid.GetSize()[::-1], 3))
    for _ in range(INVERSE_ITERATIONS):
        image = sitk.GetImageFromArray(field, isVector=True)
        image.CopyInformation(grid)
        round_trip = sitk.CompositeTransform([warp, sitk.DisplacementFieldTransform(image)])
        residual = sitk.TransformToDisplacementField(round_trip, sitk.sitkVectorFloat64, *frame)
        field -= sitk.GetArrayViewFromImage(residual)
    values = sitk.GetImageFromArray(field, isVector=True)
    values.CopyInformation(grid)
    controls = [sitk.BSplineDecomposition(sitk.VectorIndexSelectionCast(values, axis)) for axis in range(3)]
    return sitk.BSplineTransform(controls, 3)


def _grid_around(
    points: np.ndarray, direction: tuple[float, ...], spacing: tuple[float, ...], margin_mm: float
) -> sitk.Image:
    """An empty image whose grid holds all `points` (LPS mm) and `margin_mm` around them."""
    axes = np.reshape(direction, (3, 3))
    along = points @ axes
    low, high = along.min(axis=0) - margin_mm, along.max(axis=0) + margin_mm
    size = np.ceil((high - low) / spacing).astype(int) + 1
    grid = sitk.Image(size.tolist(), sitk.sitkUInt8)
    grid.SetSpacing(spacing)
    grid.SetDirection(direction)
    grid.SetOrigin((axes @ low).tolist())
    return grid


if __name__ == "__main__":
    prepare(Path(sys.argv[1]))
