"""Retrieval on real aligned pairs under known warps: the acceptance table of the representations.

    python Testing/benchmarks/discriminability.py --output FOLDER [--representation NAME ...] [--pairs WORD]
        [--opposite] [--transforms N]

writes discriminability.txt and discriminability.json. Every moving image is warped by a seeded smooth field:
cubic B-spline controls every 16 mm, normal with 6 mm per component, at most 18 mm, about 3 mm on average; then it is
shifted by up to 10 mm along each axis, so that a descriptor of the place in the grid, which says "no motion", fails.
The signed error holds three things: a side that the descriptor prefers, images that are not quite aligned, and what the
warp leaves where features see it averaged over their reach. The first has a column of its own (the mirrored images turn
it round, the rest stays); the last turns round with the opposite warp.
Images: MASR_DATA, or shared/data beside the repository.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from masr_registration.evaluation.discriminability import Descriptor, Pair, PointMap, Protocol
from masr_registration.evaluation.discriminability_report import TRANSFORMS, Report, descriptors, measure
from masr_registration.transforms.chain import DisplacementField, TransformChain
from masr_registration.transforms.grid import bspline_controls, bspline_upsample
from masr_registration.transforms.resample import resample
from masr_registration.volume import Volume, read_volume

DATA = Path(os.environ.get("MASR_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
STROKE, MS, NEONATE = "brain_t1t2_stroke", "brain_t1t2_ms", "brain_t1t2_neonate"
PAIRS = {
    "T1-T2": [(f"{folder}/T1", f"{folder}/T2") for folder in (STROKE, f"{MS}/07", f"{MS}/19")],
    "T1-FLAIR": [(f"{folder}/T1", f"{folder}/FLAIR") for folder in (STROKE, f"{MS}/07", f"{MS}/19")],
    "T1-T1": [(f"{folder}/T1", f"{folder}/T1") for folder in (STROKE, f"{MS}/07", f"{MS}/19")],
    "neonate T1-T2": [
        (f"{NEONATE}/{number}/T1w", f"{NEONATE}/{number}/T2w") for number in ("01", "02", "03")
    ],
}
GRID_MM, CONTROL_MM, DEVIATION_MM, LARGEST_MM, MARGIN_MM = 4.0, 16.0, 6.0, 18.0, 40.0
SHIFT_MM = 10.0
LARGEST_RESIDUAL_MM = 0.5


def smooth_warp(volume: Volume, seed: int, sign: float = 1.0) -> DisplacementField:
    """A seeded random displacement around a volume, or its opposite; one-to-one at this size (which is checked)."""
    geometry = volume.geometry.resized((GRID_MM,) * 3, MARGIN_MM)
    step = CONTROL_MM / GRID_MM
    controls = [bspline_controls(n, step)[0] for n in geometry.shape]
    noise = np.random.default_rng(seed).normal(scale=DEVIATION_MM, size=(3, *controls))
    field = bspline_upsample(torch.from_numpy(noise).float(), geometry.shape, step)
    return DisplacementField(sign * field.clamp(-LARGEST_MM, LARGEST_MM), geometry)


def warped(moving: Volume, seed: int, sign: float = 1.0) -> tuple[Volume, PointMap]:
    """``moving(W(y - t))`` and where points of the fixed image lie in it, ``W^-1 + t``."""
    warp = smooth_warp(moving, seed, sign)
    inverse = warp.inverse()
    rng = np.random.default_rng(seed)
    shift = sign * rng.uniform(-SHIFT_MM, SHIFT_MM, 3)
    geometry = moving.geometry
    points = torch.from_numpy(geometry.centre + rng.uniform(-60, 60, (1000, 3)))
    if float((warp.apply(inverse.apply(points)) - points).norm(dim=1).max()) > LARGEST_RESIDUAL_MM:
        raise RuntimeError("The warp of this seed is not one-to-one; take another.")
    image = resample(moving, TransformChain((warp,)), geometry)
    origin = np.add(geometry.origin, shift)
    moved = replace(geometry, origin=(float(origin[0]), float(origin[1]), float(origin[2])))
    return replace(image, geometry=moved), lambda p: inverse.apply(torch.from_numpy(p)).numpy() + shift


def warped_pairs(wanted: str, protocol: Protocol, seed: int, sign: float = 1.0) -> Iterator[tuple[str, Pair]]:
    """The pairs whose title holds the word `wanted`, their moving image warped: title and pair."""
    for kind, pairs in PAIRS.items():
        for fixed, moving in pairs:
            title = f"{kind} {fixed.split('/')[-2]}"
            if wanted in title:
                image, truth = warped(read_volume(DATA / f"{moving}.nii.gz"), seed, sign)
                volume = read_volume(DATA / f"{fixed}.nii.gz")
                yield title, Pair.of(volume, image, truth, protocol, ("mr", "mr"))


def run(
    named: dict[str, Descriptor], pairs: Iterable[tuple[str, Pair]], protocol: Protocol, transforms: int
) -> dict[str, dict[str, Any]]:
    """Numbers by pair, then by representation."""
    found: dict[str, dict[str, Any]] = {}
    for title, pair in pairs:
        report, _ = measure(pair, named, protocol, transforms)
        found[title] = report.rows
        print(f"\n{title}\n{report.table()}", flush=True)
    return found


def means(found: dict[str, dict[str, Any]], protocol: Protocol) -> str:
    """The mean over the pairs of each kind as text."""
    text = []
    for kind in PAIRS:
        pairs = [rows for title, rows in found.items() if title.startswith(kind)]
        if pairs:
            rows = {name: _mean([rows[name] for rows in pairs]) for name in pairs[0]}
            text.append(f"{kind}, mean of {len(pairs)}\n{Report(protocol, rows).table()}\n")
    return "\n".join(text)


def _mean(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {key: np.mean([row[key] for row in rows], axis=0) for key in rows[0]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--representation", nargs="*")
    parser.add_argument("--pairs", default="", help="only pairs whose title holds this word")
    parser.add_argument("--spacing", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--opposite", action="store_true", help="the opposite warp and shift")
    parser.add_argument(
        "--transforms", type=int, default=TRANSFORMS, help="of the intensities, for the invariance"
    )
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    spacing = options.spacing
    protocol = Protocol(spacing_mm=spacing, window_mm=10 * spacing, step_mm=2 * spacing)
    pairs = warped_pairs(options.pairs, protocol, options.seed, -1.0 if options.opposite else 1.0)
    found = run(descriptors(options.representation), pairs, protocol, options.transforms)
    text = means(found, protocol)
    print("\n" + text)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "discriminability.txt").write_text(text, encoding="utf-8")
    (options.output / "discriminability.json").write_text(
        json.dumps(found, indent=2) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
