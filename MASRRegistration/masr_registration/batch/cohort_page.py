"""The cohort's page: counts, distributions and a table that sorts without a script, in one HTML file.

The page carries the same content security policy as a case's report, which forbids scripts: every row knows its rank in
every column, and a radio button decides which rank orders the rows.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from functools import partial
from html import escape
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from .. import __version__
from .cohort import COLUMNS, Column, Row, distribution
from .study import THUMBNAIL, Study

CSP = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
NOTICE = (
    "Research software, not a medical device; not for treatment decisions without independent verification."
)
PATENT = "The method may be covered by a patent application of its authors."
MOST_THUMBNAILS = 1000
"""A page with more pictures could not be opened; the flagged cases get theirs first."""
_WIDTH, _HEIGHT = 300, 54


def page(study: Study, rows: Sequence[Row]) -> str:
    """The HTML of these rows; links are relative to the study's folder."""
    used = [column for column in COLUMNS if any(column.name in row.values for row in rows)]
    style = files("masr_registration").joinpath("data", "cohort.css").read_text(encoding="utf-8")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{CSP}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Cohort of {len(rows)} registrations</title>
<style>
{style}{_sorting_rules(used)}</style>
</head>
<body>
<main>
<div class=brand>MASR REGISTRATION {escape(__version__)}</div>
<h1>Cohort of {len(rows)} registrations</h1>
{_made(study, rows)}
{_tiles(rows)}
{_plots(rows, used)}
{_table(study, rows, used)}
<footer><p><strong>{NOTICE}</strong></p>
<p>{PATENT} Nothing in this page was sent anywhere or loaded from anywhere.</p></footer>
</main>
</body>
</html>
"""


def _made(study: Study, rows: Sequence[Row]) -> str:
    """How the study was run, as far as it is known."""
    told = []
    presets = sorted({row.preset for row in rows if row.preset})
    if presets:
        told.append(f"{'Preset' if len(presets) == 1 else 'Presets'}: {', '.join(presets)}")
    recorded = study.recorded()
    if recorded is not None:
        device, threads = recorded[0].device, recorded[0].threads
        told.append(f"Device: {device}, {threads} {'thread' if threads == 1 else 'threads'} for a case")
    return f"<p class=guide>{escape('. '.join(told))}.</p>" if told else ""


def _tiles(rows: Sequence[Row]) -> str:
    done = [row for row in rows if row.state == "done"]
    told = [
        ("", len(done), "finished"),
        ("bad", sum(row.state == "failed" for row in rows), "could not be registered"),
        ("", sum(row.state == "waiting" for row in rows), "not run yet"),
        ("doubt", sum(row.verdict == "doubtful" for row in done), "doubtful verdicts"),
        ("bad", sum(row.verdict == "failed" for row in done), "failed verdicts"),
        ("doubt", sum(bool(row.flags) for row in done), "flagged: look at these first"),
    ]
    tiles = "".join(
        f'<div class="tile {kind if count else ""}"><b>{count}</b><span>{text}</span></div>'
        for kind, count, text in told
    )
    return f"<div class=tiles>{tiles}</div>"


def _plots(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    figures = "".join(_plot(rows, column) for column in columns)
    if not figures:
        return ""
    return f"""<section>
<h2>Distributions</h2>
<p class=guide>Box: the middle half of the cases, with the median. Each dot is a case; red ones are flagged.</p>
<div class=plots>{figures}</div>
</section>"""


def _plot(rows: Sequence[Row], column: Column) -> str:
    """A box plot with all its points, as SVG."""
    told = distribution(rows, column.name)
    low, high = told["min"], told["max"]
    span = (high - low) or 1.0

    def x(value: float) -> float:
        return round(4 + (_WIDTH - 8) * (value - low) / span, 1)

    middle, box = 18, 20
    parts = [
        f'<line class=whisker x1="{x(low)}" x2="{x(high)}" y1="{middle}" y2="{middle}"/>',
        f'<rect class=box x="{x(told["q1"])}" y="{middle - box / 2}" height="{box}" '
        f'width="{max(x(told["q3"]) - x(told["q1"]), 1):.1f}"/>',
        f'<line class=whisker x1="{x(told["median"])}" x2="{x(told["median"])}" '
        f'y1="{middle - box / 2}" y2="{middle + box / 2}" stroke-width="2"/>',
    ]
    points = sorted(
        (row for row in rows if column.name in row.values), key=lambda row: _flagged_by(row, column)
    )
    for row in points:
        kind = "dot flagged" if _flagged_by(row, column) else "dot"
        title = f"<title>{escape(row.id)}: {_number(row, column)}</title>"
        parts.append(f'<path class="{kind}" d="M{x(row.values[column.name])} 43h0">{title}</path>')
    count = int(told["n"])
    of = "" if count == sum(row.state == "done" for row in rows) else f", n = {count}"
    label = f"{column.label}{f' ({column.unit})' if column.unit else ''}"
    ends = f"<span>{low:.{column.digits}f}</span><span>{high:.{column.digits}f}</span>"
    return (
        f"<figure class=plot><figcaption><b>{label}</b><span>median {told['median']:.{column.digits}f}{of}</span>"
        f'</figcaption><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{label}">{"".join(parts)}</svg><div class=ends>{ends}</div></figure>'
    )


def _table(study: Study, rows: Sequence[Row], columns: Sequence[Column]) -> str:
    keys = ["case", "state", *(column.name for column in columns)]
    radios = "".join(
        f'<input class=sort type=radio name=sort id="{key}-{way}">' for key in keys for way in ("up", "down")
    )
    heads = "".join(
        f'<div class="{kind}" role=columnheader>{label} {_sorters(key, label) if key else ""}</div>'
        for key, label, kind in [
            ("case", "Case", "id"),
            ("", "Picture", ""),
            ("state", "Verdict", ""),
            ("", "Flags", ""),
            *((c.name, f"{c.label}{f' ({c.unit})' if c.unit else ''}", "number") for c in columns),
        ]
    )
    ranks = _ranks(rows, columns)
    pictured = {
        row.id for row in sorted(rows, key=lambda row: -len(row.flags))[:MOST_THUMBNAILS]
    }  # stable: otherwise the first ones
    body = "".join(
        _table_row(study, row, columns, ranks[n], with_picture=row.id in pictured)
        for n, row in enumerate(rows)
    )
    return f"""<section>
<h2>Cases</h2>
<p class=guide>The arrows sort. Pictures: borders of the moving image after its registration, on the fixed image. A case
is flagged when its transform folds or its inverse is inexact, when its verdict is not plausible, or when it is far from
the others in a way that may mean a failure.</p>
{radios}
<div class=scroll><div class=table role=table style="grid-template-columns:repeat({len(columns) + 4},auto)">
<div class="row head" role=row>{heads}</div>
{body}</div></div>
</section>"""


def _sorters(key: str, label: str) -> str:
    return (
        f'<span class=sorters><label for="{key}-up" title="{label}: smallest first">▲</label>'
        f'<label for="{key}-down" title="{label}: largest first">▼</label></span>'
    )


def _sorting_rules(columns: Sequence[Column]) -> str:
    rules = []
    for key in ("case", "state", *(column.name for column in columns)):
        for way, order in (("up", f"var(--{key})"), ("down", f"calc(0 - var(--{key}))")):
            checked = f"#{key}-{way}:checked ~ .scroll"
            rules.append(f"{checked} .row:not(.head) {{ order: {order}; }}")
            rules.append(f'{checked} label[for="{key}-{way}"] {{ color: var(--ink); }}')
    return "\n".join(rules) + "\n"


def _ranks(rows: Sequence[Row], columns: Sequence[Column]) -> list[dict[str, int]]:
    """The place of every row in every column; rows without a number come first."""
    ranks: list[dict[str, int]] = [{} for _ in rows]
    grades = {"failed": 0, "doubtful": 1, "plausible": 2}

    def grade(row: Row) -> tuple[int, int]:
        return (0 if row.state == "failed" else 1 if row.state == "done" else 2, grades.get(row.verdict, -1))

    def rank(name: str, key: Callable[[Row], Any]) -> None:
        for place, n in enumerate(sorted(range(len(rows)), key=lambda n: key(rows[n])), start=1):
            ranks[n][name] = place

    rank("case", lambda row: row.id.lower())
    rank("state", grade)
    for column in columns:
        rank(column.name, partial(_value, column=column))
    return ranks


def _table_row(
    study: Study, row: Row, columns: Sequence[Column], ranks: dict[str, int], *, with_picture: bool
) -> str:
    style = ";".join(f"--{name}:{rank}" for name, rank in ranks.items())
    pair = f"<small>{escape(row.moving)} → {escape(row.fixed)}</small>" if row.fixed else ""
    name = escape(row.id)
    folder = study.cases / row.id
    if (folder / "report.html").is_file():
        name = f'<a href="cases/{quote(row.id)}/report.html">{name}</a>'
    kind = row.state if row.state != "done" else "flagged" if row.flags else ""
    start = (
        f'<div class="row {kind}" role=row style="{style}"><div class=id role=rowheader>{name}{pair}</div>'
    )
    if row.state == "failed":
        return (
            f"{start}<div role=cell></div><div class=failed-word role=cell>✕ failed</div>"
            f"<div class=why role=cell>{escape(row.message)}</div></div>\n"
        )
    sign = {"plausible": "✓", "doubtful": "!", "failed": "✕"}.get(row.verdict, "")
    verdict = f"{sign} {escape(row.verdict)}" if row.state == "done" else "not run yet"
    numbers = "".join(
        f'<div class="number{" out" if _flagged_by(row, c) else ""}" role=cell>{_number(row, c)}</div>'
        for c in columns
    )
    word = "failed-word" if row.verdict == "failed" else escape(row.verdict)
    flags = escape("; ".join(row.flags))
    return (
        f"{start}<div class=thumb role=cell>{_picture(study, row) if with_picture else ''}</div>"
        f"<div class={word or 'none'} role=cell>{verdict}</div>"
        f"<div class=why role=cell>{flags}</div>{numbers}</div>\n"
    )


def _picture(study: Study, row: Row) -> str:
    path = study.cases / row.id / THUMBNAIL
    if not path.is_file():
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{escape(row.id)}, three slices" src="data:image/jpeg;base64,{data}">'


def _flagged_by(row: Row, column: Column) -> bool:
    told = f"{column.label.lower()} is unusually {column.worse}"
    rules = {"folds": "the transform folds", "inverse_consistency_max_mm": "the inverse is inexact"}
    return told in row.flags or rules.get(column.name) in row.flags


def _value(row: Row, column: Column) -> float:
    return row.values.get(column.name, float("-inf"))


def _number(row: Row, column: Column) -> str:
    value = row.values.get(column.name)
    return "—" if value is None else f"{value:.{column.digits}f}"
