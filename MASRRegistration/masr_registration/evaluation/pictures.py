"""The pictures of the report: slices of one grid drawn by matplotlib, each a JPEG.

matplotlib is imported only when a picture is drawn; Slicer's Python may lack it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np

from .slices import PLANES, Hanging, Plane

PIXELS_ACROSS = 1500
LARGEST_HEIGHT = 900
MOST_MARKS = 200
DISPLACEMENT_COLOURS = "viridis"
JACOBIAN_COLOURS = "PuOr"
FIXED_COLOUR = np.array([0.25, 1.0, 0.35])
MOVING_COLOUR = np.array([1.0, 0.25, 0.95])
OUTLINE_COLOUR = "#ffb020"
SPECK_MM = 15.0
FOLD_COLOUR = "#ff2a2a"
ABOVE_ALL = 10


@dataclass
class Picture:
    """A picture being drawn: `axes` in mm from the top left of the slice; `jpeg` is there when it is finished."""

    axes: Any
    width: float
    height: float
    jpeg: bytes = field(default=b"", init=False)

    def show(self, image: np.ndarray, **options: Any) -> None:
        """A slice ``(rows, columns)`` or ``(rows, columns, 3 or 4)`` over the whole picture."""
        options = {
            "interpolation": "bilinear",
            "aspect": "auto",
            "cmap": "gray",
            "vmin": 0,
            "vmax": 1,
            **options,
        }
        self.axes.imshow(image, extent=(0, self.width, self.height, 0), **options)

    def centres(self, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Positions in mm of the columns and of the rows of a slice of this shape."""
        rows, columns = shape
        return (np.arange(columns) + 0.5) * self.width / columns, (np.arange(rows) + 0.5) * self.height / rows


class Painter:
    """Draws slices of one hanging, all at one scale. Grey slices are in [0, 1]."""

    def __init__(self, hanging: Hanging) -> None:
        self._hanging = hanging
        sizes = [hanging.size_mm(plane) for plane in PLANES]
        self._scale = min(PIXELS_ACROSS / sum(w for w, _ in sizes), LARGEST_HEIGHT / max(h for _, h in sizes))
        self._square_mm = max(max(size) for size in sizes) / 9
        self._canvases: dict[Plane, tuple[Any, Any]] = {}

    def grey(self, plane: Plane, image: np.ndarray) -> bytes:
        with self._picture(plane) as picture:
            picture.show(image)
        return picture.jpeg

    def overlay(self, plane: Plane, fixed: np.ndarray, moving: np.ndarray) -> bytes:
        """Fixed in green, moving in magenta: grey to white where both are bright."""
        colours = fixed[..., None] * FIXED_COLOUR + moving[..., None] * MOVING_COLOUR
        with self._picture(plane) as picture:
            picture.show(np.clip(colours, 0, 1))
        return picture.jpeg

    def outlines(self, plane: Plane, fixed: np.ndarray, moving: np.ndarray, level: float) -> bytes:
        """Lines where the moving image has brightness `level`, on the grey fixed image; specks are left out."""
        from contourpy import contour_generator
        from matplotlib.collections import LineCollection

        with self._picture(plane) as picture:
            picture.show(fixed)
            x, y = picture.centres(moving.shape)
            lines = [np.asarray(line) for line in contour_generator(x, y, moving).lines(level)]
            long = [line for line in lines if np.linalg.norm(np.diff(line, axis=0), axis=1).sum() > SPECK_MM]
            picture.axes.add_collection(LineCollection(long, colors=OUTLINE_COLOUR, linewidths=1.2))
        return picture.jpeg

    def checkerboard(self, plane: Plane, fixed: np.ndarray, moving: np.ndarray) -> bytes:
        """Squares of the fixed and of the moving image in turn."""
        with self._picture(plane) as picture:
            x, y = (np.floor(p / self._square_mm).astype(int) for p in picture.centres(fixed.shape))
            picture.show(np.where((x[None, :] + y[:, None]) % 2 == 0, fixed, moving))
        return picture.jpeg

    def displacement(
        self,
        plane: Plane,
        fixed: np.ndarray,
        displacement: np.ndarray,
        foreground: np.ndarray,
        largest_mm: float,
    ) -> bytes:
        """Length of the displacement ``(3, rows, columns)`` in mm as colours, and a 10 mm grid bent by it."""
        length = np.linalg.norm(displacement, axis=0)
        along_columns, along_rows = self._hanging.along(displacement, plane)
        with self._picture(plane) as picture:
            picture.show(fixed)
            self._colours(picture, length / largest_mm, DISPLACEMENT_COLOURS, foreground)
            x, y = picture.centres(length.shape)
            for position, end in (
                (x[None, :] + along_columns, picture.width),
                (y[:, None] + along_rows, picture.height),
            ):
                lines = np.arange(-50, end + 50, 10)
                position = np.where(foreground, position, np.nan)
                picture.axes.contour(x, y, position, levels=lines, colors="white", linewidths=0.8, alpha=0.75)
        return picture.jpeg

    def jacobian(
        self,
        plane: Plane,
        fixed: np.ndarray,
        logarithm: np.ndarray,
        folded: np.ndarray,
        foreground: np.ndarray,
        largest: float,
    ) -> bytes:
        """log2 of the Jacobian determinant as colours between -largest and largest; folds ringed."""
        with self._picture(plane) as picture:
            picture.show(fixed)
            self._colours(picture, (logarithm / largest + 1) / 2, JACOBIAN_COLOURS, foreground)
            if folded.any():
                x, y = picture.centres(folded.shape)
                rows, columns = np.nonzero(folded)
                every = -(-len(rows) // MOST_MARKS)
                picture.show(
                    np.where(folded[..., None], [1.0, 0.16, 0.16, 1.0], 0.0), interpolation="nearest"
                )
                picture.axes.scatter(
                    x[columns[::every]],
                    y[rows[::every]],
                    s=160,
                    facecolors="none",
                    edgecolors=FOLD_COLOUR,
                    linewidths=1.2,
                )
        return picture.jpeg

    def _colours(self, picture: Picture, unit: np.ndarray, name: str, foreground: np.ndarray) -> None:
        from matplotlib import colormaps

        colours = colormaps[name](np.clip(np.nan_to_num(unit), 0, 1))
        colours[..., 3] = np.where(foreground, 0.72, 0.0)
        picture.show(colours)

    @contextmanager
    def _picture(self, plane: Plane) -> Iterator[Picture]:
        """An empty black picture; the JPEG is there when the block ends."""
        figure, axes = self._canvas(plane)
        picture = Picture(axes, *self._hanging.size_mm(plane))
        annotations = set(axes.get_children())
        try:
            yield picture
            axes.set(xlim=(0, picture.width), ylim=(picture.height, 0))
            buffer = BytesIO()
            figure.savefig(buffer, format="jpg", pil_kwargs={"quality": 88, "subsampling": 0})
            picture.jpeg = buffer.getvalue()
        finally:
            for artist in set(axes.get_children()) - annotations:
                artist.remove()

    def _canvas(self, plane: Plane) -> tuple[Any, Any]:
        """Figure and axes with nothing but the annotations. Made once for each plane: it takes as long as a picture."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        if plane not in self._canvases:
            width, height = self._hanging.size_mm(plane)
            figure = Figure(
                figsize=(width * self._scale / 100, height * self._scale / 100), dpi=100, facecolor="black"
            )
            FigureCanvasAgg(figure)
            axes = figure.add_axes((0, 0, 1, 1))
            axes.axis("off")
            axes.set(xlim=(0, width), ylim=(height, 0))
            self._annotate(Picture(axes, width, height), plane)
            self._canvases[plane] = figure, axes
        return self._canvases[plane]

    def _annotate(self, picture: Picture, plane: Plane) -> None:
        """Patient letters at the four edges and a scale bar."""
        from matplotlib.patheffects import withStroke

        axes, width, height = picture.axes, picture.width, picture.height
        style = {
            "color": "white",
            "fontsize": 11,
            "path_effects": [withStroke(linewidth=2.5, foreground="black")],
            "zorder": ABOVE_ALL,
        }
        left, right, top, bottom = self._hanging.letters(plane)
        edge = 6 / self._scale
        axes.text(edge, height / 2, left, ha="left", va="center", **style)
        axes.text(width - edge, height / 2, right, ha="right", va="center", **style)
        axes.text(width / 2, edge, top, ha="center", va="top", **style)
        axes.text(width / 2, height - edge, bottom, ha="center", va="bottom", **style)
        length = max(n for n in (1, 2, 5, 10, 20, 50, 100, 200) if n <= max(width / 4, 1))
        axes.plot([edge, edge + length], [height - edge] * 2, color="white", linewidth=2, zorder=ABOVE_ALL)
        axes.text(edge, height - 2 * edge, f"{length} mm", ha="left", va="bottom", **{**style, "fontsize": 8})


def colour_stops(name: str, count: int = 11) -> list[str]:
    """A colour map as `count` CSS colours."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps[name](i / (count - 1))) for i in range(count)]
