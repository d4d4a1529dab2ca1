"""The folding tests against slow, obvious versions and known cases."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from masr_registration.transforms.jacobian import (
    fold_count,
    folded_cells,
    folded_cells_reference,
    jacobian_determinant,
    row_bound,
)
from masr_registration.volume import Geometry
from phantoms import AXIS_ALIGNED, LEFT_HANDED, OBLIQUE, geometry

GRIDS = {
    "axis aligned": geometry((6, 7, 19)),
    "anisotropic": geometry((6, 7, 19), (0.6, 1.3, 4.0)),
    "oblique": geometry((6, 7, 19), (0.6, 1.3, 4.0), OBLIQUE, (20.0, -300.0, 55.0)),
    "left-handed": geometry((6, 7, 19), (0.6, 1.3, 4.0), LEFT_HANDED),
}


def voxel_noise(shape: tuple[int, int, int], scale: float, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(scale=scale, size=(3, *shape)))


def to_mm(voxels: torch.Tensor, grid: Geometry) -> torch.Tensor:
    """Displacements in voxels of `grid` as LPS mm."""
    basis = torch.from_numpy(grid.index_to_physical[:3, :3])
    return torch.einsum("ab,bdhw->adhw", basis, voxels.double())


def slow_folded(voxels: np.ndarray) -> np.ndarray:
    """Cell by cell: is the map of any corner's three edges not right-handed?"""
    shape = np.array(voxels.shape[1:]) - 1
    result = np.zeros(shape, dtype=bool)
    for cell in np.ndindex(*shape):
        for corner in itertools.product((0, 1), repeat=3):
            columns = []
            for axis in (2, 1, 0):  # i, j, k
                low, high = list(np.add(cell, corner)), list(np.add(cell, corner))
                low[axis], high[axis] = cell[axis], cell[axis] + 1
                edge = np.zeros(3)
                edge[2 - axis] = 1
                columns.append(voxels[(slice(None), *high)] - voxels[(slice(None), *low)] + edge)
            result[cell] |= np.linalg.det(np.stack(columns, axis=1)) <= 0
    return result


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_every_corner_of_every_cell_in_any_frame(grid: Geometry) -> None:
    voxels = voxel_noise(grid.shape, 0.25)
    expected = slow_folded(voxels.numpy())
    assert 20 < expected.sum() < expected.size - 20
    for test in (folded_cells, folded_cells_reference):
        np.testing.assert_array_equal(test(to_mm(voxels, grid), grid).numpy(), expected)
    assert fold_count(to_mm(voxels, grid), grid) == expected.sum()


def test_a_fold_between_central_differences_is_found() -> None:
    grid = geometry((8, 8, 8))
    zigzag = torch.zeros(3, 8, 8, 8)
    zigzag[0, ..., ::2] = 1.2
    assert jacobian_determinant(zigzag, grid)[..., 1:-1].min() > 0.99
    assert fold_count(zigzag, grid) == 7 * 7 * 4


def test_a_mask_limits_the_count() -> None:
    grid = geometry((8, 8, 8))
    zigzag = torch.zeros(3, 8, 8, 8)
    zigzag[0, ..., ::2] = 1.2
    mask = torch.zeros(8, 8, 8, dtype=torch.bool)
    assert fold_count(zigzag, grid, mask) == 0
    mask[4, 4, 4] = True
    assert fold_count(zigzag, grid, mask) == 4


def test_identity_and_mirror() -> None:
    grid = geometry((5, 6, 7), (1.0, 2.0, 3.0), OBLIQUE)
    still = torch.zeros(3, 7, 6, 5)
    assert fold_count(still, grid) == 0
    mirror = torch.zeros(3, 7, 6, 5)
    mirror[0] = -2.0 * torch.arange(5)
    assert fold_count(to_mm(mirror, grid), grid) == 6 * 5 * 4


@pytest.mark.parametrize("axes", [AXIS_ALIGNED, OBLIQUE, LEFT_HANDED])
def test_determinant_of_an_affine_displacement(axes: np.ndarray) -> None:
    grid = geometry((6, 7, 35), (0.6, 1.3, 4.0), axes, (20.0, -30.0, 55.0))
    matrix = np.array([[0.1, 0.2, -0.05], [0.0, -0.3, 0.1], [0.07, 0.0, 0.25]])
    k, j, i = np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij")
    points = np.stack((i, j, k)).reshape(3, -1)
    lps = grid.index_to_physical[:3, :3] @ points + grid.index_to_physical[:3, 3:]
    displacement = torch.from_numpy((matrix @ lps).reshape(3, *grid.shape)).float()
    expected = np.linalg.det(np.eye(3) + matrix)
    np.testing.assert_allclose(jacobian_determinant(displacement, grid), expected, atol=2e-3)


def test_determinant_is_the_same_as_without_slabs() -> None:
    grid = geometry((5, 4, 35), (0.6, 1.3, 4.0), OBLIQUE)
    voxels = voxel_noise(grid.shape, 0.2)
    k, j, i = torch.gradient(voxels, dim=(1, 2, 3))
    columns = torch.stack((i, j, k), dim=-1).permute(1, 2, 3, 0, 4) + torch.eye(3)
    result = jacobian_determinant(to_mm(voxels, grid), grid)
    np.testing.assert_allclose(result, torch.linalg.det(columns), atol=1e-5)


def test_row_bound_of_known_fields() -> None:
    field = torch.zeros(3, 4, 4, 4)
    assert row_bound(field).abs().max() == 0
    k, j, i = torch.meshgrid(*(torch.arange(4.0),) * 3, indexing="ij")
    field[0], field[1], field[2] = 0.1 * i - 0.2 * k, 0.05 * j, -0.3 * i + 0.3 * j - 0.3 * k
    assert torch.allclose(row_bound(field), torch.full((3, 3, 3), 0.9))


def test_row_bound_takes_the_steepest_edge_along_each_axis() -> None:
    field = torch.zeros(3, 3, 3, 3)
    field[1, 1, 1, 1] = 0.2
    assert torch.allclose(row_bound(field), torch.full((2, 2, 2), 0.6))


def test_below_the_bound_nothing_folds() -> None:
    grid = geometry((7, 7, 7))
    noise = voxel_noise(grid.shape, 1.0)
    just_below = noise * 0.999 / row_bound(noise).max()
    assert fold_count(just_below, grid) == 0
