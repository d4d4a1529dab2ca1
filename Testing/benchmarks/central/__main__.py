"""The command: ``python -m benchmarks.central --output DIR [--steps N] [--similarities NAME ...]``.

Trains the network with each similarity on the neonates 01-05 (T1w and T2w, unlabelled, unaligned), then registers all
ordered pairs of the neonates 06-08 (T1w to T2w) and heads under known warps with each network and with the optimiser
driven by each similarity. What is done is kept in DIR, trainings to the last checkpoint, and is not done again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from masr_registration.solver.amortized import RegistrationNetwork
from masr_registration.training.train_amortized import AmortizedRecipe, AmortizedTrainer
from masr_registration.training.train_encoder import train
from masr_registration.training.volumes import AlignedVolume, VolumePairs, read_aligned

from ..cases import Case, known_warps, neonates
from ..problem import load
from ..runner import OWN_CHECKOUT, describe_checkout, describe_machine
from ..score import score
from . import drivers, report, views

TRAINED_ON, TESTED_ON = ("01", "02", "03", "04", "05"), ("06", "07", "08")
WARPS = ("warp-8mm/stroke-T2", "warp-8mm/stroke-FLAIR", "warp-8mm/ms07-T2", "warp-8mm/ms19-FLAIR")
DRIVERS = ("optimiser", "network")
SPACING_MM = 0.86
ENDLESS = 10**9


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    study = Study(options.data, options.output, options.steps, options.size)
    results = []
    for result in study.run(options.similarities, options.cases):
        results.append(result)
        print(report.line(result), flush=True)
    print("\n" + report.write(results, options.output))


class Study:
    """Networks and results of one folder; `data` is the folder of the images."""

    def __init__(self, data: Path, output: Path, steps: int, size: int) -> None:
        self.data, self.output, self.steps, self.size = data, output, steps, size
        self._volumes: list[AlignedVolume] | None = None

    def cases(self) -> list[Case]:
        pairs = itertools.permutations(TESTED_ON, 2)
        between = [Case(f"neonates/{a}-{b}", partial(neonates.build, a, b)) for a, b in pairs]
        return between + [case for case in known_warps.cases() if case.name in WARPS]

    def run(self, similarities: list[str], patterns: list[str]) -> Iterator[dict[str, Any]]:
        """All cases by the optimiser, then by the networks, which are trained when the first of them is needed."""
        cases = [
            case
            for case in self.cases()
            if not patterns or any(Path(case.name).match(pattern) for pattern in patterns)
        ]
        for driver in DRIVERS:
            networks = {name: self.network(name) for name in similarities} if driver == "network" else {}
            for case in cases:
                yield from self._case(case, driver, similarities, networks)

    def _case(
        self, case: Case, driver: str, similarities: list[str], networks: dict[str, RegistrationNetwork]
    ) -> Iterator[dict[str, Any]]:
        problem, prepared = None, None
        for name in similarities:
            file = self.output / "results" / case.name / f"{driver}-{name.replace('+', '-')}.json"
            if file.is_file():
                yield json.loads(file.read_text(encoding="utf-8"))
                continue
            if problem is None or prepared is None:
                problem = self._problem(case)
                prepared = drivers.prepare(problem.fixed, problem.moving, problem.preset)
            yield self._one(case, problem, prepared, name, driver, networks.get(name), file)

    def network(self, name: str) -> RegistrationNetwork:
        """The network trained with this similarity; trained here as far as it is not yet."""
        recipe = AmortizedRecipe(steps=self.steps)
        folder = self.output / "networks" / name.replace("+", "-")
        trainer = AmortizedTrainer(recipe, views.make(name).view, torch.device("cpu"))
        pairs = VolumePairs(self._training_volumes(), self.size, 0, ENDLESS)
        start, began = time.process_time(), time.monotonic()
        train(trainer, pairs, folder, save_every=25)
        print(
            f"{name}: network of step {trainer.step}, "
            f"{time.process_time() - start:.0f} CPU-s and {time.monotonic() - began:.0f} s in this call",
            flush=True,
        )
        return trainer.average.eval()

    def _training_volumes(self) -> list[AlignedVolume]:
        if self._volumes is None:
            folder = self.output / "training"
            folder.mkdir(parents=True, exist_ok=True)
            for number in TRAINED_ON:
                for contrast in ("T1w", "T2w"):
                    source = self.data / "brain_t1t2_neonate" / number / f"{contrast}.nii.gz"
                    target = folder / f"{number}-{contrast}.nii.gz"
                    if not target.exists():
                        shutil.copyfile(source, target)
            self._volumes = read_aligned(folder, SPACING_MM)
        return self._volumes

    def _problem(self, case: Case) -> Any:
        folder = self.output / "problems" / case.name
        if not (folder / "about.json").is_file():
            case.build(self.data).save(folder)
        return load(folder)

    def _one(
        self,
        case: Case,
        problem: Any,
        prepared: drivers.Prepared,
        name: str,
        driver: str,
        network: RegistrationNetwork | None,
        file: Path,
    ) -> dict[str, Any]:
        similarity = views.make(name)
        start = time.process_time()
        if network is not None:
            velocity = drivers.by_network(prepared, similarity, network)
        else:
            velocity = drivers.by_optimiser(prepared, similarity)
        solved = time.process_time() - start
        there, back = drivers.chains(prepared, velocity)
        seconds = prepared.seconds + time.process_time() - start
        result = {
            "case": case.name,
            "driver": driver,
            "similarity": name,
            "steps": self.steps if driver == "network" else None,
            "cpu_s": seconds,
            "solve_cpu_s": solved,
            "score": score(problem, there.dense(problem.fixed.geometry).cpu().numpy(), back.to_sitk()),
            "machine": describe_machine(),
            "checkout": describe_checkout(OWN_CHECKOUT),
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        partial_file = file.with_suffix(".partial")
        partial_file.write_text(json.dumps(result, indent=1), encoding="utf-8")
        partial_file.replace(file)
        return result


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.central", description=__doc__)
    data = os.environ.get("MASR_DATA", OWN_CHECKOUT / "shared" / "data")
    add = parser.add_argument
    add("--output", type=Path, required=True, help="networks, results, table and plots")
    add("--data", type=Path, default=Path(data), help="the folder of images (MASR_DATA)")
    add("--steps", type=int, default=400, help="of each training (400: some minutes of one idle core)")
    add(
        "--size",
        type=int,
        default=48,
        help="side of the training views in voxels of twice the working spacing",
    )
    add("--threads", type=int, default=1)
    add("--similarities", nargs="+", default=list(views.NAMES), choices=views.NAMES)
    add(
        "--cases",
        nargs="+",
        default=[],
        metavar="PATTERN",
        help="shell patterns of case names; all by default",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
