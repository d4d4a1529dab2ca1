"""A checkpoint becomes weights that load by their hash, with a card."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from masr_registration.errors import InputError
from masr_registration.representation import models
from masr_registration.training import export as exporting
from masr_registration.training.export import export
from masr_registration.training.train_amortized import AmortizedRecipe, AmortizedTrainer, View
from masr_registration.training.train_encoder import Recipe, Trainer


@pytest.fixture
def trainer() -> Trainer:
    trainer = Trainer(Recipe(width=2, radii=(1,)), torch.device("cpu"))
    trainer.step = 7
    with torch.no_grad():
        for average in trainer.average.parameters():
            average.mul_(1.5)
    return trainer


def test_the_averaged_weights_ship_and_load(trainer: Trainer, tmp_path: Path) -> None:
    trainer.save(tmp_path / "checkpoint.pt")
    folder = tmp_path / "models"
    entered = export(tmp_path / "checkpoint.pt", folder, commit="abc123")
    network, model = models.load("masr", folder)
    assert model == entered
    assert model.state(folder) == "ok"
    for name, value in trainer.average.state_dict().items():
        assert torch.equal(network.state_dict()[name], value.half().float())
    card = (folder / "masr.md").read_text()
    for fact in (entered.sha256, "7 steps", "abc123", '"width": 2', "patent", "not a medical device"):
        assert fact in card
    export(tmp_path / "checkpoint.pt", folder, name="other")
    assert set(models.shipped(folder)) == {"masr", "other"}


def test_a_registration_network_ships_with_the_encoder_that_it_was_made_for(tmp_path: Path) -> None:
    def nothing(*given: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    view = View((44, 28, 28), nothing, nothing)
    trainer = AmortizedTrainer(AmortizedRecipe(width=4), view, torch.device("cpu"))
    trainer.save(tmp_path / "checkpoint.pt")
    entered = export(tmp_path / "checkpoint.pt", tmp_path, name="masr-registration", commit="abc123")
    network, model = models.load("masr-registration", tmp_path)
    assert model == entered
    assert model.kind == "registration"
    assert model.encoder_sha256 == models.shipped()["masr"].sha256
    for name, value in trainer.average.state_dict().items():
        assert torch.equal(network.state_dict()[name], value.half().float())
    card = (tmp_path / "masr-registration.md").read_text()
    for fact in (entered.sha256, "0 steps", "abc123", "amortized+refine", "patent", "not a medical device"):
        assert fact in card


def test_what_is_no_checkpoint_is_refused(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "checkpoint.pt"
    file.write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="not a checkpoint"):
        export(file, tmp_path / "models")
    with pytest.raises(InputError, match="not a checkpoint"):
        export(tmp_path / "nowhere.pt", tmp_path / "models")
    trainer.save(file)
    monkeypatch.setattr(exporting, "LARGEST_BYTES", 100)
    with pytest.raises(InputError, match="too large"):
        export(file, tmp_path / "models")
    monkeypatch.undo()
    with torch.no_grad():
        trainer.average.head2.weight[0] = 1e6
    trainer.save(file)
    with pytest.raises(InputError, match="half precision"):
        export(file, tmp_path / "models")
    assert not (tmp_path / "models").exists()
