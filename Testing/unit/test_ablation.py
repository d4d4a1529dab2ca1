"""The ablation command: every variant is another network or another training, trained, tried and resumed."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks import ablation, discriminability
from masr_registration.representation.masr_net import FaithfulMasrNet, MasrNet
from masr_registration.training import appearance
from masr_registration.volume import write_volume
from phantoms import Head, geometry, points_of
from torch import Generator

HEAD = Head(radii=(36.0, 40.0, 38.0), wavelengths=(14.0, 30.0))
GRID = geometry((26, 28, 27), (3.0, 3.0, 3.0))
KINDS = ("T1-T2", "neonate T1-T2")


@pytest.fixture
def phantoms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One head for two kinds of pairs, coarsely tried."""
    dark = ~HEAD.contains(points_of(GRID))
    for name, shade in (("T1", "t1"), ("T2", "t2")):
        volume = HEAD.volume(GRID, shade)
        (tmp_path / "head").mkdir(exist_ok=True)
        array = np.where(dark, 0, volume.array).astype(np.float32)
        write_volume(volume.with_array(array), tmp_path / "head" / f"{name}.nii.gz")
    monkeypatch.setattr(discriminability, "DATA", tmp_path)
    monkeypatch.setattr(discriminability, "DEVIATION_MM", 1.0)
    monkeypatch.setattr(discriminability, "PAIRS", {kind: [("head/T1", "head/T2")] for kind in KINDS})
    protocol = partial(ablation.Protocol, spacing_mm=4.0, step_mm=8.0, anchors=40)
    monkeypatch.setattr(ablation, "Protocol", protocol)
    return tmp_path


def test_variants_differ_in_what_they_are_named_after() -> None:
    networks = {
        name: ablation.replace(ablation.Budget(1, 32, 1).recipe(0), **variant.changes).network()
        for name, variant in ablation.VARIANTS.items()
    }
    sides = {name: net.squeeze[0].convolution.in_channels for name, net in networks.items()}
    assert sides == {
        "practical": 24,
        "no-dns": 8,
        "no-dilation": 12,
        "no-merging": 24,
        "faithful": 96,
    }
    assert isinstance(networks["faithful"], FaithfulMasrNet)
    practical = {name: net for name, net in networks.items() if isinstance(net, MasrNet)}
    assert len(practical) == 4
    assert {net.head2.weight.shape for net in practical.values()} == {(16, 16, 3, 3, 3)}
    assert [name for name, variant in ablation.VARIANTS.items() if not variant.merging] == ["no-merging"]


def test_without_merging_labels_keep_contrasts_of_their_own() -> None:
    def distinct(merging: bool) -> list[int]:
        """How many intensities, apart by more than 0.1, the 256 labels have in each of 40 images."""
        generator = Generator().manual_seed(0)
        found = []
        for _ in range(40):
            means, _deviations = appearance._mixture(generator, brain=False, merging=merging)
            found.append(len((means[5 :: appearance.PARTS] * 50).round().unique()))
        return found

    assert min(distinct(False)) > 30 > min(distinct(True))


@pytest.mark.slow
def test_the_command_trains_measures_and_goes_on_where_it_stopped(
    phantoms: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = phantoms / "out"
    arguments = ["ablation", "--output", str(output), "--steps", "1", "--size", "32", "--maps", "1"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--variants", "no-dns", "faithful"])
    ablation.main()
    first = json.loads((output / "ablation.json").read_text())
    assert [row["title"] for row in first["rows"]] == ["MIND-SSC", "without DNS", "faithful MASR"]
    assert first["budget"] == {"steps": 1, "size": 32, "maps": 1}
    assert first["rows"][0]["alone"] == {}
    for row in first["rows"][1:]:
        for how in ("alone", "with MIND"):
            assert [title.removesuffix(" head") for title in row[how]] == list(KINDS)
            assert all(0 <= summary["hit_8mm"] <= 1 for summary in row[how].values())
    lines = (output / "ablation.md").read_text().splitlines()
    assert len(lines) == 5
    assert {line.count("|") for line in lines} == {9}
    hit = first["rows"][2]["alone"]["neonate T1-T2 head"]["hit_8mm"]
    assert lines[4].split(" | ")[4:7] == ["", "", f"{hit:.3f}"]
    assert "faithful, seed 0: step 1" in capsys.readouterr().out
    monkeypatch.setattr(ablation, "retrieve", None)
    with monkeypatch.context() as patch:
        patch.setattr(ablation, "train", None)
        ablation.main()
    assert json.loads((output / "ablation.json").read_text()) == first
    monkeypatch.setattr(ablation.Study, "_retrieval", lambda study, encoder: {"alone": {}, "with MIND": {}})
    monkeypatch.setattr(sys, "argv", [*arguments, "--variants", "no-dns", "--seeds", "1"])
    ablation.main()
    more = json.loads((output / "ablation.json").read_text())["rows"]
    assert [row["title"] for row in more] == ["MIND-SSC", "without DNS", "without DNS", "faithful MASR"]
    assert [row["recipe"]["seed"] for row in more[1:]] == [0, 1, 0]
    assert more[1] == first["rows"][1]


@pytest.mark.slow
def test_a_training_that_was_cut_off_ends_with_the_same_weights(
    phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = ablation.Budget(steps=2, size=32, maps=1)
    whole = ablation.Study(phantoms / "whole", budget, None)
    parts = ablation.Study(phantoms / "parts", budget, None)
    monkeypatch.setattr(ablation.Study, "_retrieval", lambda study, encoder: {})
    whole._variant("no-dilation", 0)
    train = ablation.train

    def one_step(*given: object, **options: object) -> None:
        train(*given, stop_at=1, **options)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ablation, "train", one_step)
        with pytest.raises(KeyboardInterrupt):
            parts._variant("no-dilation", 0)
    parts._variant("no-dilation", 0)
    first, second = (
        torch.load(study.folder / "no-dilation-0" / "checkpoint.pt", weights_only=True)
        for study in (whole, parts)
    )
    assert first["step"] == second["step"] == 2
    for name, value in first["average"].items():
        assert torch.equal(value, second["average"][name]), name
