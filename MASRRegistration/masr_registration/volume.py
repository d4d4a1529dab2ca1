"""`Volume`: a scalar image with its place in the patient, read and written through SimpleITK.

Arrays are ``(D, H, W)`` = (k, j, i) as NumPy has them; everything geometric is in (i, j, k) = (x, y, z) order.
Physical coordinates are LPS millimetres, as in ITK and in the files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from . import dicom_series, nifti_header
from .errors import InputError, ResourceError

WRITABLE = (".nii", ".nii.gz", ".nrrd", ".mha")
_MINIMUM_VOXELS = 4
_ORTHONORMAL_LIMIT = 1e-3
_MASK_GRID_VOXELS = 0.05
_SMALLEST_VOXEL_MM = 0.01
_LARGEST_EXTENT_MM = 10_000.0


@dataclass(frozen=True)
class Geometry:
    """A regular grid in the patient.

    Attributes:
        size: voxels along (i, j, k).
        spacing: millimetres along (i, j, k).
        origin: LPS millimetres of the centre of voxel (0, 0, 0).
        direction: 3x3 row-major; column a is the LPS unit vector of axis a. Either handedness.
    """

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, float, float, float, float, float, float, float, float]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Array shape ``(D, H, W)``."""
        return self.size[2], self.size[1], self.size[0]

    @property
    def index_to_physical(self) -> np.ndarray:
        """4x4 float64 matrix from (i, j, k, 1) to LPS mm."""
        matrix = np.eye(4)
        matrix[:3, :3] = np.asarray(self.direction).reshape(3, 3) * np.asarray(self.spacing)
        matrix[:3, 3] = self.origin
        return matrix

    @property
    def physical_to_index(self) -> np.ndarray:
        """4x4 float64 matrix from LPS mm to continuous (i, j, k, 1)."""
        inverse: np.ndarray = np.linalg.inv(self.index_to_physical)
        return inverse

    @property
    def extent_mm(self) -> np.ndarray:
        """Length of the grid along its axes, from voxel edge to voxel edge, in mm."""
        extent: np.ndarray = np.asarray(self.size) * np.asarray(self.spacing)
        return extent

    @property
    def centre(self) -> np.ndarray:
        """LPS mm of the middle of the grid."""
        centre: np.ndarray = self.index_to_physical @ [*((n - 1) / 2 for n in self.size), 1.0]
        return centre[:3]

    def resized(self, spacing: Sequence[float], padding_mm: float = 0.0) -> Geometry:
        """The same box (grown by `padding_mm` on every side, then rounded outwards) on another spacing.

        The centre of the box stays where it is.
        """
        new_spacing = np.asarray(spacing, dtype=float)
        size = np.ceil((self.extent_mm + 2 * padding_mm) / new_spacing - 1e-6).astype(int)
        size = np.maximum(size, 1)
        axes = np.asarray(self.direction).reshape(3, 3)
        origin = self.centre - axes @ ((size - 1) / 2 * new_spacing)
        return Geometry(
            (int(size[0]), int(size[1]), int(size[2])),
            (float(new_spacing[0]), float(new_spacing[1]), float(new_spacing[2])),
            (float(origin[0]), float(origin[1]), float(origin[2])),
            self.direction,
        )

    def reduced(self, stride: int) -> Geometry:
        """The grid whose voxels are blocks of `stride` voxels of this one along each axis; what is left over is cut."""
        origin = self.index_to_physical @ [*((stride - 1) / 2,) * 3, 1]
        return Geometry(
            (self.size[0] // stride, self.size[1] // stride, self.size[2] // stride),
            (self.spacing[0] * stride, self.spacing[1] * stride, self.spacing[2] * stride),
            (float(origin[0]), float(origin[1]), float(origin[2])),
            self.direction,
        )

    @classmethod
    def of(cls, image: sitk.Image) -> Geometry:
        return cls(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())

    def stamp(self, image: sitk.Image) -> sitk.Image:
        """Give `image` this origin, spacing and direction; returns it."""
        image.SetSpacing(self.spacing)
        image.SetOrigin(self.origin)
        image.SetDirection(self.direction)
        return image


@dataclass(frozen=True, eq=False)
class Volume:
    """A scalar image: `array` ``(D, H, W)`` and its `geometry`; `name` is a base name for reports, never a path."""

    array: np.ndarray
    geometry: Geometry
    name: str = "volume"

    @classmethod
    def from_sitk(cls, image: sitk.Image, name: str = "volume") -> Volume:
        return cls(sitk.GetArrayFromImage(image), Geometry.of(image), name)

    def to_sitk(self) -> sitk.Image:
        return self.geometry.stamp(sitk.GetImageFromArray(self.array))

    def with_array(self, array: np.ndarray) -> Volume:
        return Volume(array, self.geometry, self.name)


def read_volume(path: str | Path) -> Volume:
    """A scalar 3-D image as float32, from a file SimpleITK knows (.nii, .nii.gz, .nrrd, .nhdr, .mha, .mhd, ...), from a
    folder with one DICOM series, or from one .dcm file, which stands for its whole series.

    Scale and offset of the header are applied. A fourth axis of length 1 is dropped. Position and direction are those
    that SimpleITK gives (see `nifti_header` for what it does when a NIfTI header contradicts itself).

    Raises:
        InputError: missing, unreadable, truncated, 2-D, 4-D, several components, sheared or degenerate grid.
        ResourceError: it does not fit in memory.
    """
    path = Path(path)
    image = _read(path, sitk.sitkFloat32)
    return Volume.from_sitk(image, _name(path))


def from_image(image: sitk.Image, name: str) -> Volume:
    """A SimpleITK image with its own pixel type, refused like one from a file (see `read_volume`)."""
    size = image.GetSize()
    _check_kind(size, image.GetNumberOfComponentsPerPixel(), image.GetPixelID(), name)
    if len(size) > 3:
        image = sitk.Extract(image, [*size[:3], *[0] * (len(size) - 3)])
    _check_grid(Geometry.of(image), f'"{name}"')
    return Volume.from_sitk(image, name)


def read_labels(path: str | Path) -> Volume:
    """A label map as int32; as `read_volume` otherwise. Raises `InputError` for values that are not whole numbers."""
    path = Path(path)
    return as_labels(Volume.from_sitk(_read(path, sitk.sitkUnknown), _name(path)))


def as_labels(volume: Volume) -> Volume:
    """The same as int32. Raises `InputError` for values that are not whole numbers of 32 bits."""
    array = volume.array
    whole = array.dtype.kind in "iub" or bool(np.all(np.isfinite(array)) and np.all(array == np.rint(array)))
    if not whole:
        raise InputError(f'"{volume.name}" is not a label map: its values must be whole numbers.')
    limits = np.iinfo(np.int32)
    if array.min() < limits.min or array.max() > limits.max:
        raise InputError(
            f'"{volume.name}" is not a label map that can be used: its labels need more than 32 bits.'
        )
    return volume.with_array(array.astype(np.int32))


def read_mask(path: str | Path, like: Geometry, what: str) -> Volume:
    """A mask as `as_mask` gives it, from a file."""
    path = Path(path)
    return as_mask(Volume.from_sitk(_read(path, sitk.sitkUnknown), _name(path)), like, what)


def as_mask(volume: Volume, like: Geometry, what: str) -> Volume:
    """A mask as float32 weights in [0, 1] on the grid `like`; `what` names it, e.g. "fixed mask".

    Probabilities (real numbers from 0 to 1) are weights as they are; in a label map whatever is not zero has weight 1.
    Raises `InputError` when it is neither, when it is empty, or when it lies on another grid (over 0.05 voxels away:
    formats round differently).
    """
    array, name = volume.array, f'The {what} "{volume.name}"'
    if not check_same_grid(volume.geometry, like, tolerance=_MASK_GRID_VOXELS):
        raise InputError(f"{name} does not lie on the grid of its image.")
    weights = mask_weights(array)
    if not np.all(np.isfinite(array)) or (
        np.any(array != np.rint(array)) and not 0 <= array.min() <= array.max() <= 1
    ):
        raise InputError(f"{name} holds neither labels (whole numbers) nor probabilities (0 to 1).")
    if not weights.any():
        raise InputError(f"{name} is empty.")
    return Volume(weights, like, volume.name)


def mask_weights(array: np.ndarray) -> np.ndarray:
    """float32 of the same shape: real numbers from 0 to 1 as they are, of anything else whether it is not zero."""
    if array.dtype.kind == "f" and array.min() >= 0 and array.max() <= 1:
        return array.astype(np.float32)
    return (array != 0).astype(np.float32)


def read_displacements(path: str | Path) -> sitk.Image:
    """A 3-D image of float64 displacement vectors in LPS mm. Raises `InputError`, `ResourceError`."""
    path = Path(path)
    name = _name(path)
    try:
        with _quiet():
            if nifti_header.is_nifti(path):
                nifti_header.check_header(path)
            image = sitk.ReadImage(str(path))
    except (RuntimeError, OSError, MemoryError) as error:
        raise _explained(error, name) from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 3:
        raise InputError(
            f'"{name}" is no displacement field: it needs three values in every voxel of a 3-D grid.'
        )
    _check_grid(Geometry.of(image), f'"{name}"')
    return sitk.Cast(image, sitk.sitkVectorFloat64)


def header_warnings(path: str | Path, geometry: Geometry) -> list[str]:
    """Sentences for a person where a file that was read with `geometry` also says something else about its position."""
    path = Path(path)
    if path.is_dir() or not nifti_header.is_nifti(path):
        return []
    return nifti_header.position_warnings(path, np.diag([-1.0, -1.0, 1.0, 1.0]) @ geometry.index_to_physical)


def write_volume(volume: Volume, path: str | Path) -> None:
    """Write to .nii.gz (compressed), .nii, .nrrd or .mha (not compressed); bool becomes uint8, float16 float32.

    Not atomic: that is the caller's matter. Raises `ResourceError` when the file is not complete afterwards (SimpleITK
    reports a full disk for some formats only) and `InputError` for another suffix.
    """
    path = Path(path)
    if not path.name.lower().endswith(WRITABLE):
        raise InputError(f'"{path.name}" must end in one of {", ".join(WRITABLE)}.')
    kind = {np.dtype(bool): np.uint8, np.dtype(np.float16): np.float32}.get(volume.array.dtype)
    array = volume.array.astype(kind) if kind else volume.array
    try:
        with _quiet():
            sitk.WriteImage(volume.with_array(array).to_sitk(), str(path))
        if nifti_header.is_nifti(path):
            nifti_header.check_complete(path)
        elif path.stat().st_size < array.nbytes:
            raise OSError
    except (RuntimeError, OSError, InputError) as error:
        raise ResourceError(
            f'"{path.name}" could not be written: is the disk full or the folder read-only?'
        ) from error


def check_registrable(volume: Volume, what: str) -> None:
    """Raises `InputError` unless the image can be registered; `what` names it, e.g. "fixed image".

    Refused: an axis with fewer than 4 voxels, NaN or infinite voxels (values beyond float32 are infinite), a constant
    image, a degenerate grid.
    """
    name = f'The {what} "{volume.name}"'
    if min(volume.geometry.size) < _MINIMUM_VOXELS:
        size = " x ".join(str(n) for n in volume.geometry.size)
        raise InputError(f"{name} has {size} voxels; every axis needs at least {_MINIMUM_VOXELS}.")
    _check_grid(volume.geometry, name)
    bad = volume.array.size - int(np.count_nonzero(np.isfinite(volume.array)))
    if bad == volume.array.size:
        raise InputError(f"{name} has no voxel with a finite value.")
    if bad:
        raise InputError(f"{name} is not finite (NaN or infinite) in {bad} of its voxels.")
    if volume.array.min() == volume.array.max():
        raise InputError(f"{name} is empty: every voxel is {volume.array.flat[0]:g}.")


def check_same_grid(a: Geometry, b: Geometry, tolerance: float = 1e-3) -> bool:
    """Whether two grids have one size and no voxel of `a` is over `tolerance` voxels from its like in `b`."""
    if a.size != b.size:
        return False
    last = np.subtract(a.size, 1)
    corners = np.array([[*np.multiply(bits, last), 1.0] for bits in np.ndindex(2, 2, 2)])
    offset = corners @ (b.physical_to_index @ a.index_to_physical).T - corners
    return bool(np.abs(offset).max() <= tolerance)


def _name(path: Path) -> str:
    return path.name or path.resolve().name


def _read(path: Path, pixel_type: int) -> sitk.Image:
    """A scalar 3-D image on a valid grid; `pixel_type` as for SimpleITK."""
    name = _name(path)
    try:
        with _quiet():
            image = _read_file_or_series(path, pixel_type)
    except (RuntimeError, OSError, MemoryError) as error:
        raise _explained(error, name) from error
    _check_grid(Geometry.of(image), f'"{name}"')
    return image


def _read_file_or_series(path: Path, pixel_type: int) -> sitk.Image:
    name = _name(path)
    if path.is_dir():
        return _read_series(dicom_series.series_of_folder(path), name, pixel_type)
    if not path.is_file():
        raise InputError(f'There is no file "{name}".')
    if path.stat().st_size == 0:
        raise InputError(f'"{name}" is an empty file.')
    if dicom_series.is_dicom(path):
        return _read_series(dicom_series.series_of_file(path), name, pixel_type)
    if nifti_header.is_nifti(path):
        nifti_header.check_header(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    size = reader.GetSize()
    _check_kind(size, reader.GetNumberOfComponents(), reader.GetPixelID(), name)
    reader.SetOutputPixelType(pixel_type)
    reader.SetExtractSize([*size[:3], *[0] * (len(size) - 3)])
    image: sitk.Image = reader.Execute()
    return image


def _read_series(files: list[str], name: str, pixel_type: int) -> sitk.Image:
    dicom_series.check_regular(files, name)
    reader = sitk.ImageFileReader()
    reader.SetFileName(files[0])
    reader.ReadImageInformation()
    _check_kind(reader.GetSize(), reader.GetNumberOfComponents(), reader.GetPixelID(), name)
    return sitk.ReadImage(files if len(files) > 1 else files[0], pixel_type)


def _check_kind(size: Sequence[int], components: int, pixel_id: int, name: str) -> None:
    if len(size) < 3:
        raise InputError(f'"{name}" is a {len(size)}-D image; a 3-D volume is needed.')
    if any(n != 1 for n in size[3:]):
        voxels = " x ".join(str(n) for n in size)
        raise InputError(f'"{name}" is a {len(size)}-D image with {voxels} voxels; give one 3-D volume.')
    if "complex" in sitk.GetPixelIDValueAsString(pixel_id):
        raise InputError(f'"{name}" holds complex numbers; give the magnitude image.')
    if components != 1:
        raise InputError(
            f'"{name}" has {components} values in every voxel (colour or vectors); one is needed.'
        )


def _check_grid(geometry: Geometry, name: str) -> None:
    """Raises `InputError` for a grid that is not finite, not of human size or not right-angled.

    Right-angled: ``|D'D - I|`` is at most 1e-3.
    """
    numbers = (*geometry.spacing, *geometry.origin, *geometry.direction)
    if not np.all(np.isfinite(numbers)) or min(geometry.spacing) <= 0:
        raise InputError(f"{name} has a voxel size or position that is zero or not a number.")
    if min(geometry.spacing) < _SMALLEST_VOXEL_MM or geometry.extent_mm.max() > _LARGEST_EXTENT_MM:
        size = " x ".join(f"{length:.3g}" for length in geometry.spacing)
        raise InputError(f"{name} has voxels of {size} mm: is its unit the millimetre?")
    axes = np.reshape(geometry.direction, (3, 3))
    if np.abs(axes.T @ axes - np.eye(3)).max() > _ORTHONORMAL_LIMIT:
        raise InputError(
            f"{name} has axes that are not at right angles (sheared); resample it to a right-angled grid."
        )


_REASONS = (
    ("Unable to determine ImageIO reader", "is not an image in a format that can be read"),
    (
        "orthonormal",
        "has axes that are not at right angles (sheared) or are zero; resample it to a right-angled grid",
    ),
    ("determinant is 0", "has axes that do not span three dimensions"),
    ("Zero-valued spacing", "has a voxel size that is zero or not a number"),
)


def _explained(error: Exception, name: str) -> InputError | ResourceError:
    """The sentence for what SimpleITK or the system says; its own text holds paths and several lines."""
    text = str(error)
    if isinstance(error, MemoryError) or "allocate memory" in text or "bad alloc" in text:
        return ResourceError(f'"{name}" does not fit in memory.')
    for sign, reason in _REASONS:
        if sign in text:
            return InputError(f'"{name}" {reason}.')
    if isinstance(error, PermissionError):
        return InputError(f'"{name}" cannot be opened: permission denied.')
    return InputError(f'"{name}" cannot be read: it is damaged, incomplete or not an image.')


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what ITK's C and C++ libraries print off stderr: every failure becomes one of our own sentences."""
    shown = sitk.ProcessObject_GetGlobalWarningDisplay()
    sitk.ProcessObject_SetGlobalWarningDisplay(False)
    try:
        saved = os.dup(2)
    except OSError:
        saved = -1
    try:
        if saved >= 0:
            with Path(os.devnull).open("wb") as sink:
                os.dup2(sink.fileno(), 2)
        yield
    finally:
        if saved >= 0:
            os.dup2(saved, 2)
            os.close(saved)
        sitk.ProcessObject_SetGlobalWarningDisplay(shown)
