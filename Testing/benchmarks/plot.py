"""The table as one picture: accuracy and CPU time by family, capture range, and growth with size."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from . import table
from .table import Result

CAPTURE = "capture-"
SUCCESS_MM = 2.0
"""A registration with a smaller mean error than this captured the pair."""


def write(results: Sequence[Result], path: Path) -> None:
    """Draw what the results hold; a panel without results stays empty and says so."""
    done = [result for result in results if "error" not in result]
    figure = Figure(figsize=(18, 10), layout="constrained")
    axes = figure.subplots(2, 3)
    _bars(axes[0, 0], _plain(done), "Dice", "mean Dice (higher is better)")
    _bars(axes[0, 1], _plain(done), "TRE mm", "mean TRE in mm (lower is better)")
    _bars(axes[0, 2], _plain(done), "CPU s", "CPU seconds")
    axes[0, 2].set_yscale("log")
    _capture(axes[1, 0], [r for r in done if r["case"].startswith(CAPTURE)])
    _growth(axes[1, 1], done, "cpu_s", "CPU seconds")
    _growth(axes[1, 2], done, "peak_mb", "peak memory in MB")
    for panel in axes.flat:
        if not panel.has_data():
            panel.text(0.5, 0.5, "not measured", ha="center", transform=panel.transAxes)
    figure.savefig(path, dpi=110)


def _plain(results: Sequence[Result]) -> list[Result]:
    return [r for r in results if not r["case"].startswith((CAPTURE, table.SCALING))]


def _bars(panel: Axes, results: Sequence[Result], column: str, title: str) -> None:
    rows = [row for row in table.summary(results) if row[column] is not None]
    families = list(dict.fromkeys(row["family"] for row in rows))
    names = list(dict.fromkeys(row["method"] for row in rows))
    width = 0.8 / max(1, len(names))
    for number, name in enumerate(names):
        mine = [row for row in rows if row["method"] == name]
        places = [families.index(row["family"]) + number * width for row in mine]
        panel.bar(places, [row[column] for row in mine], width, label=name)
    panel.set_title(title)
    panel.set_xticks(range(len(families)), families, rotation=20, ha="right")
    if names:
        panel.legend(fontsize="small")


def _capture(panel: Axes, results: Sequence[Result]) -> None:
    """Share of captured pairs against the mean displacement at the start, one line for each method and kind."""
    found: dict[tuple[str, str], dict[str, list[Result]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        family = table.family_of(result)
        kind = family.removeprefix(CAPTURE).split("-")[0]
        found[kind, result["method"]][family].append(result)
    for (kind, method), steps in found.items():
        points = sorted(
            (
                mean(r["score"]["tre_before_mm"] for r in step),
                mean(r["score"]["tre_mm"] < SUCCESS_MM for r in step),
            )
            for step in steps.values()
        )
        panel.plot(*zip(*points, strict=True), marker="o", label=f"{kind}, {method}")
    panel.set_title(f"capture range: share with TRE < {SUCCESS_MM:g} mm")
    panel.set_xlabel("mean displacement at the start in mm")
    if found:
        panel.legend(fontsize="small")


def _growth(panel: Axes, results: Sequence[Result], key: str, title: str) -> None:
    sized = [r for r in results if table.family_of(r) == table.SCALING and r["solve"][key]]
    for method in dict.fromkeys(r["method"] for r in sized):
        points = sorted((r["solve"]["voxels"], r["solve"][key]) for r in sized if r["method"] == method)
        panel.loglog(*zip(*points, strict=True), marker="o", label=method)
    panel.set_title(f"{title} against voxels")
    if sized:
        panel.legend(fontsize="small")
