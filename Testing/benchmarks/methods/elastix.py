"""elastix through itk-elastix: its default parameter maps in a row, all by mutual information, from the image headers.

More is asked of each than by default, for accuracy: 500 iterations (256) and 5000 samples (2048). The grid of the
B-spline is the default one of 10 mm, with the default bending penalty.
"""

from __future__ import annotations

import tempfile
from importlib.metadata import version
from typing import Any

import itk
import numpy as np
from masr_registration.volume import Volume

from . import Outcome

SETTINGS = {"MaximumNumberOfIterations": "500", "NumberOfSpatialSamples": "5000", "WriteResultImage": "false"}


class Rigid:
    maps: tuple[str, ...] = ("rigid",)

    def __init__(self, threads: int) -> None:
        self.threads = threads
        itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(threads)

    def describe(self) -> dict[str, Any]:
        return {
            "start": "image headers, own linear stages",
            "itk-elastix": version("itk-elastix"),
            "default parameter maps": self.maps,
            **SETTINGS,
        }

    def prepare(self, fixed: Volume, moving: Volume, preset: str) -> None:
        pass

    def register(self, fixed: Volume, moving: Volume, preset: str) -> Outcome:
        parameters = itk.ParameterObject.New()
        for name in self.maps:
            default = parameters.GetDefaultParameterMap(name)
            for key, value in SETTINGS.items():
                default[key] = (value,)
            parameters.AddParameterMap(default)
        images = _image(fixed), _image(moving)
        _, found = itk.elastix_registration_method(
            *images, parameter_object=parameters, number_of_threads=self.threads, log_to_console=False
        )
        return Outcome(lambda: _displacement(images[1], found))


class Affine(Rigid):
    maps = ("rigid", "affine")


class BSpline(Rigid):
    maps = ("rigid", "affine", "bspline")


def _image(volume: Volume) -> itk.Image:
    image = itk.image_from_array(np.ascontiguousarray(volume.array, dtype=np.float32))
    image.SetOrigin(volume.geometry.origin)
    image.SetSpacing(volume.geometry.spacing)
    image.SetDirection(np.reshape(volume.geometry.direction, (3, 3)))
    return image


def _displacement(moving: itk.Image, found: itk.ParameterObject) -> np.ndarray:
    with tempfile.TemporaryDirectory(prefix="elastix-benchmark-") as folder:
        field = itk.transformix_deformation_field(moving, found, output_directory=folder)
    return np.ascontiguousarray(np.moveaxis(itk.array_from_image(field), -1, 0), dtype=np.float32)
