"""ANTs SyN through antspyx: its own affine stage, then SyN by mutual information or by local cross-correlation.

antspyx's "SyN" at its defaults, but with 100, 70 and 20 iterations at a quarter, a half and the whole of the
resolution: its default of 40, 20 and 0 never works at the whole.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import ants
import numpy as np
import SimpleITK as sitk
from masr_registration.volume import Volume

from . import Outcome, dense

ITERATIONS = (100, 70, 20)


class AntsSyn:
    """Mutual information of 32 bins."""

    metric, sampling = "mattes", 32

    def __init__(self, threads: int) -> None:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
        self.folder = tempfile.TemporaryDirectory(prefix="ants-benchmark-")

    def describe(self) -> dict[str, Any]:
        return {
            "start": "image headers, own affine stage",
            "antspyx": ants.__version__,
            **self._settings(),
        }

    def _settings(self) -> dict[str, Any]:
        return {
            "type_of_transform": "SyN",
            "syn_metric": self.metric,
            "syn_sampling": self.sampling,
            "reg_iterations": ITERATIONS,
        }

    def prepare(self, fixed: Volume, moving: Volume, preset: str) -> None:
        pass

    def register(self, fixed: Volume, moving: Volume, preset: str) -> Outcome:
        found = ants.registration(
            fixed=_image(fixed),
            moving=_image(moving),
            outprefix=str(Path(self.folder.name) / "result-"),
            random_seed=1,
            **self._settings(),
        )
        warp, matrix = found["fwdtransforms"]
        _, unwarp = found["invtransforms"]
        return Outcome(
            lambda: dense(
                sitk.CompositeTransform([sitk.ReadTransform(matrix), _field(warp)]), fixed.geometry
            ),
            lambda: sitk.CompositeTransform([_field(unwarp), sitk.ReadTransform(matrix).GetInverse()]),
        )


class AntsSynCC(AntsSyn):
    """Cross-correlation in cubes of radius 2: for images whose contrasts agree locally."""

    metric, sampling = "CC", 2


def _image(volume: Volume) -> ants.ANTsImage:
    geometry = volume.geometry
    return ants.from_numpy(
        np.ascontiguousarray(volume.array.T, dtype=np.float32),
        origin=geometry.origin,
        spacing=geometry.spacing,
        direction=np.reshape(geometry.direction, (3, 3)),
    )


def _field(path: str) -> sitk.DisplacementFieldTransform:
    return sitk.DisplacementFieldTransform(sitk.ReadImage(path, sitk.sitkVectorFloat64))
