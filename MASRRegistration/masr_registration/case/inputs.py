"""What a registration is given (paths, SimpleITK images, volumes, arrays), read and checked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from .. import dicom_series
from ..errors import InputError
from ..evaluation.landmarks import pair_landmarks, read_landmarks
from ..transforms.chain import Affine, TransformChain
from ..transforms.files import read_transform
from ..volume import (
    Volume,
    as_labels,
    as_mask,
    check_registrable,
    check_same_grid,
    from_image,
    header_warnings,
    read_labels,
    read_mask,
    read_volume,
)
from .monitor import Monitor
from .provenance import describe_arrays, describe_file, describe_volume

PathLike = str | os.PathLike[str]
ImageLike = PathLike | sitk.Image | Volume
TransformLike = PathLike | sitk.Transform | TransformChain
PointsLike = PathLike | np.ndarray | Sequence[Sequence[float]]
READ_UNTIL = 0.03


@dataclass(frozen=True, eq=False)
class Given:
    """What one registration is asked to use; see `api.register` for each."""

    fixed: ImageLike
    moving: ImageLike
    fixed_mask: ImageLike | None = None
    moving_mask: ImageLike | None = None
    initial_transform: TransformLike | None = None
    labels: ImageLike | None = None
    landmarks: tuple[PointsLike, PointsLike] | None = None
    truth: TransformLike | None = None
    use_landmarks: bool = False

    @property
    def paths(self) -> dict[str, str]:
        """Those that are files, by the name that a person knows them under."""
        fixed_points, moving_points = self.landmarks or (None, None)
        pairs = {
            "fixed image": self.fixed,
            "moving image": self.moving,
            "fixed mask": self.fixed_mask,
            "moving mask": self.moving_mask,
            "initial transform": self.initial_transform,
            "labels": self.labels,
            "fixed landmarks": fixed_points,
            "moving landmarks": moving_points,
            "true transform": self.truth,
        }
        return {what: os.fspath(x) for what, x in pairs.items() if isinstance(x, (str, os.PathLike))}


@dataclass(frozen=True)
class Landmarks:
    """Paired points ``(N, 3)`` in LPS mm."""

    labels: list[str]
    fixed: np.ndarray
    moving: np.ndarray


@dataclass(frozen=True, eq=False)
class Inputs:
    """A `Given`, read.

    Attributes:
        moving_type, labels_type: integer type in which they came, 32 bits at most; None for real numbers.
        described: name, geometry and hash of every input, for the provenance.
        warnings: sentences for a person.
    """

    fixed: Volume
    moving: Volume
    moving_type: np.dtype[Any] | None = None
    fixed_mask: Volume | None = None
    moving_mask: Volume | None = None
    initial: TransformChain | None = None
    labels: Volume | None = None
    labels_type: np.dtype[Any] | None = None
    landmarks: Landmarks | None = None
    truth: sitk.Transform | None = None
    use_landmarks: bool = False
    paths: dict[str, str] = field(default_factory=dict)
    described: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def read_inputs(given: Given, monitor: Monitor) -> Inputs:
    """Read everything, with progress from 0 to `READ_UNTIL`. Raises `InputError`, `ResourceError`, `CancelledError`."""
    described: dict[str, Any] = {}
    warnings: list[str] = []

    def warn(sentence: str) -> None:
        warnings.append(sentence)
        monitor.warn(sentence)

    monitor.progress("read", 0.0)
    images = {}
    for name, source, done in (("fixed", given.fixed, 0.4), ("moving", given.moving, 0.8)):
        images[name] = volume = read_image(source, f"{name} image")
        check_registrable(volume, f"{name} image")
        path = _path(source)
        for sentence in header_warnings(path, volume.geometry) if path is not None else ():
            warn(sentence)
        described[name] = describe_volume(path, volume)
        monitor.progress("read", READ_UNTIL * done)
    masks: dict[str, Volume] = {}
    for name, mask, like in (
        ("fixed_mask", given.fixed_mask, images["fixed"]),
        ("moving_mask", given.moving_mask, images["moving"]),
    ):
        if mask is not None:
            masks[name] = _mask(mask, like, name.replace("_", " "))
            described[name] = describe_volume(_path(mask), masks[name])
    labels = None
    if given.labels is not None:
        labels = read_label_map(given.labels)
        described["labels"] = describe_volume(_path(given.labels), labels)
        if not check_same_grid(labels.geometry, images["moving"].geometry, tolerance=0.05):
            warn("The labels lie on another grid than the moving image; their own position was used.")
    initial = truth = landmarks = None
    if given.use_landmarks and given.landmarks is None:
        raise InputError("There are no landmarks to use.")
    if given.initial_transform is not None:
        initial = _chain(given.initial_transform, "initial transform")
        described["initial_transform"] = _describe_transform(given.initial_transform, "initial transform")
    if given.truth is not None:
        truth = _itk_transform(given.truth, "true transform")
        described["truth"] = _describe_transform(given.truth, "true transform")
    if given.landmarks is not None:
        landmarks = Landmarks(*pair_landmarks(*(read_points(points) for points in given.landmarks)))
        described["landmarks"] = [_describe_points(points) for points in given.landmarks]
    monitor.progress("read", READ_UNTIL)
    return Inputs(
        images["fixed"],
        images["moving"],
        stored_integer_type(given.moving),
        masks.get("fixed_mask"),
        masks.get("moving_mask"),
        initial,
        labels,
        None if given.labels is None else stored_integer_type(given.labels),
        landmarks,
        truth,
        given.use_landmarks,
        given.paths,
        described,
        warnings,
    )


def read_image(source: ImageLike, what: str) -> Volume:
    """float32, from wherever it is; `what` becomes the name of one that has none. Raises `InputError`."""
    path = _path(source)
    if path is not None:
        return read_volume(path)
    volume = _volume(source, what)
    return volume.with_array(np.ascontiguousarray(volume.array, dtype=np.float32))


def read_label_map(source: ImageLike) -> Volume:
    """int32, from wherever it is. Raises `InputError`."""
    path = _path(source)
    return read_labels(path) if path is not None else as_labels(_volume(source, "labels"))


def read_points(source: PointsLike) -> tuple[list[str], np.ndarray]:
    """Labels and points ``(N, 3)`` float64 in LPS mm, from a file or an array. Raises `InputError`."""
    if isinstance(source, (str, os.PathLike)):
        return read_landmarks(Path(source))
    try:
        points = np.array(source, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError("Points have to be numbers, three for each: (N, 3), LPS mm.") from error
    if points.ndim != 2 or points.shape[1] != 3 or not len(points) or not np.all(np.isfinite(points)):
        raise InputError("Points have to be finite numbers, three for each: (N, 3), LPS mm.")
    return [str(number) for number in range(1, len(points) + 1)], points


def stored_integer_type(source: ImageLike) -> np.dtype[Any] | None:
    """The integer type in which an image came (32 bits at most), None if it holds real numbers."""
    path = _path(source)
    if path is None:
        kind = _volume(source, "image").array.dtype
        if kind.kind not in "iu":
            return None
        return np.dtype(f"{kind.kind}4") if kind.itemsize > 4 else kind
    file = dicom_series.series_of_folder(Path(path))[0] if Path(path).is_dir() else path
    reader = sitk.ImageFileReader()
    reader.SetFileName(file)
    reader.ReadImageInformation()
    return _INTEGERS.get(reader.GetPixelID())


def _path(source: object) -> str | None:
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else None


def _volume(source: ImageLike, what: str) -> Volume:
    if isinstance(source, sitk.Image):
        return from_image(source, what)
    if isinstance(source, Volume):
        return source
    raise InputError(
        f"The {what} has to be a path, a SimpleITK image or a Volume, not {type(source).__name__}."
    )


def _mask(source: ImageLike, like: Volume, what: str) -> Volume:
    path = _path(source)
    if path is not None:
        return read_mask(path, like.geometry, what)
    return as_mask(_volume(source, what), like.geometry, what)


def _itk_transform(source: TransformLike, what: str) -> sitk.Transform:
    if isinstance(source, (str, os.PathLike)):
        return read_transform(Path(source), what)
    if isinstance(source, TransformChain):
        return source.to_sitk()
    if isinstance(source, sitk.Transform):
        if source.GetDimension() != 3:
            raise InputError(f"The {what} is not a 3-D transform.")
        return source
    raise InputError(
        f"The {what} has to be a path, a SimpleITK transform or a TransformChain, not {type(source).__name__}."
    )


def _chain(source: TransformLike, what: str) -> TransformChain:
    if isinstance(source, TransformChain):
        return source
    return TransformChain.from_sitk(_itk_transform(source, what))


def _describe_transform(source: TransformLike, what: str) -> dict[str, str]:
    path = _path(source)
    if path is not None:
        return describe_file(path)
    factors = _chain(source, what).factors
    arrays = [f.matrix if isinstance(f, Affine) else np.asarray(f.displacement.cpu()) for f in factors]
    frames = [np.empty(0) if isinstance(f, Affine) else f.geometry.index_to_physical for f in factors]
    return describe_arrays(what, [*arrays, *frames])


def _describe_points(source: PointsLike) -> dict[str, str]:
    path = _path(source)
    return describe_file(path) if path is not None else describe_arrays("points", [read_points(source)[1]])


_INTEGERS: dict[int, np.dtype[Any]] = {
    sitk.sitkUInt8: np.dtype(np.uint8),
    sitk.sitkInt8: np.dtype(np.int8),
    sitk.sitkUInt16: np.dtype(np.uint16),
    sitk.sitkInt16: np.dtype(np.int16),
    sitk.sitkUInt32: np.dtype(np.uint32),
    sitk.sitkInt32: np.dtype(np.int32),
    sitk.sitkInt64: np.dtype(np.int32),
    sitk.sitkUInt64: np.dtype(np.uint32),
}
