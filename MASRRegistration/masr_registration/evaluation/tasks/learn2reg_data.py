"""Data sets as Learn2Reg packs them: NAME_dataset.json beside imagesTr, labelsTr, masksTr, landmarksTr and the like."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...errors import InputError
from .cases import Choice, LandmarkKind, Side, TaskCase, identity_of, stem

_KEYS = {
    "train": ("training_paired_images",),
    "val": ("registration_val",),
    "test": ("registration_test",),
}


def find(folder: Path) -> Path | None:
    """The list of a data set; None if there is none. Raises `InputError` where there are several."""
    found = sorted(folder.glob("*_dataset.json")) or sorted(folder.glob("dataset.json"))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise InputError(f"The data folder holds several lists ({names}); keep one.")
    return found[0] if found else None


def read(path: Path) -> dict[str, Any]:
    """The content of a list. Raises `InputError`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        if not isinstance(content, dict):
            raise ValueError
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f'"{path.name}" is no list of a Learn2Reg data set.') from error
    return content


def pairs(path: Path, choice: Choice, landmark_kind: LandmarkKind = "voxels") -> list[TaskCase]:
    """The pairs of a split in the order of the list. Raises `InputError` for files that are not there."""
    content = read(path)
    entries: Any = next((content[key] for key in _KEYS[choice.split] if content.get(key)), None)
    if not isinstance(entries, list):
        known = ", ".join(split for split, keys in _KEYS.items() if any(content.get(key) for key in keys))
        raise InputError(
            f'"{path.name}" lists no pairs for --split {choice.split}; there are: {known or "none"}.'
        )
    cases = []
    for entry in entries:
        if not isinstance(entry, dict) or not all(isinstance(entry.get(k), str) for k in ("fixed", "moving")):
            raise InputError(f'"{path.name}" has a pair without "fixed" and "moving".')
        cases.append(pair(path.parent, entry["fixed"], entry["moving"], landmark_kind))
    return cases


def pair(root: Path, fixed: str, moving: str, landmark_kind: LandmarkKind = "voxels") -> TaskCase:
    """One pair by the places of its images, relative to `root`. Raises `InputError`."""
    names = [stem(Path(place)) for place in (fixed, moving)]
    parts = [_subject_and_modality(name) for name in names]
    (one, first), (two, second) = parts
    long, short = f"disp_{one}_{first}_{two}_{second}", f"disp_{one}_{two}"
    usual = first == second or (first, second) == ("0000", "0001")
    sides = [_side(root, place, landmark_kind) for place in (fixed, moving)]
    return TaskCase(
        identity_of(f"{one}_{first}", f"{two}_{second}"),
        sides[0],
        sides[1],
        (short, long) if usual else (long, short),
        landmark_kind,
    )


def _subject_and_modality(name: str) -> tuple[str, str]:
    """Of ``AbdomenMRCT_0001_0000``: the last two groups of digits."""
    parts = name.split("_")
    if len(parts) < 3 or not (parts[-1].isdigit() and parts[-2].isdigit()):
        raise InputError(f'"{name}" is not named as Learn2Reg names images: NAME_SUBJECT_MODALITY.')
    return parts[-2], parts[-1]


def _side(root: Path, place: str, landmark_kind: LandmarkKind) -> Side:
    image = _inside(root, place)
    if not image.is_file():
        raise InputError(f'The image "{image.name}" of the list is not in the data folder.')
    landmarks = _inside(root, place.replace("images", "landmarks"))
    if landmark_kind == "voxels":
        landmarks = landmarks.with_name(f"{stem(landmarks)}.csv")
    others = {kind: _inside(root, place.replace("images", kind)) for kind in ("labels", "masks")}
    return Side(
        image,
        labels=_if_there(others["labels"], image),
        mask=_if_there(others["masks"], image),
        landmarks=_if_there(landmarks, image),
    )


def _inside(root: Path, place: str) -> Path:
    path = (root / place).resolve()
    if not path.is_relative_to(root.resolve()):
        raise InputError(f'The list of the data set points outside of its folder ("{Path(place).name}").')
    return path


def _if_there(path: Path, image: Path) -> Path | None:
    return path if path != image and path.is_file() else None
