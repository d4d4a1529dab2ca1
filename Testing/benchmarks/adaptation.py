"""Retrieval with the model that ships and with an adapted one, on images that neither has seen.

    python -m benchmarks.adaptation --output DIR [--spacing MM] [--patient 19]

in the folder `Testing`. The adapted model is the one in use (`masr models`); it was made before, by
``masr train encoder --from masr --data FOLDER --output RUN``. T1 and T2 of a patient are aligned; the moving one is
moved by a known shift, so that a place in the grid is no answer. Invariance is not measured.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from masr_registration.evaluation.discriminability import HITS_MM, Pair, Protocol, retrieve
from masr_registration.evaluation.discriminability_report import descriptors
from masr_registration.representation import models
from masr_registration.volume import Volume, read_volume

DATA = Path(os.environ.get("MASR_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
SHIFT_MM = np.array([5.3, -4.1, 6.2])
COMPARED = (("masr", "masr-adapted"), ("dsir", "dsir-adapted"))


def compare(fixed: Volume, moving: Volume, spacing: float) -> dict[str, Any]:
    """Summaries by representation, and for each limit the paired gain of hits with its standard error."""
    protocol = Protocol(spacing_mm=spacing, window_mm=10 * spacing, step_mm=2 * spacing)
    origin = np.asarray(moving.geometry.origin) + SHIFT_MM
    geometry = replace(moving.geometry, origin=(float(origin[0]), float(origin[1]), float(origin[2])))
    pair = Pair.of(fixed, Volume(moving.array, geometry, moving.name), lambda p: p + SHIFT_MM, protocol)
    named = descriptors([name for pair_ in COMPARED for name in pair_])
    found = {name: retrieve(pair, descriptor, protocol) for name, descriptor in named.items()}
    gains = {}
    for before, after in COMPARED:
        for limit in HITS_MM[:2]:
            hits = [(found[name].error_mm <= limit).astype(float) for name in (before, after)]
            gain = hits[1] - hits[0]
            gains[f"{before} <={limit:g} mm"] = {
                "before": float(hits[0].mean()),
                "after": float(hits[1].mean()),
                "gain": float(gain.mean()),
                "standard_error": float(gain.std() / np.sqrt(len(gain))),
            }
    return {"summaries": {name: retrieval.summary() for name, retrieval in found.items()}, "gains": gains}


def table(results: dict[str, Any]) -> str:
    lines = [f"{'pair':8}{'compared by, hits':22}{'before':>8}{'after':>8}{'gain':>9}{'s.e.':>8}"]
    for pair, result in results["pairs"].items():
        for name, row in result["gains"].items():
            numbers = (
                f"{row['before']:8.3f}{row['after']:8.3f}{row['gain']:+9.4f}{row['standard_error']:8.4f}"
            )
            lines.append(f"{pair:8}{name:22}{numbers}")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--spacing", type=float, default=1.5)
    parser.add_argument("--patient", default="19")
    options = parser.parse_args()
    torch.set_num_threads(1)
    name = models.in_use()
    if name is None:
        raise SystemExit("No adapted model is in use.")
    images = {c: read_volume(DATA / "brain_t1t2_ms" / options.patient / f"{c}.nii.gz") for c in ("T1", "T2")}
    results: dict[str, Any] = {
        "model": {"name": name, **vars(models.adapted()[name])},
        "base_sha256": models.shipped()["masr"].sha256,
        "patient": options.patient,
        "spacing_mm": options.spacing,
        "pairs": {},
    }
    for fixed, moving in (("T1", "T2"), ("T2", "T1")):
        results["pairs"][f"{fixed}-{moving}"] = compare(images[fixed], images[moving], options.spacing)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "adaptation.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (options.output / "adaptation.txt").write_text(table(results), encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
