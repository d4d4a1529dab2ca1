"""The registration network: symmetric by construction, any size, weights that fit their encoder, in the pipeline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from masr_registration import api, cli, compiled, presets
from masr_registration.errors import InputError
from masr_registration.presets import Method, Preset
from masr_registration.representation import models
from masr_registration.representation.masr_net import MasrNet
from masr_registration.representation.models import WeightsError
from masr_registration.solver import amortized, linear
from masr_registration.solver.amortized import (
    ENCODER,
    NETWORK,
    STRIDES,
    Amortized,
    Pyramid,
    RegistrationNetwork,
    local_products,
    local_products_reference,
    pooled_weights,
    structure,
    to_level,
)
from masr_registration.solver.cost import predicted_seconds, refinement
from masr_registration.solver.pipeline import register
from masr_registration.transforms.grid import pool, warp
from masr_registration.transforms.jacobian import STRICT_BOUND
from masr_registration.transforms.velocity import exponential
from masr_registration.volume import Volume
from masr_registration.worker import messages
from phantoms import Head, geometry, smooth_field
from torch import Generator, Tensor, nn
from typer.testing import CliRunner

CPU = torch.device("cpu")
CHANNELS = (44, 28, 28)
ODD = (11, 7, 9)
HEAD = Head(radii=(30.0, 37.0, 33.0), wavelengths=(24.0, 70.0))
FIXED = geometry((26, 32, 28), (3.0, 3.0, 3.0))
BEND = smooth_field(geometry((32, 32, 32), (4.0, 4.0, 4.0)), 8.0, 1, wavelength=0.6)
BASE = replace(presets.load("general"), working_spacing_mm=3.0)
QUICK = replace(
    BASE,
    linear=replace(BASE.linear, model="none"),
    continuous=replace(BASE.continuous, iterations=(4, 12)),
)


@pytest.fixture(autouse=True)
def coarser_linear_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "COARSE_MM", 7.0)
    monkeypatch.setattr(linear, "FINE_MM", 5.0)


def network(seed: int = 0, scale: float = 0.05) -> RegistrationNetwork:
    """With weights as after a training: what starts at zero is not."""
    torch.manual_seed(seed)
    net = RegistrationNetwork(CHANNELS, width=8)
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=scale)
    return net.requires_grad_(False).eval()


def random_pyramid(seed: int, cells: tuple[int, int, int]) -> Pyramid:
    generator = Generator().manual_seed(seed)
    shapes = [[-(-n * STRIDES[-1] // stride) for n in cells] for stride in STRIDES]
    features = [
        torch.randn(c, *shape, generator=generator) for c, shape in zip(CHANNELS, shapes, strict=True)
    ]
    weights = [(torch.rand(*shape, generator=generator) > 0.2).float() for shape in shapes]
    return Pyramid(tuple(features), tuple(weights))


@pytest.fixture(scope="module")
def encoder() -> MasrNet:
    torch.manual_seed(1)
    return MasrNet(4).requires_grad_(False).eval()


def view(shape: tuple[int, int, int], seed: int) -> Tensor:
    noise = torch.rand(1, *(n // 4 + 2 for n in shape), generator=Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(noise[None], size=shape, mode="trilinear")[0, 0]


def pyramids_of(encoder: nn.Module, *images: Tensor) -> list[Pyramid]:
    """Of images at half the working resolution."""
    return [
        Pyramid(structure(encoder, image), pooled_weights(torch.ones_like(image), STRIDES[-1] // 2))
        for image in images
    ]


@pytest.mark.parametrize("cells", [(8, 8, 8), ODD, (2, 13, 3), (1, 1, 1)])
def test_swapped_images_give_the_negative_velocity_and_the_inverse(cells: tuple[int, int, int]) -> None:
    first, second = random_pyramid(1, cells), random_pyramid(2, cells)
    there = network()(first, second, 2.0)
    back = network()(second, first, 2.0)
    assert [v.shape[1:] for v in there] == [first.features[level].shape[1:] for level, _ in amortized.STEPS]
    assert there[-1].abs().max() > 0.001
    for one, other in zip(there, back, strict=True):
        torch.testing.assert_close(one, -other, rtol=0, atol=1e-6)
    if min(cells) > 4:
        velocity = 0.3 * there[-1] / there[-1].abs().max()
        forward, backward = exponential(velocity), exponential(-velocity)
        assert (forward + warp(backward, forward)).abs()[:, 1:-1, 1:-1, 1:-1].max() < 0.05


@pytest.mark.parametrize("cells", [(8, 8, 8), ODD])
def test_an_image_does_not_move_against_itself(cells: tuple[int, int, int]) -> None:
    image = random_pyramid(1, cells)
    for velocity in network()(image, image, 2.0):
        assert velocity.abs().max() == 0


def test_untrained_it_finds_which_way_an_image_was_moved(encoder: MasrNet) -> None:
    image = view((48, 48, 48), 0)
    moved = warp(image[None], torch.tensor([3.0, 0.0, 0.0]).reshape(3, 1, 1, 1).expand(3, 48, 48, 48))[0]
    fixed, moving = pyramids_of(encoder, moved, image)
    torch.manual_seed(0)
    channels = [f.shape[0] for f in fixed.features]
    with torch.no_grad():
        velocity = RegistrationNetwork(channels)(fixed, moving, 0.25)[-1][:, 6:-6, 6:-6, 6:-6]
    found = velocity.mean(dim=(1, 2, 3))
    assert found[0] == pytest.approx(1.5, abs=0.5)
    assert found[1:].abs().max() < 0.3


def test_the_weight_of_the_smoothness_is_heard() -> None:
    net, first, second = network(scale=0.5), random_pyramid(1, ODD), random_pyramid(2, ODD)
    weak, strong, stronger = (net(first, second, weight)[-1] for weight in (0.5, 16.0, 1e6))
    assert not torch.allclose(weak, strong, atol=1e-3)
    torch.testing.assert_close(strong, stronger, rtol=0, atol=0)


def test_what_is_not_known_does_not_count() -> None:
    first, second = random_pyramid(1, (8, 8, 8)), random_pyramid(2, (8, 8, 8))
    hidden = second._replace(weights=tuple(torch.zeros_like(w) for w in second.weights))
    assert not torch.allclose(network()(first, second, 2.0)[-1], network()(first, hidden, 2.0)[-1])


@pytest.mark.parametrize("radius", [1, 2])
def test_compiled_products_agree_with_torch_and_their_gradients_do(radius: int) -> None:
    if compiled.products is None:
        pytest.skip("needs numba")
    generator = Generator().manual_seed(0)
    values = [torch.randn(5, 4, 6, 3, generator=generator) for _ in range(2)]
    outer = torch.randn((2 * radius + 1) ** 3, 4, 6, 3, generator=generator)
    found = []
    for compiled_path in (True, False):
        first, second = (v.clone().requires_grad_() for v in values)
        if compiled_path:
            products = local_products(first, second, radius)
        else:
            padded = nn.functional.pad(second[None], (radius,) * 6, mode="replicate")[0]
            products = local_products_reference(first, padded, radius)
        found.append((products.detach(), *torch.autograd.grad(products, (first, second), outer)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    middle = (2 * radius + 1) ** 3 // 2
    torch.testing.assert_close(found[0][0][middle], (values[0] * values[1]).sum(dim=0))


def test_a_finer_level_has_the_same_velocity_in_smaller_cells() -> None:
    j = torch.arange(6.0)
    velocity = torch.zeros(3, 5, 6, 4)
    velocity[1] = j[None, :, None]
    finer = to_level(velocity, (9, 12, 8))
    assert finer.shape == (3, 9, 12, 8)
    torch.testing.assert_close(finer[1, 4, 1:-1, 4], 2 * ((torch.arange(1.0, 11.0) + 0.5) / 2 - 0.5))
    assert torch.equal(to_level(velocity, velocity.shape[1:]), velocity)


def test_pyramids_of_odd_images_fit_their_weights(encoder: MasrNet) -> None:
    image = view((22, 18, 30), 0)
    (pyramid,) = pyramids_of(encoder, image)
    assert [f.shape[1:] for f in pyramid.features] == [(3, 3, 4), (6, 5, 8), (11, 9, 15)]
    assert [f.shape[1:] for f in pyramid.features] == [w.shape for w in pyramid.weights]


def test_from_images_on_the_working_grid_to_displacements(encoder: MasrNet) -> None:
    images = [view((40, 32, 48), seed) for seed in (0, 1)]
    weights = [torch.ones(40, 32, 48)] * 2
    model = Amortized(network(), encoder)
    forward, backward = model(images, weights, 2.0)
    assert forward.shape == backward.shape == (3, 10, 8, 12)
    swapped = model(images[::-1], weights, 2.0)
    torch.testing.assert_close(swapped[0], backward, rtol=0, atol=1e-5)
    expected = structure(encoder, pool(images[0][None], 2)[0])
    assert [level.shape[0] for level in expected] == list(CHANNELS)


# the weights


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two small untrained models in place of those that ship."""
    torch.manual_seed(2)
    entered = models.save(
        MasrNet(2, (1,)),
        models.Model(ENCODER, "e.safetensors", "", "masr", "", {"width": 2, "radii": [1]}),
        tmp_path,
    )
    options = {"channels": list(CHANNELS), "width": 8}
    entry = models.Model(
        NETWORK, "n.safetensors", "", "registration", "", options, encoder_sha256=entered.sha256
    )
    models.save(network(), entry, tmp_path)
    monkeypatch.setattr(models, "_folder", lambda given: tmp_path if given is None else given)
    return tmp_path


def missing(folder: Path) -> None:
    (folder / "n.safetensors").unlink()


def damaged(folder: Path) -> None:
    (folder / "n.safetensors").write_bytes(b"damaged")


def no_encoder(folder: Path) -> None:
    (folder / "e.safetensors").unlink()


def other_encoder(folder: Path) -> None:
    model = models.Model(ENCODER, "e.safetensors", "", "masr", "", {"width": 2, "radii": [1]})
    torch.manual_seed(3)
    models.save(MasrNet(2, (1,)), model, folder)


def other_kind(folder: Path) -> None:
    model = models.shipped()[ENCODER]
    other = replace(model, name=NETWORK, file="o.safetensors", encoder_sha256=model.sha256)
    models.save(MasrNet(2, (1,)), other, folder)


SENTENCES = {
    missing: "are missing",
    damaged: "are damaged",
    no_encoder: "are missing",
    other_encoder: "made for other weights",
    other_kind: "not those of a registration network",
}


@pytest.mark.parametrize("harm", SENTENCES, ids=lambda harm: harm.__name__)
def test_weights_that_cannot_be_used_are_told_in_one_sentence(folder: Path, harm) -> None:
    assert Amortized.of(CPU).sha256 == models.shipped()[NETWORK].sha256
    harm(folder)
    with pytest.raises(WeightsError, match=SENTENCES[harm]):
        Amortized.of(CPU)
    model, (warning,) = Amortized.or_none("amortized", CPU)
    assert model is None
    assert "optimisation alone" in warning
    assert Amortized.or_none("optimise", CPU) == (None, [])


# the pipeline


def pair() -> tuple[Volume, Volume]:
    def bend(points: np.ndarray) -> np.ndarray:
        moved: np.ndarray = BEND.apply(torch.from_numpy(points.reshape(-1, 3))).numpy()
        return moved.reshape(points.shape)

    return HEAD.volume(FIXED, "t1"), HEAD.volume(FIXED, "t2", bend)


@pytest.mark.parametrize("method", ["amortized", "amortized+refine"])
def test_a_registration_by_the_network_is_checked_like_any_other(folder: Path, method: Method) -> None:
    result = register(*pair(), QUICK.with_method(method), device="cpu")
    assert result.method == method
    assert result.network_sha256 == models.shipped()[NETWORK].sha256
    assert result.metrics["folds"] == result.metrics["folds_dense"] == 0
    assert result.metrics["strict_bound"] < STRICT_BOUND
    assert result.metrics["inverse_consistency_max_mm"] < 0.5
    if method == "amortized+refine":
        assert result.metrics["fields"] > 0
        assert result.metrics["similarity_after"] < result.metrics["similarity_linear"]
    assert not any("optimisation" in warning for warning in result.warnings)


def test_no_velocity_of_the_network_folds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However wild: what the chain is made of passes the strict test."""

    def wild(self: Amortized, images: list[Tensor], weights: list[Tensor], regularisation: float):
        shape = [n // STRIDES[-1] for n in images[0].shape]
        velocity = 8 * torch.randn(3, *shape, generator=Generator().manual_seed(0))
        return exponential(velocity), exponential(-velocity)

    monkeypatch.setattr(Amortized, "__call__", wild)
    run = register(*pair(), QUICK.with_method("amortized"), device="cpu")
    assert run.metrics["folds"] == run.metrics["folds_dense"] == 0
    assert run.metrics["strict_bound"] < STRICT_BOUND


def test_without_weights_it_is_optimised_and_said(folder: Path) -> None:
    damaged(folder)
    fallen = register(*pair(), QUICK.with_method("amortized"), device="cpu")
    assert (fallen.method, fallen.network_sha256) == ("optimise", None)
    (warning,) = fallen.warnings
    assert "damaged" in warning
    assert "optimisation alone" in warning
    plain = register(*pair(), QUICK, device="cpu")
    assert plain.warnings == []
    np.testing.assert_array_equal(fallen.transform.dense(FIXED), plain.transform.dense(FIXED))


def test_landmarks_that_cannot_pull_are_told(folder: Path) -> None:
    points = np.array([[0.0, 0.0, 0.0], [5.0, 0.0, 0.0], [0.0, 5.0, 0.0]])
    result = register(*pair(), QUICK.with_method("amortized"), landmarks=(points, points), device="cpu")
    assert any("landmarks did not pull" in warning for warning in result.warnings)


def test_features_are_kept_where_they_are_asked_for(folder: Path) -> None:
    kept = register(*pair(), QUICK.with_method("amortized"), keep_features=True, device="cpu")
    assert kept.features is not None
    assert kept.features.fixed.values.shape[-1] == 12


def test_the_method_by_the_python_interface(folder: Path) -> None:
    result = api.register(*pair(), preset=QUICK, method="amortized", device="cpu")
    assert result.provenance["method"] == "amortized"
    assert result.provenance["preset"]["method"] == "amortized"
    assert result.provenance["network_sha256"] == models.shipped()[NETWORK].sha256
    with pytest.raises(InputError, match="optimise, amortized, amortized\\+refine"):
        api.register(*pair(), preset=QUICK, method="magic", device="cpu")


def test_the_method_by_the_command_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the command sends to the process that registers; that is tested through the Python interface."""
    requests: list[messages.Request] = []

    def caught(request: messages.Request) -> None:
        requests.append(request)
        raise InputError("enough")

    monkeypatch.setattr(cli, "_run", caught)
    images = ["register", "fixed.nii.gz", "moving.nii.gz", "--output", str(tmp_path)]
    assert CliRunner().invoke(cli.app, [*images, "--method", "amortized+refine"]).exit_code != 0
    assert requests[0].preset["method"] == "amortized+refine"
    CliRunner().invoke(cli.app, images)
    assert requests[1].preset["method"] == "optimise"
    refused = CliRunner().invoke(cli.app, [*images, "--method", "magic"])
    assert refused.exit_code == InputError.exit_code
    assert "method must be one of optimise, amortized, amortized+refine" in refused.output
    assert len(requests) == 2


def test_what_it_costs() -> None:
    whole, refined, alone = (
        predicted_seconds(3e6, BASE.with_method(m), 1) for m in ("optimise", "amortized+refine", "amortized")
    )
    assert alone["continuous"] == 0 < refined["continuous"] < 0.8 * whole["continuous"]
    assert 0 < alone["discrete"] == refined["discrete"] < whole["discrete"]
    assert 0 < refinement(BASE.continuous).iterations[0] < BASE.continuous.iterations[0]
    assert refinement(BASE.continuous).iterations[1] == BASE.continuous.iterations[1]


def test_old_presets_optimise_and_new_ones_say_what_they_do() -> None:
    text = BASE.to_json()
    assert Preset.from_json(text) == BASE
    without = text.replace(',\n  "method": "optimise"', "")
    assert "method" not in without
    assert Preset.from_json(without).method == "optimise"
    with pytest.raises(InputError, match=r"preset\.method must be one of"):
        Preset.from_json(text.replace('"optimise"', '"guess"'))
