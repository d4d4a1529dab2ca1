"""MASR-Net: sizes, shapes, and that it prefers no side."""

import itertools
from pathlib import Path

import pytest
import torch
from masr_registration.presets import Normalisation
from masr_registration.representation import models
from masr_registration.representation.masr_net import (
    SLAB,
    FaithfulMasrNet,
    Features,
    MasrNet,
    _blurred,
    blur_pool,
)
from masr_registration.representation.normalise import normalise
from masr_registration.representation.self_similarity import pair_distances
from masr_registration.transforms.grid import pool
from masr_registration.volume import read_volume
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]


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
    assert isinstance(features, Features)
    assert features.stride2.shape == (1, 24, 7, 8, 9)
    assert features.stride4.shape == (1, 24, 4, 4, 5)
    assert features.stride8.shape == (1, 24, 2, 2, 3)
    full = network.full_resolution(image)
    assert full.shape == (1, 24, 13, 16, 18)
    for f in (full, *features):
        torch.testing.assert_close(f.norm(dim=1), torch.ones_like(f[:, 0]))
    averaged = pool(full[0], 2)
    torch.testing.assert_close(features.stride2[0], averaged / averaged.norm(dim=0))


@pytest.mark.parametrize("axis", [2, 3, 4])
def test_blur_pool_commutes_with_a_flip_and_keeps_block_centres(axis: int) -> None:
    image = _noise(8, 8, 8)
    torch.testing.assert_close(blur_pool(image.flip(axis)), blur_pool(image).flip(axis))
    ramp = torch.arange(8.0).reshape([8 if a == axis else 1 for a in range(5)]).expand(1, 1, 8, 8, 8)
    inner = (slice(None), slice(None), *(slice(1, -1),) * 3)
    torch.testing.assert_close(blur_pool(ramp)[inner], pool(ramp[0], 2)[None][inner])


def test_nothing_of_the_nyquist_frequency_reaches_the_first_stride() -> None:
    """A checkerboard of any axes over an image is gone before every second voxel is taken: it cannot alias."""
    image = _noise(32, 32, 32)
    k, j, i = torch.meshgrid(*(torch.arange(32),) * 3, indexing="ij")
    inner = (slice(None), slice(None), *(slice(1, -1),) * 3)
    for axes in (i, i + j, i + j + k):
        board = image + 0.3 * (1 - 2 * (axes % 2))
        torch.testing.assert_close(_blurred(board)[inner], _blurred(image)[inner])


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


@pytest.fixture(scope="module")
def shipped() -> MasrNet:
    network = models.load("masr")[0]
    assert isinstance(network, MasrNet)
    return network


@pytest.fixture(scope="module")
def brains() -> dict[str, Tensor]:
    """The sample pair, one brain in one position, ``(1, 1, D, H, W)`` in [0, 1]."""
    folder = ROOT / "MASRRegistration" / "masr_registration" / "data" / "sample"
    images = {name: read_volume(folder / f"{name}.nii.gz") for name in ("T1", "T2")}
    return {
        name: torch.from_numpy(normalise(volume, "mr", Normalisation()))[None, None]
        for name, volume in images.items()
    }


@pytest.mark.parametrize("contrast", ["T1", "T2"])
@pytest.mark.parametrize("shift", [(0, 0, 0), (1, 0, 0), (0, 2, 0), (0, 0, -1), (-2, 1, 2)])
def test_a_shifted_image_gives_shifted_features(
    shipped: MasrNet, brains: dict[str, Tensor], contrast: str, shift: tuple[int, int, int]
) -> None:
    """In cells of two voxels, on the same contrast and on the other one: no preferred side, no code for the place."""

    def crop(name: str, moved: tuple[int, int, int]) -> Tensor:
        k, j, i = (start - 2 * s for start, s in zip((44, 56, 32), moved, strict=True))
        return brains[name][:, :, k : k + 56, j : j + 56, i : i + 56]

    first = shipped(crop("T1", (0, 0, 0))).stride2
    assert _best_shift(first, shipped(crop(contrast, shift)).stride2) == shift


def test_the_border_of_an_image_is_no_landmark(shipped: MasrNet, network: MasrNet) -> None:
    """Where nothing is to be seen, features tell nothing, not even how far away the border is."""
    for net in (shipped, network):
        stride2 = net.stem(torch.full((1, 8, 24, 24, 24), 0.5))
        torch.testing.assert_close(stride2, stride2[..., :1, :1, :1].expand_as(stride2))
        heads = net.head2(torch.ones(1, net.head2.in_channels, 8, 8, 8))
        torch.testing.assert_close(heads, heads[..., :1, :1, :1].expand_as(heads))
    features = shipped(torch.full((1, 1, 64, 64, 64), 0.5)).stride2
    assert features.flatten(2).std(dim=2).max() < 0.05


def test_shift_by_the_coarsest_stride_is_exact_far_from_the_border() -> None:
    """Without the norm's statistics, which look at the whole image, only the border knows where the image lies."""
    torch.manual_seed(0)
    stem = MasrNet(4, radii=()).stem
    image = _noise(48, 48, 48)
    shifted = torch.roll(image, 16, dims=4)
    blocks = [nn.functional.avg_pool3d(x, 2).expand(1, 8, -1, -1, -1) for x in (image, shifted)]
    first, second = (stem(b) for b in blocks)
    torch.testing.assert_close(first[..., 4:-12], second[..., 12:-4])


def test_other_sizes_are_completed_with_edge_values(network: MasrNet) -> None:
    image = _noise(32, 32, 30)
    completed = nn.functional.pad(image, (0, 2, 0, 0, 0, 0), mode="replicate")
    features = network(image).stride2
    torch.testing.assert_close(features, network(completed).stride2[..., :15])


@pytest.mark.parametrize("depth", [2 * SLAB, 2 * SLAB + 16, 6 * SLAB + 2])
def test_slabs_leave_no_seams(network: MasrNet, depth: int) -> None:
    image = _noise(depth, 18, 34)
    with torch.enable_grad():
        whole = network(image)
    with torch.no_grad():
        slabs = network(image)
    for expected, found in zip(whole, slabs, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_joined_distances_are_the_sum_over_channels() -> None:
    features = torch.rand(5, 6, 7, 8, generator=torch.Generator().manual_seed(1))
    apart = pair_distances(features, 2)
    torch.testing.assert_close(pair_distances(features, 2, join_channels=True), apart.sum(1, keepdim=True))
