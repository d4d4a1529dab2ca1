"""Landmark files: 3D Slicer's .mrk.json and CSV, always in LPS millimetres here.

A CSV file says which frame it uses, in one of two ways (letters of either case):

- column names: ``label,x_lps,y_lps,z_lps`` or ``label,x_ras,y_ras,z_ras``, in any order, `label` optional;
- a first line ``# LPS`` or ``# RAS``, then rows ``label,x,y,z`` or ``x,y,z``, with or without those column names.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, ResourceError

_SIGNS = {"LPS": np.array([1.0, 1.0, 1.0]), "RAS": np.array([-1.0, -1.0, 1.0])}
_SLICER_NUMBERS = {0: "RAS", 1: "LPS"}
_FARTHEST_MM = 1e6
_FORMULA = ("=", "+", "-", "@")


def read_landmarks(path: str | Path) -> tuple[list[str], np.ndarray]:
    """Labels and points ``(N, 3)`` float64 in LPS mm. Raises `InputError` with one sentence for a person."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f'There is no file "{path.name}".')
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise InputError(f'"{path.name}" cannot be read as text.') from error
    is_json = path.name.lower().endswith(".json")
    labels, points, frame = _from_json(text, path.name) if is_json else _from_csv(text, path.name)
    if not labels:
        raise InputError(f'"{path.name}" holds no landmarks.')
    if not np.all(np.abs(points) < _FARTHEST_MM):
        raise InputError(f'"{path.name}" has a coordinate that is no number of millimetres in a patient.')
    return labels, np.asarray(points, dtype=np.float64).reshape(-1, 3) * _SIGNS[frame]


def pair_landmarks(
    fixed: tuple[Sequence[str], np.ndarray], moving: tuple[Sequence[str], np.ndarray]
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Labels, fixed points and moving points ``(N, 3)`` in the order of `fixed`.

    Paired by label when both files hold the same labels, each once; else in the order of the files.
    Raises `InputError` when the counts differ.
    """
    (fixed_labels, fixed_points), (moving_labels, moving_points) = fixed, moving
    if len(fixed_labels) != len(moving_labels):
        raise InputError(
            f"The landmark files hold {len(fixed_labels)} fixed and {len(moving_labels)} moving points; "
            "they must hold equally many."
        )
    place = {label: i for i, label in enumerate(moving_labels)}
    if len(place) == len(moving_labels) and len(set(fixed_labels)) == len(place) == len(
        place.keys() & set(fixed_labels)
    ):
        moving_points = moving_points[[place[label] for label in fixed_labels]]
    return list(fixed_labels), fixed_points, moving_points


def write_landmarks_csv(path: str | Path, labels: Sequence[str], points: np.ndarray) -> None:
    """Write ``label,x_lps,y_lps,z_lps``; `points` ``(N, 3)`` in LPS mm.

    Labels are written on one line. Those that a spreadsheet would run as a formula get a leading apostrophe, which
    `read_landmarks` takes off.
    Raises `ResourceError` when the file cannot be written.
    """
    path = Path(path)
    try:
        with path.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(["label", "x_lps", "y_lps", "z_lps"])
            for label, point in zip(labels, points, strict=True):
                label = " ".join(label.split())
                safe = f"'{label}" if label.startswith(_FORMULA) else label
                writer.writerow([safe, *(repr(float(v)) for v in point)])
    except OSError as error:
        raise ResourceError(
            f'"{path.name}" could not be written: is the disk full or the folder read-only?'
        ) from error


def _from_json(text: str, name: str) -> tuple[list[str], list[list[float]], str]:
    try:
        lists = json.loads(text)["markups"]
        if len(lists) != 1:
            raise InputError(f'"{name}" holds {len(lists)} landmark lists; one is needed.')
        markup = lists[0]
        controls = [c for c in markup["controlPoints"] if c.get("positionStatus", "defined") == "defined"]
        points = [[float(v) for v in control["position"]] for control in controls]
        labels = [str(control.get("label", "")) for control in controls]
        units = markup.get("coordinateUnits", "mm")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f'"{name}" is not a landmark file of 3D Slicer.') from error
    if any(len(point) != 3 for point in points):
        raise InputError(f'"{name}" has a landmark without three coordinates.')
    if (units[0] if isinstance(units, list) and units else units) != "mm":
        raise InputError(f'"{name}" does not hold millimetres.')
    return labels, points, _slicer_frame(markup, name)


def _slicer_frame(markup: dict[str, Any], name: str) -> str:
    """The frame of a markups list; LPS where none is stated, as in Slicer."""
    stated = markup.get("coordinateSystem", "LPS")
    frame = _SLICER_NUMBERS.get(int(stated), "") if str(stated) in {"0", "1"} else str(stated).upper()
    if frame not in _SIGNS:
        raise InputError(f'"{name}" has an unknown coordinate system; LPS and RAS are known.')
    return frame


def _from_csv(text: str, name: str) -> tuple[list[str], list[list[float]], str]:
    lines = [line for line in text.splitlines() if line.strip()]
    frame = ""
    if lines and lines[0].lstrip().startswith("#"):
        frame = lines.pop(0).strip(" #,;\t").upper()
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines, skipinitialspace=True)]
    columns, stated = _columns(rows[0]) if rows else (None, "")
    if frame not in _SIGNS and stated not in _SIGNS:
        raise InputError(
            f'"{name}" does not say whether it is in LPS or RAS: '
            "name its columns label,x_lps,y_lps,z_lps (or _ras) or begin it with a line # LPS (or # RAS)."
        )
    if frame in _SIGNS and stated in _SIGNS and frame != stated:
        raise InputError(f'"{name}" says both LPS and RAS.')
    first = 1 if columns else 0
    labels, points = [], []
    for number, row in enumerate(rows[first:], start=1):
        label, cells = _cells(row, columns)
        try:
            points.append([float(cell) for cell in cells])
        except ValueError as error:
            raise InputError(f'"{name}" has a cell that is not a number in row {number}.') from error
        if len(cells) != 3:
            raise InputError(f'"{name}" has no three coordinates in row {number}.')
        labels.append(label or str(number))
    return labels, points, stated or frame


def _columns(row: list[str]) -> tuple[list[int] | None, str]:
    """Positions of label (-1 if there is none), x, y, z in a row of column names, and the frame they state.

    ``(None, "")`` when the row holds no column names.
    """
    names = [cell.lower() for cell in row]
    label = names.index("label") if "label" in names else -1
    for ending, frame in (("", ""), ("_lps", "LPS"), ("_ras", "RAS")):
        wanted = [f"{axis}{ending}" for axis in "xyz"]
        if all(name in names for name in wanted):
            return [label, *(names.index(name) for name in wanted)], frame
    return None, ""


def _cells(row: list[str], columns: list[int] | None) -> tuple[str, list[str]]:
    """Label and coordinate cells of a row."""
    if columns is None:
        columns = [0, 1, 2, 3] if len(row) > 3 else [-1, 0, 1, 2]
    label = row[columns[0]] if 0 <= columns[0] < len(row) else ""
    if label.startswith("'") and label[1:].startswith(_FORMULA):
        label = label[1:]
    return label, [row[i] for i in columns[1:] if i < len(row)]
