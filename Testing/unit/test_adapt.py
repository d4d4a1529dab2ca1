"""Adaptation to own images: resumable to the bit, kept only when better, listed, used and removed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import typer
from masr_registration import cli, presets
from masr_registration.errors import CancelledError, InputError
from masr_registration.representation import models
from masr_registration.representation.encoder import Encoder
from masr_registration.representation.masr_net import MasrNet
from masr_registration.representation.models import WeightsError
from masr_registration.training import adapt as adaptation
from masr_registration.training import held_back
from masr_registration.training.adapt import Settings, adapt
from masr_registration.training.images import Image
from typer.testing import CliRunner
from worker_tools import environment

CPU = torch.device("cpu")
QUICK = Settings("mine", steps=4, spacing_mm=2.0, size=32, places=120)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample pair at 2 mm, as a user's folder of images."""
    folder = tmp_path_factory.mktemp("data") / "own images"
    folder.mkdir()
    for name in ("T1", "T2"):
        place = files("masr_registration").joinpath("data", "sample", f"{name}.nii.gz")
        image = sitk.SmoothingRecursiveGaussian(sitk.ReadImage(str(place), sitk.sitkFloat32), 1.0)
        sitk.WriteImage(image[::2, ::2, ::2], str(folder / f"{name}.nii.gz"))
    return folder


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An untrained tiny network as the one that ships, and an empty folder for the user's models."""
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    torch.manual_seed(0)
    entry = models.Model("masr", "masr.safetensors", "", "masr", "untrained", {"width": 4, "radii": [1]})
    models.save(MasrNet(4, (1,)), entry, shipped)
    monkeypatch.setattr(models, "_folder", lambda given: shipped if given is None else given)
    monkeypatch.setattr(held_back, "TIMES", 1)
    monkeypatch.setenv("MASR_MODELS", str(tmp_path / "models"))
    return tmp_path


class Stop:
    """Set after some steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def is_set(self) -> bool:
        return self.steps <= 0

    def told(self, progress: adaptation.Progress) -> None:
        self.steps -= progress.stage == "adapting"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    found: dict[str, torch.Tensor] = state["average"]
    return found


def test_a_cancelled_run_goes_on_to_the_same_bits(
    own: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adaptation, "_SHOWN_SECONDS", 0.0)
    whole = adapt(data, own / "whole", QUICK)
    stop = Stop(2)
    with pytest.raises(CancelledError):
        adapt(data, own / "parts", QUICK, progress=stop.told, cancel=stop)
    assert torch.load(own / "parts" / "checkpoint.pt", weights_only=True)["step"] == 2
    told: list[adaptation.Progress] = []
    changed = (own / "parts" / adaptation.BEFORE).stat().st_mtime_ns
    resumed = adapt(data, own / "parts", QUICK, progress=told.append)
    assert [p.step for p in told if p.stage == "adapting"] == [3, 4]
    assert resumed.numbers == whole.numbers
    assert (own / "parts" / adaptation.BEFORE).stat().st_mtime_ns == changed, "measured a second time"
    for name, value in weights(own / "whole").items():
        assert torch.equal(value, weights(own / "parts")[name]), name
    fractions = [p.fraction for p in told]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


def test_what_is_no_better_is_not_kept(own: Path, data: Path) -> None:
    outcome = adapt(data, own / "run", replace(QUICK, steps=1, rate=1e-9))
    assert not outcome.kept
    assert "nothing has changed" in outcome.sentence
    assert models.adapted() == {}
    assert models.in_use() is None
    assert json.loads((own / "run" / adaptation.STATE).read_text())["kept"] is False
    assert abs(outcome.numbers["masr"]["gain"]) <= 2 * max(outcome.numbers["masr"]["gain_error"], 1e-9)


@pytest.fixture
def kept(own: Path, data: Path) -> adaptation.Outcome:
    """An untrained network learns enough in a minute to be better than it was."""
    outcome = adapt(data, own / "run", replace(QUICK, steps=120, rate=4e-3, places=400))
    assert outcome.kept, outcome.numbers
    return outcome


@pytest.mark.slow
def test_what_is_better_is_kept_used_listed_and_removed(own: Path, kept: adaptation.Outcome) -> None:
    joined = kept.numbers["masr"]
    assert joined["hits_after"] > joined["hits_before"]
    model = models.adapted()["mine"]
    assert (model, models.in_use()) == (kept.model, "mine")
    card = models.card("mine")
    for words in (model.sha256, f"{joined['hits_after']:.3f}", "2 unlabelled images", "not a medical device"):
        assert words in card
    assert str(own) not in card
    assert "T1.nii" not in card

    encoder = Encoder.of("masr-adapted", CPU)
    assert (encoder.sha256, encoder.name) == (model.sha256, "masr-adapted+mind-ssc")
    listed = CliRunner().invoke(cli.app, ["models"])
    assert "mine               ok" in listed.stdout
    assert "in use as masr-adapted" in listed.stdout
    assert CliRunner().invoke(cli.app, ["models", "card", "mine"]).stdout == card

    again = Settings("mine-2", "mine", steps=1, spacing_mm=2.0, size=32)
    assert adaptation._base(again.base)[1].sha256 == model.sha256

    (models.user_folder() / model.file).write_bytes(b"other")
    with pytest.raises(WeightsError, match="damaged"):
        Encoder.of("masr-adapted", CPU)
    assert CliRunner().invoke(cli.app, ["models", "remove", "mine"]).exit_code == 0
    assert (models.adapted(), models.in_use()) == ({}, None)
    assert [p.name for p in models.user_folder().iterdir()] == [models.INDEX]
    encoder, warnings = Encoder.or_mind("masr-adapted", CPU)
    assert encoder.name == "mind-ssc"
    assert "No model is adapted" in warnings[0]


def test_another_model_can_be_put_to_use(own: Path) -> None:
    for name in ("a", "b"):
        models.user_folder().mkdir(exist_ok=True)
        entry = models.Model(name, f"{name}.safetensors", "", "masr", name, {"width": 4, "radii": [1]})
        models.save(MasrNet(4, (1,)), entry, models.user_folder())
    assert models.in_use() is None
    assert CliRunner().invoke(cli.app, ["models", "use", "b"]).exit_code == 0
    assert models.load("masr-adapted")[1].name == "b"
    models.remove("a")
    assert models.in_use() == "b"
    failed = CliRunner().invoke(cli.app, ["models", "use", "a"])
    assert (failed.exit_code, failed.stderr) == (2, 'There is no adapted model "a". There are: b.\n')


class TestComparison:
    def of(self, before: list[float], after: list[float], alone: float = 0.0) -> held_back.Comparison:
        still = np.array(before)
        return held_back.Comparison(
            {"masr": still, "dsir": still}, {"masr": np.array(after), "dsir": still + alone}
        )

    def test_a_clear_gain_is_better(self) -> None:
        comparison = self.of([0.5] * 50 + [3.0] * 50, [0.5] * 60 + [3.0] * 40)
        assert comparison.gain("masr") == pytest.approx((0.1, 0.03))
        assert comparison.better

    def test_a_gain_by_chance_is_not(self) -> None:
        rng = np.random.default_rng(0)
        before = rng.uniform(0, 2, 100)
        after = before.copy()
        after[:6], after[6:11] = 0.5, 1.5
        before[:6], before[6:11] = 1.5, 0.5
        assert self.of(list(before), list(after)).gain("masr")[0] > 0
        assert not self.of(list(before), list(after)).better

    def test_nothing_and_a_loss_are_not(self) -> None:
        assert not self.of([0.5, 2.0] * 50, [0.5, 2.0] * 50).better
        assert not self.of([0.5] * 60 + [3.0] * 40, [0.5] * 50 + [3.0] * 50).better

    def test_features_must_not_get_worse(self) -> None:
        assert not self.of([0.5] * 50 + [3.0] * 50, [0.5] * 60 + [3.0] * 40, alone=0.8).better


class TestHeldBack:
    def image(self, shape: tuple[int, int, int]) -> Image:
        intensity = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        body = torch.zeros(shape, dtype=torch.bool)
        body[2:-2, 2:-2, 2:-2] = True
        return Image(intensity, body)

    def test_no_voxel_is_in_both_parts(self) -> None:
        image = self.image((40, 130, 50))
        kept, block = held_back.split(image)
        assert torch.equal(torch.cat((kept.intensity, block.intensity), dim=1), image.intensity[:, :128])
        assert block.intensity.shape == (40, 38, 50)

    def test_small_images_are_refused(self) -> None:
        with pytest.raises(InputError, match="too small"):
            held_back.split(self.image((40, 50, 40)))

    def test_the_truth_of_the_pairs_is_where_the_places_are(self) -> None:
        """Without artefacts and contrast, the warped block shows at an anchor what the still one shows at its truth."""
        image = self.image((48, 56, 40))
        smooth = torch.nn.functional.avg_pool3d(image.intensity[None, None], 9, 1, 4)[0, 0]
        held = Image((smooth - smooth.min()) / (smooth.max() - smooth.min()), image.body)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(held_back, "degrade", lambda images, generator: images)
            patch.setattr(held_back, "intensity_transform", lambda image, generator: image)
            ((pair, protocol),) = held_back.pairs([held], 50, 1)[:1]
        assert protocol.anchors == -(-50 // held_back.TIMES)
        from masr_registration.transforms.grid import pool, sample

        fixed, moving = (pool(x[None], 2) for x in (pair.fixed, pair.moving))
        at = [
            sample(i, torch.from_numpy(p.T).float())[0]
            for i, p in ((fixed, pair.anchors), (moving, pair.truth))
        ]
        assert torch.corrcoef(torch.stack(at))[0, 1] > 0.9
        moved = np.abs((pair.truth - pair.anchors).mean(axis=0)) * 2
        assert moved.min() > 1.0, "a place in the grid must not be an answer"
        assert pair.truth.min() >= 0
        assert (pair.truth <= np.array(pair.cells.size) - 1).all()


class TestFaults:
    def test_a_run_cannot_change_its_images_or_settings(self, own: Path, data: Path) -> None:
        adapt(data, own / "run", replace(QUICK, steps=1, rate=1e-9))
        with pytest.raises(InputError, match="other images or settings"):
            adapt(data, own / "run", replace(QUICK, steps=2))
        (own / "run" / adaptation.STATE).write_text("[]")
        with pytest.raises(InputError, match="cannot be understood"):
            adapt(data, own / "run", QUICK)

    def test_a_training_is_not_continued(self, own: Path, data: Path) -> None:
        (own / "run").mkdir()
        (own / "run" / "checkpoint.pt").touch()
        with pytest.raises(InputError, match="another training"):
            adapt(data, own / "run", QUICK)

    @pytest.mark.parametrize(
        "changes",
        [
            {"name": ""}, {"name": "../x"}, {"name": "masr"}, {"name": "masr-adapted"}, {"steps": 0}, {"size": 40},
            {"rate": 0.0}, {"spacing_mm": 0.0}, {"seed": -1},
        ],
    )  # fmt: skip
    def test_settings_that_cannot_be(self, own: Path, changes: dict[str, Any]) -> None:
        with pytest.raises(InputError):
            replace(QUICK, **changes)

    def test_the_command_line_tells_in_one_sentence(self, own: Path, tmp_path: Path) -> None:
        def fails(*arguments: str) -> str:
            done = CliRunner().invoke(cli.app, ["train", "encoder", "--output", str(own / "run"), *arguments])
            assert done.exit_code == 2
            return done.stderr

        (tmp_path / "empty").mkdir()
        assert "no images" in fails("--data", str(tmp_path / "empty"))
        assert "belongs to --data" in fails("--name", "x")

    def test_the_representation_is_one_of_a_preset(self) -> None:
        assert presets.load("brain-mr").with_representation("masr-adapted").representation == "masr-adapted"


@pytest.mark.slow
def test_the_command_line_adapts(own: Path, data: Path) -> None:
    options = ["--data", str(data), "--steps", "1", "--rate", "1e-9", "--spacing", "2", "--size", "32"]
    done = CliRunner().invoke(cli.app, ["train", "encoder", "--output", str(own / "run"), *options])
    assert done.exit_code == 0, done.output
    assert "was not kept" in done.stdout
    assert json.loads((own / "run" / adaptation.STATE).read_text())["settings"]["name"] == "own-images"


def test_the_page_knows_the_commands(root: Path) -> None:
    page = (root / "Docs" / "adaptation.md").read_text(encoding="utf-8")
    command: Any = typer.main.get_command(cli.app)
    groups = command.commands
    places = {
        "train encoder": groups["train"].commands["encoder"],
        "register": groups["register"],
        **{f"models {name}": sub for name, sub in groups["models"].commands.items()},
    }
    shown = [line for line in page.splitlines() if line.startswith("masr ") and line != "masr models"]
    assert len(shown) >= 4
    for line in shown:
        name = next(place for place in places if line.startswith(f"masr {place}"))
        known = {opt for parameter in places[name].params for opt in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", line)) <= known, line
    defaults = Settings("x")
    for text in (f"({defaults.steps})", f"{defaults.spacing_mm} mm", f"{defaults.places} questions"):
        assert text in page
    assert f"last {100 * held_back.SHARE:.0f} %" in page


def test_the_page_quotes_what_was_measured(root: Path) -> None:
    page = (root / "Docs" / "adaptation.md").read_text(encoding="utf-8")
    results = root / "Testing" / "benchmarks" / "results" / "2026-11-28-adaptation.json"
    for pair, result in json.loads(results.read_text(encoding="utf-8"))["pairs"].items():
        for row in result["gains"].values():
            numbers = f"| {row['before']:.3f} | {row['after']:.3f} | {row['gain']:+.4f} ({row['standard_error']:.4f}) |"
            assert numbers in page, (pair, numbers)


def background(request: dict[str, Any]) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-m", "masr_registration.training"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(request) + "\n")
    process.stdin.flush()
    return process


def lines(process: subprocess.Popen[str], enough: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    assert process.stdout is not None
    events = []
    for line in process.stdout:
        events.append(json.loads(line))
        if enough(events[-1]):
            break
    return events


@pytest.mark.slow
def test_the_background_process_stops_when_its_parent_does_and_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASR_MODELS", str(tmp_path / "models"))
    (tmp_path / "one").mkdir()
    shutil.copy(data / "T1.nii.gz", tmp_path / "one")
    request = {
        "data": str(tmp_path / "one"),
        "folder": str(tmp_path / "run"),
        "name": "mine",
        "steps": 100_000,
    }
    request |= {"spacing_mm": 2.0, "size": 32, "threads": 1, "places": 60}
    process = background(request)
    events = lines(process, lambda event: event["type"] != "progress" or event["step"] > 1)
    assert events[-1]["stage"] == "adapting", events[-1]
    assert process.stdin is not None
    process.stdin.close()
    assert lines(process, lambda event: event["type"] != "progress")[-1]["code"] == "cancelled"
    assert process.wait(20) == 130
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] >= 2
    assert not (tmp_path / "models").exists()


def test_the_background_process_refuses_nonsense(tmp_path: Path) -> None:
    for request in ({}, {"data": "x", "folder": "y", "name": "z", "colour": 1}):
        process = background(request)
        (event,) = lines(process, lambda event: True)
        assert (event["type"], event["code"], process.wait(20)) == ("error", "input", 2)
