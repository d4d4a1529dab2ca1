"""Builds a manifest from files: by patterns with named places, or from a BIDS tree."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError
from .manifest import FILES, make_id

_PLACE = re.compile(r"\{(\w+)\}|\*\*/|\*|\?")
_ENTITY = re.compile(r"[A-Za-z0-9]+-[A-Za-z0-9]+")
_BIDS_SUFFIXES = (".nii.gz", ".nii")
_GROUPED_BY = ("sub", "ses")
_Key = tuple[str, ...]
"""What the columns of a case have in common: the places of the patterns, or the entities of a BIDS tree."""


@dataclass
class Found:
    """Rows of a manifest (paths relative to the root) and sentences on what was left out."""

    rows: list[dict[str, str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def by_patterns(root: Path, patterns: Mapping[str, str]) -> Found:
    """Cases by one pattern for each column, e.g. ``{subject}/T1w.nii.gz``.

    ``{name}`` stands for any part of a file's or folder's name and ties the columns together; ``*`` and ``?`` stand for
    what does not matter, ``**/`` for any number of folders. Folders match as well (DICOM series).

    Raises `InputError`: unknown columns, patterns without or with other names, two files for one place.
    """
    _check_columns(patterns)
    names = {column: set(re.findall(r"\{(\w+)\}", pattern)) for column, pattern in patterns.items()}
    if not names["fixed"] or any(used != names["fixed"] for used in names.values()):
        raise InputError("All patterns need the same {names}, at least one.")
    order = list(dict.fromkeys(re.findall(r"\{(\w+)\}", patterns["fixed"])))
    paths = sorted(_paths(root))
    tables = {column: _matches(paths, pattern, column) for column, pattern in patterns.items()}
    return _join({c: {_key(k, order): v for k, v in t.items()} for c, t in tables.items()})


def by_bids(root: Path, selectors: Mapping[str, str]) -> Found:
    """Cases from a BIDS tree: one for each subject and session.

    A selector is a suffix with as many entities as are needed to tell images apart: ``T1w``, ``run-1_T2w``,
    ``ses-01_T1w`` (which then pairs sessions of one subject). Raises `InputError`: no tree, ambiguous selectors.
    """
    _check_columns(selectors)
    parsed = {column: _selector(text) for column, text in selectors.items()}
    if not any(root.glob("sub-*")):
        raise InputError(f'"{root.name}" is no BIDS tree: it holds no folder sub-*.')
    named = {entity.partition("-")[0] for wanted, _ in parsed.values() for entity in wanted}
    grouped = [entity for entity in _GROUPED_BY if entity not in named]
    tables: dict[str, dict[_Key, str]] = {column: {} for column in selectors}
    for path in sorted(_paths(root)):
        name = path.rpartition("/")[2]
        suffix = next((end for end in _BIDS_SUFFIXES if name.endswith(end)), None)
        if suffix is None or not name.startswith("sub-"):
            continue
        *entities, kind = name.removesuffix(suffix).split("_")
        values = dict(entity.split("-", 1) for entity in entities if "-" in entity)
        key = tuple(f"{entity}-{values[entity]}" for entity in grouped if entity in values)
        for column, (wanted, wanted_kind) in parsed.items():
            if kind == wanted_kind and wanted <= set(entities):
                if key in tables[column]:
                    raise InputError(
                        f"{'_'.join(key)} has several images for {column}, such as {name}: "
                        f"say more, e.g. {entities[-1]}_{kind}."
                    )
                tables[column][key] = path
    return _join(tables)


def _check_columns(given: Mapping[str, str]) -> None:
    for column in given:
        if column not in FILES:
            raise InputError(f'There is no column "{column}". Columns: {", ".join(FILES)}.')
    if not {"fixed", "moving"} <= set(given):
        raise InputError("Both fixed and moving are needed.")


def _selector(text: str) -> tuple[set[str], str]:
    *entities, kind = text.split("_")
    if not all(_ENTITY.fullmatch(entity) for entity in entities) or not re.fullmatch(r"[A-Za-z0-9]+", kind):
        raise InputError(f'"{text}" is no BIDS selector; examples: T1w, run-1_T2w, acq-highres_T1w.')
    return set(entities), kind


def _paths(root: Path) -> Iterator[str]:
    """Files and folders under the root, relative, with slashes; hidden ones are left out."""
    if not root.is_dir():
        raise InputError(f'There is no folder "{root.name}".')
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in (*folders, *files):
            if not name.startswith("."):
                yield Path(folder, name).relative_to(root).as_posix()


def _matches(paths: list[str], pattern: str, column: str) -> dict[tuple[tuple[str, str], ...], str]:
    expression = _expression(pattern)
    found: dict[tuple[tuple[str, str], ...], str] = {}
    for path in paths:
        match = expression.fullmatch(path)
        if match:
            key = tuple(sorted(match.groupdict().items()))
            if key in found:
                raise InputError(
                    f'"{found[key]}" and "{path}" both match the pattern of {column} in one case; use {{names}}.'
                )
            found[key] = path
    return found


def _expression(pattern: str) -> re.Pattern[str]:
    parts, end, seen = [], 0, set()
    for match in _PLACE.finditer(pattern):
        parts.append(re.escape(pattern[end : match.start()]))
        end, name = match.end(), match.group(1)
        if name is None:
            parts.append({"**/": "(?:[^/]+/)*", "*": "[^/]*", "?": "[^/]"}[match.group()])
        elif name.isidentifier():
            parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+?)")
            seen.add(name)
        else:
            raise InputError(f'"{{{name}}}" is no name: use letters.')
    return re.compile("".join(parts) + re.escape(pattern[end:]))


def _key(values: tuple[tuple[str, str], ...], order: list[str]) -> _Key:
    known = dict(values)
    return tuple(known[name] for name in order)


def _join(tables: Mapping[str, Mapping[_Key, str]]) -> Found:
    """Rows of the keys that have both images; other columns where they have something."""
    found = Found()
    for key in sorted({*tables["fixed"], *tables["moving"]}):
        name = "_".join(key)
        missing = [FILES[column] for column in ("fixed", "moving") if key not in tables[column]]
        if missing:
            found.remarks.append(f"{name} was left out: it has no {missing[0]}.")
            continue
        row = {"id": make_id(name, [other["id"] for other in found.rows])}
        if row["id"] != name:
            found.remarks.append(f'{name} has the id "{row["id"]}".')
        row.update({column: table[key] for column, table in tables.items() if key in table})
        found.rows.append(row)
        for column in tables:
            if column not in row:
                found.remarks.append(f"{name} has no {FILES[column]}.")
    if not found.rows:
        raise InputError("No case was found.")
    return found
