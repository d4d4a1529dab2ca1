"""Retrieval: a descriptor that knows every place finds it, one that knows nothing does not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from benchmarks.discriminability import warped
from masr_registration import cli
from masr_registration.errors import InputError
from masr_registration.evaluation import discriminability_report
from masr_registration.evaluation.discriminability import (
    Pair,
    Protocol,
    invariance,
    mirrored,
    preferred_side,
    retrieve,
)
from masr_registration.evaluation.discriminability_report import descriptors
from masr_registration.representation.self_similarity import mind_ssc
from masr_registration.transforms.grid import pool
from masr_registration.volume import read_volume, write_volume
from phantoms import Head, geometry
from typer.testing import CliRunner

SAMPLE = Path(discriminability_report.__file__).parents[1] / "data" / "sample"
HEAD = Head(radii=(30.0, 32.0, 31.0), wavelengths=(14.0, 30.0))
GRID = geometry((40, 42, 41), (2.0, 2.0, 2.0))
SHIFT = np.array([4.0, -8.0, 6.0])
PROTOCOL = Protocol(window_mm=16.0, anchors=150)


def pair(shade: str = "t1", shift: np.ndarray = SHIFT) -> Pair:
    moving = HEAD.volume(GRID, shade, lambda p: p - shift)
    return Pair.of(HEAD.volume(GRID, "t1"), moving, lambda p: p + shift, PROTOCOL, ("mr", "mr"))


def mind(image: torch.Tensor) -> torch.Tensor:
    return pool(mind_ssc(image), 2)


def test_a_descriptor_of_structure_finds_places_across_contrasts() -> None:
    found = retrieve(pair("t2"), mind, PROTOCOL)
    summary = found.summary()
    assert summary["anchors"] == len(found.found) == 150
    assert summary["hit_8mm"] > 0.95
    assert summary["median_error_mm"] <= 4 * np.sqrt(3) / 2 + 1e-6
    assert summary["median_rank"] <= 4
    assert summary["second_mode_ratio"] > 1.1
    assert summary["capture_range_mm"] > 4
    assert max(abs(s) for s in summary["signed_error_voxels"]) <= 1.01


def test_every_second_voxel_holds_the_truth_exactly() -> None:
    found = retrieve(pair(shift=np.array([4.0, -8.0, 12.0])), mind, PROTOCOL)
    assert found.error_mm.max() < 1e-3
    assert (found.rank == 1).all()
    np.testing.assert_allclose(found.summary()["signed_error_voxels"], 0, atol=1e-3)
    np.testing.assert_allclose(found.profile[:, 0], 0, atol=1e-6)


def test_a_bias_is_seen_and_a_preferred_side_told_from_it() -> None:
    """Of the moving image one cell to the right, in its own indices: in the mirror that is to the left."""
    both = pair(shift=np.zeros(3))
    both = replace(both, moving=0.999 * both.moving)

    def biased(image: torch.Tensor) -> torch.Tensor:
        moving = torch.equal(image, both.moving) or torch.equal(image, both.moving.flip(0, 1, 2))
        return mind(image).roll(1, dims=3) if moving else mind(image)

    found, in_mirror = (retrieve(both, d, PROTOCOL) for d in (biased, mirrored(biased)))
    np.testing.assert_allclose(found.summary()["signed_error_voxels"], [2, 0, 0], atol=0.05)
    np.testing.assert_allclose(preferred_side(found, in_mirror), [2, 0, 0], atol=0.05)


def test_images_that_are_not_aligned_are_no_preferred_side() -> None:
    """Here the truth is wrong by a cell, not the descriptor."""
    both = pair(shift=np.array([4.0, -8.0, 12.0]))
    wrong = replace(both, truth=both.truth + np.array([1.0, 0.0, 0.0]))
    found, in_mirror = (retrieve(wrong, d, PROTOCOL) for d in (mind, mirrored(mind)))
    np.testing.assert_allclose(found.summary()["signed_error_voxels"], [-2, 0, 0], atol=0.01)
    np.testing.assert_allclose(preferred_side(found, in_mirror), 0, atol=0.01)


@pytest.mark.slow
def test_the_network_that_ships_prefers_no_side() -> None:
    """On the sample pair under a known warp: less than a tenth of a voxel of 2 mm."""
    images = [read_volume(SAMPLE / f"{name}.nii.gz") for name in ("T1", "T2")]
    moving, truth = warped(images[1], seed=1)
    both = Pair.of(images[0], moving, truth, Protocol(), ("mr", "mr"))
    (descriptor,) = descriptors(["dsir"]).values()
    found, in_mirror = (retrieve(both, d, Protocol()) for d in (descriptor, mirrored(descriptor)))
    assert found.summary()["hit_8mm"] > 0.85
    np.testing.assert_allclose(preferred_side(found, in_mirror), 0, atol=0.1)


def test_a_descriptor_that_knows_nothing_finds_nothing() -> None:
    generator = torch.Generator().manual_seed(0)

    def noise(image: torch.Tensor) -> torch.Tensor:
        return torch.rand(8, *(n // 2 for n in image.shape), generator=generator)

    summary = retrieve(pair(), noise, PROTOCOL).summary()
    assert summary["hit_8mm"] < 0.2
    assert summary["median_rank"] > 100
    assert summary["second_mode_ratio"] < 1.5


def test_invariance_is_one_for_what_does_not_change_and_low_for_intensities() -> None:
    both = pair()
    appearances = [1 - both.fixed, both.fixed.square()]
    steady = invariance(both, mind, PROTOCOL, appearances[:1])
    assert steady["invariance_mean"] == pytest.approx(1, abs=1e-4)
    raw = invariance(both, lambda image: pool(image[None], 2), PROTOCOL, appearances)
    assert raw["invariance_p5"] < raw["invariance_mean"] < 0.7


def test_a_truth_beyond_the_window_is_refused() -> None:
    with pytest.raises(InputError, match="search window"):
        pair(shift=np.array([0.0, 0, 40]))


def test_the_command_writes_a_table_numbers_and_heat_maps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discriminability_report, "TRANSFORMS", 2)
    files = {name: tmp_path / f"{name}.nii.gz" for name in ("fixed", "moving")}
    write_volume(HEAD.volume(GRID, "t1"), files["fixed"])
    write_volume(HEAD.volume(GRID, "t2", lambda p: p - SHIFT), files["moving"])
    sitk.WriteTransform(sitk.TranslationTransform(3, SHIFT.tolist()), str(tmp_path / "truth.h5"))
    command = ["evaluate", "discriminability", *map(str, files.values()), "--anchors", "60"]
    options = ["--truth", str(tmp_path / "truth.h5"), "--representation", "image", "--representation", "mind"]
    run = CliRunner().invoke(cli.app, [*command, *options, "--output", str(tmp_path / "out")])
    assert run.exit_code == 0, run.output
    assert [line.split()[0] for line in run.stdout.splitlines()[1:]] == ["image", "mind"]
    report = json.loads((tmp_path / "out" / "discriminability.json").read_text())
    rows = report["representations"]
    assert rows["mind"]["hit_8mm"] > 0.9 > 0.3 > rows["image"]["hit_8mm"]
    picture = sitk.ReadImage(str(tmp_path / "out" / "discriminability.png"))
    assert picture.GetWidth() == 4 * 240
    assert np.unique(sitk.GetArrayViewFromImage(picture)).size > 50
    run = CliRunner().invoke(cli.app, [*command, "--representation", "vgg"])
    assert run.exit_code == InputError.exit_code
    assert 'no representation "vgg"' in run.output
