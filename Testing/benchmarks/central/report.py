"""The results as a table and as plots."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

Result = dict[str, Any]
COLUMNS = {
    "Dice": ("dice", ".4f", np.mean),
    "HD95 mm": ("hd95_mm", ".2f", np.mean),
    "TRE mm": ("tre_mm", ".3f", np.mean),
    "SDlogJ": ("sdlogj", ".3f", np.mean),
    "strict folds": ("folds_everywhere", ".0f", np.max),
    "inverse mm": ("inverse_mean_mm", ".4f", np.mean),
}


def line(result: Result) -> str:
    score = result["score"]
    shown = {name: score.get(key) for name, (key, _, _) in COLUMNS.items()}
    numbers = "  ".join(f"{name} {value:.4g}" for name, value in shown.items() if value is not None)
    head = f"{result['case']:<24} {result['driver']:<10} {result['similarity']:<10}"
    return f"{head} {numbers}  {result['cpu_s']:.1f} CPU-s"


def summary(results: Sequence[Result]) -> list[dict[str, Any]]:
    """A row for each family, driver and similarity: means, and the largest number of folds."""
    rows = []
    keys = dict.fromkeys((r["case"].split("/")[0], r["driver"], r["similarity"]) for r in results)
    for family, driver, similarity in keys:
        mine = [
            r
            for r in results
            if (r["case"].split("/")[0], r["driver"], r["similarity"]) == (family, driver, similarity)
        ]
        row: dict[str, Any] = {
            "family": family,
            "driver": driver,
            "similarity": similarity,
            "cases": len(mine),
            "CPU s": float(np.mean([r["cpu_s"] for r in mine])),
        }
        for name, (key, _, pooled) in COLUMNS.items():
            known = [r["score"][key] for r in mine if r["score"].get(key) is not None]
            row[name] = float(pooled(known)) if known else None
        rows.append(row)
    return rows


def text(results: Sequence[Result]) -> str:
    heads = ["family", "driver", "similarity", "cases", *COLUMNS, "CPU s"]
    lines = [heads]
    for row in summary(results):
        cells = ["-" if row[n] is None else format(row[n], form) for n, (_, form, _) in COLUMNS.items()]
        lines.append([*(str(row[n]) for n in heads[:4]), *cells, f"{row['CPU s']:.1f}"])
    widths = [max(len(cells[c]) for cells in lines) for c in range(len(heads))]
    padded = (
        "  ".join(
            cell.ljust(width) if c < 3 else cell.rjust(width)
            for c, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in lines
    )
    return "\n".join(padded) + "\n"


def write(results: Sequence[Result], output: Path) -> str:
    """`central.txt`, `central.json` and `central.png` in `output`; returns the text."""
    table = text(results)
    (output / "central.txt").write_text(table, encoding="utf-8")
    data = {"summary": summary(results), "results": list(results)}
    (output / "central.json").write_text(json.dumps(data, indent=1), encoding="utf-8")
    plot(results, output / "central.png")
    return table


def plot(results: Sequence[Result], path: Path) -> None:
    """Every case as a point, means as bars: Dice of the neonates, TRE of the known warps, CPU seconds of both."""
    figure = Figure(figsize=(15, 4.5), layout="constrained")
    panels = figure.subplots(1, 3)
    groups = list(dict.fromkeys((r["driver"], r["similarity"]) for r in results))
    names = [f"{driver}\n{similarity}" for driver, similarity in groups]
    for panel, key, title in zip(
        panels,
        ("dice", "tre_mm", "cpu_s"),
        ("Dice (higher is better)", "TRE in mm (lower is better)", "CPU seconds"),
        strict=True,
    ):
        for number, group in enumerate(groups):
            mine = [r for r in results if (r["driver"], r["similarity"]) == group]
            values = [r["cpu_s"] if key == "cpu_s" else r["score"].get(key) for r in mine]
            known = [v for v in values if v is not None]
            if known:
                panel.bar(number, np.mean(known), color="lightsteelblue")
                panel.plot([number] * len(known), known, "k.", markersize=4)
        panel.set_title(title)
        panel.set_xticks(range(len(groups)), names, fontsize=7)
        if not panel.has_data():
            panel.text(0.5, 0.5, "not measured", ha="center", transform=panel.transAxes)
    figure.savefig(path, dpi=110)
