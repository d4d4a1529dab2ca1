"""The command ``masr train amortized``. Importable without torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from .command import (
    ENDLESS,
    LabelMaps,
    errors_in_one_sentence,
    procedural_pairs,
    read_weights,
    show_steps,
)

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from .warps import WarpPair


def amortized(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the run; a checkpoint there is resumed.")
    ],
    label_maps: LabelMaps = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of your own unlabelled, unaligned volumes of one body region."),
    ] = None,
    image_share: Annotated[
        float, typer.Option(help="Share of the pairs from your images; 1 for them alone.", min=0, max=1)
    ] = 0.5,
    spacing: Annotated[
        float, typer.Option(help="Working spacing in mm of the registrations of your images.", min=0.1)
    ] = 1.0,
    start: Annotated[
        str | None, typer.Option("--from", help="Model (see masr models) or safetensors file to start from.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Of the whole run.", min=1)] = 6000,
    maps: Annotated[int, typer.Option(help="How many procedural label maps to make (once).", min=0)] = 150,
    size: Annotated[
        int,
        typer.Option(
            help="Side of the views in voxels of twice the working spacing, a multiple of 8.", min=24
        ),
    ] = 48,
    width: Annotated[int, typer.Option(help="Channels of the convolutions.", min=1)] = 32,
    rate: Annotated[float, typer.Option(help="Highest learning rate.")] = 2e-3,
    workers: Annotated[int, typer.Option(help="Processes that make pairs ahead.", min=0)] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads of the trainer.", min=1)] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of weights and pairs.")] = 0,
) -> None:
    """Train the registration network, without labels; writes checkpoint.pt, log.csv and masr-registration.safetensors.

    It learns from the similarity of the shipped encoder's features, from smoothness, and from known warps where the
    pairs have them. It can be stopped and called again at any time.
    """
    with errors_in_one_sentence():
        import torch

        from .train_amortized import AmortizedRecipe, AmortizedTrainer, dsir_view
        from .train_encoder import distributed_device, train, write_weights

        if size % 8:
            raise InputError(f"The size of the views must be a multiple of 8, not {size}.")
        torch.set_num_threads(threads)
        torch.set_flush_denormal(True)
        where = distributed_device(device)
        recipe = AmortizedRecipe(steps=steps, width=width, seed=seed, rate=rate)
        trainer = AmortizedTrainer(recipe, dsir_view(where), where)
        if start is not None:
            trainer.start_from(read_weights(start))
        pairs = _pairs(output, label_maps, images, image_share, spacing, maps, size, seed)
        with show_steps(steps) as show:
            train(trainer, pairs, output, workers=workers, save_every=50, progress=show)
        write_weights(trainer, output / "masr-registration.safetensors")
        print(f"Weights: {output / 'masr-registration.safetensors'}")


def _pairs(
    folder: Path,
    label_maps: Path | None,
    images: Path | None,
    image_share: float,
    spacing: float,
    maps: int,
    size: int,
    seed: int,
) -> Dataset[WarpPair]:
    from .volumes import VolumePairs, read_aligned
    from .warps import WarpPairs

    if images is None:
        return WarpPairs(procedural_pairs(folder, label_maps, maps, size, seed))
    own = read_aligned(images, spacing)
    if image_share == 1.0:
        return VolumePairs(own, size, seed, ENDLESS)
    others = WarpPairs(procedural_pairs(folder, label_maps, maps, size, seed))
    return VolumePairs(own, size, seed, ENDLESS, others, image_share)
