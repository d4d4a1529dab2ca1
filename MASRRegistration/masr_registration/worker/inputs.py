"""What a request names, read and checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from .. import dicom_series
from ..evaluation.landmarks import pair_landmarks, read_landmarks
from ..transforms.chain import TransformChain
from ..transforms.files import read_transform
from ..volume import (
    Volume,
    check_registrable,
    check_same_grid,
    header_warnings,
    read_labels,
    read_mask,
    read_volume,
)
from .context import Context
from .messages import Request
from .provenance import describe_file, describe_volume


@dataclass(frozen=True)
class Landmarks:
    """Paired points ``(N, 3)`` in LPS mm."""

    labels: list[str]
    fixed: np.ndarray
    moving: np.ndarray


@dataclass(frozen=True)
class Inputs:
    """`described`: name, geometry and hash of every input, for the provenance."""

    fixed: Volume
    moving: Volume
    fixed_mask: Volume | None = None
    moving_mask: Volume | None = None
    initial: TransformChain | None = None
    labels: Volume | None = None
    landmarks: Landmarks | None = None
    truth: sitk.Transform | None = None
    described: dict[str, Any] = field(default_factory=dict)


def read_inputs(request: Request, context: Context, until: float) -> Inputs:
    """Read everything, with progress from 0 to `until`. Raises `InputError`, `ResourceError`, `CancelledError`."""
    described: dict[str, Any] = {}
    context.progress("read", 0.0)
    fixed = _image(request.fixed, "fixed image", context)
    context.progress("read", until * 0.4)
    moving = _image(request.moving, "moving image", context)
    context.progress("read", until * 0.8)
    described["fixed"] = describe_volume(request.fixed, fixed)
    described["moving"] = describe_volume(request.moving, moving)

    masks: dict[str, Volume | None] = {"fixed_mask": None, "moving_mask": None}
    for name, path, like in (
        ("fixed_mask", request.fixed_mask, fixed),
        ("moving_mask", request.moving_mask, moving),
    ):
        if path is not None:
            mask = read_mask(path, like.geometry, name.replace("_", " "))
            masks[name], described[name] = mask, describe_volume(path, mask)
    labels = None
    if request.labels is not None:
        labels = read_labels(request.labels)
        described["labels"] = describe_volume(request.labels, labels)
        if not check_same_grid(labels.geometry, moving.geometry, tolerance=0.05):
            context.warn("The labels lie on another grid than the moving image; their own position was used.")
    initial = None
    if request.initial_transform is not None:
        initial = TransformChain.from_sitk(read_transform(request.initial_transform, "initial transform"))
        described["initial_transform"] = describe_file(request.initial_transform)
    truth = None
    if request.truth is not None:
        truth = read_transform(request.truth, "true transform")
        described["truth"] = describe_file(request.truth)
    landmarks = None
    if request.landmarks is not None:
        landmarks = Landmarks(*pair_landmarks(*(read_landmarks(path) for path in request.landmarks)))
        described["landmarks"] = [describe_file(path) for path in request.landmarks]
    context.progress("read", until)
    return Inputs(
        fixed,
        moving,
        masks["fixed_mask"],
        masks["moving_mask"],
        initial,
        labels,
        landmarks,
        truth,
        described,
    )


def stored_integer_type(path: str) -> np.dtype[Any] | None:
    """The integer type of the image's file (32 bits at most), None if it holds real numbers."""
    file = dicom_series.series_of_folder(Path(path))[0] if Path(path).is_dir() else path
    reader = sitk.ImageFileReader()
    reader.SetFileName(file)
    reader.ReadImageInformation()
    return _INTEGERS.get(reader.GetPixelID())


def _image(path: str, what: str, context: Context) -> Volume:
    volume = read_volume(path)
    check_registrable(volume, what)
    for warning in header_warnings(path, volume.geometry):
        context.warn(warning)
    return volume


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
