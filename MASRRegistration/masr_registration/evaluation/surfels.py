"""The surface of a mask in pieces with areas: one piece for each corner between voxels that are not all alike.

The area of a piece is that of marching cubes whose vertices lie in the middle of the edges, as in Nikolov et al.
(Deep learning to achieve clinically applicable segmentation of head and neck anatomy, 2018), by which Learn2Reg weights
its surface distances.
"""

from __future__ import annotations

from itertools import combinations, product

import numpy as np

_CORNERS = list(product((0, 1), repeat=3))
_TRIANGLE, _RECTANGLE = 3**0.5 / 8, 2**0.5 / 2
_AREAS = {
    (0, 0, 0, 0): 0.0,
    (1, 0, 0, 0): _TRIANGLE,
    (2, 0, 0, 1): 2 * _TRIANGLE,
    (2, 0, 1, 0): 2 * _TRIANGLE,
    (2, 1, 0, 0): _RECTANGLE,
    (3, 0, 3, 0): 3 * _TRIANGLE,
    (3, 1, 1, 1): _TRIANGLE + _RECTANGLE,
    (3, 2, 1, 0): 3 * _TRIANGLE + 0.5,
    (4, 0, 6, 0): 4 * _TRIANGLE,
    (4, 2, 2, 2): 2 * _RECTANGLE,
    (4, 2, 3, 1): 4 * _TRIANGLE + 0.5,
    (4, 3, 2, 1): 4 * _TRIANGLE + _RECTANGLE,
    (4, 3, 3, 0): 6 * _TRIANGLE,
    (4, 4, 2, 0): 1.0,
}
"""By how many of the 8 voxels are in the mask, and how many pairs of these share a face, an edge, a corner only."""


def surface(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pieces of the surface of a mask ``(D, H, W)``: where they are, and their areas for voxels of side 1.

    Both are ``(D+3, H+3, W+3)``, with an empty border: bool and float64 (0 where there is no piece).
    """
    voxels = np.pad(mask.astype(np.uint8), 2)
    code = np.zeros([n - 1 for n in voxels.shape], np.uint8)
    for bit, corner in enumerate(_CORNERS):
        code |= voxels[tuple(slice(c, n - 1 + c) for c, n in zip(corner, voxels.shape, strict=True))] << bit
    areas = AREAS[code]
    return areas > 0, areas


def _area(code: int) -> float:
    inside = [corner for bit, corner in enumerate(_CORNERS) if code >> bit & 1]
    if len(inside) > 4:
        return _area(255 - code)
    apart = [sum(a != b for a, b in zip(*two, strict=True)) for two in combinations(inside, 2)]
    return _AREAS[len(inside), apart.count(1), apart.count(2), apart.count(3)]


AREAS = np.array([_area(code) for code in range(256)])
