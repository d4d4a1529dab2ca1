"""Names of devices."""

from __future__ import annotations

import pytest
import torch
from masr_registration.device import resolve_device
from masr_registration.errors import InputError, ResourceError


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A machine with as many CUDA cards as the parameter says."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: request.param)


with_cards = pytest.mark.parametrize("cards", [0, 2], indirect=True)
none, two = (pytest.mark.parametrize("cards", [n], indirect=True) for n in (0, 2))


@with_cards
@pytest.mark.parametrize(
    "name", ["", "gpu", "CPU", "cuda:", "cuda:-1", "cuda:1x", "xla", "meta", "cpu:0", "cuda 1"]
)
def test_other_words_are_input_errors(cards: None, name: str) -> None:
    with pytest.raises(InputError, match="Devices: auto, cpu, cuda, cuda:N, mps"):
        resolve_device(name)


@none
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:1", "mps", "cuda:99999999999999999999"])
def test_a_missing_device_is_a_lack_of_resources(cards: None, name: str) -> None:
    with pytest.raises(ResourceError, match=name):
        resolve_device(name)


@two
def test_cards_are_counted(cards: None) -> None:
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda")
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ResourceError):
        resolve_device("cuda:2")


@none
def test_auto_falls_back_on_the_processor(cards: None) -> None:
    assert resolve_device("auto") == resolve_device("cpu") == torch.device("cpu")
