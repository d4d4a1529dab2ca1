"""From a training checkpoint to weights that ship: fp16 safetensors, their entry in the list, and a model card to fill.

    python -m masr_registration.training.export CHECKPOINT FOLDER [--name masr] [--commit ID]

What ships is the moving average of the weights, not the last step.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from ..errors import InputError
from ..representation import models
from ..representation.masr_net import MasrNet
from ..representation.models import Model

LARGEST_BYTES = 4_000_000
CARD = """# {name}

{description}. Weights: `{file}`, fp16, {parameters:,} parameters, sha256 `{sha256}`.

## Intended use
Features for the deformable registration of two images of one anatomy in different modalities, beside MIND-SSC. Research
software: not a medical device, and not for treatment decisions without independent verification.

## Training
Data: procedural volumes, and the label maps named in the recipe; no image of a patient. Step {step}, source {commit}.

```json
{recipe}
```

## Results
Not measured yet. Retrieval:
`python Testing/benchmarks/discriminability.py --output FOLDER --representation mind dsir masr`.

## Limits
Not measured yet.

## Licence
Apache-2.0. The method may be covered by a patent application of its authors (Mok et al., CVPR 2024).
"""


def export(checkpoint: Path, folder: Path, name: str = "masr", commit: str = "unknown") -> Model:
    """Write ``NAME.safetensors`` and ``NAME.md`` into `folder` and enter the model into the list there.

    Raises:
        InputError: the file is no checkpoint of `MasrNet`, or its weights do not fit into fp16 or `LARGEST_BYTES`.
    """
    try:
        state: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
        recipe = state["recipe"]
        options = {"width": recipe["width"], "radii": list(recipe["radii"])}
        network = MasrNet(**options)
        network.load_state_dict(state["average"])
    except Exception as error:
        raise InputError(f'"{checkpoint.name}" is not a checkpoint of the encoder\'s training.') from error
    weights = list(network.state_dict().values())
    if not all(bool(w.half().isfinite().all()) for w in weights):
        raise InputError(f'The weights in "{checkpoint.name}" do not fit into half precision.')
    parameters = sum(w.numel() for w in weights)
    if 2 * parameters > LARGEST_BYTES:
        raise InputError(f'The network in "{checkpoint.name}" is too large to ship.')
    folder.mkdir(parents=True, exist_ok=True)
    description = f"MASR-Net of width {options['width']}, {state['step']} steps"
    entry = Model(name, f"{name}.safetensors", "", "masr", description, options, card=f"{name}.md")
    model = models.save(network, entry, folder)
    card = CARD.format(
        name=name,
        description=description,
        file=model.file,
        parameters=parameters,
        sha256=model.sha256,
        step=state["step"],
        commit=commit,
        recipe=json.dumps(recipe, indent=2),
    )
    (folder / f"{name}.md").write_text(card, encoding="utf-8")
    return model


def main(
    checkpoint: Annotated[Path, typer.Argument(help="checkpoint.pt of a training run.")],
    folder: Annotated[Path, typer.Argument(help="Folder of the models.")],
    name: Annotated[str, typer.Option(help="Of the representation.")] = "masr",
    commit: Annotated[str, typer.Option(help="Of the source that trained it.")] = "unknown",
) -> None:
    """Export the averaged weights of a checkpoint."""
    model = export(checkpoint, folder, name, commit)
    typer.echo(f"{model.name}: {model.file}, {model.description}, sha256 {model.sha256}")


if __name__ == "__main__":
    typer.run(main)
