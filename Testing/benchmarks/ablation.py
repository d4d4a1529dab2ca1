"""What each part of MASR-Net brings: variants of the network and of its training, all on the same small budget.

    python -m benchmarks.ablation --output DIR [--label-maps FOLDER] [--steps N] [--variants NAME ...]
        [--seeds N ...]

in the folder `Testing`. Every variant sees as many pairs as the others, drawn with the same seed (without label merging
their contrasts differ), and is then tried by the retrieval of `discriminability.py`, alone and beside MIND-SSC. Results
appear as they are finished in ablation.md and ablation.json; a call that is repeated goes on from the last checkpoint,
and one with other variants or seeds adds to them.
These are short trainings for comparison with each other, far from what ships. Images: MASR_DATA, or shared/data beside
the repository.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from masr_registration.evaluation.discriminability import Pair, Protocol, retrieve
from masr_registration.representation.encoder import Encoder
from masr_registration.training.pairs import Anatomies, ProceduralPairs
from masr_registration.training.train_encoder import Recipe, Trainer, train
from torch import Tensor

from .discriminability import warped_pairs

KINDS = ("T1-T2", "T1-FLAIR", "neonate T1-T2")
MIND = "mind"
ALONE, BESIDE = "alone", "with MIND"
WARP_SEED = 1
ENDLESS = 10**9
RESULT, TABLE = "ablation.json", "ablation.md"


@dataclass(frozen=True)
class Variant:
    """One row: how the recipe differs from the practical network's, and whether images with merged labels are shown."""

    title: str
    changes: dict[str, Any] = field(default_factory=dict)
    merging: bool = True


VARIANTS = {
    "practical": Variant("practical"),
    "no-dns": Variant("without DNS", {"radii": ()}),
    "no-dilation": Variant("without dilation", {"radii": (1,)}),
    "no-merging": Variant("without label merging", merging=False),
    "faithful": Variant("faithful MASR", {"faithful": True}),
}


@dataclass(frozen=True)
class Budget:
    """The same for all variants; `size` is the side of the views in voxels, `maps` counts the procedural anatomies."""

    steps: int
    size: int
    maps: int

    def recipe(self, seed: int) -> Recipe:
        """The one of the weights that ship, with rate, warm-up and moving average for a short run."""
        weights = (1.0, 1.0, 0.3, 0.2, 0.05, 0.0)
        warm_up = max(1, self.steps // 10)
        return Recipe(steps=self.steps, seed=seed, rate=2e-3, warm_up=warm_up, average=0.99, weights=weights)


class Study:
    """Trainings and rows of one folder; another budget has a folder of its own within it."""

    def __init__(self, output: Path, budget: Budget, label_maps: Path | None) -> None:
        self.output, self.budget, self.label_maps = output, budget, label_maps
        self.folder = output / f"{budget.steps}-{budget.size}-{budget.maps}"
        self._anatomies: Anatomies | None = None
        self._pairs: list[tuple[str, Pair]] | None = None

    def measure(self, name: str, seed: int) -> None:
        """Train and try a variant, or try MIND-SSC, unless that is done."""
        file = self.folder / f"{name}-{seed}.json"
        if not file.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            row = self._mind() if name == MIND else self._variant(name, seed)
            partial = file.with_suffix(".partial")
            partial.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
            partial.replace(file)

    def rows(self) -> list[dict[str, Any]]:
        """What is measured so far, by variant and seed."""
        files = [file for name in (MIND, *VARIANTS) for file in sorted(self.folder.glob(f"{name}-*.json"))]
        return [json.loads(file.read_text(encoding="utf-8")) for file in files]

    def write(self) -> str:
        """The rows as `TABLE` and `RESULT`; returns the table."""
        text = table(self.rows())
        (self.output / TABLE).write_text(text, encoding="utf-8")
        content = {"budget": asdict(self.budget), "rows": self.rows()}
        (self.output / RESULT).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        return text

    def _mind(self) -> dict[str, Any]:
        return {"title": "MIND-SSC", **self._retrieval(Encoder())}

    def _variant(self, name: str, seed: int) -> dict[str, Any]:
        variant = VARIANTS[name]
        trainer = Trainer(replace(self.budget.recipe(seed), **variant.changes), torch.device("cpu"))
        pairs = ProceduralPairs(self._made(), self.budget.size, seed, ENDLESS, merging=variant.merging)
        began = time.process_time()
        train(trainer, pairs, self.folder / f"{name}-{seed}", save_every=50)
        print(
            f"{name}, seed {seed}: step {trainer.step}, {time.process_time() - began:.0f} CPU-s in this call",
            flush=True,
        )
        return {
            "title": variant.title,
            "recipe": asdict(trainer.recipe),
            "merging": variant.merging,
            "parameters": sum(p.numel() for p in trainer.average.parameters()),
            **self._retrieval(Encoder(trainer.average.eval())),
        }

    def _made(self) -> Anatomies:
        if self._anatomies is None:
            self._anatomies = Anatomies.prepare(self.output, self.budget.maps, brains=self.label_maps)
        return self._anatomies

    def _retrieval(self, encoder: Encoder) -> dict[str, dict[str, Any]]:
        """Summaries by what is compared (the network's features alone, where there are any) and by pair."""
        if self._pairs is None:
            found = warped_pairs("", Protocol(), WARP_SEED)
            self._pairs = [(title, pair) for title, pair in found if title.startswith(KINDS)]
        summaries: dict[str, dict[str, Any]] = {ALONE: {}, BESIDE: {}}
        for title, pair in self._pairs:
            fixed, moving = encoder(pair.fixed), encoder(pair.moving)
            if fixed.dsir is not None and moving.dsir is not None:
                summaries[ALONE][title] = _summary(pair, fixed.dsir, moving.dsir)
            summaries[BESIDE][title] = _summary(pair, fixed.pooled(), moving.pooled())
        return summaries


def _summary(pair: Pair, fixed: Tensor, moving: Tensor) -> dict[str, Any]:
    """Retrieval with descriptors ``(C, d, h, w)`` of the two images."""
    return retrieve(pair, lambda image: fixed if image is pair.fixed else moving, Protocol()).summary()


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Hit rate within 8 mm, mean over the pairs of each kind, as Markdown; values of several seeds side by side."""
    columns = [f"{kind}, {how}" for kind in KINDS for how in (ALONE, BESIDE)]
    lines = [f"| variant | parameters | {' | '.join(columns)} |", "|---" * (2 + len(columns)) + "|"]
    for title, group in groupby(rows, key=itemgetter("title")):
        seeds = list(group)
        cells = [title, f"{seeds[0]['parameters']:,}" if "parameters" in seeds[0] else ""]
        for kind in KINDS:
            cells += [", ".join(_mean(row[how], kind) for row in seeds) for how in (ALONE, BESIDE)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _mean(summaries: dict[str, Any], kind: str) -> str:
    hits = [summary["hit_8mm"] for title, summary in summaries.items() if title.startswith(kind)]
    return f"{np.mean(hits):.3f}" if hits else ""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument(
        "--label-maps", type=Path, help="whole-head label maps, half of the pairs; without: none"
    )
    parser.add_argument("--maps", type=int, default=100, help="procedural anatomies")
    parser.add_argument(
        "--steps",
        type=int,
        default=350,
        help="of each training (350: three quarters of an hour of one core for all)",
    )
    parser.add_argument("--size", type=int, default=48, help="side of the views in voxels, a multiple of 16")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS, metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="N")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    study = Study(options.output, Budget(options.steps, options.size, options.maps), options.label_maps)
    study.measure(MIND, 0)
    for seed in options.seeds:
        for name in options.variants:
            study.measure(name, seed)
            study.write()
    print(study.write())


if __name__ == "__main__":
    main()
