"""Training of MASR-Net: resumable to the step, with moving averages of the weights and a log in CSV.

Step n of a seed always sees the same pairs and draws the same places, so a run that was stopped and resumed on the CPU
ends with the same bits as one that was not.
"""

from __future__ import annotations

import copy
import csv
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import safetensors.torch
import torch
from torch import Generator, Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from ..case.monitor import CancelFlag
from ..device import resolve_device
from ..errors import CancelledError, InputError
from ..representation.masr_net import FaithfulMasrNet, Features, MasrNet
from .losses import at, draw_places, info_nce, label_aware, local_loss, window_loss
from .pairs import Pair
from .shapes import seeded

CHECKPOINT = "checkpoint.pt"
LOG = "log.csv"
TERMS = ("fine", "window", "middle", "coarse", "label", "local")
Item = TypeVar("Item")
Net = TypeVar("Net", bound=nn.Module)
Progress = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class Schedule:
    """What every training needs to know.

    Attributes:
        steps: of the whole run; the learning rate falls as a cosine towards it.
        average: share of the old in the moving average of the weights.
        bfloat16: mixed precision.
    """

    steps: int = 20_000
    seed: int = 0
    rate: float = 1e-3
    warm_up: int = 300
    weight_decay: float = 0.01
    gradient_limit: float = 1.0
    average: float = 0.999
    bfloat16: bool = True


@dataclass(frozen=True)
class Recipe(Schedule):
    """How to train the encoder; everything that a checkpoint must agree with or may change on the way.

    Attributes:
        places: cells of each pair that the contrastive terms compare, a third of them in the window term.
        window_radius: cells of the window in which a solver searches.
        weights: of the terms in `TERMS`.
        faithful: trains the network of the paper; `width` and `radii` are those of the practical one.
    """

    width: int = 16
    radii: tuple[int, ...] = (1, 2)
    temperature: float = 0.07
    window_temperature: float = 0.05
    window_radius: int = 10
    places: int = 768
    weights: tuple[float, ...] = (1.0, 1.0, 0.3, 0.2, 0.05, 0.5)
    faithful: bool = False

    def network(self) -> MasrNet | FaithfulMasrNet:
        """An untrained one."""
        return FaithfulMasrNet() if self.faithful else MasrNet(self.width, self.radii)


class BaseTrainer(Generic[Item, Net]):
    """The state of a run: network, its moving average, optimiser, step. `Item` is what one step looks at."""

    recipe: Schedule

    def __init__(self, recipe: Schedule, device: torch.device, net: Net, parameters: Any = None) -> None:
        self.recipe, self.device, self.step = recipe, device, 0
        self.net = net.to(device)
        self.average = copy.deepcopy(self.net).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.net.parameters() if parameters is None else parameters,
            lr=recipe.rate,
            betas=(0.9, 0.98),
            weight_decay=recipe.weight_decay,
        )
        self.model: nn.Module = self.net

    def train_on(self, pair: Item, stream: int) -> dict[str, float]:
        """One step on one pair; `stream` is the pair's number, from which everything random is drawn."""
        raise NotImplementedError

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Begin with the weights of a model instead of random ones. `InputError` if it is of another architecture."""
        try:
            for network in (self.net, self.average):
                network.load_state_dict(weights)
        except RuntimeError as error:
            raise InputError("The model to start from is of another width or self-similarity.") from error

    def distribute(self) -> None:
        """Average the gradients over the processes that torchrun started."""
        self.model = nn.parallel.DistributedDataParallel(self.net)

    def rate(self) -> float:
        """Learning rate of the next step: linear warm-up, then half a cosine down to 1 %."""
        recipe = self.recipe
        done = min(1.0, self.step / recipe.steps)
        return (
            recipe.rate
            * min(1.0, (self.step + 1) / recipe.warm_up)
            * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))
        )

    def descend(self, loss: Tensor) -> Tensor:
        """One step of the optimiser and of the moving average; returns the norm of the gradient."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate() * group.get("factor", 1.0)
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), self.recipe.gradient_limit)
        if torch.isfinite(norm):
            self.optimizer.step()
        decay = min(self.recipe.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for average, value in zip(self.average.parameters(), self.net.parameters(), strict=True):
                average.lerp_(value, 1 - decay)
        self.step += 1
        return norm

    def save(self, file: Path) -> None:
        """Write the checkpoint beside its name and rename it, so that a stop in between does no harm."""
        state = {
            "step": self.step,
            "recipe": asdict(self.recipe),
            "net": self.net.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        partial = file.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(file)

    def load(self, file: Path) -> None:
        """Go on from a checkpoint. `InputError` if it is of another architecture or damaged."""
        try:
            state: dict[str, Any] = torch.load(file, map_location=self.device, weights_only=True)
            self.net.load_state_dict(state["net"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]
        except Exception as error:
            raise InputError(f"The checkpoint {file.name} does not fit this run: {error}") from error


class Trainer(BaseTrainer[Pair, MasrNet | FaithfulMasrNet]):
    """Of the encoder."""

    recipe: Recipe

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        torch.manual_seed(recipe.seed)
        super().__init__(recipe, device, recipe.network())

    def train_on(self, pair: Pair, stream: int) -> dict[str, float]:
        """One step on one pair; `stream` is the pair's number, from which the places are drawn."""
        generator = seeded(self.recipe.seed, stream)
        pair = Pair(*(t.to(self.device, non_blocking=True) for t in pair))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.bfloat16):
            features: Features = self.model(pair.images)
        terms = loss_terms(features, pair, self.recipe, generator)
        loss = sum((w * t for w, t in zip(self.recipe.weights, terms, strict=True)), torch.zeros(()))
        norm = self.descend(loss)
        values = [float(t.detach()) for t in (loss, *terms, norm)]
        return dict(zip(("loss", *TERMS, "gradient"), values, strict=True))


def loss_terms(features: Features, pair: Pair, recipe: Recipe, generator: Generator) -> tuple[Tensor, ...]:
    """The terms in the order of `TERMS`; zeros where the views share too little."""
    cells = draw_places(pair.valid, recipe.places, generator)
    if len(cells) < 16:
        zero = 0.0 * sum((f.sum() for f in features), torch.zeros((), device=pair.images.device))
        return (zero,) * len(TERMS)
    k, j, i = cells.T
    places = pair.place[:, k, j, i].T
    own = cells.flip(1).float()
    first, second = features.stride2
    fine = info_nce(at(first, places), second[:, k, j, i].T, places, recipe.temperature)
    window = window_loss(
        first,
        second,
        cells[::3],
        places[::3],
        recipe.window_temperature,
        recipe.window_radius,
        int(torch.randint(8, (), generator=generator)),
    )
    middle = _coarser(features.stride4, own[::2], places[::2], 2)
    coarse = _coarser(features.stride8, own[::3], places[::3], 4)
    return (
        fine,
        window,
        info_nce(*middle, recipe.temperature),
        info_nce(*coarse, recipe.temperature),
        label_aware(*coarse[:2], pair.labels[k, j, i][::3], 0.2),
        local_loss(first, second, cells, places, recipe.window_temperature, generator),
    )


def _coarser(features: Tensor, own: Tensor, places: Tensor, factor: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features of both views at cells and places of the stride-2 map, and the places, on a coarser map."""
    own, places = ((p - (factor - 1) / 2) / factor for p in (own, places))
    return at(features[0], places), at(features[1], own), places


def train(
    trainer: BaseTrainer[Item, Any],
    pairs: Dataset[Item],
    folder: Path,
    *,
    workers: int = 0,
    save_every: int = 250,
    stop_at: int | None = None,
    progress: Progress = lambda step, values: None,
    cancel: CancelFlag | None = None,
) -> None:
    """Train to the end of the recipe or to step `stop_at`, from the checkpoint in `folder` if there is one.

    Every `save_every` steps the checkpoint is written and a row of means goes to the log. When `cancel` is set, the
    checkpoint is written and `CancelledError` raised.
    """
    torch.use_deterministic_algorithms(trainer.device.type == "cpu")
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / CHECKPOINT
    if checkpoint.exists():
        trainer.load(checkpoint)
    if torch.distributed.is_initialized():
        trainer.distribute()
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    end = min(trainer.recipe.steps, stop_at or trainer.recipe.steps)
    sums: dict[str, float] = {}
    since, start = trainer.step, time.monotonic()
    numbers = range(trainer.step * world + rank, end * world, world)
    for number, pair in zip(numbers, _loader(pairs, numbers, workers), strict=True):
        values = trainer.train_on(pair, number)
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value
        progress(trainer.step, values)
        if cancel is not None and cancel.is_set():
            trainer.save(checkpoint)
            raise CancelledError
        if rank == 0 and (trainer.step % save_every == 0 or trainer.step == end):
            trainer.save(checkpoint)
            count = trainer.step - since
            row = {name: value / count for name, value in sums.items()}
            seconds = (time.monotonic() - start) / count
            _log(folder / LOG, {"step": trainer.step, "rate": trainer.rate(), "seconds": seconds, **row})
            sums, since, start = {}, trainer.step, time.monotonic()


def distributed_device(name: str) -> torch.device:
    """The device of this process; under torchrun it joins the others, and "auto" is the GPU of its own rank."""
    if "RANK" not in os.environ:
        return resolve_device(name)
    gpu = name == "auto" and torch.cuda.is_available()
    torch.distributed.init_process_group("nccl" if gpu or name.startswith("cuda") else "gloo")
    return resolve_device(f"cuda:{os.environ['LOCAL_RANK']}" if gpu else name)


def write_weights(trainer: BaseTrainer[Any, Any], file: Path) -> None:
    """The moving average of the weights as fp16 safetensors, with step and recipe as metadata."""
    weights = {name: value.half().contiguous().cpu() for name, value in trainer.average.state_dict().items()}
    safetensors.torch.save_file(weights, file, {"step": str(trainer.step), "recipe": repr(trainer.recipe)})


def _loader(pairs: Dataset[Item], numbers: range, workers: int) -> Iterable[Item]:
    """The pairs of these numbers in order, made ahead by `workers` processes of low priority.

    They are spawned: numba ends a process that was forked after its kernels had run.
    """
    return DataLoader(
        Subset(pairs, numbers),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        multiprocessing_context="spawn" if workers else None,
        worker_init_fn=_be_nice,
    )


def _be_nice(worker: int) -> None:
    torch.set_num_threads(1)
    if hasattr(os, "nice"):
        os.nice(10)


def _log(file: Path, row: dict[str, float]) -> None:
    new = not file.exists()
    with file.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        if new:
            writer.writerow(row)
        writer.writerow([f"{value:.6g}" for value in row.values()])
