"""Training: resumable to the bit, and it learns."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from masr_registration import cli
from masr_registration.errors import InputError
from masr_registration.representation.masr_net import MasrNet
from masr_registration.training.pairs import Anatomies, Pair, ProceduralPairs
from masr_registration.training.train_encoder import (
    CHECKPOINT,
    LOG,
    TERMS,
    Recipe,
    Trainer,
    train,
    write_weights,
)
from torch import Tensor
from typer.testing import CliRunner

CPU = torch.device("cpu")
TINY = Recipe(steps=6, width=2, places=64, warm_up=2, window_radius=4, bfloat16=False)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> ProceduralPairs:
    anatomies = Anatomies.prepare(tmp_path_factory.mktemp("maps"), count=3, size=40)
    return ProceduralPairs(anatomies, 32, seed=0, length=10**6)


def _state(trainer: Trainer) -> dict[str, Tensor]:
    return {
        **trainer.net.state_dict(),
        **{f"average {k}": v for k, v in trainer.average.state_dict().items()},
    }


def test_resuming_gives_the_same_bits(tmp_path: Path, pairs: ProceduralPairs) -> None:
    whole = Trainer(TINY, CPU)
    train(whole, pairs, tmp_path / "whole", save_every=100)
    train(Trainer(TINY, CPU), pairs, tmp_path / "parts", save_every=100, stop_at=2)
    resumed = Trainer(TINY, CPU)
    train(resumed, pairs, tmp_path / "parts", save_every=3, workers=1)
    assert resumed.step == whole.step == 6
    for name, value in _state(whole).items():
        assert torch.equal(value, _state(resumed)[name]), name


def test_loss_falls_on_pairs_that_repeat(pairs: ProceduralPairs) -> None:
    trainer = Trainer(Recipe(steps=30, width=4, places=128, warm_up=3, rate=4e-3, bfloat16=False), CPU)
    number = next(n for n in range(20) if pairs[n].valid.float().mean() > 0.5)
    losses = [trainer.train_on(pairs[number], number)["loss"] for _ in range(30)]
    assert losses[-1] < 0.85 * losses[0]
    assert trainer.rate() < 0.1 * trainer.recipe.rate


def test_a_pair_that_shares_nothing_changes_nothing_to_not_a_number(pairs: ProceduralPairs) -> None:
    trainer = Trainer(TINY, CPU)
    pair = pairs[0]
    values = trainer.train_on(Pair(pair.images, pair.place, torch.zeros_like(pair.valid), pair.labels), 0)
    assert values["loss"] == 0
    assert all(torch.isfinite(p).all() for p in trainer.net.parameters())


def test_log_and_weights(tmp_path: Path, pairs: ProceduralPairs) -> None:
    trainer = Trainer(TINY, CPU)
    train(trainer, pairs, tmp_path, save_every=2, stop_at=4)
    with (tmp_path / LOG).open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["step"]) for row in rows] == [2, 4]
    assert set(TERMS) < set(rows[0])
    write_weights(trainer, tmp_path / "masr.safetensors")
    weights = safetensors.torch.load_file(tmp_path / "masr.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float16}
    MasrNet(TINY.width).load_state_dict(weights)


def test_foreign_checkpoints_are_refused(tmp_path: Path) -> None:
    Trainer(TINY, CPU).save(tmp_path / CHECKPOINT)
    with pytest.raises(InputError, match="does not fit"):
        Trainer(Recipe(width=4), CPU).load(tmp_path / CHECKPOINT)
    (tmp_path / CHECKPOINT).write_bytes(b"nothing")
    with pytest.raises(InputError, match="does not fit"):
        Trainer(TINY, CPU).load(tmp_path / CHECKPOINT)


def test_command_line(tmp_path: Path) -> None:
    options = [
        "--steps",
        "1",
        "--maps",
        "1",
        "--size",
        "32",
        "--width",
        "2",
        "--workers",
        "0",
        "--device",
        "cpu",
    ]
    result = CliRunner().invoke(cli.app, ["train", "encoder", "--output", str(tmp_path), *options])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "masr.safetensors").is_file()
    assert (tmp_path / CHECKPOINT).is_file()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--similarity", "cubic"], "no self-similarity"),
        (["--size", "40"], "multiple of 16"),
        (["--maps", "0"], "nothing to train on"),
    ],
)
def test_unusable_options_end_in_one_sentence(tmp_path: Path, options: list[str], words: str) -> None:
    result = CliRunner().invoke(cli.app, ["train", "encoder", "--output", str(tmp_path), *options])
    assert result.exit_code == InputError.exit_code
    assert words in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_contact_sheet(tmp_path: Path) -> None:
    options = ["--output", str(tmp_path / "sheet.png"), "--maps", "1", "--size", "32", "--count", "2"]
    result = CliRunner().invoke(cli.app, ["train", "sheet", *options])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "sheet.png").stat().st_size > 1000


def test_training_starts_from_a_model_of_the_same_architecture_only(tmp_path: Path) -> None:
    first = Trainer(replace(TINY, seed=1), CPU)
    write_weights(first, tmp_path / "first.safetensors")
    second = Trainer(TINY, CPU)
    second.start_from(safetensors.torch.load_file(tmp_path / "first.safetensors"))
    for name, value in first.average.state_dict().items():
        assert torch.equal(second.net.state_dict()[name], value.half().float()), name
        assert torch.equal(second.average.state_dict()[name], value.half().float()), name
    with pytest.raises(InputError, match="another width"):
        Trainer(replace(TINY, width=3), CPU).start_from(first.net.state_dict())


def test_a_model_to_start_from_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_text("nothing")
    for name, message in ((str(tmp_path / "bad.safetensors"), "cannot be read"), ("none", "do not come")):
        run = CliRunner().invoke(
            cli.app, ["train", "encoder", "-o", str(tmp_path / "run"), "--from", name, "--maps", "1"]
        )
        assert run.exit_code in (2, 3)
        assert message in run.stderr
