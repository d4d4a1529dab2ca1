"""Ordered neonate pairs: T1w of the first subject fixed, T2w of the second moving, scored by all labels."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from masr_registration.volume import read_labels, read_volume

from ..problem import Problem
from . import Case

FIRST_PAIRS = (("01", "02"), ("03", "05"), ("06", "07"), ("08", "04"))
MORE_PAIRS = (
    ("02", "01"),
    ("05", "03"),
    ("07", "06"),
    ("04", "08"),
    ("01", "05"),
    ("02", "06"),
    ("03", "08"),
    ("04", "07"),
)


def cases() -> list[Case]:
    first = [Case(f"neonate-4/{a}-{b}", partial(build, a, b)) for a, b in FIRST_PAIRS]
    return first + [Case(f"neonate-more/{a}-{b}", partial(build, a, b)) for a, b in MORE_PAIRS]


def build(fixed: str, moving: str, data: Path) -> Problem:
    folder = data / "brain_t1t2_neonate"
    image = read_volume(folder / fixed / "T1w.nii.gz")
    return Problem(
        fixed=image,
        moving=read_volume(folder / moving / "T2w.nii.gz"),
        foreground=image.with_array((image.array > 0).astype(np.uint8)),
        preset="brain-mr",
        fixed_labels=read_labels(folder / fixed / "labels.nii.gz"),
        moving_labels=read_labels(folder / moving / "labels.nii.gz"),
    )
