"""Time and memory against size: cubes of 1 mm voxels cut from one head, or filled with its mirror images."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from masr_registration.volume import Geometry, Volume

from ..problem import Problem
from . import Case, known_warps

SIDES = (96, 128, 160, 192, 256, 320)
PAIR = "ms07-T2"
MEAN_MM = 4


def cases() -> list[Case]:
    return [Case(f"scaling/{side:03d}", partial(build, side)) for side in SIDES]


def build(side: int, data: Path) -> Problem:
    head = known_warps.build(PAIR, MEAN_MM, data, seed=0)
    geometry = replace(head.fixed.geometry, size=(side, side, side))
    fixed, moving, foreground = (
        cube(volume, geometry) for volume in (head.fixed, head.moving, head.foreground)
    )
    return Problem(fixed, moving, foreground, head.preset, notes={"truth": "none: time and memory only"})


def cube(volume: Volume, geometry: Geometry) -> Volume:
    """The middle of `volume`, mirrored at its borders where the cube is larger."""
    array = volume.array
    for axis, (have, want) in enumerate(zip(array.shape, geometry.shape, strict=True)):
        index = np.arange(want) + (have - want) // 2
        turn = np.abs(np.mod(index, 2 * have) - have + 0.5) - 0.5
        array = np.take(array, have - 1 - turn.astype(int), axis=axis)
    return Volume(np.ascontiguousarray(array), geometry)
