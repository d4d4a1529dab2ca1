"""The list of cases of a study, as CSV or JSON.

One row (CSV) or object (JSON) is one case. Paths are relative to the manifest's folder. Every fault of a manifest is
found in one pass. Importable without torch.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .. import presets
from ..errors import InputError
from ..presets import Preset

FORMAT_VERSION = 1
FILES = {
    "fixed": "fixed image",
    "moving": "moving image",
    "fixed_mask": "fixed mask",
    "moving_mask": "moving mask",
    "initial_transform": "initial transform",
    "labels": "labels of the moving image",
    "fixed_labels": "labels of the fixed image",
    "fixed_landmarks": "fixed landmarks",
    "moving_landmarks": "moving landmarks",
    "truth": "true transform",
}
REQUIRED = ("id", "fixed", "moving")
OPTIONS = ("preset", "representation", "method", "seed", "use_landmarks")
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_NO_ID = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?|.*\.", re.IGNORECASE)
"""What Windows takes for a device or writes without its last dot; ``.`` and ``..`` among them."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_MOST_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Fault:
    """What is wrong with one case, in one sentence; `case` is its id, or where it stands ("line 3")."""

    case: str
    sentence: str


class FaultsError(InputError):
    """All that is wrong with a study's cases."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        number = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        lines = [f"The manifest has {number}:", *(f"  {fault.case}: {fault.sentence}" for fault in faults)]
        super().__init__("\n".join(lines))


@dataclass(frozen=True)
class Case:
    """One registration of a study.

    Attributes:
        id: names its folder; letters, digits, dot, underscore, hyphen.
        files: absolute paths by their column (see `FILES`).
        preset: complete, with every setting of the row applied.
        seed: of the registration.
        use_landmarks: whether the landmarks pull the deformation as well.
    """

    id: str
    files: Mapping[str, str]
    preset: Preset
    seed: int = 0
    use_landmarks: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """What decides the result besides the content of the files, for `json`."""
        return {
            "files": sorted(self.files),
            "preset": asdict(self.preset),
            "seed": self.seed,
            "use_landmarks": self.use_landmarks,
        }


@dataclass
class Manifest:
    """The cases that can be understood, in the manifest's order, and the faults of the others."""

    cases: list[Case] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


def read(path: Path, preset: str = "general", seed: int = 0) -> Manifest:
    """Read a manifest; `preset` and `seed` are those of rows that name none.

    Raises `InputError` where the whole cannot be read; what is wrong with single cases is in `Manifest.faults`.
    """
    name = f'The manifest "{path.name}"'
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InputError(f"{name} is larger than {_MOST_BYTES // 2**20} MB.")
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8 text.") from error
    except OSError as error:
        raise InputError(f"{name} cannot be read.") from error
    rows = _json_rows(text, name) if path.suffix.lower() == ".json" else _csv_rows(text, name)
    if not rows:
        raise InputError(f"{name} has no cases.")
    return of_rows(rows, path.absolute().parent, preset, seed)


def of_rows(
    rows: Iterable[tuple[str, Mapping[str, Any]]], folder: Path, preset: str = "general", seed: int = 0
) -> Manifest:
    """The cases of rows, each with where it stands; their paths are relative to `folder`."""
    manifest, seen = Manifest(), dict[str, str]()
    for place, row in rows:
        case, faults = _case(row, folder, place, preset, seed)
        if case is not None and case.id.lower() in seen:
            twice = f'The id "{case.id}" is also that of {seen[case.id.lower()]}.'
            faults = [Fault(place, sentence) for sentence in (twice, *(f.sentence for f in faults))]
        if case is not None:
            seen.setdefault(case.id.lower(), place)
        manifest.faults += faults
        if case is not None and not faults:
            manifest.cases.append(case)
    return manifest


def is_id(text: Any) -> bool:
    """Whether it can name a case: a folder's name under every system."""
    return isinstance(text, str) and bool(_ID.fullmatch(text)) and not _NO_ID.fullmatch(text)


def make_id(text: str, taken: Collection[str]) -> str:
    """An id that resembles `text`, is none of `taken`, and differs from them not only in upper and lower case."""
    longest = 64
    name = re.sub(r"[^A-Za-z0-9._-]", "-", text)[:longest].rstrip(".") or "case"
    if not is_id(name):
        name = f"case-{name}"[:longest].rstrip(".")
    found, number = name, 1
    known = {other.lower() for other in taken}
    while found.lower() in known:
        number += 1
        found = f"{name[: longest - len(str(number)) - 1]}-{number}"
    return found


def write(rows: Iterable[Mapping[str, str]], path: Path, columns: Sequence[str]) -> None:
    """A CSV manifest. Raises `OSError`."""
    path.write_text(csv_text(rows, columns), encoding="utf-8", newline="")


def csv_text(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """CSV of the columns; a cell that a spreadsheet would take for a formula gets an apostrophe in front."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_escaped(row.get(column)) for column in columns])
    return stream.getvalue()


def _escaped(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return "" if value is None else value


def _unescaped(text: str) -> str:
    text = text.strip(" ")
    return text[1:] if text.startswith("'") and text[1:].startswith(_FORMULA) else text


def _csv_rows(text: str, name: str) -> list[tuple[str, dict[str, Any]]]:
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        table = [(f"line {reader.line_num}", [_unescaped(cell) for cell in cells]) for cells in reader]
    except csv.Error as error:
        raise InputError(f"{name} is no valid CSV: {error}.") from error
    table = [(place, cells) for place, cells in table if any(cells)]
    if not table:
        return []
    columns = table[0][1]
    missing = [column for column in REQUIRED if column not in columns]
    if missing:
        raise InputError(f"{name} needs the columns {', '.join(REQUIRED)}; {', '.join(missing)} is missing.")
    if len(set(columns)) < len(columns) or "" in columns:
        raise InputError(f"{name} has a column without a name or two of one name.")
    rows = []
    for place, cells in table[1:]:
        row: dict[str, Any] = {c: v for c, v in zip(columns, cells, strict=False) if v}
        if len(cells) > len(columns):
            row["cells beyond the last column"] = cells[len(columns) :]
        rows.append((place, row))
    return rows


def _json_rows(text: str, name: str) -> list[tuple[str, dict[str, Any]]]:
    """A list of cases, or an object with `masr_manifest`, `cases` and perhaps `defaults` for all of them."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is no valid JSON: {error}.") from error
    defaults: Any = {}
    if isinstance(data, dict):
        if data.get("masr_manifest") != FORMAT_VERSION or set(data) - {"masr_manifest", "defaults", "cases"}:
            raise InputError(
                f'{name} must be a list of cases or {{"masr_manifest": {FORMAT_VERSION}, "cases": [...]}}.'
            )
        defaults, data = data.get("defaults", {}), data.get("cases")
    if not isinstance(data, list) or not isinstance(defaults, dict):
        raise InputError(f"{name} holds no list of cases.")
    if not all(isinstance(row, dict) for row in data):
        raise InputError(f"{name} has a case that is no object.")
    rows = [{**defaults, **row} for row in data]
    return [
        (f"case {n}", {k: v for k, v in row.items() if v is not None}) for n, row in enumerate(rows, start=1)
    ]


def _case(
    row: Mapping[str, Any], folder: Path, place: str, preset: str, seed: int
) -> tuple[Case | None, list[Fault]]:
    """The case of a row, None without a valid id; and what is wrong with it."""
    identity = row.get("id", "")
    if not is_id(identity):
        sentence = (
            "The id must be 1 to 64 letters, digits, dots, underscores or hyphens, without a dot at the end, "
            "and no name of a device of Windows such as con or nul."
        )
        return None, [Fault(place, sentence)]
    problems = []
    files = {}
    for column, what in FILES.items():
        value = row.get(column)
        if value is None and column in REQUIRED:
            problems.append(f"The {what} is missing.")
        elif value is not None and not isinstance(value, str):
            problems.append(f"The {what} must be a path.")
        elif value is not None and "\0" not in value:
            files[column] = str(folder / value)
            if not _exists(Path(files[column])):
                problems.append(f'The {what} "{Path(value).name}" does not exist.')
        elif value is not None:
            problems.append(f"The path of the {what} is not valid.")
    if ("fixed_landmarks" in row) != ("moving_landmarks" in row):
        problems.append("Landmarks are needed on both images or on none.")
    if "fixed_labels" in row and "labels" not in row:
        problems.append("Labels of the fixed image need labels of the moving image.")
    made, pulled = Preset("none", "", 1.0), False
    try:
        made = _preset(row, preset, folder)
        seed = _seed(row.get("seed", seed))
        pulled = _setting(row.get("use_landmarks", False), False, "use_landmarks")
        if not isinstance(pulled, bool) or (pulled and "fixed_landmarks" not in row):
            raise InputError("use_landmarks must be true or false, and true needs landmarks.")
    except InputError as error:
        problems.append(str(error))
    return Case(identity, files, made, seed, bool(pulled)), [Fault(identity, problem) for problem in problems]


def _exists(path: Path) -> bool:
    """Also where the path is too long for the system."""
    try:
        return path.exists()
    except OSError:
        return False


def _preset(row: Mapping[str, Any], default: str, folder: Path) -> Preset:
    """The row's preset with its representation, its method and its settings (a column `continuous.regularisation`)."""
    name = row.get("preset", default)
    if not isinstance(name, str):
        raise InputError("The preset must be a name or a file.")
    beside = folder / name
    preset = presets.load(beside if name.endswith(".json") and _exists(beside) else name)
    if "representation" in row:
        preset = preset.with_representation(row["representation"])
    if "method" in row:
        preset = preset.with_method(row["method"])
    settings = {k: v for k, v in row.items() if k not in {"id", *FILES, *OPTIONS}}
    if not settings:
        return preset
    whole = json.loads(preset.to_json())
    for column, value in settings.items():
        place = whole
        *groups, last = column.split(".")
        for group in groups:
            place = place.get(group) if isinstance(place, dict) else None
        if (
            not isinstance(place, dict)
            or last not in place
            or column in ("name", "description", "masr_preset")
        ):
            raise InputError(f'There is no column "{column}".')
        place[last] = _setting(value, place[last], column)
    return Preset.from_json(json.dumps(whole))


def _setting(value: Any, present: Any, column: str) -> Any:
    """A cell as the type of the setting that it replaces; JSON brings types of its own."""
    if not isinstance(value, str) or isinstance(present, str):
        return value
    try:
        return json.loads(value.lower() if isinstance(present, bool) else value)
    except ValueError as error:
        raise InputError(f'"{value}" is no value for {column}.') from error


def _seed(value: Any) -> int:
    if isinstance(value, str) and re.fullmatch(r"\d{1,18}", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise InputError("The seed must be a whole number from 0.")
    return value
