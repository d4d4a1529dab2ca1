"""A model adapted to a user's own unlabelled images: fine-tuned, compared with before, kept only when better.

A run lives in a folder (`adaptation.json` says of what, `checkpoint.pt` how far) and can be stopped and resumed. What
is kept goes to the user's models (`representation.models`), with a card.
"""

from __future__ import annotations

import copy
import json
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import nn

from ..batch.study import replace_text
from ..case.monitor import CancelFlag
from ..device import resolve_device
from ..errors import CancelledError, InputError
from ..evaluation.discriminability import Descriptor
from ..hashing import input_sha256
from ..representation import models
from ..representation.encoder import Encoder, dsir
from ..representation.masr_net import MasrNet
from ..representation.models import Model
from ..worker.staging import writing
from . import held_back
from .held_back import Comparison
from .images import Image, ImagePairs, image_files
from .train_encoder import Recipe, Trainer, train

FORMAT_VERSION = 1
STATE, BEFORE = "adaptation.json", "before.npz"
WARM_UP = 50
_ENDLESS = 10**9
_SHOWN_SECONDS = 0.5
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
CARD = """# {name}

Adapted from `{base}` (sha256 `{base_sha256}`) to a user's own images. Weights: `{file}`, fp16, sha256 `{sha256}`.

## Intended use
Features for the registration of images like those that it was adapted to, on the computer where it was made. Research
software: not a medical device, and not for treatment decisions without independent verification. The weights may
remember something of the images: treat them like the images when you pass them on.

## Adaptation
{images} unlabelled images, by their contrast alone, at {spacing} mm; of each, the last {share:.0f} % along its longest
axis was held back. {steps} steps on views of {size} voxels.

```json
{settings}
```

## Before and after, on what was held back
{places} places, sought in a window of 10 voxels after a known warp under another contrast. Hits are places found
within {hit_cells:g} cells (of 2 voxels).

| compared by | hits before | hits after | gain (standard error) | median error before, cells | after |
|---|---|---|---|---|---|
{rows}

## Limits
Made contrasts and warps of the user's own images are not a registration of two scans. How well other images are
registered with this model was not measured.

## Licence
That of the model it came from. The method may be covered by a patent application of its authors (Mok et al., CVPR
2024).
"""


@dataclass(frozen=True)
class Settings:
    """What decides an adaptation besides the images; a run that is resumed must have the same.

    Attributes:
        name: of the adapted model.
        base: model to start from, one that ships or an adapted one.
        spacing_mm: to which the images are resampled.
        size: side of the views in voxels, a multiple of 16.
        rate: highest learning rate.
        places: how many are sought before and after.
    """

    name: str
    base: str = "masr"
    steps: int = 1000
    spacing_mm: float = 1.5
    size: int = 48
    rate: float = 2e-4
    seed: int = 0
    places: int = 1200

    def __post_init__(self) -> None:
        """Raises `InputError`."""
        if not _NAME.fullmatch(self.name):
            raise InputError("A model's name must be 1 to 40 letters, digits, dots, underscores or hyphens.")
        if self.name in models.shipped() or self.name == models.ADAPTED:
            raise InputError(f'"{self.name}" is a model that ships; choose another name.')
        if self.steps < 1 or self.size < 32 or self.size % 16 or self.places < 1:
            raise InputError(
                "An adaptation needs a step and a place at least, and views of 32, 48, 64, ... voxels."
            )
        if not 0.3 <= self.spacing_mm <= 10 or not 0 < self.rate <= 0.1 or not 0 <= self.seed < 2**31:
            raise InputError(
                "The spacing must be 0.3 to 10 mm, the rate up to 0.1, the seed a whole number from 0."
            )


@dataclass(frozen=True)
class Progress:
    """`fraction` of the whole; in the stage "adapting" also the step and the loss."""

    stage: str
    fraction: float
    eta_s: float | None = None
    step: int = 0
    loss: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        kept: whether the adapted model is better and was entered into the user's models.
        numbers: of `Comparison.to_json`.
        model: the entry, where it was kept.
    """

    kept: bool
    numbers: dict[str, Any]
    model: Model | None

    @property
    def sentence(self) -> str:
        joined = self.numbers["masr"]
        shares = f"{100 * joined['hits_before']:.1f} % of the places were found before, "
        shares += f"{100 * joined['hits_after']:.1f} % after"
        if self.kept and self.model is not None:
            return f'{shares}: "{self.model.name}" is kept and in use as {models.ADAPTED}.'
        return f"{shares}: no clear improvement, so the adapted model was not kept and nothing has changed."


def adapt(
    data: Path,
    folder: Path,
    settings: Settings,
    *,
    device: str = "auto",
    workers: int = 0,
    progress: Callable[[Progress], None] = lambda told: None,
    cancel: CancelFlag | None = None,
) -> Outcome:
    """Adapt a model to every image in the folder `data`, in the run's `folder`.

    Raises `InputError` (also where the folder holds another run), `ResourceError`, `CancelledError`; a cancelled run
    goes on where it was when it is called again.
    """

    def check() -> None:
        if cancel is not None and cancel.is_set():
            raise CancelledError

    files = image_files(data)
    base, entry = _base(settings.base)
    _begin(folder, settings, files, entry)
    progress(Progress("reading", 0.0))
    images = []
    for file in files:
        check()
        images.append(Image.read(file, settings.spacing_mm))
    parts = [held_back.split(image) for image in images]
    known = held_back.pairs([block for _, block in parts], settings.places, settings.seed)
    progress(Progress("measuring before", 0.02))
    before = _before(folder / BEFORE, lambda: held_back.errors(known, _descriptors(base), check))
    trainer = _trainer(settings, entry, base, resolve_device(device))
    pairs = ImagePairs([kept for kept, _ in parts], settings.size, settings.seed, _ENDLESS)
    train(
        trainer,
        pairs,
        folder,
        workers=workers,
        save_every=50,
        progress=_Told(progress, settings.steps),
        cancel=cancel,
    )
    progress(Progress("measuring after", 0.97))
    adapted = _rounded(trainer.average)
    comparison = Comparison(before, held_back.errors(known, _descriptors(adapted), check))
    numbers = comparison.to_json()
    model = _keep(adapted, settings, entry, len(files), numbers) if comparison.better else None
    with writing(f'"{STATE}"'):
        state = {
            **json.loads((folder / STATE).read_text(encoding="utf-8")),
            "numbers": numbers,
            "kept": bool(model),
        }
    replace_text(folder / STATE, json.dumps(state, indent=1, allow_nan=False) + "\n")
    progress(Progress("done", 1.0, 0.0))
    return Outcome(model is not None, numbers, model)


class _Told:
    """Steps as progress, twice a second, with the time that is left."""

    def __init__(self, progress: Callable[[Progress], None], steps: int) -> None:
        self._progress, self._steps = progress, steps
        self._begun: tuple[int, float] | None = None
        self._last, self._loss = 0.0, 0.0

    def __call__(self, step: int, values: dict[str, float]) -> None:
        now = time.monotonic()
        if self._begun is None:
            self._begun, self._loss = (step, now), values["loss"]
        self._loss += 0.05 * (values["loss"] - self._loss)
        if now - self._last < _SHOWN_SECONDS and step < self._steps:
            return
        self._last = now
        first, start = self._begun
        left = (now - start) / (step - first) * (self._steps - step) if step > first else None
        self._progress(Progress("adapting", 0.07 + 0.9 * step / self._steps, left, step, self._loss))


def _base(name: str) -> tuple[nn.Module, Model]:
    """The model to start from, one that ships or an adapted one. Raises `InputError`, `WeightsError`."""
    own = models.adapted()
    network, entry = models.load(name, models.user_folder() if name in own else None)
    if entry.kind != "masr":
        raise InputError(f'The model "{name}" cannot be adapted; start from masr or an adapted model.')
    return network, entry


def _begin(folder: Path, settings: Settings, files: list[Path], entry: Model) -> None:
    """Enter what the run is made of, or make sure that it is the same. Raises `InputError`."""
    run = {
        "masr_adaptation": FORMAT_VERSION,
        "settings": asdict(settings),
        "base_sha256": entry.sha256,
        "images": {file.name: input_sha256(file) for file in files},
    }
    path = folder / STATE
    if path.exists():
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            same = all(known[name] == value for name, value in run.items())
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"The {STATE} in the folder of the run cannot be understood; choose another."
            ) from error
        if not same:
            raise InputError(
                "The folder of the run was begun with other images or settings; repeat those, or choose another folder."
            )
        return
    with writing("The folder of the run"):
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.glob("checkpoint*")):
            raise InputError("The folder of the run holds another training; choose another folder.")
    replace_text(path, json.dumps(run, indent=1) + "\n")


def _before(file: Path, measure: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """What was measured when the run was begun, or is measured now."""
    try:
        with np.load(file, allow_pickle=False) as known:
            return {name: known[name] for name in held_back.REPRESENTATIONS}
    except (OSError, ValueError, KeyError, BadZipFile, EOFError):
        found = measure()
    with writing(f'"{file.name}"'):
        temporary = file.with_name(f".{file.name}")
        np.savez(temporary, **found)  # type: ignore[arg-type]
        temporary.replace(file)
    return found


def _trainer(settings: Settings, entry: Model, base: nn.Module, device: torch.device) -> Trainer:
    recipe = Recipe(
        steps=settings.steps,
        width=entry.options["width"],
        radii=tuple(entry.options["radii"]),
        seed=settings.seed,
        rate=settings.rate,
        warm_up=WARM_UP,
    )
    trainer = Trainer(recipe, device)
    trainer.start_from(base.state_dict())
    return trainer


def _rounded(network: nn.Module) -> nn.Module:
    """As it will be loaded: from fp16, frozen, on the CPU."""
    rounded = copy.deepcopy(network).cpu()
    rounded.load_state_dict({name: value.half().float() for name, value in rounded.state_dict().items()})
    return rounded.eval().requires_grad_(False)


def _descriptors(network: nn.Module) -> dict[str, Descriptor]:
    """What the solver compares, and the network's features alone."""
    encoder = Encoder(network)
    return {"masr": lambda image: encoder(image).pooled(), "dsir": lambda image: dsir(network, image)}


def _keep(network: nn.Module, settings: Settings, base: Model, images: int, numbers: dict[str, Any]) -> Model:
    """Enter it into the user's models with its card, and use it. Raises `ResourceError`."""
    assert isinstance(network, MasrNet)
    folder, name = models.user_folder(), settings.name
    description = f"{settings.base} adapted to {images} images, {settings.steps} steps"
    with writing("The folder of the user's models"):
        folder.mkdir(parents=True, exist_ok=True)
        model = models.save(
            network,
            Model(name, f"{name}.safetensors", "", "masr", description, base.options, card=f"{name}.md"),
            folder,
        )
    rows = "\n".join(
        "| {} | {:.3f} | {:.3f} | {:+.3f} ({:.3f}) | {:.2f} | {:.2f} |".format(
            {"masr": "MIND-SSC and features", "dsir": "features alone"}[name],
            *(
                numbers[name][key]
                for key in (
                    "hits_before",
                    "hits_after",
                    "gain",
                    "gain_error",
                    "median_before",
                    "median_after",
                )
            ),
        )
        for name in held_back.REPRESENTATIONS
    )
    card = CARD.format(
        name=name,
        base=settings.base,
        base_sha256=base.sha256,
        file=model.file,
        sha256=model.sha256,
        images=images,
        spacing=settings.spacing_mm,
        share=100 * held_back.SHARE,
        steps=settings.steps,
        size=settings.size,
        settings=json.dumps(asdict(settings), indent=2),
        places=numbers["places"],
        hit_cells=numbers["hit_cells"],
        rows=rows,
    )
    replace_text(folder / f"{name}.md", card)
    models.use(name)
    return model
