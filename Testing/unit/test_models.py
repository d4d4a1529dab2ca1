"""Encoder weights: only files of the right hash are decoded, and whatever is wrong is said in one sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from masr_registration import cli, presets
from masr_registration.errors import InputError, MasrError
from masr_registration.representation import models
from masr_registration.representation.encoder import DSIR_SCALE, Encoder, Features
from masr_registration.representation.masr_net import FaithfulMasrNet, MasrNet
from masr_registration.representation.self_similarity import mind_ssc
from masr_registration.transforms.grid import pool
from typer.testing import CliRunner

CPU = torch.device("cpu")
IMAGE = torch.rand(16, 18, 20, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with untrained weights of both networks, which stands for the one that ships."""
    torch.manual_seed(0)
    options = {"width": 2, "radii": [1]}
    small = models.Model("masr", "masr.safetensors", "", "masr", "untrained", options)
    models.save(MasrNet(2, (1,)), small, tmp_path)
    faithful = models.Model("masr-faithful", "faithful.safetensors", "", "masr-faithful", "untrained")
    models.save(FaithfulMasrNet(), faithful, tmp_path)
    monkeypatch.setattr(models, "_folder", lambda given: tmp_path if given is None else given)
    return tmp_path


def test_weights_come_back_as_they_were_saved(folder: Path) -> None:
    torch.manual_seed(0)
    expected = MasrNet(2, (1,)).state_dict()
    network, model = models.load("masr")
    for name, value in network.state_dict().items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected[name].half().float(), rtol=0, atol=0)
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    assert model.state() == "ok"
    assert set(models.shipped()) == {"masr", "masr-faithful"}


def damaged(folder: Path) -> None:
    file = folder / "masr.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def missing(folder: Path) -> None:
    (folder / "masr.safetensors").unlink()


def not_listed(folder: Path) -> None:
    (folder / models.INDEX).unlink()


def list_broken(folder: Path) -> None:
    (folder / models.INDEX).write_text('{"masr_models": 1, "models": {"masr": 3}}')


def other_network(folder: Path) -> None:
    index = json.loads((folder / models.INDEX).read_text())
    index["models"]["masr"]["options"]["width"] = 4
    (folder / models.INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (damaged, "are damaged"),
        (missing, "are missing"),
        (not_listed, "do not come with"),
        (list_broken, "cannot be read"),
        (other_network, "do not fit"),
    ],
)
def test_weights_that_cannot_be_used_give_a_sentence_and_mind(folder: Path, spoil, sentence: str) -> None:
    spoil(folder)
    with pytest.raises(MasrError, match=sentence):
        models.load("masr")
    encoder, (warning,) = Encoder.or_mind("masr", CPU)
    assert sentence in warning
    assert "MIND-SSC alone" in warning
    assert str(folder) not in warning
    assert (encoder.name, encoder.sha256) == ("mind-ssc", None)
    assert encoder(IMAGE).dsir is None


def test_bytes_of_the_wrong_hash_are_never_decoded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    monkeypatch.setattr("safetensors.torch.load", decoded.append)
    damaged(folder)
    with pytest.raises(models.WeightsError):
        models.load("masr")
    assert decoded == []


def test_models_are_listed_with_their_state(folder: Path) -> None:
    damaged(folder)
    (folder / "faithful.safetensors").unlink()
    run = CliRunner().invoke(cli.app, ["models"])
    assert run.exit_code == 0
    assert [line.split()[:2] for line in run.stdout.splitlines()] == [
        ["masr", "damaged"],
        ["masr-faithful", "missing"],
    ]
    (folder / models.INDEX).unlink()
    assert "no encoder weights" in CliRunner().invoke(cli.app, ["models"]).stdout


def test_the_weights_that_ship_are_whole() -> None:
    assert {name: model.state() for name, model in models.shipped().items()} == dict.fromkeys(
        models.shipped(), "ok"
    )


def test_mind_alone_is_mind_bit_for_bit() -> None:
    encoder, warnings = Encoder.or_mind("mind", CPU)
    features = encoder(IMAGE)
    assert warnings == []
    assert (encoder.name, encoder.sha256) == ("mind-ssc", None)
    assert features.dsir is None
    assert torch.equal(features.mind, mind_ssc(IMAGE))
    assert torch.equal(features.pooled(), pool(mind_ssc(IMAGE), 2))


@pytest.mark.parametrize(("name", "channels"), [("masr", 16), ("masr-faithful", 24)])
def test_the_dsir_lies_on_cells_of_two_voxels_beside_mind(folder: Path, name, channels: int) -> None:
    encoder, warnings = Encoder.or_mind(name, CPU)
    features = encoder(IMAGE)
    assert warnings == []
    assert encoder.name == f"{name}+mind-ssc"
    assert encoder.sha256 == models.shipped()[name].sha256
    assert torch.equal(features.mind, mind_ssc(IMAGE))
    assert features.dsir is not None
    assert features.dsir.shape == (channels, 8, 9, 10)
    assert features.dsir.norm(dim=0).max() < DSIR_SCALE * 1.001
    joined = features.pooled()
    assert torch.equal(joined, torch.cat((pool(features.mind, 2), features.dsir)))
    assert torch.equal(Features(features.mind).pooled(), joined[:12])


def test_the_option_replaces_the_representation_of_the_preset() -> None:
    preset = presets.load("general")
    assert preset.representation == "mind"
    assert preset.with_representation("masr") == replace(preset, representation="masr")
    assert presets.Preset.from_json(preset.with_representation("masr").to_json()).representation == "masr"
    run = CliRunner().invoke(cli.app, ["register", "a", "b", "--output", "c", "--representation", "vgg"])
    assert run.exit_code == InputError.exit_code
    assert "mind, masr, masr-adapted, masr-faithful" in run.output
