"""What the losses must prefer."""

import itertools

import torch
from masr_registration.training.losses import at, draw_places, info_nce, label_aware, local_loss, window_loss
from masr_registration.transforms.grid import identity
from torch import Generator, Tensor
from torch.nn import functional


def _unit(*shape: int, seed: int = 0) -> Tensor:
    return functional.normalize(torch.randn(*shape, generator=Generator().manual_seed(seed)), dim=0)


def test_places_are_foreground_distinct_and_half_local() -> None:
    valid = torch.zeros(24, 24, 24, dtype=torch.bool)
    valid[2:20, 3:21, 4:22] = True
    cells = draw_places(valid, 200, Generator().manual_seed(0))
    assert cells.shape == (200, 3)
    assert valid[tuple(cells.T)].all()
    assert len(cells.unique(dim=0)) == 200
    assert int(((cells - cells[0]).float().norm(dim=1) < 6).sum()) >= 100
    assert len(draw_places(torch.zeros(4, 4, 4, dtype=torch.bool), 5, Generator())) == 0


def test_info_nce_prefers_true_pairs_and_forgives_near_ones() -> None:
    first = _unit(8, 20).T
    far = 10.0 * torch.arange(20.0)[:, None].expand(20, 3)
    matched, shuffled = (info_nce(first, second, far, 0.07) for second in (first, first.roll(1, 0)))
    assert matched < 0.05 < 3 < shuffled
    close = torch.zeros(20, 3)
    assert info_nce(first, first.roll(1, 0), close, 0.07) < 1e-6


def test_label_aware_term_prefers_tissues_together() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    together = functional.one_hot(labels).float()
    apart = functional.one_hot(torch.tensor([0, 1, 0, 1, 0, 1])).float()
    assert label_aware(together, together, labels, 0.2) < label_aware(apart, apart, labels, 0.2)


def _window(second: Tensor, shift: int, offset: int = 0) -> Tensor:
    """Loss of the claim that every cell of `second` lies `shift` cells further along i in the first view."""
    cells = torch.tensor([[8, 8, 8], [7, 9, 8], [10, 8, 7], [9, 9, 9]])
    places = cells.flip(1).float() + torch.tensor([float(shift), 0.0, 0.0])
    return window_loss(_unit(16, 20, 20, 20), second, cells, places, 0.05, 5, offset)


def test_window_loss_prefers_the_true_displacement() -> None:
    first = _unit(16, 20, 20, 20)
    for true in (-3, 0, 2):
        second = first.roll(-true, dims=3)
        losses = {
            claimed: sum(float(_window(second, claimed, offset)) for offset in range(8))
            for claimed in range(-4, 5)
        }
        assert min(losses, key=losses.__getitem__) == true


def test_window_loss_is_finite_where_nothing_can_be_found() -> None:
    first = _unit(16, 20, 20, 20).requires_grad_()
    cells = torch.tensor([[0, 8, 8]])
    loss = window_loss(first, first, cells, torch.zeros(1, 3), 0.05, 5)
    loss.backward()
    assert float(loss.detach()) == 0
    far = window_loss(first, first, torch.tensor([[8, 8, 8]]), torch.full((1, 3), 17.0), 0.05, 2)
    assert float(far.detach()) == 0


def test_gradient_of_the_window_loss_brings_true_places_together() -> None:
    first, second = (_unit(8, 12, 12, 12, seed=seed) for seed in (0, 1))
    cell = (6, 6, 6)
    cells = torch.tensor([cell])

    def similarity(moved: Tensor) -> float:
        around = (slice(None), *(slice(n - 1, n + 2) for n in cell))
        return float((first[around] * functional.normalize(moved, dim=0)[around]).sum())

    moved = second.clone().requires_grad_()
    window_loss(first, functional.normalize(moved, dim=0), cells, cells.flip(1).float(), 0.1, 4).backward()
    assert moved.grad is not None
    step = moved.detach() - 0.5 * moved.grad / moved.grad.norm()
    assert similarity(step) > similarity(second) + 0.1


def test_features_at_whole_places_are_themselves() -> None:
    features = _unit(4, 5, 6, 7)
    everywhere = identity((5, 6, 7)).flatten(1).T
    torch.testing.assert_close(at(features, everywhere), features.flatten(1).T)


def test_local_loss_prefers_the_truth_to_any_other_place_nearby() -> None:
    first = _unit(16, 20, 20, 20)
    cells = torch.tensor([[8, 8, 8], [7, 9, 8], [10, 8, 7], [9, 9, 9]])
    second = first.roll((-1, 0, 2), dims=(1, 2, 3))
    losses = {
        claimed: float(
            local_loss(
                first, second, cells, cells.flip(1) + torch.tensor(claimed), 0.05, Generator().manual_seed(0)
            )
        )
        for claimed in itertools.product((-3.0, -2.0, -1.5, 0.0), (0.0, 1.0), (0.0, 1.0))
    }
    assert min(losses, key=losses.__getitem__) == (-2.0, 0.0, 1.0)


def test_local_loss_between_cells_prefers_the_mean_of_the_neighbours() -> None:
    """Features that say half this cell and half the next are right for a truth in between, and for no other."""
    first = torch.zeros(2, 12, 12, 12)
    first[0, 6, 6, 6] = first[1, 6, 6, 7] = 1.0
    second = torch.zeros(2, 12, 12, 12)
    second[:, 6, 6, 6] = 0.5**0.5
    cells = torch.tensor([[6, 6, 6]])
    losses = [
        float(
            local_loss(first, second, cells, torch.tensor([[x, 6.0, 6.0]]), 0.05, Generator().manual_seed(1))
        )
        for x in (5.8, 6.5, 7.2)
    ]
    assert losses[1] < min(losses[0], losses[2])
    assert float(local_loss(first, second, cells, torch.full((1, 3), 0.2), 0.05, Generator())) == 0
