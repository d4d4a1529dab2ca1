"""Resampling a volume through a chain: the same numbers as SimpleITK's filter gives with the exported transform."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from ..volume import Geometry, Volume
from .chain import TransformChain, grid_points
from .grid import inside, sample

_SLAB_POINTS = 2_000_000


def resample(
    moving: Volume,
    chain: TransformChain,
    geometry: Geometry,
    *,
    order: Literal["linear", "nearest"] = "linear",
    default: float | None = None,
) -> Volume:
    """`moving` seen through `chain` on `geometry`.

    Args:
        default: value outside the moving grid; None takes the moving image's minimum.

    Returns:
        A volume on `geometry` with the type of `moving`'s array for "nearest", float32 for "linear".
    """
    source = torch.from_numpy(np.ascontiguousarray(moving.array))
    fill = float(source.min()) if default is None else default
    matrix = torch.from_numpy(moving.geometry.physical_to_index)
    depth, height, width = geometry.shape
    result = torch.empty(geometry.shape, dtype=torch.float32 if order == "linear" else source.dtype)
    step = max(1, _SLAB_POINTS // (height * width))
    for start in range(0, depth, step):
        stop = min(start + step, depth)
        moved = chain.apply(grid_points(geometry, start, stop, None))
        index = matrix[:3, :3] @ moved.T + matrix[:3, 3:]
        seen = inside(index, moving.geometry.shape)
        if order == "linear":
            values = sample(source[None].float(), index.float())[0]
        else:
            i, j, k = (
                (axis + 0.5).floor().long().clamp(0, n - 1)
                for axis, n in zip(index, moving.geometry.size, strict=True)
            )
            values = source[k, j, i]
        values = torch.where(seen, values, torch.tensor(fill, dtype=values.dtype))
        result[start:stop] = values.reshape(stop - start, height, width)
    return Volume(result.numpy(), geometry, moving.name)
