"""What the features of two views of one anatomy should be: the same at the same place, different everywhere else.

Features are unit-norm ``(C, D, H, W)``; places are voxel indices (i, j, k) of the first view's map.
Sources: Mok et al., CVPR 2024 (anatomy-aware contrastive loss: InfoNCE over places of one image pair, inside the
foreground); Khosla et al., NeurIPS 2020 (label-aware term). Ours: the window loss, on the cost volume that the convex
solver minimises, and the local loss, for the last cell that the optimiser must find.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn import functional

from ..transforms.grid import sample

NEAR = 1.5
"""Cells within which another place is no negative."""
SPREAD = 0.8
"""Deviation in cells of the target around the true place in a window."""
LOCAL_RADIUS = 2
"""Cells around the true place among which the local loss wants it found."""


def draw_places(valid: Tensor, count: int, generator: Generator, local_radius: float = 6.0) -> Tensor:
    """Cells ``(n, 3)`` (k, j, i) of `valid` ``(D, H, W)``: half anywhere, half in one neighbourhood; at most `count`.

    The neighbourhood makes hard negatives: what a solver compares lies within a few cells.
    """
    cells = valid.nonzero()
    if len(cells) == 0:
        return cells
    order = torch.randperm(len(cells), generator=generator)
    cells = cells[order.to(cells.device)]
    near = (cells - cells[0]).float().norm(dim=1) < local_radius
    local, anywhere = cells[near][: count // 2], cells[~near]
    return torch.cat((local, anywhere[: count - len(local)]))


def info_nce(first: Tensor, second: Tensor, places: Tensor, temperature: float) -> Tensor:
    """Symmetric InfoNCE of pairs of features: row n of `first` ``(n, C)`` belongs to row n of `second`.

    `places` ``(n, 3)``: of the rows in one view; pairs less than `NEAR` cells apart do not count as different.
    """
    logits = first @ second.T / temperature
    near = torch.cdist(places, places) < NEAR
    near.fill_diagonal_(False)
    logits = logits.masked_fill(near, float("-inf"))
    target = torch.arange(len(logits), device=logits.device)
    return 0.5 * (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target))


def label_aware(first: Tensor, second: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Supervised contrastive loss ``(n, C)``: features of one tissue are closer than those of different tissues."""
    log_share = functional.log_softmax(first @ second.T / temperature, dim=1)
    same = (labels[:, None] == labels).float()
    return -((log_share * same).sum(dim=1) / same.sum(dim=1)).mean()


def window_loss(
    first: Tensor,
    second: Tensor,
    cells: Tensor,
    places: Tensor,
    temperature: float,
    radius: int,
    offset: int = 0,
) -> Tensor:
    """Cross-entropy of the smoothed similarity over a window of candidates against the true place.

    The similarity of a cell to a candidate is the mean over the 3^3 cells around both: what the convex solver's cost
    volume is for unit vectors, up to sign and factor. Candidates are every second cell of the first view within
    `radius` cells along each axis; the target is a Gaussian around the truth.

    Args:
        first, second: ``(C, D, H, W)``.
        cells: ``(n, 3)`` long, (k, j, i) in the second view.
        places: ``(n, 3)``, (i, j, k) where they lie in the first view.
        radius: of the window in cells.
        offset: 0 .. 7, which of the eight lattices of every second cell.
    """
    shape = torch.tensor(first.shape[1:], device=cells.device)
    inner = ((cells >= 1) & (cells < shape - 1)).all(dim=1)
    cells, truth = cells[inner], places[inner].flip(1)
    candidates = (
        torch.stack(
            torch.meshgrid(*(_lattice(int(n), offset >> a & 1) for a, n in enumerate(shape)), indexing="ij"),
            dim=-1,
        )
        .reshape(-1, 3)
        .to(cells.device)
    )
    similarity = _patches(second, cells) @ _patches(first, candidates).T / 27
    distance = torch.cdist(truth, candidates.to(truth.dtype))
    middle = cells.to(truth.dtype)
    outside = (candidates - middle[:, None]).abs().amax(dim=2) > radius
    logits = (similarity / temperature).masked_fill(outside, -1e4)
    target = torch.exp(-0.5 * (distance / SPREAD).square()).masked_fill(outside, 0.0)
    mass = target.sum(dim=1, keepdim=True)
    found = mass[:, 0] > 0.1
    share = functional.log_softmax(logits, dim=1)
    loss = -(target / mass.clamp_min(1e-6) * share).sum(dim=1)
    return loss[found].sum() / found.sum().clamp_min(1)


def local_loss(
    first: Tensor, second: Tensor, cells: Tensor, places: Tensor, temperature: float, generator: Generator
) -> Tensor:
    """Cross-entropy of single cells around the true place against the trilinear weights of the truth.

    The mean of the target is the truth, so a preferred side costs. The cells are centred up to one beside the truth,
    so that the middle is not the answer. Arguments as in `window_loss`.
    """
    shape = torch.tensor(first.shape[1:], device=cells.device)
    truth = places.flip(1)
    shift = torch.randint(-1, 2, truth.shape, generator=generator).to(truth)
    middle = (truth + shift).round().long()
    inner = ((middle >= LOCAL_RADIUS) & (middle < shape - LOCAL_RADIUS)).all(dim=1)
    cells, truth, middle = cells[inner], truth[inner], middle[inner]
    step = torch.arange(-LOCAL_RADIUS, LOCAL_RADIUS + 1, device=cells.device)
    around = torch.stack(torch.meshgrid(step, step, step, indexing="ij"), dim=-1).reshape(-1, 3)
    candidates = middle[:, None] + around
    k, j, i = candidates.unbind(dim=2)
    own = second[:, cells[:, 0], cells[:, 1], cells[:, 2]]
    logits = torch.einsum("cn,cnl->nl", own, first[:, k, j, i]) / temperature
    target = (1 - (candidates - truth[:, None]).abs()).clamp_min(0).prod(dim=2)
    loss = -(target * functional.log_softmax(logits, dim=1)).sum(dim=1)
    return loss.sum() / max(len(loss), 1)


def _lattice(n: int, start: int) -> Tensor:
    return torch.arange(1 + start, n - 1, 2)


def _patches(features: Tensor, cells: Tensor) -> Tensor:
    """The 27 cells around each of `cells` ``(n, 3)``, flat: ``(n, 27 C)``."""
    _, height, width = features.shape[1:]
    rows = features.flatten(1).T
    steps = torch.tensor([-1, 0, 1], device=cells.device)
    around = (steps[:, None, None] * height + steps[:, None]) * width + steps
    index = (cells[:, 0] * height + cells[:, 1]) * width + cells[:, 2]
    return rows[index[:, None] + around.flatten()].flatten(1)


def at(features: Tensor, places: Tensor) -> Tensor:
    """Unit-norm features ``(n, C)`` interpolated at places ``(n, 3)`` (i, j, k)."""
    return functional.normalize(sample(features, places.T), dim=0).T
