"""`masr evaluate discriminability`: representations compared on one pair, as a table, as JSON and as heat maps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from torch import Generator

from ..errors import InputError, ResourceError
from ..representation import models
from ..representation.encoder import Encoder, dsir
from ..representation.self_similarity import mind_ssc
from ..training.appearance import intensity_transform
from ..transforms.grid import pool
from ..volume import check_registrable, read_volume
from .discriminability import (
    HITS_MM,
    Descriptor,
    Pair,
    PointMap,
    Protocol,
    Retrieval,
    invariance,
    mirrored,
    preferred_side,
    retrieve,
)
from .heatmaps import draw

REPRESENTATIONS = ("image", "mind", "dsir", "dsir-adapted", "masr", "masr-adapted", "masr-faithful")
_NEEDS = {"dsir": "masr", "dsir-adapted": models.ADAPTED}
TRANSFORMS = 100
RESULT, PICTURE = "discriminability.json", "discriminability.png"


@dataclass(frozen=True)
class Report:
    """Numbers by representation; lengths in mm."""

    protocol: Protocol
    rows: dict[str, dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        return {"format": 1, "protocol": asdict(self.protocol), "representations": self.rows}

    def table(self) -> str:
        limits = "".join(f"{f'<={limit:g} mm':>9}" for limit in HITS_MM)
        lines = [
            f"{'':15}{'median mm':>10}{limits}{'rank':>7}{'2nd mode':>9}{'range mm':>9}{'invariance':>11}"
            "  signed error       preferred side"
        ]
        for name, row in self.rows.items():
            hits = "".join(f"{row[f'hit_{limit:g}mm']:9.3f}" for limit in HITS_MM)
            error, side = (
                " ".join(f"{s:+.2f}" for s in row[key])
                for key in ("signed_error_voxels", "preferred_side_voxels")
            )
            lines.append(
                f"{name:15}{row['median_error_mm']:10.2f}{hits}{row['median_rank']:7.0f}"
                f"{row['second_mode_ratio']:9.2f}{row['capture_range_mm']:9.1f}{row['invariance_mean']:11.2f}"
                f"  {error}  {side}"
            )
        return "\n".join(lines)


def descriptors(names: Sequence[str] | None = None) -> dict[str, Descriptor]:
    """Descriptors by name; by default the image, MIND-SSC and those with weights that ship.

    Raises `InputError` for an unknown name and `WeightsError` for weights that cannot be used.
    """
    if names is None:
        there = {"image", "mind", *models.shipped(), *([models.ADAPTED] if models.in_use() else [])}
        names = [name for name in REPRESENTATIONS if _NEEDS.get(name, name) in there]
    return {name: _descriptor(name) for name in names}


def _descriptor(name: str) -> Descriptor:
    match name:
        case "image":
            return lambda image: pool(image[None], 2)
        case "mind":
            return lambda image: pool(mind_ssc(image), 2)
        case "dsir" | "dsir-adapted":
            network, _ = models.load(_NEEDS[name])
            return lambda image: dsir(network, image)
        case "masr" | "masr-adapted" | "masr-faithful":
            encoder = Encoder.of(name, torch.device("cpu"))
            return lambda image: encoder(image).pooled()
    raise InputError(f'There is no representation "{name}": {", ".join(REPRESENTATIONS)}.')


def measure(
    pair: Pair, named: Mapping[str, Descriptor], protocol: Protocol, transforms: int
) -> tuple[Report, dict[str, Retrieval]]:
    """Retrieval under the protocol, the preferred side, and invariance to so many random intensity transforms."""
    generator = Generator().manual_seed(protocol.seed)
    appearances = [intensity_transform(pair.fixed, generator) for _ in range(transforms)]
    retrievals = {name: retrieve(pair, descriptor, protocol) for name, descriptor in named.items()}
    rows = {
        name: {
            **retrievals[name].summary(),
            "preferred_side_voxels": preferred_side(
                retrievals[name], retrieve(pair, mirrored(descriptor), protocol)
            ),
            **invariance(pair, descriptor, protocol, appearances),
        }
        for name, descriptor in named.items()
    }
    return Report(protocol, rows), retrievals


def run(
    fixed: Path,
    moving: Path,
    truth: Path | None,
    output: Path | None,
    names: Sequence[str] | None,
    protocol: Protocol,
) -> Report:
    """Compare representations on two files; `truth` is an ITK transform fixed -> moving, None for an aligned pair.

    With `output`, `RESULT` and `PICTURE` are written there.

    Raises:
        InputError, ResourceError.
    """
    volumes = [read_volume(path) for path in (fixed, moving)]
    for volume, what in zip(volumes, ("fixed image", "moving image"), strict=True):
        check_registrable(volume, what)
    named = descriptors(names)
    pair = Pair.of(volumes[0], volumes[1], _point_map(truth), protocol)
    report, retrievals = measure(pair, named, protocol, TRANSFORMS)
    if output is not None:
        try:
            output.mkdir(parents=True, exist_ok=True)
            text = json.dumps(report.to_json(), indent=2, allow_nan=False) + "\n"
            (output / RESULT).write_text(text, encoding="utf-8")
            (output / PICTURE).write_bytes(draw(retrievals))
        except OSError as error:
            raise ResourceError(f'Nothing can be written into "{output.name}".') from error
    return report


def _point_map(truth: Path | None) -> PointMap:
    if truth is None:
        return lambda points: points
    if not truth.is_file():
        raise InputError(f'The true transform "{truth.name}" does not exist.')
    try:
        transform = sitk.ReadTransform(str(truth))
    except RuntimeError as error:
        raise InputError(f'The true transform "{truth.name}" cannot be read.') from error
    return lambda points: np.array([transform.TransformPoint(point) for point in points.tolist()])
