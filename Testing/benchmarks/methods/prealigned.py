"""ConvexAdam with a start: the linear stage of MASR Registration first, for images whose headers do not agree.

Both parts are timed. ConvexAdam has no linear stage of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk
from masr_registration.volume import Volume

from . import Outcome, dense
from .convexadam import ConvexAdam
from .masr import MasrLinear


class ConvexAdamAfterLinear:
    def __init__(self, threads: int) -> None:
        self.linear, self.convexadam = MasrLinear(threads), ConvexAdam(threads)

    def describe(self) -> dict[str, Any]:
        return {**self.convexadam.describe(), "start": "image headers, linear stage of masr"}

    def prepare(self, fixed: Volume, moving: Volume, preset: str) -> None:
        self.linear.prepare(fixed, moving, preset)

    def register(self, fixed: Volume, moving: Volume, preset: str) -> Outcome:
        start = self.linear.align(fixed, moving, preset)
        aligned = sitk.Resample(
            moving.to_sitk(), fixed.to_sitk(), start, sitk.sitkLinear, float(moving.array.min())
        )
        found = self.convexadam.register(fixed, Volume.from_sitk(aligned), preset)

        def displacement() -> np.ndarray:
            field = np.moveaxis(found.displacement(), 0, -1).astype(np.float64)
            image = sitk.GetImageFromArray(field, isVector=True)
            image.CopyInformation(aligned)
            warp = sitk.DisplacementFieldTransform(image)
            return dense(sitk.CompositeTransform([start, warp]), fixed.geometry)

        return Outcome(displacement)
