"""The weights of encoders and of the registration network, that ship or were adapted here: lists with hashes,
and loading that trusts nothing else.

``data/models/models.json`` names every model with its file, sha256 and the shape of its network. A file is read once,
its bytes are hashed, and only bytes of the right hash are decoded (safetensors: numbers, no code). Models adapted to a
user's own data lie in a folder of the user (`user_folder`) with a list of the same form; one of them is in use, and
stands behind the representation `ADAPTED`. Importable without torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import InputError, ResourceError
from ..worker.staging import writing

if TYPE_CHECKING:
    from torch import nn

FORMAT_VERSION = 1
INDEX = "models.json"
IN_USE = "in-use"
ADAPTED = "masr-adapted"
Kind = Literal["masr", "masr-faithful", "registration"]
State = Literal["ok", "missing", "damaged"]


class WeightsError(ResourceError):
    """Weights that are not there or not what they should be."""


@dataclass(frozen=True)
class Model:
    """One entry of the list.

    Attributes:
        file, sha256: base name of the safetensors file and the hash of its bytes.
        kind: "masr" is `MasrNet`, "masr-faithful" `FaithfulMasrNet`, "registration" `RegistrationNetwork`.
        options: the network's arguments.
        card: base name of the model card.
        encoder_sha256: of the weights whose features a registration network was trained with.
    """

    name: str
    file: str
    sha256: str
    kind: Kind
    description: str
    options: dict[str, Any] = field(default_factory=dict)
    card: str | None = None
    encoder_sha256: str | None = None

    def read(self, folder: Any = None) -> bytes:
        """The file's bytes. Raises `WeightsError` unless they have the right hash."""
        try:
            content: bytes = _folder(folder).joinpath(self.file).read_bytes()
        except OSError as error:
            raise WeightsError(f'The weights "{self.name}" are missing ({self.file}).') from error
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise WeightsError(
                f'The weights "{self.name}" are damaged: {self.file} does not have the expected sha256.'
            )
        return content

    def state(self, folder: Any = None) -> State:
        """Whether the file is there and has the right hash."""
        if not _folder(folder).joinpath(self.file).is_file():
            return "missing"
        try:
            self.read(folder)
        except WeightsError:
            return "damaged"
        return "ok"


def shipped(folder: Any = None) -> dict[str, Model]:
    """The models by name; empty where none ship. Raises `WeightsError` when the list cannot be read."""
    index = _folder(folder).joinpath(INDEX)
    if not index.is_file():
        return {}
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        if content["masr_models"] != FORMAT_VERSION:
            raise ValueError(content["masr_models"])
        known = {item.name for item in fields(Model)} - {"name"}
        return {
            name: Model(name=name, **{key: entry[key] for key in known & set(entry)})
            for name, entry in content["models"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"The list of the weights ({INDEX}) cannot be read.") from error


def user_folder() -> Path:
    """Of the models that were adapted by this user: `MASR_MODELS`, or the place for data of the operating system."""
    if chosen := os.environ.get("MASR_MODELS"):
        return Path(chosen)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "masr-registration" / "models"


def adapted() -> dict[str, Model]:
    """The user's models by name. Raises `WeightsError` when the list cannot be read."""
    return shipped(user_folder())


def in_use() -> str | None:
    """The name of the adapted model that stands behind `ADAPTED`; None without one."""
    try:
        name = (user_folder() / IN_USE).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return name if name in adapted() else None


def use(name: str) -> None:
    """From now on, `ADAPTED` is this model. Raises `InputError`, `ResourceError`."""
    _check_adapted(name)
    with writing("The choice of the model"):
        (user_folder() / IN_USE).write_text(name + "\n", encoding="utf-8")


def remove(name: str) -> None:
    """Remove an adapted model with its card. Raises `InputError`, `ResourceError`."""
    model, folder = _check_adapted(name), user_folder()
    was_in_use = in_use() == name
    with writing("The list of the models"):
        _write_index({other: entry for other, entry in adapted().items() if other != name}, folder)
        if was_in_use:
            (folder / IN_USE).unlink()
        for file in (model.file, model.card):
            if file is not None:
                (folder / file).unlink(missing_ok=True)


def card(name: str) -> str:
    """The card of a model, one that ships or an adapted one. Raises `InputError`."""
    for models, folder in ((shipped(), None), (adapted(), user_folder())):
        if name in models and (file := models[name].card) is not None:
            try:
                text: str = _folder(folder).joinpath(file).read_text(encoding="utf-8")
            except OSError as error:
                raise InputError(f'The card of "{name}" is missing.') from error
            return text
    raise InputError(f'There is no model "{name}" with a card.')


def _check_adapted(name: str) -> Model:
    models = adapted()
    if name not in models:
        known = ", ".join(models) or "none"
        raise InputError(f'There is no adapted model "{name}". There are: {known}.')
    return models[name]


def load(name: str, folder: Any = None) -> tuple[nn.Module, Model]:
    """The network `name` with its weights in float32, frozen, on the CPU; `ADAPTED` is the adapted model in use.

    Raises `WeightsError`: not in the list, missing, damaged, of another network, or safetensors is not installed.
    """
    if name == ADAPTED and folder is None:
        chosen = in_use()
        if chosen is None:
            raise WeightsError("No model is adapted to own data on this computer.")
        name, folder = chosen, user_folder()
    models = shipped(folder)
    if name not in models:
        raise WeightsError(f'The weights "{name}" do not come with this installation.')
    model = models[name]
    content = model.read(folder)
    try:
        from safetensors.torch import load as decode
    except ImportError as error:
        raise WeightsError(
            f'The weights "{name}" cannot be read: the Python package safetensors is not installed.'
        ) from error
    try:
        network = build(model.kind, model.options)
        network.load_state_dict(decode(content))
    except Exception as error:
        raise WeightsError(f'The weights "{name}" do not fit their network.') from error
    return network.eval().requires_grad_(False), model


def build(kind: Kind, options: Mapping[str, Any]) -> nn.Module:
    """An untrained network of this kind."""
    from ..solver.amortized import RegistrationNetwork
    from .masr_net import FaithfulMasrNet, MasrNet

    if kind == "registration":
        return RegistrationNetwork(**options)
    return FaithfulMasrNet(**options) if kind == "masr-faithful" else MasrNet(**options)


def save(network: nn.Module, model: Model, folder: Path) -> Model:
    """Write weights as fp16 and enter them into the list in `folder`; the sha256 of `model` is filled in."""
    from safetensors.torch import save as encode

    content = encode({key: value.half().contiguous().cpu() for key, value in network.state_dict().items()})
    entered = Model(**{**asdict(model), "sha256": hashlib.sha256(content).hexdigest()})
    (folder / model.file).write_bytes(content)
    _write_index({**shipped(folder), model.name: entered}, folder)
    return entered


def _write_index(entries: Mapping[str, Model], folder: Path) -> None:
    table = {
        name: {key: value for key, value in asdict(entry).items() if key != "name" and value is not None}
        for name, entry in sorted(entries.items())
    }
    text = json.dumps({"masr_models": FORMAT_VERSION, "models": table}, indent=2) + "\n"
    temporary = folder / f".{INDEX}"
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(folder / INDEX)


def _folder(folder: Any) -> Any:
    return files("masr_registration").joinpath("data", "models") if folder is None else folder
