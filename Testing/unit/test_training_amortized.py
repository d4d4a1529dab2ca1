"""Training of the registration network: pairs with a known answer, resumable to the bit, and it learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from masr_registration import cli
from masr_registration.errors import InputError
from masr_registration.solver.amortized import REGULARISATION, STEPS, STRIDES, RegistrationNetwork
from masr_registration.training.pairs import Anatomies, ProceduralPairs
from masr_registration.training.train_amortized import (
    AmortizedRecipe,
    AmortizedTrainer,
    View,
    loss_terms,
    squared_difference,
)
from masr_registration.training.train_encoder import train, write_weights
from masr_registration.training.volumes import AlignedVolume, VolumePairs, read_aligned
from masr_registration.training.warps import (
    CELL,
    WarpPair,
    WarpPairs,
    brain_frame,
    half_way,
    random_velocity,
)
from masr_registration.transforms.grid import identity, pool, sample, warp
from masr_registration.transforms.velocity import exponential
from masr_registration.volume import Volume, write_volume
from phantoms import Head, geometry
from torch import Generator, Tensor
from typer.testing import CliRunner

CPU = torch.device("cpu")
SIZE = 32
TINY = AmortizedRecipe(steps=6, width=4, warm_up=2, bfloat16=False)


def intensities(image: Tensor) -> tuple[Tensor, ...]:
    """Soft bins of the intensity: features that cost nothing."""
    bins = torch.stack([torch.exp(-(((image - c) / 0.2) ** 2)) for c in (0.0, 0.33, 0.67, 1.0)])
    return tuple(pool(bins, stride // 2) for stride in STRIDES)


PLAIN = View((4, 4, 4), intensities, squared_difference)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> WarpPairs:
    anatomies = Anatomies.prepare(tmp_path_factory.mktemp("maps"), count=3, size=40)
    return WarpPairs(ProceduralPairs(anatomies, SIZE, seed=0, length=10**6))


def _state(trainer: AmortizedTrainer) -> dict[str, Tensor]:
    return {
        **trainer.net.state_dict(),
        **{f"average {k}": v for k, v in trainer.average.state_dict().items()},
    }


def test_the_velocity_of_a_pair_takes_the_fixed_view_to_the_moving_one() -> None:
    velocity = random_velocity(Generator().manual_seed(3), SIZE)
    assert velocity.shape == (3, SIZE // CELL, SIZE // CELL, SIZE // CELL)
    assert velocity.abs().max() > 0.5
    fixed, moving = half_way(velocity).unbind(dim=1)
    cells = identity((SIZE // CELL,) * 3)
    through = CELL * (cells + exponential(velocity)) + (CELL - 1) / 2
    anatomy_seen = sample(moving, through)
    own = sample(fixed, CELL * cells + (CELL - 1) / 2)
    inner = slice(3, -3)
    difference = (anatomy_seen - own).abs()[:, inner, inner, inner]
    assert difference.mean() < 0.1
    assert difference.max() < 1.0
    wrong = CELL * (cells - exponential(velocity)) + (CELL - 1) / 2
    assert (sample(moving, wrong) - own).abs()[:, inner, inner, inner].mean() > 10 * difference.mean()


def test_pairs_are_the_same_again_and_differ_from_each_other(pairs: WarpPairs) -> None:
    for one, other in zip(pairs[3], pairs[3], strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(pairs[3].images, pairs[4].images)
    pair = pairs[3]
    assert pair.images.shape == pair.weights.shape == (2, SIZE, SIZE, SIZE)
    assert pair.images.min() >= 0
    assert pair.images.max() <= 1
    assert set(pair.known.unique().tolist()) <= {0.0, 1.0} or pair.known.max() <= 1
    with pytest.raises(IndexError):
        pairs[10**6]


def test_pairs_of_two_brains_have_no_answer() -> None:
    k, j, i = np.indices((60, 70, 50))
    brains = [
        (((k - 30) / a) ** 2 + ((j - 35) / 25) ** 2 + ((i - 25) / 18) ** 2 < 1).astype(np.uint8) * label
        for a, label in ((22, 3), (14, 3))
    ]
    anatomies = Anatomies(np.zeros((0, 40, 40, 40), np.uint8), brains)
    made = WarpPairs(ProceduralPairs(anatomies, SIZE, seed=0, length=100))
    between = [pair for pair in (made[n] for n in range(12)) if not pair.known.any()]
    assert 0 < len(between) < 12
    centre, extent = brain_frame(torch.from_numpy(brains[0]))
    torch.testing.assert_close(centre, torch.tensor([25.0, 35.0, 30.0]), rtol=0, atol=1.0)
    assert extent.argsort().tolist() == [0, 2, 1]


def test_resuming_gives_the_same_bits(tmp_path: Path, pairs: WarpPairs) -> None:
    whole = AmortizedTrainer(TINY, PLAIN, CPU)
    train(whole, pairs, tmp_path / "whole", save_every=100)
    train(AmortizedTrainer(TINY, PLAIN, CPU), pairs, tmp_path / "parts", save_every=100, stop_at=2)
    resumed = AmortizedTrainer(TINY, PLAIN, CPU)
    train(resumed, pairs, tmp_path / "parts", save_every=3)
    assert resumed.step == whole.step == 6
    for name, value in _state(whole).items():
        assert torch.equal(value, _state(resumed)[name]), name
    write_weights(resumed, tmp_path / "network.safetensors")
    weights = safetensors.torch.load_file(tmp_path / "network.safetensors")
    RegistrationNetwork(PLAIN.channels, TINY.width).load_state_dict(weights)


def test_it_learns_a_pair_that_repeats(pairs: WarpPairs) -> None:
    trainer = AmortizedTrainer(replace(TINY, steps=30, width=8, rate=1e-2), PLAIN, CPU)
    number = next(n for n in range(20) if pairs[n].known.mean() > 0.5)
    rows = [trainer.train_on(pairs[number], 0) for _ in range(30)]
    assert rows[-1]["error"] < 0.85 * rows[0]["error"]
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_similarity_alone_teaches_a_pair_without_an_answer() -> None:
    noise = torch.rand(1, 1, 9, 9, 9, generator=Generator().manual_seed(0))
    image = torch.nn.functional.interpolate(noise, size=(SIZE,) * 3, mode="trilinear")[0, 0]
    shift = torch.tensor([3.0, 0.0, 0.0]).reshape(3, 1, 1, 1).expand(3, *image.shape)
    cells = (SIZE // CELL,) * 3
    views = torch.stack((warp(image[None], shift)[0], image))
    blind = WarpPair(views, torch.ones_like(views), torch.zeros(3, *cells), torch.zeros(cells))
    trainer = AmortizedTrainer(
        replace(TINY, steps=30, width=8, rate=1e-2, weights=(0.0, 1.0, 0.02)), PLAIN, CPU
    )
    rows = [trainer.train_on(blind, 0) for _ in range(30)]
    assert rows[0]["known"] == rows[-1]["known"] == 0
    assert rows[-1]["similarity"] < 0.8 * rows[0]["similarity"]


def test_every_parameter_has_a_gradient(pairs: WarpPairs) -> None:
    torch.manual_seed(0)
    network = RegistrationNetwork(PLAIN.channels, 4)
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    number = next(n for n in range(20) if pairs[n].known.mean() > 0.5)
    *terms, error = loss_terms(network, PLAIN, pairs[number], TINY, 1.0)
    torch.stack(terms).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name
    assert float(error) > 0


def test_the_smoothness_is_drawn_from_the_whole_range(
    pairs: WarpPairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []

    def told(network, view, pair, recipe, regularisation):  # type: ignore[no-untyped-def]
        seen.append(regularisation)
        return loss_terms(network, view, pair, recipe, regularisation)

    monkeypatch.setattr("masr_registration.training.train_amortized.loss_terms", told)
    trainer = AmortizedTrainer(TINY, PLAIN, CPU)
    pair = pairs[0]
    for stream in range(8):
        trainer.train_on(pair, stream)
    low, high = REGULARISATION
    assert all(low <= value <= high for value in seen)
    assert max(seen) > 4 * min(seen)


def test_known_errors_are_in_cells_of_the_finest_level_on_every_level(pairs: WarpPairs) -> None:
    from masr_registration.training.train_amortized import _known

    shape = (8, 8, 8)
    pair = WarpPair(
        torch.zeros(2, 16, 16, 16),
        torch.zeros(2, 16, 16, 16),
        torch.full((3, *shape), 4.0),
        torch.ones(shape),
    )
    for level, _ in STEPS:
        factor = STRIDES[level] // STRIDES[-1]
        right = torch.full((3, *(n // factor for n in shape)), 4.0 / factor)
        assert float(_known(right, pair, level)) == pytest.approx(0, abs=1e-6)
        off = right.clone()
        off[0] += 1.0 / factor
        assert float(_known(off, pair, level)) == pytest.approx(float(np.hypot(1, 0.25) - 0.25), rel=1e-4)


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("volumes")
    head = Head(radii=(30.0, 37.0, 33.0), wavelengths=(24.0, 70.0))
    for number, (shade, shift) in enumerate((("t1", 0.0), ("t2", 7.0))):
        grid = geometry((28, 32, 30), (3.0, 3.0, 3.0), centre=(shift, 0.0, 0.0))
        image: Volume = head.volume(grid, shade, lambda p, s=shift: p - np.array([s, 0.0, 0.0]))
        write_volume(image, folder / f"{number}.nii.gz")
    return folder


def test_unaligned_volumes_are_aligned_and_paired(volumes: Path) -> None:
    done: list[int] = []
    first, second = read_aligned(volumes, 1.5, done.append)
    assert done == [1, 2]
    assert first.intensity.shape == second.intensity.shape
    both = (first.body & second.body).float().sum() / (first.body | second.body).float().sum()
    assert both > 0.85
    made = VolumePairs([first, second], SIZE, seed=0, length=100)
    for one, other in zip(made[1], made[1], strict=True):
        assert torch.equal(one, other)
    known = [bool(made[n].known.any()) for n in range(12)]
    assert 0 < sum(known) < 12
    alone = VolumePairs([first], SIZE, seed=0, length=100)
    assert all(bool(alone[n].known.any()) for n in range(4))


def test_a_share_of_the_pairs_is_of_the_volumes(pairs: WarpPairs) -> None:
    box = torch.zeros(40, 40, 40)
    box[8:-8, 8:-8, 8:-8] = torch.rand(24, 24, 24, generator=Generator().manual_seed(0))
    volume = AlignedVolume(box, box > 0, torch.ones_like(box, dtype=torch.bool))
    mixed = VolumePairs([volume], SIZE, 0, 100, pairs, 0.5)
    same = [torch.equal(mixed[n].images, pairs[n].images) for n in range(12)]
    assert 0 < sum(same) < 12


def test_command_line(tmp_path: Path, volumes: Path) -> None:
    options = ["--steps", "1", "--maps", "1", "--size", "32", "--width", "2", "--device", "cpu"]
    options += ["--images", str(volumes), "--spacing", "3"]
    result = CliRunner().invoke(cli.app, ["train", "amortized", "--output", str(tmp_path), *options])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "checkpoint.pt").is_file()
    assert (tmp_path / "masr-registration.safetensors").is_file()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--size", "36"], "multiple of 8"),
        (["--maps", "0"], "nothing to train on"),
        (["--from", "nothing.safetensors"], "cannot be read"),
    ],
)
def test_unusable_options_end_in_one_sentence(tmp_path: Path, options: list[str], words: str) -> None:
    result = CliRunner().invoke(cli.app, ["train", "amortized", "--output", str(tmp_path), *options])
    assert result.exit_code == InputError.exit_code
    assert words in result.output
    assert len(result.output.strip().splitlines()) == 1
