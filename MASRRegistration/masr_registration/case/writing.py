"""The result files, each complete or a `ResourceError`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk
import torch

from ..errors import ResourceError
from ..evaluation import report as page
from ..transforms.chain import Affine, TransformChain
from ..transforms.jacobian import folded_cells, jacobian_determinant
from ..transforms.resample import resample
from ..volume import Geometry, Volume, write_volume
from ..worker import staging
from ..worker.messages import jsonable
from .files import ALL_FILES
from .inputs import Inputs
from .monitor import Monitor

if TYPE_CHECKING:
    from .result import Result

GRID_TRANSFORM_INTENT = "1006"
WRITE_FROM, WRITE_UNTIL = 0.90, 0.96
NO_REPORT = "There is no report: matplotlib is not installed."


def needed_bytes(inputs: Inputs) -> int:
    """About what the result files take: the dense field and the warped image."""
    return int(np.prod(inputs.fixed.geometry.size)) * (3 * 4 + 2)


def write(
    result: Result, inputs: Inputs, foreground: np.ndarray, folder: Path, monitor: Monitor, *, report: bool
) -> list[str]:
    """Write the files of `result` into `folder`, with progress from `WRITE_FROM`; returns their names.

    Its timings and warnings are completed by those of writing. Raises `ResourceError`, `CancelledError`.
    """
    names: list[str] = []
    start = time.perf_counter()

    def path(name: str, done: float) -> Path:
        monitor.progress("write", WRITE_FROM + done * (WRITE_UNTIL - WRITE_FROM))
        names.append(name)
        return folder / ALL_FILES[name]

    geometry = inputs.fixed.geometry
    monitor.progress("write", WRITE_FROM)
    dense = result.transform.dense(geometry).cpu().numpy()
    write_transform(result.transform, path("transform", 0.2))
    write_transform(result.inverse, path("inverse", 0.3))
    write_displacement(dense, geometry, path("displacement", 0.4))
    write_volume(result.warped, path("warped", 0.5))
    if result.warped_labels is not None:
        write_volume(result.warped_labels, path("warped_labels", 0.9))
    if result.features is not None:
        result.features.write(path("features", 0.95))
    written = time.perf_counter()
    timings = result.timings
    before = timings["total"] - timings["write"] - timings["report"]  # it may be saved again
    timings.update(write=written - start, report=0.0, total=before + written - start)
    if report:
        monitor.progress("report", WRITE_UNTIL)
        try:
            text = report_page(result, inputs, foreground, dense)
        except ImportError:
            monitor.warn(NO_REPORT)
            if NO_REPORT not in result.warnings:
                result.warnings.append(NO_REPORT)
        else:
            with staging.writing('"report.html"'):
                path("report", 1.0).write_text(text, encoding="utf-8", errors="replace")
    end = time.perf_counter()
    timings.update(report=end - written, total=before + end - start)
    monitor.check()
    write_json(result.to_json(), path("result", 1.0))
    return names


def report_page(result: Result, inputs: Inputs, foreground: np.ndarray, dense: np.ndarray) -> str:
    """The report; `dense` ``(3, D, H, W)`` is changed in place, to save memory. Raises `ImportError`."""
    geometry = inputs.fixed.geometry
    jacobian = jacobian_determinant(torch.as_tensor(dense), geometry).cpu().numpy()
    folded = folded_cells(torch.as_tensor(dense), geometry).cpu().numpy()
    linear = TransformChain((Affine(result.transform.matrix),))
    dense -= linear.dense(geometry).cpu().numpy()
    unturned = np.linalg.inv(linear.matrix[:3, :3]).astype(np.float32)
    return page.report_page(
        result=result.to_json(),
        fixed=inputs.fixed,
        moving=inputs.moving,
        before=resample(inputs.moving, inputs.initial or TransformChain(()), geometry),
        after=result.warped,
        displacement=np.einsum("ab,bdhw->adhw", unturned, dense),
        jacobian=jacobian,
        folded=np.pad(folded, (0, 1)),
        foreground=foreground,
    )


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
