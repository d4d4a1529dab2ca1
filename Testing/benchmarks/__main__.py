"""The command: ``python -m benchmarks [--cases PATTERN ...] [--methods PATTERN ...] [--threads N]``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from . import cases, methods, plot, table
from .runner import OWN_CHECKOUT, Runner

DEFAULT_METHODS = [
    "identity",
    "masr",
    "masr-mind",
    "masr-network",
    "masr-command",
    "convexadam*",
    "ants-syn",
    "elastix-*",
]


def main() -> int:
    options = _options()
    chosen = cases.select(options.cases)
    names = methods.select(options.methods)
    if options.list or not chosen or not names:
        print("cases:  ", "\n         ".join(case.name for case in cases.all_cases()))
        print("methods:", "\n         ".join(methods.NAMES))
        return 0 if options.list else 2
    runner = Runner(
        options.data,
        options.output,
        options.masr.resolve(),
        options.threads,
        options.fresh,
        options.keep,
    )
    results = []
    for result in runner.run(chosen, names):
        results.append(result)
        print(_line(result), flush=True)
    if any("error" not in result for result in results):
        command = (
            f"python -m benchmarks --cases {' '.join(options.cases)} --methods {' '.join(options.methods)}"
        )
        print("\n" + write(results, options.output, f"{command} --threads {options.threads}"))
    return int(any("error" in result for result in results))


def write(results: list[table.Result], output: Path, command: str) -> str:
    """`table.txt`, `table.json` and `table.png` in `output`; returns the text."""
    text = f"{command}\n{table.machine(results)}\n\n{table.text(results)}"
    (output / "table.txt").write_text(text, encoding="utf-8")
    data = {"command": command, "summary": table.summary(results), "results": results}
    plot.write(results, output / "table.png")
    (output / "table.json").write_text(json.dumps(data, indent=1), encoding="utf-8")
    return text


def _line(result: table.Result) -> str:
    head = f"{result['case']:<28} {result['method']:<30}"
    if "error" in result:
        return f"{head} failed: {result['error'].splitlines()[-1]}"
    kept = "  (kept)" if result.get("kept") else ""
    solve, score = result["solve"], result["score"]
    shown = {"Dice": score.get("dice"), "TRE": score.get("tre_mm"), "folds": score["folds_everywhere"]}
    numbers = "  ".join(f"{name} {value:.4g}" for name, value in shown.items() if value is not None)
    return f"{head} {numbers}  {solve['wall_s']:.2f} s  {solve['cpu_s']:.1f} CPU-s{kept}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    data = os.environ.get("MASR_DATA", OWN_CHECKOUT / "shared" / "data")
    add = parser.add_argument
    add("--cases", nargs="+", default=["*"], metavar="PATTERN", help="shell patterns of case names")
    add("--methods", nargs="+", default=DEFAULT_METHODS, metavar="PATTERN", help="shell patterns of methods")
    add("--threads", type=int, default=2, help="threads for every method (2)")
    add("--data", type=Path, default=Path(data), help="the folder of images (MASR_DATA)")
    add("--output", type=Path, default=Path("benchmark-results"), help="problems, results and table")
    add("--masr", type=Path, default=OWN_CHECKOUT, help="the checkout of MASR Registration to measure")
    add("--fresh", action="store_true", help="measure again what was measured")
    add("--keep", action="store_true", help="keep the displacement fields")
    add("--list", action="store_true", help="name the cases and methods")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
