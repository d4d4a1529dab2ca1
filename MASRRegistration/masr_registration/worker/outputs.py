"""The result files, each complete or a `ResourceError`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..errors import ResourceError
from ..transforms.chain import TransformChain
from ..volume import Geometry, Volume
from . import staging
from .messages import jsonable

GRID_TRANSFORM_INTENT = "1006"


def write_transform(chain: TransformChain, path: Path) -> None:
    """An ITK transform file (.h5) in LPS mm, read back to prove it."""
    with _complete(path):
        sitk.WriteTransform(chain.to_sitk(), str(path))
        sitk.ReadTransform(str(path))


def write_displacement(displacement: np.ndarray, geometry: Geometry, path: Path) -> None:
    """A dense field ``(3, D, H, W)``, LPS mm, fixed -> moving, as the NRRD that 3D Slicer loads as a grid transform."""
    array = np.ascontiguousarray(np.moveaxis(displacement, 0, -1), dtype=np.float32)
    image = geometry.stamp(sitk.GetImageFromArray(array, isVector=True))
    image.SetMetaData("intent_code", GRID_TRANSFORM_INTENT)
    image.SetMetaData("displacement field type", "resampling")
    with _complete(path):
        sitk.WriteImage(image, str(path))
        if path.stat().st_size < array.nbytes:
            raise RuntimeError("truncated")


def write_json(content: Mapping[str, Any], path: Path) -> None:
    """Indented UTF-8 JSON; null for every number that is not finite."""
    text = json.dumps(jsonable(content), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    with staging.writing(f'"{path.name}"'):
        path.write_text(text, encoding="utf-8", errors="replace")


def as_type(volume: Volume, dtype: np.dtype[Any] | None) -> Volume:
    """`volume` rounded to an integer type; itself if `dtype` is None or cannot hold its values."""
    if dtype is None:
        return volume
    limits = np.iinfo(dtype)
    if volume.array.min() < limits.min or volume.array.max() > limits.max:
        return volume
    return volume.with_array(np.rint(volume.array.astype(np.float64)).astype(dtype))


@contextmanager
def _complete(path: Path) -> Iterator[None]:
    try:
        with staging.writing(f'"{path.name}"'):
            yield
    except RuntimeError as error:
        raise ResourceError(
            f'"{path.name}" could not be written: is the disk full or the folder read-only?'
        ) from error
