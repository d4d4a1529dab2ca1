"""The central comparison: its similarities, the one optimiser that all drive, and the command, resumed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.central import __main__ as central
from benchmarks.central import drivers, report, views
from masr_registration.solver import linear
from masr_registration.transforms.chain import TransformChain
from masr_registration.transforms.grid import warp
from masr_registration.transforms.velocity import exponential
from masr_registration.volume import Volume, write_volume
from phantoms import Head, geometry, points_of, smooth_field
from torch import Generator

HEAD = Head(radii=(30.0, 37.0, 33.0), wavelengths=(24.0, 70.0))
GRID = geometry((26, 32, 28), (3.0, 3.0, 3.0))
BEND = smooth_field(geometry((32, 32, 32), (4.0, 4.0, 4.0)), 9.0, 1, wavelength=0.6)


@pytest.fixture(autouse=True)
def quicker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "COARSE_MM", 7.0)
    monkeypatch.setattr(linear, "FINE_MM", 5.0)
    monkeypatch.setattr(drivers, "ITERATIONS", (10, 15))


def bend(points: np.ndarray) -> np.ndarray:
    moved: np.ndarray = BEND.apply(torch.from_numpy(points.reshape(-1, 3))).numpy()
    return moved.reshape(points.shape)


def in_the_dark(volume: Volume) -> Volume:
    """Without the grey surroundings, as the benchmark's skull-stripped brains."""
    inside = HEAD.contains(points_of(volume.geometry))
    return volume.with_array(np.where(inside, volume.array, 0).astype(np.float32))


def test_mutual_information_is_highest_where_images_of_other_contrast_lie_on_each_other() -> None:
    noise = torch.rand(1, 1, 8, 8, 8, generator=Generator().manual_seed(0))
    image = torch.nn.functional.interpolate(noise, size=(24, 24, 24), mode="trilinear")[0, 0]
    shift = torch.tensor([3.0, 0, 0]).reshape(3, 1, 1, 1).expand(3, 24, 24, 24)
    torch.testing.assert_close(views.bins(image).sum(dim=0), torch.ones_like(image))
    weight, other = torch.ones_like(image), (1 - image**2)[None]
    aligned = views.negative_mutual_information(image[None], other, weight)
    apart = views.negative_mutual_information(image[None], warp(other, shift), weight)
    assert aligned < 1.5 * apart < 0
    nothing = views.negative_mutual_information(image[None], torch.full_like(other, 0.5), weight)
    assert abs(float(nothing)) < 1e-3


@pytest.mark.parametrize("name", views.NAMES)
def test_pyramids_and_dense_features_have_the_shapes_that_network_and_optimiser_expect(name: str) -> None:
    image = torch.rand(36, 32, 40, generator=Generator().manual_seed(0))
    similarity = views.make(name)
    levels = similarity.view.features(image)
    assert tuple(level.shape[0] for level in levels) == similarity.view.channels
    assert [tuple(level.shape[1:]) for level in levels] == [(5, 4, 5), (9, 8, 10), (18, 16, 20)]
    assert similarity.dense(image).shape[1:] == image.shape


@pytest.mark.parametrize("name", ["mi", "mind"])
def test_the_optimiser_is_driven_by_every_similarity(name: str) -> None:
    similarity = views.make(name)
    prepared = drivers.prepare(HEAD.volume(GRID, "t1"), HEAD.volume(GRID, "t2", bend), "general")
    velocity = drivers.by_optimiser(prepared, similarity)
    there, back = drivers.chains(prepared, velocity)
    fixed, moving = (similarity.dense(image) for image in prepared.images)
    moved = warp(moving, exponential(velocity.on_stride(2)))
    before, after = (similarity.view.dissimilarity(fixed, m, prepared.weights[0]) for m in (moving, moved))
    assert after < before - 0.1 * abs(before)
    points = points_of(GRID)[HEAD.contains(points_of(GRID))]

    def error(chain: TransformChain) -> float:
        """How far ``bend(chain(p))`` lies from p: the moving image shows at y what the fixed one has at bend(y)."""
        found = chain.apply(torch.from_numpy(points)).numpy()
        return float(np.linalg.norm(bend(found) - points, axis=1).mean())

    if name == "mind":  # the waves of the head look alike everywhere to mutual information
        assert error(there) < 0.8 * error(TransformChain(there.factors[:1]))
    again = back.apply(there.apply(torch.from_numpy(points))).numpy()
    assert np.linalg.norm(again - points, axis=1).max() < 0.5


def test_the_command_trains_measures_and_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data" / "brain_t1t2_neonate"
    inside = HEAD.contains(points_of(GRID))
    for subject in ("01", "06", "07"):
        (data / subject).mkdir(parents=True)
        for shade, name in (("t1", "T1w"), ("t2", "T2w")):
            where = bend if subject == "07" else (lambda p: p)
            write_volume(in_the_dark(HEAD.volume(GRID, shade, where)), data / subject / f"{name}.nii.gz")
        labels = Volume((inside * np.where(points_of(GRID)[..., 0] > 0, 1, 2)).astype(np.int32), GRID)
        write_volume(labels, data / subject / "labels.nii.gz")
    monkeypatch.setattr(central, "TRAINED_ON", ("01",))
    monkeypatch.setattr(central, "SPACING_MM", 3.0)
    output = tmp_path / "out"
    arguments = ["central", "--output", str(output), "--data", str(tmp_path / "data")]
    arguments += ["--similarities", "mind", "--cases", "neonates/06-07", "--size", "24", "--steps"]
    monkeypatch.setattr(sys, "argv", [*arguments, "1"])
    central.main()
    first = json.loads((output / "central.json").read_text())
    assert [(r["driver"], r["cases"]) for r in first["summary"]] == [("optimiser", 1), ("network", 1)]
    assert all(r["strict folds"] == 0 and r["Dice"] > 0.5 for r in first["summary"])
    assert (output / "central.png").stat().st_size > 1000
    assert "neonates" in (output / "central.txt").read_text()
    monkeypatch.setattr(drivers, "by_network", None)
    monkeypatch.setattr(drivers, "by_optimiser", None)
    central.main()
    assert json.loads((output / "central.json").read_text())["results"] == first["results"]
    assert "network of step 1, 0 CPU-s" in capsys.readouterr().out


def test_the_table_pools_what_it_should() -> None:
    def result(dice: float, folds: int) -> report.Result:
        score = {"dice": dice, "folds_everywhere": folds, "sdlogj": 0.1, "hd95_mm": None}
        return {"case": "f/x", "driver": "network", "similarity": "mi", "cpu_s": 2.0, "score": score}

    (row,) = report.summary([result(0.5, 0), result(0.7, 3)])
    assert row["Dice"] == pytest.approx(0.6)
    assert row["strict folds"] == 3
    assert row["HD95 mm"] is None
    assert row["cases"] == 2
    assert "0.6000" in report.text([result(0.5, 0), result(0.7, 3)])
