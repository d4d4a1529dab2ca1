"""Heat maps of similarity: what an anchor of one image resembles all over the other, by every representation."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .discriminability import CELL, Pair, Retrieval
from .slices import AXIAL, Hanging

ANCHORS = 4
PERCENTILES = (0.5, 60.0)
"""Of the dissimilarity in a slice: the best match is white, what is worse than most black."""


def draw(retrievals: Mapping[str, Retrieval]) -> bytes:
    """A PNG with one row for each of `ANCHORS` anchors: fixed slice, moving slice, and a heat map by representation.

    Circles mark the anchor and the true place, crosses what was found in the search window. Slices are axial ones
    through the anchor and through its true place.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pair = next(iter(retrievals.values())).pair
    hanging = Hanging.of(pair.cells)
    chosen = np.linspace(0, len(pair.anchors) - 1, ANCHORS + 2).astype(int)[1:-1]
    columns = ["fixed", "moving", *retrievals]
    figure = Figure(figsize=(2.4 * len(columns), 2.6 * len(chosen)), dpi=100)
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(chosen), len(columns), squeeze=False)
    for row, number in zip(grid, chosen, strict=True):
        anchor, truth = pair.anchors[number], pair.truth[number]
        for axes, name in zip(row, columns, strict=True):
            place = anchor if name == "fixed" else truth
            image, level = _picture(pair, retrievals, name, number, place)
            axes.imshow(hanging.slice(image, AXIAL, level), cmap="gray" if name in columns[:2] else "inferno")
            _mark(axes, hanging, pair, place, "o")
            if name in retrievals:
                _mark(axes, hanging, pair, retrievals[name].found[number], "x")
            axes.set_axis_off()
            axes.set_title(name, fontsize=9)
    figure.tight_layout()
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _picture(
    pair: Pair, retrievals: Mapping[str, Retrieval], name: str, number: int, place: np.ndarray
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """A volume on the cells and the cell (i, j, k) through which it is shown."""
    size = pair.cells.size
    level = tuple(int(np.clip(round(p), 0, n - 1)) for p, n in zip(place, size, strict=True))
    cell = (level[0], level[1], level[2])
    if name not in retrievals:
        image = pair.fixed if name == "fixed" else pair.moving
        return image.numpy()[CELL // 2 :: CELL, CELL // 2 :: CELL, CELL // 2 :: CELL], cell
    i, j, k = pair.anchors[number].astype(int)
    retrieval = retrievals[name]
    return similarity(retrieval.fixed[:, k, j, i], retrieval.moving).numpy(), cell


def similarity(descriptor: Tensor, moving: Tensor) -> Tensor:
    """Likeness ``(d, h, w)`` in [0, 1] of one descriptor ``(C,)`` and all of `moving` ``(C, d, h, w)``."""
    difference = (moving - descriptor[:, None, None, None]).square().mean(dim=0)
    low, high = np.percentile(difference.numpy(), PERCENTILES)
    return torch.clamp((high - difference) / max(high - low, 1e-12), 0, 1)


def _mark(axes: Any, hanging: Hanging, pair: Pair, place: np.ndarray, marker: str) -> None:
    """A mark at the cell `place` (i, j, k) in an axial slice."""
    position = []
    for patient in (AXIAL.column, AXIAL.row):
        axis = hanging.axes[patient]
        index = place[axis]
        position.append(index if hanging.signs[patient] > 0 else pair.cells.size[axis] - 1 - index)
    style = {"s": 60, "linewidths": 1.2} | (
        {"facecolors": "none", "edgecolors": "cyan"} if marker == "o" else {"c": "lime"}
    )
    axes.scatter(*position, marker=marker, **style)
