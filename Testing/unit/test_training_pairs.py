"""What the training sees: seeded, in range, with true correspondences."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from masr_registration.errors import InputError
from masr_registration.training.appearance import (
    blur,
    degrade,
    intensity_transform,
    render,
    unit_range,
)
from masr_registration.training.images import ImagePairs, read_folder
from masr_registration.training.pairs import Anatomies, ProceduralPairs, as_pair, two_views
from masr_registration.training.shapes import label_map, seeded
from masr_registration.transforms.grid import identity, sample
from torch import Generator, Tensor

SIZE = 32


def _seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def anatomies(tmp_path_factory: pytest.TempPathFactory) -> Anatomies:
    return Anatomies.prepare(tmp_path_factory.mktemp("maps"), count=4, size=40)


def test_label_maps_are_seeded_and_varied() -> None:
    first, again, other = (label_map(_seeded(seed), 32) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.dtype == torch.uint8
    counts = [label_map(_seeded(seed), 32).unique().numel() for seed in range(12)]
    assert min(counts) >= 2
    assert max(counts) >= 10


def test_prepared_maps_are_read_again(tmp_path: Path) -> None:
    made = Anatomies.prepare(tmp_path, count=2, size=16)
    time = next(tmp_path.iterdir()).stat().st_mtime_ns
    read = Anatomies.prepare(tmp_path, count=2, size=16)
    np.testing.assert_array_equal(made.procedural, read.procedural)
    assert next(tmp_path.iterdir()).stat().st_mtime_ns == time


def test_brains_lose_their_sides(tmp_path: Path) -> None:
    array = np.zeros((20, 20, 20), np.int16)
    array[4:10, 4:16, 4:16], array[10:16, 4:16, 4:16], array[16, 4:16, 4:16] = 2, 41, 515
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "brain.nii.gz"))
    (brain,) = Anatomies.prepare(tmp_path / "bank", 0, brains=tmp_path).brains
    assert brain.shape == (13, 12, 12)
    assert set(np.unique(brain)) == {2, 215}


def test_no_label_maps_is_said_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no label maps"):
        Anatomies.prepare(tmp_path / "bank", 0, brains=tmp_path)


def test_pairs_are_the_same_in_any_order(anatomies: Anatomies) -> None:
    pairs, again = (ProceduralPairs(anatomies, SIZE, seed=3, length=10) for _ in range(2))
    later, earlier = pairs[7], pairs[2]
    for first, second in ((earlier, again[2]), (later, again[7])):
        for a, b in zip(first, second, strict=True):
            assert torch.equal(a, b)
    assert not torch.equal(later.images, earlier.images)
    with pytest.raises(IndexError):
        pairs[10]


def test_every_seed_has_pairs_of_its_own(anatomies: Anatomies) -> None:
    first, second = (ProceduralPairs(anatomies, SIZE, seed, 100)[3] for seed in (0, 1))
    assert not torch.equal(first.images, second.images)
    streams = {tuple(torch.rand(2, generator=seeded(s, n)).tolist()) for s in range(4) for n in range(50)}
    assert len(streams) == 200
    assert torch.equal(torch.rand(3, generator=seeded(0, 7)), torch.rand(3, generator=_seeded(7)))


def test_pairs_are_in_range_and_mostly_usable(anatomies: Anatomies) -> None:
    pairs = ProceduralPairs(anatomies, SIZE, seed=0, length=12)
    shares = []
    for pair in (pairs[n] for n in range(12)):
        assert pair.images.shape == (2, 1, SIZE, SIZE, SIZE)
        assert pair.place.shape == (3, 16, 16, 16)
        assert torch.isfinite(pair.images).all()
        assert 0 <= float(pair.images.min()) < float(pair.images.max()) <= 1
        assert pair.place[:, pair.valid].min() >= -0.5
        assert pair.place[:, pair.valid].max() <= 15.5
        shares.append(float(pair.valid.float().mean()))
    assert np.mean(shares) > 0.2


def test_places_are_where_the_warp_says() -> None:
    """The first view shows its own coordinates; the second, sampled by the warp, must agree with the stated places."""
    first, second = two_views(_seeded(1), SIZE)
    for component in range(3):
        views = torch.stack((first[component], second[component]))
        pair = as_pair(
            views, torch.ones(views.shape, dtype=torch.bool), torch.zeros(16, 16, 16), second, _seeded(11)
        )
        stated = pair.place[component] * 2 + 0.5
        centres = identity((16,) * 3) * 2 + 0.5
        torch.testing.assert_close(stated, sample(second, centres)[component])


def _labels() -> Tensor:
    return torch.stack([label_map(_seeded(2), SIZE).long()] * 2)


def test_two_renderings_of_one_anatomy_differ() -> None:
    labels = _labels()
    images = degrade(render(labels, torch.zeros(labels.shape), _seeded(), brain=True), _seeded())
    assert images.shape == labels.shape
    assert float((images[0] - images[1]).abs().mean()) > 0.02


@pytest.mark.parametrize("seed", range(8))
def test_intensity_transform_is_a_function_onto_the_unit_range(seed: int) -> None:
    values = torch.linspace(0, 1, 1024)
    mapped = intensity_transform(values, _seeded(seed))
    assert torch.equal(mapped, intensity_transform(values, _seeded(seed)))
    assert float(mapped.min()) == pytest.approx(0, abs=1e-5)
    assert float(mapped.max()) == pytest.approx(1, abs=1e-5)
    steps = intensity_transform(values, _seeded(seed), monotone=True).diff()
    assert (steps >= -1e-5).all() or (steps <= 1e-5).all()


def test_intensity_transform_inverts_half_of_the_time() -> None:
    values = torch.linspace(0, 1, 256)
    rising = [
        bool((intensity_transform(values, _seeded(seed), monotone=True).diff() >= 0).all())
        for seed in range(60)
    ]
    assert 15 < sum(rising) < 45


def test_blur_keeps_the_mean_and_the_centre() -> None:
    image = torch.zeros(15, 15, 15)
    image[7, 7, 7] = 1
    soft = blur(image, [1.0, 1.5, 0.7])
    assert float(soft.sum()) == pytest.approx(1, abs=1e-4)
    for axis in range(3):
        torch.testing.assert_close(soft, soft.flip(axis))


def test_unit_range_is_robust() -> None:
    image = torch.rand(20, 20, 20, generator=_seeded()) + 1
    image[0, 0, 0] = 1e4
    scaled = unit_range(image)
    assert float(scaled.std()) > 0.2


def _write_image(folder: Path) -> None:
    labels = label_map(_seeded(4), 40).float()
    image = sitk.GetImageFromArray((labels * 7 % 50).numpy())
    sitk.WriteImage(image, str(folder / "a.nii.gz"))


def test_pairs_from_own_images(tmp_path: Path, anatomies: Anatomies) -> None:
    _write_image(tmp_path)
    images = read_folder(tmp_path, 1.0)
    pairs = ImagePairs(images, SIZE, seed=1, length=8)
    assert torch.equal(pairs[3].images, ImagePairs(images, SIZE, seed=1, length=8)[3].images)
    assert any(float(pairs[n].valid.float().mean()) > 0.05 for n in range(8))
    others = ProceduralPairs(anatomies, SIZE, 1, 8)
    mixed = ImagePairs(images, SIZE, 1, 8, others, share=0.0)
    assert torch.equal(mixed[2].images, others[2].images)


def test_a_folder_without_images_is_said_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images"):
        read_folder(tmp_path, 1.0)
