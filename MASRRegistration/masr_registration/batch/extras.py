"""What a cohort's report needs besides the results of a case: overlap with labels of the fixed image, a thumbnail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..case.provenance import describe_volume
from ..errors import InputError
from ..evaluation.metrics import dice
from ..evaluation.slices import PLANES, Hanging, Window, middle, otsu
from ..transforms.files import read_transform
from ..volume import check_same_grid, read_labels, read_volume
from ..worker.messages import Request
from ..worker.staging import writing
from .study import OVERLAP, THUMBNAIL

_PIXELS_HIGH = 132
_SPECK_MM = 40.0


def check_fixed_labels(fixed: str, labels: str) -> dict[str, Any]:
    """Name, geometry and hash of the labels. Raises `InputError` unless they lie on the grid of the fixed image."""
    image, map_ = read_volume(fixed), read_labels(labels)
    if not check_same_grid(map_.geometry, image.geometry, tolerance=0.05):
        raise InputError(f'The labels "{map_.name}" do not lie on the grid of the fixed image.')
    return describe_volume(labels, map_)


def write_overlap(request: Request, fixed_labels: str, folder: Path) -> None:
    """Dice of every label with the warped labels in `folder`, and before: by the initial transform or none."""
    assert request.labels is not None
    fixed = read_labels(fixed_labels)
    start = sitk.Transform(3, sitk.sitkIdentity)
    if request.initial_transform is not None:
        start = read_transform(request.initial_transform, "initial transform")
    before = sitk.Resample(
        read_labels(request.labels).to_sitk(), fixed.to_sitk(), start, sitk.sitkNearestNeighbor, 0
    )
    after = read_labels(folder / "warped_labels.nii.gz").array
    content: dict[str, Any] = {}
    for name, warped in (("before", sitk.GetArrayFromImage(before)), ("after", after)):
        each = dice(fixed.array, warped)
        known = [value for value in each.values() if value is not None]
        content[f"dice_{name}"] = {
            "mean": float(np.mean(known)) if known else None,
            "each": {str(label): value for label, value in each.items()},
        }
    with writing(f'"{OVERLAP}"'):
        (folder / OVERLAP).write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8")


def write_thumbnail(fixed_path: str, folder: Path) -> None:
    """Three slices of the fixed image with the borders of the warped one; nothing without matplotlib."""
    try:
        from contourpy import contour_generator
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.collections import LineCollection
        from matplotlib.figure import Figure
    except ImportError:
        return
    fixed, warped = read_volume(fixed_path), read_volume(folder / "warped.nii.gz")
    hanging = Hanging.of(fixed.geometry)
    body = fixed.array > np.percentile(fixed.array[::4, ::4, ::4], 50)
    index = middle(body)
    slices = [
        [Window.of(v.array[::2, ::2, ::2])(hanging.slice(v.array, plane, index)) for plane in PLANES]
        for v in (fixed, warped)
    ]
    level = otsu(np.concatenate([image.ravel() for image in slices[1]]))
    sizes = [hanging.size_mm(plane) for plane in PLANES]
    total, height = sum(w for w, _ in sizes), max(h for _, h in sizes)
    figure = Figure(
        figsize=(_PIXELS_HIGH * total / height / 100, _PIXELS_HIGH / 100), dpi=100, facecolor="black"
    )
    FigureCanvasAgg(figure)
    left = 0.0
    for grey, moved, (width, tall) in zip(*slices, sizes, strict=True):
        axes = figure.add_axes((left / total, 0.5 - tall / height / 2, width / total, tall / height))
        axes.axis("off")
        axes.imshow(grey, cmap="gray", vmin=0, vmax=1, extent=(0, width, tall, 0), aspect="auto")
        x = (np.arange(moved.shape[1]) + 0.5) * width / moved.shape[1]
        y = (np.arange(moved.shape[0]) + 0.5) * tall / moved.shape[0]
        lines = [np.asarray(line) for line in contour_generator(x, y, moved).lines(level)]
        long = [line for line in lines if np.linalg.norm(np.diff(line, axis=0), axis=1).sum() > _SPECK_MM]
        axes.add_collection(LineCollection(long, colors="#ffb020", linewidths=0.6))
        axes.set(xlim=(0, width), ylim=(tall, 0))
        left += width
    with writing(f'"{THUMBNAIL}"'):
        figure.savefig(folder / THUMBNAIL, format="jpg", pil_kwargs={"quality": 80})
