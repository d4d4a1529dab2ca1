"""The command line ``masr train``. Importable without torch."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ..errors import InputError, MasrError
from ..representation.models import adapted, load, user_folder
from ..terminal import cancel_on_signals, progress_bar

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.data import Dataset

    from .pairs import Pair, ProceduralPairs

ENDLESS = 10**9
train = typer.Typer(
    help="Train the encoder and the registration network on procedural anatomy and on your own images.",
    no_args_is_help=True,
)

LabelMaps = Annotated[
    Path | None, typer.Option(help="Folder of whole-head label maps at 1 mm with FreeSurfer's numbers.")
]
Maps = Annotated[int, typer.Option(help="How many procedural label maps to make (once).", min=0)]
Size = Annotated[int, typer.Option(help="Side of the views in voxels, a multiple of 16.", min=32)]


@train.callback()
def _train() -> None:
    pass


@train.command()
def encoder(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the run; a checkpoint there is resumed.")
    ],
    label_maps: LabelMaps = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of your own unlabelled volumes (MASR mode).")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Adapt --from (masr if not given) to the unlabelled volumes of this folder; kept only when better."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the adapted model, with --data.")] = None,
    image_share: Annotated[
        float, typer.Option(help="Share of the pairs from your images; 1 for them alone.", min=0, max=1)
    ] = 0.5,
    spacing: Annotated[
        float | None,
        typer.Option(
            help="To which your images are resampled, in mm. [default: 1; 1.5 with --data]", min=0.1
        ),
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", help="Model (see masr models) or safetensors file to start from.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Of the whole run. [default: 20000; 1000 with --data]", min=1)
    ] = None,
    maps: Maps = 300,
    size: Annotated[
        int | None,
        typer.Option(
            help="Side of the views in voxels, a multiple of 16. [default: 64; 48 with --data]", min=32
        ),
    ] = None,
    width: Annotated[int, typer.Option(help="Channels of the network at half resolution.", min=1)] = 16,
    similarity: Annotated[
        str, typer.Option(help="Self-similarity of the features: dilated, direct or none.")
    ] = "dilated",
    rate: Annotated[
        float | None, typer.Option(help="Highest learning rate. [default: 1e-3; 2e-4 with --data]")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that make pairs ahead.", min=0)] = 1,
    threads: Annotated[int, typer.Option(help="CPU threads of the trainer.", min=1)] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of weights, pairs and places.")] = 0,
) -> None:
    """Train MASR-Net; writes checkpoint.pt, log.csv and masr.safetensors. Under torchrun, one process per GPU.

    Two CPU cores overnight: --steps 60000. One GPU, half an hour: --size 96 --steps 15000 --workers 8.

    With --data, a model is adapted to your own images instead: fine-tuned, compared with what it was on parts that were
    held back, and kept (masr models) only when it is better.
    """
    with errors_in_one_sentence():
        if data is not None:
            chosen = {"steps": steps, "spacing_mm": spacing, "size": size, "rate": rate, "base": start}
            given = {key: value for key, value in chosen.items() if value is not None}
            _adapt(
                data,
                output,
                {"name": name or _name_of(data), "seed": seed, **given},
                device,
                workers,
                threads,
            )
            return
        if name is not None:
            raise InputError("--name belongs to --data.")
        import torch

        from .train_encoder import Recipe, Trainer, distributed_device, train, write_weights

        radii = {"dilated": (1, 2), "direct": (1,), "none": ()}.get(similarity)
        if radii is None:
            raise InputError(f'There is no self-similarity "{similarity}". There are: dilated, direct, none.')
        steps, size = steps or 20_000, size or 64
        if size % 16:
            raise InputError(f"The size of the views must be a multiple of 16, not {size}.")
        torch.set_num_threads(threads)
        recipe = Recipe(steps=steps, width=width, radii=radii, seed=seed, rate=rate or 1e-3)
        trainer = Trainer(recipe, distributed_device(device))
        if start is not None:
            trainer.start_from(read_weights(start))
        pairs = _pairs(output, label_maps, images, image_share, spacing or 1.0, maps, size, seed)
        with show_steps(steps) as show:
            train(trainer, pairs, output, workers=workers, progress=show)
        write_weights(trainer, output / "masr.safetensors")
        print(f"Weights: {output / 'masr.safetensors'}")


@train.command()
def sheet(
    output: Annotated[Path, typer.Option("--output", "-o", help="PNG file.")],
    label_maps: LabelMaps = None,
    maps: Maps = 40,
    size: Size = 64,
    count: Annotated[int, typer.Option(help="How many pairs.", min=1)] = 36,
    seed: Annotated[int, typer.Option(help="Of the pairs.")] = 0,
) -> None:
    """Draw pairs that the training sees, to look at."""
    with errors_in_one_sentence():
        from matplotlib.figure import Figure

        pairs = _pairs(output.parent, label_maps, None, 0.0, 1.0, maps, size, seed)
        rows = -(-count // 6)
        figure = Figure(figsize=(18, 1.6 * rows))
        axes = figure.subplots(rows, 12, squeeze=False)
        for number in range(count):
            images = pairs[number].images[:, 0, size // 2]
            for view in range(2):
                axis = axes[number // 6, 2 * (number % 6) + view]
                axis.imshow(images[view], cmap="gray", vmin=0, vmax=1)
        for axis in axes.flat:
            axis.axis("off")
        figure.savefig(output, dpi=70, bbox_inches="tight")


def _name_of(data: Path) -> str:
    """A name for the model from that of the folder."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", data.resolve().name).strip("-._")[:40] or "adapted"


def _adapt(
    data: Path, folder: Path, settings: dict[str, Any], device: str, workers: int, threads: int
) -> None:
    import torch

    from . import adapt as adaptation

    torch.set_num_threads(threads)
    console = Console(stderr=True)
    with cancel_on_signals() as cancel, progress_bar(console, console.is_terminal) as bar:
        task = bar.add_task("reading", total=1.0, left="")

        def show(told: adaptation.Progress) -> None:
            left = "" if told.eta_s is None else f"{told.eta_s / 60:.0f} min left"
            bar.update(task, description=told.stage, completed=told.fraction, left=left)

        outcome = adaptation.adapt(
            data,
            folder,
            adaptation.Settings(**settings),
            device=device,
            workers=workers,
            progress=show,
            cancel=cancel,
        )
    print(outcome.sentence)


def read_weights(name: str) -> dict[str, Tensor]:
    """Of the model of this name, one that ships or an adapted one, or of a safetensors file."""
    if Path(name).suffix != ".safetensors":
        return load(name, user_folder() if name in adapted() else None)[0].state_dict()
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(name)
    except (OSError, SafetensorError) as error:
        raise InputError(f"The weights {Path(name).name} cannot be read.") from error


def _pairs(
    folder: Path,
    label_maps: Path | None,
    images: Path | None,
    image_share: float,
    spacing: float,
    maps: int,
    size: int,
    seed: int,
) -> Dataset[Pair]:
    from .images import ImagePairs, read_folder

    if images is None:
        return procedural_pairs(folder, label_maps, maps, size, seed)
    own = read_folder(images, spacing)
    if image_share == 1.0:
        return ImagePairs(own, size, seed, ENDLESS)
    others = procedural_pairs(folder, label_maps, maps, size, seed)
    return ImagePairs(own, size, seed, ENDLESS, others, image_share)


def procedural_pairs(
    folder: Path, label_maps: Path | None, maps: int, size: int, seed: int
) -> ProceduralPairs:
    """Endless pairs of made anatomies, kept in `folder`. Raises `InputError` where nothing is to be made."""
    from .pairs import Anatomies, ProceduralPairs

    if maps == 0 and label_maps is None:
        raise InputError("There is nothing to train on: give --maps, --label-maps or --images.")
    return ProceduralPairs(Anatomies.prepare(folder, maps, brains=label_maps), size, seed, ENDLESS)


@contextmanager
def show_steps(steps: int) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """Progress with the time left and a smoothed loss on stderr, if that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("step {task.completed}/{task.total}"), BarColumn(), TimeRemainingColumn())
    loss = None
    with Progress(
        *columns, TextColumn("loss {task.fields[loss]}"), console=console, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("", total=steps, loss="")

        def show(step: int, values: dict[str, float]) -> None:
            nonlocal loss
            loss = values["loss"] if loss is None else 0.98 * loss + 0.02 * values["loss"]
            progress.update(task, completed=step, loss=f"{loss:.3f}")

        yield show


@contextmanager
def errors_in_one_sentence() -> Iterator[None]:
    try:
        yield
    except MasrError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(error.exit_code) from error
