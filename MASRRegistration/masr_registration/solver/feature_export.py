"""The features that the solver compares, as a file of its own: for finding counterparts of points afterwards."""

from __future__ import annotations

import numpy as np

from ..matching.features import FeatureImage, FeaturePair, quantise, unit_for
from ..transforms.grid import pool
from ..volume import Geometry
from .instance import Pair

KNOWN = 0.5


def export(pair: Pair, grid: Geometry, matrix: np.ndarray) -> FeaturePair:
    """The features of `pair` at half its resolution.

    `grid` is the working grid; `matrix` (4x4, LPS mm, fixed -> moving) the one through which the moving image was put
    on it.
    """
    cells = grid.reduced(2).index_to_physical
    channels = [features.cpu().numpy() for features in pair.halved()]
    unit = unit_for(max(float(np.abs(c).max()) for c in channels))
    images = [
        FeatureImage(quantise(values, unit), (pool(weight[None], 2)[0] >= KNOWN).cpu().numpy(), place)
        for values, weight, place in zip(
            channels, (pair.fixed_weight, pair.moving_weight), (cells, matrix @ cells), strict=True
        )
    ]
    return FeaturePair(images[0], images[1], unit, matrix)
