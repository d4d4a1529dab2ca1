"""What each part of MASR-Net brings: variants of the network and of its training, all on the same small budget.

    python -m benchmarks.ablation --output DIR [--label-maps FOLDER] [--steps N] [--variants NAME ...]

in the folder `Testing`. Every variant sees as many pairs as the others, drawn with the same seed (without label merging
their contrasts differ), and is then tried by the retrieval of `discriminability.py`, alone and beside MIND-SSC. Rows
appear as they are finished in ablation.md and ablation.json; a call that is repeated goes on from the last checkpoint.
These are short trainings for comparison with each other, far from what ships. Images: MASR_DATA, or shared/data beside
the repository.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from masr_registration.evaluation.discriminability import Descriptor, Pair, Protocol, retrieve
from masr_registration.representation.encoder import Encoder, dsir
from masr_registration.training.pairs import Anatomies, ProceduralPairs
from masr_registration.training.train_encoder import Recipe, Trainer, train

from .discriminability import warped_pairs

KINDS = ("T1-T2", "T1-FLAIR", "neonate T1-T2")
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
    "reseeded": Variant("practical, another seed", {"seed": 1}),
}


@dataclass(frozen=True)
class Budget:
    """The same for all variants; `size` is the side of the views in voxels, `maps` counts the procedural anatomies."""

    steps: int
    size: int
    maps: int

    def recipe(self) -> Recipe:
        """The encoder's own, with warm-up and moving average shortened to the budget."""
        return Recipe(steps=self.steps, warm_up=max(1, self.steps // 10), average=0.99)


class Study:
    """Trainings and rows of one folder; another budget has a folder of its own within it."""

    def __init__(self, output: Path, budget: Budget, label_maps: Path | None) -> None:
        self.output, self.budget, self.label_maps = output, budget, label_maps
        self.folder = output / f"{budget.steps}-{budget.size}-{budget.maps}"
        self._anatomies: Anatomies | None = None
        self._pairs: list[tuple[str, Pair]] | None = None

    def rows(self, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """MIND-SSC, then the variants of these names; each measured once."""
        for name in ("mind", *names):
            file = self.folder / f"{name}.json"
            if not file.is_file():
                row = self._mind() if name == "mind" else self._variant(name)
                partial = file.with_suffix(".partial")
                partial.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
                partial.replace(file)
            yield json.loads(file.read_text(encoding="utf-8"))

    def _mind(self) -> dict[str, Any]:
        self.folder.mkdir(parents=True, exist_ok=True)
        return {
            "title": "MIND-SSC",
            "beside MIND-SSC": self._retrieval(lambda image: Encoder()(image).pooled()),
        }

    def _variant(self, name: str) -> dict[str, Any]:
        variant = VARIANTS[name]
        trainer = Trainer(replace(self.budget.recipe(), **variant.changes), torch.device("cpu"))
        pairs = ProceduralPairs(
            self._made(), self.budget.size, trainer.recipe.seed, ENDLESS, merging=variant.merging
        )
        began = time.process_time()
        train(trainer, pairs, self.folder / name, save_every=50)
        print(
            f"{name}: step {trainer.step}, {time.process_time() - began:.0f} CPU-s in this call", flush=True
        )
        network = trainer.average.eval()
        return {
            "title": variant.title,
            "recipe": asdict(trainer.recipe),
            "merging": variant.merging,
            "parameters": sum(p.numel() for p in network.parameters()),
            "alone": self._retrieval(lambda image: dsir(network, image)),
            "beside MIND-SSC": self._retrieval(lambda image: Encoder(network)(image).pooled()),
        }

    def _made(self) -> Anatomies:
        if self._anatomies is None:
            self._anatomies = Anatomies.prepare(self.output, self.budget.maps, brains=self.label_maps)
        return self._anatomies

    def _retrieval(self, descriptor: Descriptor) -> dict[str, Any]:
        """Summaries by pair."""
        protocol = Protocol()
        if self._pairs is None:
            self._pairs = [
                (title, pair)
                for title, pair in warped_pairs("", protocol, WARP_SEED)
                if title.startswith(KINDS)
            ]
        return {title: retrieve(pair, descriptor, protocol).summary() for title, pair in self._pairs}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Hit rate within 8 mm, mean over the pairs of each kind, as Markdown."""
    columns = [f"{kind}, {how}" for kind in KINDS for how in ("alone", "with MIND")]
    lines = [f"| variant | parameters | {' | '.join(columns)} |", "|---" * (2 + len(columns)) + "|"]
    for row in rows:
        cells = [row["title"], f"{row['parameters']:,}" if "parameters" in row else ""]
        for kind in KINDS:
            cells += [_mean(row.get(how, {}), kind) for how in ("alone", "beside MIND-SSC")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _mean(summaries: dict[str, Any], kind: str) -> str:
    hits = [summary["hit_8mm"] for title, summary in summaries.items() if title.startswith(kind)]
    return f"{np.mean(hits):.3f}" if hits else ""


def write(rows: Sequence[dict[str, Any]], budget: Budget, folder: Path) -> None:
    """The rows so far, as `TABLE` and `RESULT`."""
    (folder / TABLE).write_text(table(rows), encoding="utf-8")
    content = {"budget": asdict(budget), "rows": list(rows)}
    (folder / RESULT).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


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
        "--steps", type=int, default=600, help="of each training (600: some 75 minutes of one core for all)"
    )
    parser.add_argument("--size", type=int, default=48, help="side of the views in voxels, a multiple of 16")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS, metavar="NAME")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    budget = Budget(options.steps, options.size, options.maps)
    rows: list[dict[str, Any]] = []
    for row in Study(options.output, budget, options.label_maps).rows(options.variants):
        rows.append(row)
        write(rows, budget, options.output)
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    print("\n" + table(rows))


if __name__ == "__main__":
    main()
