"""A sequence (4-D) registered in one process: every item to a reference, or each to its neighbour.

Items are done outwards from the reference. Each begins with the linear alignment of the item before it, so that a
motion may grow beyond what a single start would reach, and with the same plan, so that all have the same detail. To
begin with its deformation as well was no help on a real pair that was warped more and more.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import SimpleITK as sitk
import torch

from .case import solve
from .case.inputs import Given, ImageLike, PointsLike, read_points
from .case.monitor import CancelFlag, Listener, Monitor, ProgressCallback, WarningCallback
from .case.result import IDENTITY, Result
from .case.settings import PresetLike, Settings
from .case.writing import as_type
from .errors import CancelledError, InputError, MasrError, ResourceError
from .transforms import affine
from .transforms.chain import Affine, TransformChain
from .transforms.resample import resample
from .volume import Volume, from_image

_log = logging.getLogger(__name__)
Target = Literal["reference", "neighbour"]
LARGEST_START_DEG = 45.0
"""A start that is turned further is not passed on: a wrong turn must not spread through the sequence."""


@dataclass(frozen=True, eq=False)
class SequenceResult:
    """What `register_sequence` found.

    Attributes:
        reference: number of the item that all others lead to.
        results: of every item, None for the reference and for items that failed. With the target "neighbour" the fixed
            image of each is the next item on the side of the reference that did not fail.
        transforms: reference -> item for every item, LPS mm; the identity for the reference, None for a failed item.
        warped: every item on the grid of the reference; None for a failed item.
        failures: why an item could not be registered, one sentence, by its number.
    """

    reference: int
    results: list[Result | None]
    transforms: list[TransformChain | None]
    warped: list[Volume | None]
    failures: dict[int, str]

    @property
    def warnings(self) -> list[str]:
        """Of all items, each with the number of its item, counted from 0; failures among them."""
        told = []
        for number, result in enumerate(self.results):
            if number in self.failures:
                told.append(f"Item {number} failed: {self.failures[number]}")
            elif result is not None:
                told += [f"Item {number}: {sentence}" for sentence in result.warnings]
        return told

    def trajectories(self, points: PointsLike) -> np.ndarray:
        """Where points of the reference, ``(N, 3)`` in LPS mm or a landmark file, lie in every item: ``(T, N, 3)``.

        Not a number for an item that failed.
        """
        start = torch.from_numpy(read_points(points)[1])
        unknown = np.full(start.shape, np.nan)
        return np.stack([unknown if t is None else np.asarray(t.apply(start)) for t in self.transforms])

    def motion(self, points: PointsLike) -> np.ndarray:
        """How far points of the reference have moved in every item: ``(T, N)`` in mm, NaN for a failed item."""
        distance = np.linalg.norm(self.trajectories(points) - read_points(points)[1], axis=2)
        return np.asarray(distance)

    def plot_motion(
        self, points: PointsLike, path: str | Path, times: Sequence[float] | None = None, unit: str = "item"
    ) -> None:
        """Draw `motion` over time, a line for every point, into a file (.png, .svg, .pdf). Needs matplotlib.

        Raises `InputError` and, where the file cannot be written, `ResourceError`.
        """
        from matplotlib.figure import Figure

        labels, _ = read_points(points)
        axis = range(len(self.transforms)) if times is None else times
        if len(axis) != len(self.transforms):
            raise InputError(f"There are {len(self.transforms)} items and {len(axis)} times.")
        figure = Figure(figsize=(7, 4), layout="constrained")
        plot = figure.add_subplot()
        for label, line in zip(labels, self.motion(points).T, strict=True):
            plot.plot(axis, line, marker="o", markersize=3, label=label)
        plot.set(xlabel=unit, ylabel="displacement (mm)", title="Motion relative to the reference")
        plot.set_ylim(bottom=0)
        plot.grid(alpha=0.3)
        plot.legend(loc="upper left", bbox_to_anchor=(1, 1))
        try:
            figure.savefig(path)
        except ValueError as error:
            raise InputError(f'"{Path(path).name}" has no suffix of a picture, such as .png.') from error
        except OSError as error:
            raise ResourceError(f'"{Path(path).name}" cannot be written.') from error


def register_sequence(
    items: Sequence[ImageLike] | sitk.Image | str | os.PathLike[str],
    *,
    reference: int = 0,
    target: Target = "reference",
    preset: PresetLike = "general",
    reference_mask: ImageLike | None = None,
    device: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    progress: ProgressCallback | None = None,
    warn: WarningCallback | None = None,
    cancel: CancelFlag | None = None,
) -> SequenceResult:
    """Register the items of a sequence, in this process.

    Args:
        items: images as for `register`, in order, or what holds them all: a file (see `read_sequence`) or a 4-D
            SimpleITK image.
        reference: number of the item that stays as it is, counted from 0.
        target: "reference" registers every item to the reference; "neighbour" each to the item beside it, which
            follows large motion in small steps, but adds up their errors.
        reference_mask: where the reference is to be believed; with the target "reference" only.
        others: as for `register`; `warn` gets every sentence with the number of its item.

    An item that cannot be registered is recorded in `failures`, and the others go on without it. Raises as `register`
    does where none can be.
    """
    settings = Settings.of(preset, device, threads, seed)
    sources = _items(items)
    with settings.in_force():
        return solve_sequence(
            sources, reference, target, settings, Listener(progress, warn, cancel), reference_mask
        )


def solve_sequence(
    items: Sequence[ImageLike],
    reference: int,
    target: Target,
    settings: Settings,
    monitor: Monitor,
    reference_mask: ImageLike | None = None,
) -> SequenceResult:
    """The same for the background process; progress from 0 to 1."""
    if len(items) < 2:
        raise InputError("A sequence needs at least two items.")
    if not 0 <= reference < len(items):
        raise InputError(f"The reference has to be an item, 0 to {len(items) - 1}, not {reference}.")
    if target not in get_args(Target):
        raise InputError(f'A sequence is registered to "reference" or "neighbour", not to "{target}".')
    results: list[Result | None] = [None] * len(items)
    transforms: list[TransformChain | None] = [None] * len(items)
    transforms[reference] = IDENTITY
    errors: dict[int, MasrError] = {}
    order = [*range(reference + 1, len(items)), *range(reference - 1, -1, -1)]
    before = reference
    for done, number in enumerate(order):
        if number == reference - 1:
            before = reference
        fixed = before if target == "neighbour" else reference
        given = Given(
            items[fixed],
            items[number],
            fixed_mask=reference_mask if fixed == reference else None,
            initial_transform=_start(results[before]),
        )
        part = _Part(monitor, number, done / len(order), 1 / len(order))
        try:
            inputs, read_s = solve.read(given, part)
            result = solve.solve(inputs, settings, part, read_s)
        except CancelledError:
            raise
        except Exception as error:
            errors[number] = _known(error)
            part.warn(f"it failed: {errors[number]}")
            continue
        results[number] = result
        steps = transforms[before] if target == "neighbour" else IDENTITY
        assert steps is not None
        transforms[number] = TransformChain((*result.transform.factors, *steps.factors))
        before = number
        if settings.plan is None and target == "reference":
            settings = replace(settings, plan=result.plan)
    if len(errors) == len(order):
        raise errors[order[0]]
    failures = {number: str(error) for number, error in sorted(errors.items())}
    return SequenceResult(reference, results, transforms, _warp(results, transforms, reference), failures)


def read_sequence(path: str | os.PathLike[str]) -> list[Volume]:
    """The items of a 4-D image (NIfTI) or of one with several values in every voxel (3D Slicer's .seq.nrrd).

    Raises `InputError` for anything else.
    """
    name = Path(path).name
    try:
        image = sitk.ReadImage(os.fspath(path))
    except RuntimeError as error:
        raise InputError(f'"{name}" cannot be read: it is missing, damaged or not an image.') from error
    return _frames(image, name)


def _items(items: Sequence[ImageLike] | sitk.Image | str | os.PathLike[str]) -> list[ImageLike]:
    if isinstance(items, (str, os.PathLike)):
        return [*read_sequence(items)]
    if isinstance(items, sitk.Image):
        return [*_frames(items, "sequence")]
    if isinstance(items, Iterable) and not isinstance(items, np.ndarray):
        return list(items)
    raise InputError(
        f"A sequence has to be a path, a SimpleITK image or a list of images, not {type(items).__name__}."
    )


def _frames(image: sitk.Image, name: str) -> list[Volume]:
    if image.GetDimension() == 4 and image.GetNumberOfComponentsPerPixel() == 1:
        size = image.GetSize()
        frames = [sitk.Extract(image, [*size[:3], 0], [0, 0, 0, t]) for t in range(size[3])]
    elif image.GetDimension() == 3 and image.GetNumberOfComponentsPerPixel() > 1:
        frames = [
            sitk.VectorIndexSelectionCast(image, t) for t in range(image.GetNumberOfComponentsPerPixel())
        ]
    else:
        raise InputError(f'"{name}" holds no sequence of 3-D images.')
    return [from_image(frame, f"{name}, item {number}") for number, frame in enumerate(frames)]


def _known(error: Exception) -> MasrError:
    if isinstance(error, MasrError):
        return error
    _log.error("Internal error", exc_info=error)
    return MasrError(f"An internal error stopped the registration ({type(error).__name__}).")


def _start(before: Result | None) -> TransformChain | None:
    """The linear part of the item before, where it may be passed on."""
    if before is None:
        return None
    matrix = before.transform.matrix
    return TransformChain((Affine(matrix),)) if affine.rotation_degrees(matrix) <= LARGEST_START_DEG else None


def _warp(
    results: Sequence[Result | None], transforms: Sequence[TransformChain | None], reference: int
) -> list[Volume | None]:
    """Every item on the grid of the reference; the reference as it came."""
    near = [*results[reference + 1 :], *reversed(results[:reference])]
    some = next(result for result in near if result is not None)
    still = some.inputs.fixed
    warped: list[Volume | None] = [None] * len(results)
    warped[reference] = as_type(still, some.inputs.moving_type)
    for number, (result, transform) in enumerate(zip(results, transforms, strict=True)):
        if result is not None and transform is not None:
            moved = resample(result.inputs.moving, transform, still.geometry)
            warped[number] = as_type(moved, result.inputs.moving_type)
    return warped


class _Part:
    """One item's share of the progress of the whole."""

    def __init__(self, monitor: Monitor, number: int, start: float, share: float) -> None:
        self._monitor, self._number, self._start, self._share = monitor, number, start, share

    def check(self) -> None:
        self._monitor.check()

    def warn(self, message: str) -> None:
        self._monitor.warn(f"Item {self._number}: {message}")

    def progress(self, stage: str, fraction: float, metrics: Mapping[str, Any] | None = None) -> None:
        self._monitor.progress(
            stage, self._start + self._share * min(fraction / solve.SOLVE_UNTIL, 1.0), metrics
        )
