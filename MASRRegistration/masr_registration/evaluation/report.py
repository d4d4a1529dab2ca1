"""`report.html`: one self-contained page from which a clinician judges a registration.

No scripts, nothing fetched, every text escaped. matplotlib draws the pictures and is imported only when a report is
written.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np

from ..volume import Volume
from . import pictures
from .report_tables import landmark_table, metrics_table, provenance_table, tiles, timings_table
from .slices import PLANES, Hanging, Plane, Window, fullest, middle, otsu

CSP = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
NOTICE = (
    "Research software, not a medical device; not for treatment decisions without independent verification."
)
PATENT = "The method may be covered by a patent application of its authors."
CT_BELOW = -500.0
CT_WINDOW = (-160.0, 240.0)

_VERDICTS = {
    "plausible": (
        "✓",
        "Plausible",
        "No check speaks against this result. Look at the pictures before you rely on it.",
    ),
    "doubtful": ("!", "Doubtful", "Do not rely on this result before you have understood the reasons."),
    "failed": ("✕", "Failed", "Do not use this result."),
}


def report_page(
    *,
    result: Mapping[str, Any],
    fixed: Volume,
    moving: Volume,
    before: Volume,
    after: Volume,
    displacement: np.ndarray,
    jacobian: np.ndarray,
    folded: np.ndarray,
    foreground: np.ndarray,
) -> str:
    """The page as HTML.

    Args:
        result: the content of result.json.
        fixed, before, after: volumes on the fixed grid; `before` and `after` are the moving image resampled by the
            initial and by the found transform.
        moving: the moving image on its own grid.
        displacement: deformable part ``(3, D, H, W)``, LPS mm, on the fixed grid.
        jacobian: Jacobian determinant of the transform ``(D, H, W)``.
        folded: where it folds, bool ``(D, H, W)``.
        foreground: where the fixed image shows the body, bool ``(D, H, W)``.

    Raises `ImportError` without matplotlib.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError("The report needs matplotlib, which is not installed.") from error
    gallery = _Gallery(fixed, before, after, foreground, folded)
    return _page(
        f"Registration of {moving.name} to {fixed.name}",
        [
            _header(result, fixed, moving),
            _verdict(result),
            tiles(result),
            gallery.look(),
            gallery.outlines(),
            gallery.overlays(),
            gallery.checkerboards(),
            gallery.displacement(displacement),
            gallery.jacobian(jacobian),
            landmark_table(result),
            metrics_table(result),
            timings_table(result),
            provenance_table(result),
        ],
    )


def _page(title: str, parts: Iterable[str]) -> str:
    style = files("masr_registration").joinpath("data", "report.css").read_text(encoding="utf-8")
    body = "\n".join(part for part in parts if part)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{CSP}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
{style}</style>
</head>
<body>
<main>
{body}
<footer><p><strong>{NOTICE}</strong></p>
<p>{PATENT} Nothing in this page was sent anywhere or loaded from anywhere.</p></footer>
</main>
</body>
</html>
"""


def _header(result: Mapping[str, Any], fixed: Volume, moving: Volume) -> str:
    provenance = result.get("provenance") or {}
    preset = provenance.get("preset") or {}
    rows = "".join(
        f"<dt>{role}</dt><dd>{escape(volume.name)} <span>{_grid(volume)}</span></dd>"
        for role, volume in (("Fixed", fixed), ("Moving", moving))
    )
    name, description = escape(str(preset.get("name", "?"))), escape(str(preset.get("description", "")))
    date = escape(str(provenance.get("date", "")).replace("T", " ").replace("+00:00", " UTC"))
    return f"""<header>
<div class=brand>MASR REGISTRATION {escape(str(provenance.get("masr_version", "")))}</div>
<h1>{escape(moving.name)} aligned to {escape(fixed.name)}</h1>
<dl class=pair>{rows}<dt>Preset</dt><dd>{name} <span>{description}</span></dd>
<dt>Date</dt><dd>{date}</dd></dl>
</header>"""


def _grid(volume: Volume) -> str:
    size = " × ".join(str(n) for n in volume.geometry.size)
    spacing = " × ".join(f"{s:.4g}" for s in volume.geometry.spacing)
    return f"{size} voxels of {spacing} mm"


def _verdict(result: Mapping[str, Any]) -> str:
    verdict = result.get("verdict") or {}
    level = verdict.get("level")
    level = level if level in _VERDICTS else "doubtful"
    sign, word, advice = _VERDICTS[level]
    sentences = list(verdict.get("reasons") or [])
    sentences += [warning for warning in result.get("warnings") or [] if warning not in sentences]
    reasons = "".join(f"<li>{escape(str(sentence))}</li>" for sentence in sentences)
    return f"""<section class="verdict {level}">
<div class=word><span class=sign aria-hidden=true>{sign}</span>{word}</div>
<p>{advice}</p>
<ul>{reasons}</ul>
</section>"""


@dataclass(frozen=True)
class _Row:
    """Three pictures side by side: a title, its explanation and the JPEG of each plane."""

    title: str
    remark: str
    jpegs: Sequence[bytes]
    kind: str = ""


class _Gallery:
    """The pictures of one result: slices through the middle of the body, and through the folds where it folds."""

    def __init__(
        self, fixed: Volume, before: Volume, after: Volume, foreground: np.ndarray, folded: np.ndarray
    ) -> None:
        self._hanging = Hanging.of(fixed.geometry)
        self._painter = pictures.Painter(self._hanging)
        self._foreground = foreground
        self._folded = folded
        self._index = middle(foreground)
        self._deformed_index = fullest(folded) if folded.any() else self._index
        self._volume = fixed.array
        self._window = _window(fixed.array, foreground)
        moving_window = _window(after.array, foreground)
        self._fixed = self._grey(fixed.array, self._window)
        self._before = self._grey(before.array, moving_window)
        self._after = self._grey(after.array, moving_window)

    def look(self) -> str:
        where = "as it came" if any(image.any() for image in self._before) else "lies outside these slices"
        rows = (
            _Row("Fixed image", "stays where it is", self._greys(self._fixed), "fixed"),
            _Row("Moving image, before", where, self._greys(self._before)),
            _Row("Moving image, after", "aligned to the fixed image", self._greys(self._after), "after"),
        )
        guide = (
            "The same place in the patient in each row. Anatomy should lie in the same spot in the first and in the "
            "last row; brightness may differ between modalities."
        )
        box = "<input type=checkbox id=flicker>"
        flicker = f"<label class=flicker>{box} Flicker: fixed and aligned image in turn</label>"
        return self._section(
            "Images", guide, rows, self._index, before=flicker, kind="look", end=self._obliquity()
        )

    def outlines(self) -> str:
        level = otsu(np.concatenate([image.ravel() for image in self._after]))

        def draw(plane: Plane, fixed: np.ndarray, moving: np.ndarray) -> bytes:
            return self._painter.outlines(plane, fixed, moving, level)

        guide = (
            "Borders of the moving image drawn on the fixed image: afterwards they should follow its anatomy."
        )
        return self._compare("Outlines", guide, draw)

    def overlays(self) -> str:
        legend = _legend(
            _swatch(pictures.FIXED_COLOUR, "fixed"),
            _swatch(pictures.MOVING_COLOUR, "moving"),
            "grey to white: both bright",
        )
        guide = "Outlines should coincide: a coloured double edge is a shift. Broad tints only show other contrasts."
        return self._compare("Colour overlay", guide, self._painter.overlay, end=legend)

    def checkerboards(self) -> str:
        guide = (
            "Squares of the fixed and of the moving image in turn: edges should run on from square to square."
        )
        return self._compare("Checkerboard", guide, self._painter.checkerboard)

    def displacement(self, displacement: np.ndarray) -> str:
        length = np.linalg.norm(_thinned(displacement)[:, _thinned(self._foreground)], axis=0)
        largest = max(float(np.ceil(np.percentile(length, 99.5))), 1.0) if length.size else 1.0
        jpegs = [
            self._painter.displacement(plane, fixed, self._through(displacement, plane), body, largest)
            for plane, fixed, body in self._deformed()
        ]
        guide = (
            "How far the deformation moves each point, beyond the turn, shift and scaling of the whole image. "
            "The white lines are a 10 mm grid, bent by the deformation: they should be smooth and never cross."
        )
        ticks = [f"{largest * i / 4:.3g}" for i in range(4)] + [f"{largest:.3g} mm"]
        end = _legend(_bar(pictures.DISPLACEMENT_COLOURS, ticks))
        return self._section(
            "Deformation in millimetres", guide, [_Row("", "", jpegs)], self._deformed_index, end=end
        )

    def jacobian(self, jacobian: np.ndarray) -> str:
        inside = _thinned(jacobian)[_thinned(self._foreground)]
        inside = inside[inside > 0]
        largest = (
            float(np.clip(np.percentile(np.abs(np.log2(inside)), 99.5), 0.25, 3.0)) if inside.size else 1.0
        )
        jpegs = []
        for plane, fixed, body in self._deformed():
            logarithm = np.log2(np.maximum(self._through(jacobian, plane), 2.0**-largest))
            marks = self._through(self._folded, plane)
            jpegs.append(self._painter.jacobian(plane, fixed, logarithm, marks, body, largest))
        guide = (
            "The Jacobian determinant: how much room tissue of the fixed image takes in the moving image. "
            "White is unchanged; strong colours of both kinds side by side deserve a look."
        )
        factors = [f"× {2 ** (largest * t):.2f}" for t in (-1, -0.5, 0, 0.5, 1)]
        factors[0], factors[-1] = f"{factors[0]} less room", f"more room {factors[-1]}"
        count = int(np.count_nonzero(self._folded))
        mark = "<span>no folds</span>"
        if count:
            told = f"<strong>{count} folded voxels</strong>, shown where they are densest"
            mark = f"<span><span class=ring></span>{told}</span>"
        end = _legend(_bar(pictures.JACOBIAN_COLOURS, factors), mark)
        return self._section(
            "Local change of volume", guide, [_Row("", "", jpegs)], self._deformed_index, end=end
        )

    def _deformed(self) -> Iterator[tuple[Plane, np.ndarray, np.ndarray]]:
        """Plane, grey fixed slice and body of the pictures that show the deformation."""
        for plane in PLANES:
            yield (
                plane,
                self._window(self._through(self._volume, plane)),
                self._through(self._foreground, plane),
            )

    def _through(self, array: np.ndarray, plane: Plane) -> np.ndarray:
        return self._hanging.slice(array, plane, self._deformed_index)

    def _compare(
        self, title: str, guide: str, draw: Callable[[Plane, np.ndarray, np.ndarray], bytes], end: str = ""
    ) -> str:
        rows = [
            _Row(name, "", [draw(*slices) for slices in zip(PLANES, self._fixed, moving, strict=True)])
            for name, moving in (("Before", self._before), ("After", self._after))
        ]
        return self._section(title, guide, rows, self._index, end=end)

    def _section(
        self,
        title: str,
        guide: str,
        rows: Sequence[_Row],
        index: tuple[int, int, int],
        *,
        before: str = "",
        end: str = "",
        kind: str = "",
    ) -> str:
        widths = " ".join(f"{self._hanging.size_mm(plane)[0]:.0f}fr" for plane in PLANES)
        cells = "".join(self._row(title, row, number, index) for number, row in enumerate(rows))
        return f"""<section class="{kind}">
<h2>{title}</h2><p class=guide>{guide}</p>{before}
<div class=planes style="grid-template-columns:{widths}">{cells}</div>{end}
</section>"""

    def _row(self, title: str, row: _Row, number: int, index: tuple[int, int, int]) -> str:
        cells = []
        if row.title:
            remark = f" <span>· {row.remark}</span>" if row.remark else ""
            place = f'class="rowname {row.kind}" style="grid-row:{2 * number + 1}"'
            cells.append(f"<div {place}>{row.title}{remark}</div>")
        for column, (plane, jpeg) in enumerate(zip(PLANES, row.jpegs, strict=True), start=1):
            position = f"{plane.name} · {self._hanging.position(plane, index)}"
            alt = f"{title}, {row.title}, {position}" if row.title else f"{title}, {position}"
            data = base64.b64encode(jpeg).decode()
            cells.append(
                f'<figure class="{row.kind}" style="grid-area:{2 * number + 2}/{column}">'
                f'<img alt="{alt}" src="data:image/jpeg;base64,{data}"><figcaption>{position}</figcaption></figure>'
            )
        return "".join(cells)

    def _obliquity(self) -> str:
        angle = self._hanging.obliquity_deg
        if angle < 3:
            return ""
        return (
            f"<p class=guide>The fixed image was taken {angle:.0f}° oblique to the patient axes; slices are shown "
            "along the image's own axes, and the letters name the nearest patient direction.</p>"
        )

    def _grey(self, array: np.ndarray, window: Window) -> list[np.ndarray]:
        return [window(self._hanging.slice(array, plane, self._index)) for plane in PLANES]

    def _greys(self, slices: Sequence[np.ndarray]) -> list[bytes]:
        return [self._painter.grey(plane, image) for plane, image in zip(PLANES, slices, strict=True)]


def _window(array: np.ndarray, foreground: np.ndarray) -> Window:
    if float(np.nanmin(array)) < CT_BELOW:
        return Window(*CT_WINDOW)
    inside = _thinned(array)[_thinned(foreground)]
    return Window.of(inside if inside.size else array)


def _thinned(array: np.ndarray) -> np.ndarray:
    """Every n-th voxel of ``(..., D, H, W)`` along each axis: enough for percentiles, quick for any size."""
    step = max(1, round((np.prod(array.shape[-3:]) / 5e5) ** (1 / 3)))
    return array[..., ::step, ::step, ::step]


def _legend(*parts: str) -> str:
    return f"<div class=legend>{''.join(parts)}</div>"


def _swatch(colour: np.ndarray, text: str) -> str:
    rgb = ",".join(str(round(255 * float(c))) for c in colour)
    return f'<span><span class=swatch style="background:rgb({rgb})"></span>{text}</span>'


def _bar(colours: str, ticks: Sequence[str]) -> str:
    stops = ",".join(pictures.colour_stops(colours))
    labels = "".join(f"<span>{tick}</span>" for tick in ticks)
    return (
        f'<div class=bar><div class=colours style="background:linear-gradient(90deg,{stops})"></div>'
        f"<div class=ticks>{labels}</div></div>"
    )
