"""ConvexAdam with MIND-SSC, at its own defaults (Siebert et al., L2R 2021; package convexAdam).

It works on two arrays of one shape, in voxels, without a linear stage. The moving image is resampled to the fixed grid
first; its result is ``(z, y, x, 3)``, component a along array axis a, such that warped(x) = moving(x + u(x)).
"""

from __future__ import annotations

import contextlib
import inspect
import os
from importlib.metadata import version
from typing import Any

import SimpleITK as sitk
import torch
from convexAdam.convex_adam_MIND import convex_adam_pt
from masr_registration.volume import Volume

from . import Outcome, voxels_to_lps_mm


class ConvexAdam:
    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)

    def describe(self) -> dict[str, Any]:
        defaults = {
            name: parameter.default
            for name, parameter in inspect.signature(convex_adam_pt).parameters.items()
            if isinstance(parameter.default, (bool, int, float))
        }
        return {
            "start": "image headers, no linear stage",
            "convexAdam": version("convexAdam"),
            "torch": torch.__version__,
            "type": "float32",
            **defaults,
        }

    def prepare(self, fixed: Volume, moving: Volume, preset: str) -> None:
        pass

    def register(self, fixed: Volume, moving: Volume, preset: str) -> Outcome:
        onto_fixed = sitk.Resample(
            moving.to_sitk(), fixed.to_sitk(), sitk.Transform(), sitk.sitkLinear, float(moving.array.min())
        )
        with open(os.devnull, "w") as sink, contextlib.redirect_stdout(sink):  # noqa: PTH123
            found = convex_adam_pt(
                fixed.array,
                sitk.GetArrayFromImage(onto_fixed),
                dtype=torch.float32,
                device=torch.device("cpu"),
            )
        return Outcome(lambda: voxels_to_lps_mm(found, fixed.geometry))
