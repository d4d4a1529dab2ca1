"""The discrete stage: large shifts, smooth agreement, inverse consistency."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from masr_registration.representation.self_similarity import mind_ssc
from masr_registration.solver.convex import coupled_convex, make_consistent, search, window
from masr_registration.transforms.grid import compose, identity, pool
from phantoms import Head, geometry, smooth_field

HEAD = Head(radii=(17.0, 15.0, 16.0))


def show(shape: tuple[int, int, int], centre: tuple[float, float, float], shade: str) -> np.ndarray:
    """The head at `centre` (i, j, k) of a working grid ``(D, H, W)`` with voxels of 1 mm."""
    return HEAD(identity(shape).movedim(0, -1).double().numpy() - centre, shade).astype(np.float32)


def encoded(image: np.ndarray) -> torch.Tensor:
    """Features at half the working resolution."""
    return pool(mind_ssc(torch.from_numpy(image)), 2)


def in_head(shape: tuple[int, int, int], centre: tuple[float, float, float]) -> torch.Tensor:
    """On the half-resolution grid."""
    points = 2 * identity(shape) + 0.5 - torch.tensor(centre)[:, None, None, None]
    return torch.from_numpy(HEAD.contains(points.movedim(0, -1).numpy()))


def test_the_window_holds_every_displacement_once() -> None:
    labels = window(2)
    assert labels.shape == (125, 3)
    assert len({tuple(row) for row in labels.tolist()}) == 125
    assert labels.abs().max() == 2


def test_one_wrong_node_is_overruled_by_its_neighbours() -> None:
    radius, shape = 2, (5, 6, 7)
    labels = window(radius)
    truth = torch.tensor([1.0, -2.0, 0.0])
    cost = (labels - truth).square().sum(dim=1)[:, None, None, None].repeat(1, *shape) / 10
    wrong = int((labels == torch.tensor([-2.0, 2.0, 2.0])).all(dim=1).nonzero())
    cost[wrong, 2, 3, 3] = -0.05
    field = coupled_convex(cost, radius, torch.ones(shape))
    assert torch.allclose(field, truth[:, None, None, None].expand(3, *shape), atol=0.05)


@pytest.mark.parametrize("shift", [(-38, 0, 0), (0, 38, 0), (0, 0, -38), (22, -18, 0)])
def test_a_large_shift_is_found_in_both_directions(shift: tuple[int, int, int]) -> None:
    """`shift` in working voxels along (i, j, k), between two contrasts."""
    width, height, depth = (40 + abs(s) // 8 * 8 + 8 * (s != 0) for s in shift)
    centre = tuple((n - 1 - s) / 2 for n, s in zip((width, height, depth), shift, strict=True))
    moved = tuple(c + s for c, s in zip(centre, shift, strict=True))
    half = depth // 2, height // 2, width // 2
    fixed, moving = show((depth, height, width), centre, "t1"), show((depth, height, width), moved, "t2")
    ticks: list[float] = []
    ones = torch.ones(half)
    forward, backward = search(encoded(fixed), encoded(moving), ones, ones, 20, ticks.append)
    truth = torch.tensor(shift)[:, None, None, None] / 2
    for field, place, expected in ((forward, centre, truth), (backward, moved, -truth)):
        error = (field - expected).norm(dim=0)[in_head(half, place)]
        assert error.median() < 1
        assert error.quantile(0.9) < 3
    assert ticks == sorted(ticks)
    assert ticks[-1] == pytest.approx(1)


def test_a_smooth_warp_is_found_and_its_inverse_with_it() -> None:
    shape, centre = (40, 40, 40), (19.5, 19.5, 19.5)
    displacement = smooth_field(geometry(shape), 7.0, 3, wavelength=2.0).displacement
    scene = show(shape, centre, "t2")
    places = (identity(shape) + displacement).movedim(0, -1).double().numpy() - centre
    ones, half = torch.ones(20, 20, 20), (20, 20, 20)
    forward, backward = search(encoded(HEAD(places, "t1").astype(np.float32)), encoded(scene), ones, ones, 20)
    truth = pool(displacement, 2) / 2
    head = in_head(half, centre)
    before, after = truth.norm(dim=0)[head].mean(), (forward - truth).norm(dim=0)[head].mean()
    assert before > 1
    assert after < 0.75 * before
    assert compose(backward, forward).norm(dim=0).mean() < 0.1


def test_inconsistent_fields_meet_in_the_middle() -> None:
    forward, backward = torch.zeros(3, 8, 9, 10), torch.zeros(3, 8, 9, 10)
    forward[0] = 1.0
    forward, backward = make_consistent(forward, backward)
    assert torch.allclose(forward[0], torch.full((8, 9, 10), 0.5), atol=1e-3)
    assert torch.allclose(backward, -forward, atol=1e-3)


def test_what_is_masked_out_does_not_pull() -> None:
    """One half of the fixed image shows the head elsewhere; with weight zero there, the field stays at rest."""
    shape, centre = (40, 40, 40), (19.5, 19.5, 19.5)
    scene = show(shape, centre, "t1")
    altered = scene.copy()
    altered[:, :, 20:] = show(shape, (19.5, 27.5, 19.5), "t1")[:, :, 20:]
    weight, ones = torch.ones(20, 20, 20), torch.ones(20, 20, 20)
    weight[:, :, 9:] = 0
    still, _ = search(encoded(altered), encoded(scene), weight, ones, 20)
    pulled, _ = search(encoded(altered), encoded(scene), ones, ones, 20)
    inner = slice(6, 14), slice(6, 14), slice(12, 16)
    assert pulled[1][inner].mean() < -2
    assert still.norm(dim=0)[inner].mean() < 0.7
