"""The table: means over each family of cases, every case, growth with size and time by stage, as text and as data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Result = dict[str, Any]
PEER = "convexadam"
SCALING = "scaling"


def _score(name: str) -> Callable[[Result], float | None]:
    return lambda result: result["score"].get(name)


def _solve(name: str) -> Callable[[Result], float | None]:
    return lambda result: result["solve"].get(name)


def _timing(*names: str) -> Callable[[Result], float | None]:
    def seconds(result: Result) -> float | None:
        timings = result["solve"]["timings"]
        known = [timings[name] for name in names if name in timings]
        return sum(known) if known else None

    return seconds


def _start(result: Result) -> float | None:
    own = _timing("start", "import")
    return own(result) if result["method"] == "masr-command" else result["solve"]["import_s"]


def _read(result: Result) -> float | None:
    return _timing("read")(result) if result["method"] == "masr-command" else result["solve"]["read_s"]


COLUMNS: dict[str, tuple[str, Callable[[Result], float | None]]] = {
    "Dice": (".4f", _score("dice")),
    "HD95 mm": (".2f", _score("hd95_mm")),
    "TRE mm": (".3f", _score("tre_mm")),
    "SDlogJ": (".3f", _score("sdlogj")),
    "folds": (".0f", _score("folds")),
    "folds all": (".0f", _score("folds_everywhere")),
    "inv mean": (".4f", _score("inverse_mean_mm")),
    "inv max": (".3f", _score("inverse_max_mm")),
    "wall s": (".2f", _solve("wall_s")),
    "CPU s": (".1f", _solve("cpu_s")),
    "peak MB": (".0f", _solve("peak_mb")),
    "start s": (".1f", _start),
    "read s": (".2f", _read),
    "check s": (".2f", _timing("check")),
    "write s": (".2f", _timing("write")),
    "report s": (".2f", _timing("report")),
}
RATIOS = ("wall ratio", "CPU ratio")
_WORST = ("folds", "folds all", "inv max")
"""Columns whose summary is the largest value, not the mean."""


def row(result: Result, results: Sequence[Result]) -> dict[str, float | None]:
    """All columns of one result; the ratios only when the peer ran on the same case in the same session."""
    values = {name: column(result) for name, (_, column) in COLUMNS.items()}
    peers = [
        other
        for other in results
        if other["method"] == PEER
        and other["case"] == result["case"]
        and other["session"] == result["session"]
        and other["threads"] == result["threads"]
    ]
    for name, key in zip(RATIOS, ("wall_s", "cpu_s"), strict=True):
        values[name] = result["solve"][key] / peers[0]["solve"][key] if peers else None
    return values


def summary(results: Sequence[Result]) -> list[dict[str, Any]]:
    """A row for each family and method: means (largest for folds and the worst inverse, geometric for ratios)."""
    done = [result for result in results if "error" not in result]
    rows = []
    for family, method in dict.fromkeys((family_of(r), r["method"]) for r in results):
        mine = [r for r in done if family_of(r) == family and r["method"] == method]
        failed = sum(family_of(r) == family and r["method"] == method for r in results) - len(mine)
        details = [row(r, done) for r in mine]
        columns = {name: _pool(name, [d[name] for d in details]) for name in (*COLUMNS, *RATIOS)}
        rows.append({"family": family, "method": method, "cases": len(mine), "failed": failed, **columns})
    return rows


def text(results: Sequence[Result]) -> str:
    """The whole table for a person."""
    done = [result for result in results if "error" not in result]
    parts = [
        "Means over the cases that each method finished (folds, inv max: the largest; ratios: geometric mean)",
        "",
    ]
    heads = ["family", "method", "n (failed)", *COLUMNS, *(f"{name} to {PEER}" for name in RATIOS)]
    parts.append(
        _lines(
            heads,
            [
                [r["family"], r["method"], f"{r['cases']} ({r['failed']})", *_cells(r)]
                for r in summary(results)
            ],
        )
    )
    parts += ["", "Every case", ""]
    heads = ["case", "method", "at", *COLUMNS, *RATIOS]
    parts.append(
        _lines(heads, [[r["case"], r["method"], r["checkout"] or "", *_cells(row(r, done))] for r in done])
    )
    if grown := scaling(results):
        parts += ["", "Scaling: the exponent of growth with the number of voxels", "", _lines(*grown)]
    parts += ["", "Where the time of masr goes: mean seconds of each stage", "", _lines(*profile(results))]
    errors = [f"{r['case']}  {r['method']}: {r['error']}" for r in results if "error" in r]
    if errors:
        parts += ["", "Failed", "", *errors]
    return "\n".join(parts) + "\n"


def machine(results: Sequence[Result]) -> str:
    """The machines, threads and days of the results, and how busy the machine was, in one line."""
    kinds = {
        f"{r['machine']['processor']}, {r['machine']['cores']} cores, {r['machine']['system']}, "
        f"Python {r['machine']['python']}, {r['threads']} thread(s)"
        for r in results
    }
    days = sorted({r["time"][:10] for r in results})
    loads = [r["load_before"] for r in results if r["load_before"] is not None]
    busy = f"; load average {min(loads):g} to {max(loads):g} when a run began" if loads else ""
    return f"{'; '.join(sorted(kinds))}; {days[0]} to {days[-1]}{busy}"


Lines = tuple[list[str], list[list[str]]]


def scaling(results: Sequence[Result]) -> Lines | None:
    """Slopes of wall, CPU seconds and memory against voxels, both logarithmic, for each method with two sizes."""
    sized = [r for r in results if "error" not in r and family_of(r) == SCALING]
    keys = ("wall_s", "cpu_s", "peak_mb")
    rows = []
    for method in dict.fromkeys(r["method"] for r in sized):
        solves = [r["solve"] for r in sized if r["method"] == method]
        sizes = np.log([solve["voxels"] for solve in solves])
        if len(set(sizes)) < 2 or any(not solve[key] for solve in solves for key in keys):
            continue
        slopes = [np.polyfit(sizes, np.log([solve[key] for solve in solves]), 1)[0] for key in keys]
        rows.append([method, str(len(solves)), *(f"{slope:.2f}" for slope in slopes)])
    return (["method", "sizes", "wall", "CPU", "memory"], rows) if rows else None


def profile(results: Sequence[Result]) -> Lines:
    """Mean seconds of each stage over the cases of a family, for every method that tells its stages."""
    told = [r for r in results if "error" not in r and r["solve"]["timings"]]
    stages = list(dict.fromkeys(stage for r in told for stage in r["solve"]["timings"]))
    rows = []
    for family, method in dict.fromkeys((family_of(r), r["method"]) for r in told):
        timings = [r["solve"]["timings"] for r in told if family_of(r) == family and r["method"] == method]
        means = [np.mean([t.get(stage, 0.0) for t in timings]) for stage in stages]
        rows.append([family, method, *(f"{mean:.2f}" for mean in means)])
    return ["family", "method", *stages], rows


def family_of(result: Result) -> str:
    return str(result["case"]).split("/")[0]


def _pool(name: str, values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    if name in _WORST:
        return max(known)
    if name in RATIOS:
        return math.exp(sum(math.log(value) for value in known) / len(known))
    return sum(known) / len(known)


def _cells(values: dict[str, Any]) -> list[str]:
    formats = {name: form for name, (form, _) in COLUMNS.items()} | dict.fromkeys(RATIOS, ".3f")
    return ["-" if values[name] is None else format(values[name], form) for name, form in formats.items()]


def _lines(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[c]) for line in [heads, *rows]) for c in range(len(heads))]
    form = [
        "  ".join(
            cell.ljust(width) if c < 2 else cell.rjust(width)
            for c, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in [heads, ["-" * width for width in widths], *rows]
    ]
    return "\n".join(form)
