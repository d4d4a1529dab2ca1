"""The features of a pair of images as a file: compact, with the place of every cell in the patient."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, ResourceError

FORMAT_VERSION = 1
_LEVELS = 127


@dataclass(frozen=True, eq=False)
class FeatureImage:
    """What one image looks like around every cell of a grid, whatever its contrast.

    Attributes:
        values: ``(d, h, w, C)`` int8, multiples of `FeaturePair.unit`.
        known: ``(d, h, w)`` bool, cells that the image shows and no mask hides.
        index_to_lps: 4x4, cell indices (i, j, k, 1) to LPS mm in this image.
    """

    values: np.ndarray
    known: np.ndarray
    index_to_lps: np.ndarray

    def index_of(self, points: np.ndarray) -> np.ndarray:
        """Continuous cell indices (i, j, k) ``(..., 3)`` of LPS points ``(..., 3)``."""
        inverse = np.linalg.inv(self.index_to_lps)
        index: np.ndarray = np.asarray(points) @ inverse[:3, :3].T + inverse[:3, 3]
        return index

    def point_of(self, index: np.ndarray) -> np.ndarray:
        """LPS points ``(..., 3)`` of continuous cell indices (i, j, k) ``(..., 3)``."""
        points: np.ndarray = np.asarray(index) @ self.index_to_lps[:3, :3].T + self.index_to_lps[:3, 3]
        return points


@dataclass(frozen=True, eq=False)
class FeaturePair:
    """Features of both images in one orientation, so that they can be compared.

    Attributes:
        fixed, moving: the images.
        unit: factor of the stored values.
        linear: 4x4, LPS mm, fixed -> moving: the alignment through which the moving image was looked at.
    """

    fixed: FeatureImage
    moving: FeatureImage
    unit: float
    linear: np.ndarray

    def write(self, path: Path) -> None:
        """An uncompressed .npz file. Raises `ResourceError`."""
        arrays: dict[str, Any] = {"format": FORMAT_VERSION, "unit": self.unit, "linear": self.linear}
        for name, image in (("fixed", self.fixed), ("moving", self.moving)):
            arrays |= {
                f"{name}_values": image.values,
                f"{name}_known": image.known,
                f"{name}_index_to_lps": image.index_to_lps,
            }
        try:
            with path.open("wb") as stream:
                np.savez(stream, **arrays)
        except OSError as error:
            raise ResourceError(f'"{path.name}" could not be written: is the disk full?') from error

    @classmethod
    def read(cls, path: Path) -> FeaturePair:
        """Raises `InputError` for a file that `write` did not write."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                if int(arrays["format"]) != FORMAT_VERSION:
                    raise InputError(f'"{path.name}" is of another version.')
                images = [
                    FeatureImage(
                        arrays[f"{name}_values"], arrays[f"{name}_known"], arrays[f"{name}_index_to_lps"]
                    )
                    for name in ("fixed", "moving")
                ]
                return cls(images[0], images[1], float(arrays["unit"]), arrays["linear"])
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise InputError(f'"{path.name}" holds no features.') from error


def quantise(channels: np.ndarray, unit: float) -> np.ndarray:
    """Features ``(C, d, h, w)`` as int8 multiples of `unit`, channels last ``(d, h, w, C)``."""
    steps = np.rint(np.moveaxis(channels, 0, -1) / unit)
    result: np.ndarray = np.ascontiguousarray(np.clip(steps, -_LEVELS, _LEVELS).astype(np.int8))
    return result


def unit_for(largest: float) -> float:
    """The unit with which values of up to `largest` use the whole range."""
    return max(largest, 1e-6) / _LEVELS
