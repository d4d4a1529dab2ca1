"""MASR-Net: sizes, shapes, and that it prefers no side."""

import itertools

import pytest
import torch
from masr_registration.representation.masr_net import FaithfulMasrNet, Features, MasrNet, blur_pool
from masr_registration.representation.self_similarity import pair_distances
from masr_registration.transforms.grid import pool
from torch import Tensor, nn


def _count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def network() -> MasrNet:
    torch.manual_seed(0)
    return MasrNet(width=4).eval().requires_grad_(False)


def test_parameter_counts() -> None:
    assert _count(MasrNet()) == 811_960
    extractor = 293_356
    squeezing = 96 * 24 * 27 + 24 + 24 * 24 * 27 + 24
    assert _count(FaithfulMasrNet()) == extractor + squeezing == 371_164


@pytest.mark.parametrize("radii", [(1, 2), (1,), ()])
def test_features_of_any_size_are_of_unit_length(radii: tuple[int, ...]) -> None:
    features = MasrNet(4, radii)(_noise(19, 34, 21).expand(2, 1, -1, -1, -1))
    assert isinstance(features, Features)
    assert features.stride2.shape == (2, 16, 10, 17, 11)
    assert features.stride4.shape == (2, 16, 5, 9, 6)
    assert features.stride8.shape == (2, 32, 3, 5, 3)
    for f in features:
        torch.testing.assert_close(f.norm(dim=1), torch.ones_like(f[:, 0]))


def test_faithful_features_of_any_size_are_of_unit_length() -> None:
    network = FaithfulMasrNet()
    image = _noise(13, 16, 18)
    assert network.extract(image).shape == (1, 4, 13, 16, 18)
    features = network(image)
    assert features.shape == (1, 24, 13, 16, 18)
    torch.testing.assert_close(features.norm(dim=1), torch.ones_like(features[:, 0]))


@pytest.mark.parametrize("axis", [2, 3, 4])
def test_blur_pool_commutes_with_a_flip_and_keeps_block_centres(axis: int) -> None:
    image = _noise(8, 8, 8)
    torch.testing.assert_close(blur_pool(image.flip(axis)), blur_pool(image).flip(axis))
    ramp = torch.arange(8.0).reshape([8 if a == axis else 1 for a in range(5)]).expand(1, 1, 8, 8, 8)
    inner = (slice(None), slice(None), *(slice(1, -1),) * 3)
    torch.testing.assert_close(blur_pool(ramp)[inner], pool(ramp[0], 2)[None][inner])


def test_strides_leave_nothing_of_the_nyquist_frequency(network: MasrNet) -> None:
    """A checkerboard of any axes looks like a constant image, so it cannot alias into features."""
    flat = torch.full((1, 1, 32, 32, 32), 0.5)
    k, j, i = torch.meshgrid(*(torch.arange(32),) * 3, indexing="ij")
    inner = (slice(None), slice(None), *(slice(4, -4),) * 3)
    expected = network(flat).stride2[inner]
    for axes in (i, i + j, i + j + k):
        board = flat + 0.3 * (1 - 2 * (axes % 2))
        torch.testing.assert_close(network(board).stride2[inner], expected, atol=0.02, rtol=0)


def _best_shift(first: Tensor, second: Tensor, radius: int = 3) -> tuple[int, int, int]:
    """The displacement (k, j, i) in cells at which the features of `second` are most like those of `first`."""
    inner = [slice(radius + 4, n - radius - 4) for n in first.shape[2:]]
    scores = {}
    for shift in itertools.product(range(-radius, radius + 1), repeat=3):
        moved = [slice(s.start + d, s.stop + d) for s, d in zip(inner, shift, strict=True)]
        similarity = (
            first[(slice(None), slice(None), *inner)] * second[(slice(None), slice(None), *moved)]
        ).sum(1)
        scores[shift] = float(similarity.mean())
    return max(scores, key=scores.__getitem__)


@pytest.mark.parametrize("shift", [(0, 0, 0), (1, 0, 0), (0, 2, 0), (0, 0, -1), (-2, 1, 2)])
def test_a_shifted_image_gives_shifted_features(network: MasrNet, shift: tuple[int, int, int]) -> None:
    whole = nn.functional.avg_pool3d(_noise(64, 64, 64), 3, stride=1, padding=1)
    start = [8 - 2 * s for s in shift]
    first = whole[:, :, 8:56, 8:56, 8:56]
    second = whole[:, :, start[0] : start[0] + 48, start[1] : start[1] + 48, start[2] : start[2] + 48]
    assert _best_shift(network(first).stride2, network(second).stride2) == shift


def test_shift_by_the_coarsest_stride_is_exact_far_from_the_border() -> None:
    """Without the norm's statistics, which look at the whole image, only the border knows where the image lies."""
    torch.manual_seed(0)
    stem = MasrNet(4, radii=()).stem
    image = _noise(48, 48, 48)
    shifted = torch.roll(image, 16, dims=4)
    blocks = [nn.functional.avg_pool3d(x, 2).expand(1, 8, -1, -1, -1) for x in (image, shifted)]
    first, second = (stem(b) for b in blocks)
    torch.testing.assert_close(first[..., 4:-12], second[..., 12:-4])


def test_padding_does_not_change_features_far_from_it(network: MasrNet) -> None:
    image = nn.functional.avg_pool3d(_noise(32, 32, 32), 3, stride=1, padding=1)
    features = network(image).stride2
    assert network(image[..., :30]).stride2.shape[-1] == 15
    torch.testing.assert_close(network(image)[0], features)


def test_joined_distances_are_the_sum_over_channels() -> None:
    features = torch.rand(5, 6, 7, 8, generator=torch.Generator().manual_seed(1))
    apart = pair_distances(features, 2)
    torch.testing.assert_close(pair_distances(features, 2, join_channels=True), apart.sum(1, keepdim=True))
