"""What a layout of data is read into: the pairs of a task, with all that is known about them. No torch here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from ...errors import InputError

IMAGES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")
LANDMARKS = (".mrk.json", ".csv")
Split = Literal["train", "val", "test"]
LandmarkKind = Literal["patient", "voxels", "balls"]


@dataclass(frozen=True)
class Choice:
    """What the user chooses of a data set.

    Attributes:
        split: of data sets that have one.
        masks: whether the registration may use the masks that come with the images.
        swap: exchange fixed and moving.
        between: pair different patients where the layout leaves it open.
        fixed, moving: kinds of image (phases, contrasts) where the layout leaves it open.
        limit: of the number of pairs.
    """

    split: Split = "val"
    masks: bool = False
    swap: bool = False
    between: bool = False
    fixed: str | None = None
    moving: str | None = None
    limit: int | None = None


@dataclass(frozen=True)
class Side:
    """One image of a pair.

    Attributes:
        labels: label map, on the grid of the image.
        relabel: what its values mean in the numbers of the task; None: they are those numbers.
        mask: region of interest.
        landmarks: see `TaskCase.landmark_kind`.
    """

    image: Path
    labels: Path | None = None
    relabel: Mapping[int, int] | None = None
    mask: Path | None = None
    landmarks: Path | None = None


@dataclass(frozen=True)
class TaskCase:
    """One pair.

    Attributes:
        id: names its folder.
        field_names: stems of the files in which an evaluator looks for the displacement field; the first is written.
        landmark_kind: "patient": points in LPS or RAS mm; "voxels": CSV of indices (i, j, k) without a header, as in
            Learn2Reg; "balls": an image in which each landmark is a label, as in LUMIR.
    """

    id: str
    fixed: Side
    moving: Side
    field_names: tuple[str, ...]
    landmark_kind: LandmarkKind = "patient"

    @property
    def has_labels(self) -> bool:
        return self.fixed.labels is not None and self.moving.labels is not None

    @property
    def has_landmarks(self) -> bool:
        return self.fixed.landmarks is not None and self.moving.landmarks is not None

    def swapped(self) -> TaskCase:
        """Fixed and moving exchanged; fields go by the name of the case then."""
        first, _, second = self.id.partition("--")
        identity = f"{second}--{first}" if second else f"{self.id}-swapped"
        return replace(
            self, id=identity, fixed=self.moving, moving=self.fixed, field_names=(f"disp_{identity}",)
        )


@dataclass(frozen=True)
class Task:
    """A data set's pairs and how they are evaluated.

    Attributes:
        labels: names by number; empty: all that occur in both images.
        direction, alignment: sentences for the table: which image is brought onto which, and how far they were aligned
            before the registration began.
        preset: of `--method` where none is named.
        masked: SDlogJ and folds within the mask of the fixed image, where there is one.
        volumes: the non-diffeomorphic volume of LUMIR is measured.
        remarks: what was left out, and why.
    """

    name: str
    title: str
    cases: tuple[TaskCase, ...]
    direction: str
    alignment: str
    preset: str
    labels: Mapping[int, str] = field(default_factory=dict)
    masked: bool = False
    volumes: bool = False
    remarks: tuple[str, ...] = ()

    def chosen(self, choice: Choice) -> Task:
        """With `choice.swap` and `choice.limit` applied. Raises `InputError` where no pair is left."""
        cases = self.cases[: choice.limit]
        if not cases:
            raise InputError(f"No pairs of the layout {self.name} were found in the data folder.")
        direction = self.direction
        if choice.swap:
            cases = tuple(case.swapped() for case in cases)
            direction += "; exchanged (--swap)"
        return replace(self, cases=cases, direction=direction)


def identity_of(fixed: str, moving: str) -> str:
    """An id for a pair from the names of its images; what a folder's name may not hold becomes a hyphen."""
    return "--".join(
        re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:31] or "x" for name in (fixed, moving)
    )


def stem(path: Path) -> str:
    """Base name without the ending of an image or of landmarks."""
    for ending in (*IMAGES, *LANDMARKS):
        if path.name.lower().endswith(ending):
            return path.name[: -len(ending)]
    return path.stem


def beside(image: Path, suffix: str, endings: Sequence[str] = IMAGES) -> Path | None:
    """The file of the same name with a suffix before its ending, e.g. ``portal_labels.nii.gz``."""
    found = (image.with_name(f"{stem(image)}{suffix}{ending}") for ending in endings)
    return next((path for path in found if path.is_file()), None)


def rotated(names: Sequence[str]) -> list[tuple[str, str]]:
    """Each with the next one, the last with the first: as many pairs as names, each once fixed and once moving."""
    if len(names) < 2:
        return []
    return list(zip(names, [*names[1:], names[0]], strict=True))
