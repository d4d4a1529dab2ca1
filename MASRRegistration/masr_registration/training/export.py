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
from ..representation.models import Kind, Model
from ..solver.amortized import ENCODER, STEPS, STRIDES

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
REGISTRATION_CARD = """# {name}

{description}. Weights: `{file}`, fp16, {parameters:,} parameters, sha256 `{sha256}`.

## Intended use
A first deformation of two images of one body region in different modalities, from the features of the encoder that
ships: `--method amortized`, or `amortized+refine` with a short optimisation after it. Research
software: not a medical device, and not for treatment decisions without independent verification.

## Training
Data: procedural volumes under known warps, and the label maps named in the recipe; no image of a patient, no labels.
Step {step}, source {commit}.

```json
{recipe}
```

## Results
Not measured yet. `cd Testing && python -m benchmarks --cases 'neonate-*' --methods masr 'masr-amortized*'`

## Limits
Not measured yet.

## Licence
Apache-2.0. The method may be covered by a patent application of its authors (Mok et al., CVPR 2024).
"""


def export(checkpoint: Path, folder: Path, name: str = "masr", commit: str = "unknown") -> Model:
    """Write ``NAME.safetensors`` and ``NAME.md`` into `folder` and enter the model into the list there.

    Raises:
        InputError: the file is no checkpoint of an encoder or of the registration network, or its weights do not fit
            into fp16 or `LARGEST_BYTES`.
    """
    try:
        state: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
        recipe, averaged = state["recipe"], state["average"]
        kind, options, title = _network_of(recipe, averaged)
        network = models.build(kind, options)
        network.load_state_dict(averaged)
    except Exception as error:
        raise InputError(f'"{checkpoint.name}" is not a checkpoint of a training.') from error
    weights = list(network.state_dict().values())
    if not all(bool(w.half().isfinite().all()) for w in weights):
        raise InputError(f'The weights in "{checkpoint.name}" do not fit into half precision.')
    parameters = sum(w.numel() for w in weights)
    if 2 * parameters > LARGEST_BYTES:
        raise InputError(f'The network in "{checkpoint.name}" is too large to ship.')
    folder.mkdir(parents=True, exist_ok=True)
    description = f"{title}, {state['step']} steps"
    encoder = models.shipped()[ENCODER].sha256 if kind == "registration" else None
    entry = Model(
        name, f"{name}.safetensors", "", kind, description, options, f"{name}.md", encoder_sha256=encoder
    )
    model = models.save(network, entry, folder)
    card = (REGISTRATION_CARD if kind == "registration" else CARD).format(
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


def _network_of(recipe: dict[str, Any], weights: dict[str, torch.Tensor]) -> tuple[Kind, dict[str, Any], str]:
    """Kind and options of the network that was trained, and what it is called."""
    if recipe.get("faithful"):
        return "masr-faithful", {}, "MASR-Net of the paper"
    width = recipe["width"]
    if "radii" in recipe:
        return "masr", {"width": width, "radii": list(recipe["radii"])}, f"MASR-Net of width {width}"
    channels = [0] * len(STRIDES)
    for number, (level, _) in enumerate(STEPS):
        channels[level] = weights[f"steps.{number}.embed.weight"].shape[0]
    return "registration", {"channels": channels, "width": width}, f"Registration network of width {width}"


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
