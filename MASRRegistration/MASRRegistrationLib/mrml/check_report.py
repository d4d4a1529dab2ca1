"""The report of the Check tab: one HTML page with what the views show, the verdict and its reasons."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from typing import Any

import vtk
from masr_registration import __version__
from slicer.i18n import tr as _
from vtk.util.numpy_support import vtk_to_numpy

from . import layouts
from .deformation import Fold
from .evidence import verdictSentences
from .landmarks import LandmarkError
from .overlap import Overlap
from .provenance import provenanceText
from .results import storedResult

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; color: #222 }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2em }
table { border-collapse: collapse } th, td { border: 1px solid #ccc; padding: .3em .7em; text-align: right }
th:first-child, td:first-child { text-align: left }
figure { display: inline-block; margin: 0 1% 1em 0; width: 31% } figure img { width: 100% }
pre { background: #f4f4f4; padding: 1em; overflow: auto; font-size: .85em }
.note { border-left: 4px solid #b00; padding-left: 1em }
"""


def pictures() -> list[tuple[str, bytes]]:
    """What the views of the module show now: their titles and PNG files."""
    rows = ((layouts.BEFORE, _("Before")), (layouts.AFTER, _("After")))
    found = []
    for row, title in rows:
        for logic in layouts.sliceLogics(row):
            image = _png(logic)
            if image is not None:
                found.append((f"{title}, {logic.GetSliceNode().GetLayoutName().removeprefix(row)}", image))
    return found


def reportPage(
    transformNode: Any,
    images: Sequence[tuple[str, bytes]],
    folds: Sequence[Fold] | None = None,
    overlaps: Sequence[Overlap] = (),
    landmarks: Sequence[LandmarkError] = (),
) -> str:
    """The page; `folds` is None where nobody has looked for them. Names are escaped, nothing is loaded from outside."""
    content = storedResult(transformNode) or {}
    first, *rest = verdictSentences(content)
    parts = [
        f"<h1>{html.escape(transformNode.GetName())}</h1>",
        f'<p class="note">{_disclaimer()}</p>',
        f"<p><strong>{html.escape(first)}</strong></p><ul>",
        *(f"<li>{html.escape(sentence)}</li>" for sentence in rest),
        "</ul>",
    ]
    if images:
        parts.append(f"<h2>{_('What the views showed')}</h2>")
        for title, image in images:
            data = base64.b64encode(image).decode("ascii")
            parts.append(
                f'<figure><img alt="{html.escape(title)}" src="data:image/png;base64,{data}">'
                f"<figcaption>{html.escape(title)}</figcaption></figure>"
            )
    if folds is not None:
        parts += [f"<h2>{_('Folds')}</h2>", _foldTable(folds)]
    if overlaps:
        head = [_("Segment"), _("Dice before"), _("Dice after"), _("HD95 before, mm"), _("HD95 after, mm")]
        rows = [
            [o.name, *(_number(v) for v in (o.diceBefore, o.diceAfter, o.hd95Before, o.hd95After))]
            for o in overlaps
        ]
        parts += [f"<h2>{_('Overlap of segments')}</h2>", _table(head, rows)]
    if landmarks:
        head = [_("Landmark"), _("Error before, mm"), _("Error after, mm")]
        rows = [[e.name, _number(e.before), _number(e.after)] for e in landmarks]
        parts += [f"<h2>{_('Landmarks')}</h2>", _table(head, rows)]
    if content:
        parts += [f"<h2>{_('How it was made')}</h2>", f"<pre>{html.escape(provenanceText(content))}</pre>"]
    title = html.escape(transformNode.GetName())
    return (
        '<!DOCTYPE html>\n<html><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{title}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + f"\n<p>MASR Registration {html.escape(__version__)}</p>\n</body></html>\n"
    )


def _disclaimer() -> str:
    return html.escape(
        _(
            "Research software, not a medical device; not for treatment decisions without independent "
            "verification. The method may be covered by a patent application of its authors."
        )
    )


def _foldTable(folds: Sequence[Fold]) -> str:
    if not folds:
        return f"<p>{html.escape(_('None was found.'))}</p>"
    rows = [["{:.1f}, {:.1f}, {:.1f}".format(*fold.place), str(fold.cells)] for fold in folds]
    return _table([_("Place (RAS mm)"), _("Cells")], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"<tr>{''.join(f'<th>{html.escape(cell)}</th>' for cell in head)}</tr>"]
    lines += [f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows]
    return f"<table>{''.join(lines)}</table>"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _png(logic: Any) -> bytes | None:
    """The blended image of a slice view as a PNG file; None where it shows nothing."""
    logic.UpdateImageData()
    connection = logic.GetImageDataConnection()
    if connection is None:
        return None
    writer = vtk.vtkPNGWriter()
    writer.SetInputConnection(connection)
    writer.WriteToMemoryOn()
    writer.Write()
    result = writer.GetResult()
    if result is None or result.GetNumberOfTuples() == 0:
        return None
    return vtk_to_numpy(result).tobytes()
