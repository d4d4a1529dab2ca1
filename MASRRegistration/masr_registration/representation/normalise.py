"""Intensities to [0, 1], and the foreground: the head or body that a registration is about.

Arrays are ``(D, H, W)``. The foreground is found on a copy with voxels of 1.5 to 3 mm, so that it costs little.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import SimpleITK as sitk

from ..presets import Normalisation
from ..volume import Geometry, Volume

_MASK_SPACING_MM = 3.0
_OPENING_MM = 3.0
_CLOSING_MM = 7.5
_BODY_HU = -300.0


def detect_modality(volume: Volume) -> Literal["mr", "ct"]:
    """What "auto" stands for: CT if the values look like Hounsfield units, else MR.

    Hounsfield units: at least 0.5 % of the voxels like air or lung (-1100 to -500) and 5 % like soft tissue
    (-150 to 250). A CT that was shifted to 0..4095, or cropped so that it shows no air, is taken for MR: name its
    modality in the preset.
    """
    values = volume.array[::2, ::2, ::2]
    air = np.count_nonzero((values >= -1100) & (values <= -500))
    tissue = np.count_nonzero((values >= -150) & (values <= 250))
    return "ct" if air >= 0.005 * values.size and tissue >= 0.05 * values.size else "mr"


def foreground(volume: Volume, modality: Literal["mr", "ct"]) -> np.ndarray:
    """The head or body as bool ``(D, H, W)``: the largest object, closed, with the air and the fluid inside it.

    CT: above -300 HU. MR: above the lower of Otsu's two thresholds on the compressed intensities; where nearly
    everything outside that has one value (skull-stripped or cleaned images), all voxels of other values.
    Never empty: where no object is found, everything is foreground.
    """
    grid = volume.geometry
    factors = _factors(grid)
    if modality == "ct":
        body = _shrink(volume.array > _BODY_HU, factors) >= 0.5
        mask = _object(_largest(_open(body, grid, factors)), grid, factors)
    else:
        around = _constant_around(volume.array)
        contrast = volume.array if around is None else np.abs(volume.array - around)
        mask = _object(_above_noise(_shrink(contrast, factors), _spacing(grid, factors)), grid, factors)
        if around is not None and _mostly(around, volume.array[::2, ::2, ::2][~mask[::2, ::2, ::2]], 0.95):
            mask = _object(_shrink(volume.array != around, factors) >= 0.5, grid, factors)
    return mask if mask.any() else np.ones(volume.array.shape, dtype=bool)


def normalise(
    volume: Volume, modality: Literal["mr", "ct"], settings: Normalisation, mask: np.ndarray | None = None
) -> np.ndarray:
    """Intensities as float32 ``(D, H, W)`` in [0, 1].

    CT: the window `settings.ct_window_hu`. MR: the percentiles `settings.mr_percentiles` of the voxels in `mask`
    (bool; default `foreground`), or of all voxels where those are all alike.
    """
    if modality == "ct":
        low, high = settings.ct_window_hu
    else:
        inside = volume.array[foreground(volume, "mr") if mask is None else mask.astype(bool)]
        low, high = _percentiles(inside, settings.mr_percentiles)
        if not high > low:
            low, high = float(volume.array.min()), float(volume.array.max())
    scaled = (volume.array.astype(np.float64) - low) / max(high - low, np.finfo(np.float64).tiny)
    return np.clip(scaled, 0.0, 1.0).astype(np.float32)


def _percentiles(values: np.ndarray, percentiles: tuple[float, float]) -> tuple[float, float]:
    if values.size == 0:
        return 0.0, 0.0
    step = max(1, values.size // 2_000_000)
    low, high = np.percentile(values[::step].astype(np.float64), percentiles)
    return float(low), float(high)


def _factors(geometry: Geometry) -> tuple[int, int, int]:
    """How many voxels along (i, j, k) make one of the small copy."""
    i, j, k = (max(1, int(_MASK_SPACING_MM / spacing)) for spacing in geometry.spacing)
    return i, j, k


def _spacing(geometry: Geometry, factors: tuple[int, int, int]) -> list[float]:
    """Millimetres along (i, j, k) of the small copy."""
    return [spacing * factor for spacing, factor in zip(geometry.spacing, factors, strict=True)]


def _shrink(array: np.ndarray, factors: tuple[int, int, int]) -> np.ndarray:
    """Means of blocks of `factors` (i, j, k) voxels; the last block along an axis repeats the array's edge."""
    padding = [(0, -n % f) for n, f in zip(array.shape, factors[::-1], strict=True)]
    image = sitk.GetImageFromArray(np.pad(array.astype(np.float32), padding, mode="edge"))
    small: np.ndarray = sitk.GetArrayFromImage(sitk.BinShrink(image, factors))
    return small


def _above_noise(small: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Voxels above the lower of Otsu's two thresholds on compressed intensities: dim tissue is kept, noise is not."""
    small = small.astype(np.float64)
    low, high = np.percentile(small[::2, ::2, ::2], (0.5, 99.0))
    compressed = np.sqrt(np.clip((small - low) / max(high - low, 1e-30), 0.0, 1.0))
    otsu = sitk.OtsuMultipleThresholdsImageFilter()
    otsu.SetNumberOfThresholds(2)
    otsu.SetNumberOfHistogramBins(256)
    smooth = _blur(compressed, [axis for axis in range(3) if spacing[2 - axis] <= _MASK_SPACING_MM])
    otsu.Execute(sitk.GetImageFromArray(smooth[::2, ::2, ::2]))
    mask: np.ndarray = smooth > otsu.GetThresholds()[0]
    return mask


def _blur(array: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Weights 1/4, 1/2, 1/4 along each of `axes`."""
    for axis in axes:
        padded = np.pad(array, [(int(axis == other),) * 2 for other in range(3)], mode="edge")
        before, here, after = (padded.take(range(i, i + array.shape[axis]), axis) for i in range(3))
        array = (before + 2 * here + after) / 4
    return array


def _constant_around(array: np.ndarray) -> float | None:
    """The value of most voxels on the faces of the image, if there is one: what skull stripping or padding left."""
    faces = np.concatenate([array.take((0, -1), axis).ravel() for axis in range(3)])
    value = float(np.median(faces))
    return value if _mostly(value, faces, 0.5) else None


def _mostly(value: float, values: np.ndarray, fraction: float) -> bool:
    return bool(np.count_nonzero(values == value) >= fraction * values.size)


def _object(small: np.ndarray, geometry: Geometry, factors: tuple[int, int, int]) -> np.ndarray:
    """The largest object of a small mask, closed, filled and without thin parts, as bool on the grid `geometry`.

    Closing comes after specks of noise are gone, which it would join, but before the choice of the largest object:
    dark bone may part the scalp from the brain.
    """
    mask = _largest(small, 0.05)
    used = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    if not used[0].size:
        return np.zeros(geometry.shape, dtype=bool)
    box = tuple(slice(int(places[0]), int(places[-1]) + 1) for places in used)
    mask[box] = _fill_slices(_close(mask[box], geometry, factors))
    mask = _largest(_open(mask, geometry, factors))
    for axis, factor in enumerate(factors[::-1]):
        mask = np.repeat(mask, factor, axis)
    depth, height, width = geometry.shape
    return mask[:depth, :height, :width]


def _largest(mask: np.ndarray, fraction: float = 1.0) -> np.ndarray:
    """The largest connected part and those of at least `fraction` of its voxels."""
    parts = sitk.GetArrayFromImage(sitk.ConnectedComponent(sitk.GetImageFromArray(mask.astype(np.uint8))))
    sizes = np.bincount(parts.ravel())[1:]
    kept = np.zeros(sizes.size + 1, dtype=bool)
    if sizes.size:
        kept[1:] = sizes >= fraction * sizes.max()
    chosen: np.ndarray = kept[parts]
    return chosen


def _fill_slices(mask: np.ndarray) -> np.ndarray:
    """Fill what a slice along any axis encloses: also lungs and bowel that leave the image at its top or bottom.

    Slices are kept apart by full ones, so that one fill in 3-D fills each of them in 2-D.
    """
    filled = mask.copy()
    for axis in range(3):
        slices = np.moveaxis(mask, axis, 0)
        apart = np.ones((2 * len(slices) + 1, *slices.shape[1:]), np.uint8)
        apart[1::2] = slices
        inner = sitk.GetArrayFromImage(sitk.BinaryFillhole(sitk.GetImageFromArray(apart)))[1::2]
        filled |= np.moveaxis(inner > 0, 0, axis)
    return filled


def _open(mask: np.ndarray, geometry: Geometry, factors: tuple[int, int, int]) -> np.ndarray:
    """Without parts thinner than twice `_OPENING_MM`; the image's border does not count as an end."""
    radii = _radii(_OPENING_MM, geometry, factors)
    return _dilate(~_dilate(~mask, radii), radii)


def _close(mask: np.ndarray, geometry: Geometry, factors: tuple[int, int, int]) -> np.ndarray:
    """With gaps narrower than twice `_CLOSING_MM` filled."""
    radii = _radii(_CLOSING_MM, geometry, factors)
    padded = np.pad(mask, [(r, r) for r in radii])
    closed = ~_dilate(~_dilate(padded, radii), radii)
    return closed[tuple(slice(r, r + n) for r, n in zip(radii, mask.shape, strict=True))]


def _radii(length_mm: float, geometry: Geometry, factors: tuple[int, int, int]) -> tuple[int, int, int]:
    """`length_mm` in voxels of the small copy along (k, j, i)."""
    i, j, k = (round(length_mm / spacing) for spacing in _spacing(geometry, factors))
    return k, j, i


def _dilate(mask: np.ndarray, radii: tuple[int, int, int]) -> np.ndarray:
    """Dilation by an octagonal shape: steps to face neighbours and steps to all neighbours in turn."""
    steps = max(radii)
    for step in range(steps):
        source = mask
        mask = mask.copy()
        for axis, radius in enumerate(radii):
            if (step + 1) * radius // steps > step * radius // steps:
                before, after = [slice(None)] * 3, [slice(None)] * 3
                before[axis], after[axis] = slice(None, -1), slice(1, None)
                values = source if step % 2 == 0 else mask.copy()
                mask[tuple(after)] |= values[tuple(before)]
                mask[tuple(before)] |= values[tuple(after)]
    return mask
