"""What a NIfTI file says, read directly: SimpleITK hides truncated data, NaN, zero voxel sizes, a second position.

Measured with SimpleITK 2.5 (ITK 5.4), where ``sform_code``/``qform_code`` are NIfTI's:

- Data that ends early (.nii, .nii.gz) or fails its checksum is read without an error; missing voxels become 0.
- NaN and infinite voxels become 0.
- Voxel sizes always come from ``pixdim``, even where the sform has others; a zero or NaN ``pixdim`` becomes 1 mm.
- The sform gives position and direction if ``sform_code`` is 1 or ``qform_code`` is 0, else the qform does.
- A sheared sform (``|D'D - I| > 1e-4``) is passed over for the qform if there is one, else reading raises.
- Neither code set: identity direction, origin 0.

Slicer reads the same way, so this package does too (a transform must fit the images where they are shown), and
`position_warnings` says so wherever the header holds another opinion.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from .errors import InputError

_CHUNK = 1 << 20


@dataclass(frozen=True)
class NiftiHeader:
    """The fields used here. Matrices are 4x4 in RAS, as stored; `None` where their code is 0.

    `real_type` is float32 or float64 in the file's byte order, `None` for other voxels.
    """

    shape: tuple[int, ...]
    pixdim: tuple[float, float, float]
    real_type: np.dtype | None
    data_start: int
    data_end: int
    sform: np.ndarray | None
    qform: np.ndarray | None
    in_one_file: bool


def is_nifti(path: Path) -> bool:
    return path.name.lower().endswith((".nii", ".nii.gz"))


def read_header(path: Path) -> NiftiHeader:
    """Header of a .nii or .nii.gz file. Raises `InputError` when it is none."""
    try:
        with _open(path) as stream:
            raw = stream.read(348)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f'"{path.name}" is damaged or is not a NIfTI image.') from error
    for order in "<>":
        if raw[:4] == struct.pack(order + "i", 348) and len(raw) == 348:
            return _parse(raw, order, path.name)
        if raw[:4] == struct.pack(order + "i", 540):
            raise InputError(
                f'"{path.name}" is a NIfTI-2 file, which SimpleITK cannot read; convert it to NIfTI-1.'
            )
    raise InputError(f'"{path.name}" is not a NIfTI image.')


def check_header(path: Path) -> None:
    """Raises `InputError` for what SimpleITK would read silently: data that ends early, NaN, voxel sizes of zero."""
    header = read_header(path)
    if not all(np.isfinite(size) and size != 0 for size in header.pixdim[: len(header.shape)]):
        raise InputError(f'"{path.name}" has a voxel size that is zero or not a number.')
    if header.in_one_file:
        check_complete(path, header)
        bad = _count_not_finite(path, header)
        if bad:
            raise InputError(f'"{path.name}" is not finite (NaN or infinite) in {bad} of its voxels.')


def check_complete(path: Path, header: NiftiHeader | None = None) -> None:
    """Raises `InputError` when the data end early or, compressed, fail their checksum."""
    end = (header or read_header(path)).data_end
    if path.suffix.lower() != ".gz":
        if path.stat().st_size < end:
            raise InputError(f'"{path.name}" is incomplete: its image data end early.')
        return
    length = 0
    try:
        with _open(path) as stream:
            while block := stream.read(_CHUNK):
                length += len(block)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f'"{path.name}" is incomplete or damaged.') from error
    if length < end:
        raise InputError(f'"{path.name}" is incomplete: its image data end early.')


def position_warnings(path: Path, used_ras: np.ndarray) -> list[str]:
    """Sentences where the header places the image elsewhere than `used_ras` (4x4, index to RAS mm), or nowhere."""
    header = read_header(path)
    if header.sform is None and header.qform is None:
        return [f'"{path.name}" does not state where it lies in the patient; its axes may be wrong.']
    limit = 0.5 * min(abs(size) for size in header.pixdim)
    return [
        f'"{path.name}" contradicts itself: its {name} places it up to {distance:.1f} mm from where it was taken '
        "to be, which is where 3D Slicer and SimpleITK place it."
        for name, matrix in (("sform", header.sform), ("qform", header.qform))
        if matrix is not None and (distance := _corner_distance(matrix, used_ras, header.shape)) > limit
    ]


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb"))


def _count_not_finite(path: Path, header: NiftiHeader) -> int:
    if header.real_type is None:
        return 0
    count, left = 0, header.data_end - header.data_start
    with _open(path) as stream:
        stream.read(header.data_start)
        while left > 0 and (block := stream.read(min(_CHUNK, left))):
            left -= len(block)
            count += int(np.count_nonzero(~np.isfinite(np.frombuffer(block, header.real_type))))
    return count


def _parse(raw: bytes, order: str, name: str) -> NiftiHeader:
    dim = struct.unpack_from(order + "8h", raw, 40)
    datatype, bits = struct.unpack_from(order + "2h", raw, 70)
    pixdim = struct.unpack_from(order + "8f", raw, 76)
    (offset,) = struct.unpack_from(order + "f", raw, 108)
    if not np.isfinite(offset):
        raise InputError(f'"{name}" is damaged: where its image data begin is not a number.')
    in_one_file = raw[344:346] == b"n+"
    start = max(int(offset), 348) if in_one_file else int(offset)
    qform_code, sform_code = struct.unpack_from(order + "2h", raw, 252)
    quaternion = struct.unpack_from(order + "6f", raw, 256)
    rows = np.reshape(struct.unpack_from(order + "12f", raw, 280), (3, 4))
    shape = dim[1 : 1 + min(max(dim[0], 0), 7)]
    return NiftiHeader(
        shape=shape,
        pixdim=pixdim[1:4],
        real_type={16: np.dtype(order + "f4"), 64: np.dtype(order + "f8")}.get(datatype),
        data_start=start,
        data_end=start + prod(max(n, 0) for n in shape) * bits // 8,
        sform=np.vstack([rows, [0, 0, 0, 1]]) if sform_code > 0 else None,
        qform=_quaternion_matrix(quaternion, pixdim) if qform_code > 0 else None,
        in_one_file=in_one_file,
    )


def _quaternion_matrix(values: tuple[float, ...], pixdim: tuple[float, ...]) -> np.ndarray:
    """NIfTI "method 2": the unit quaternion (a, b, c, d), a >= 0, with `pixdim[0]` = -1 flipping the third axis."""
    b, c, d = values[:3]
    a = np.sqrt(max(1.0 - b * b - c * c - d * d, 0.0))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * np.abs(pixdim[1:4]) * [1, 1, -1 if pixdim[0] < 0 else 1]
    matrix[:3, 3] = values[3:6]
    return matrix


def _corner_distance(a: np.ndarray, b: np.ndarray, shape: tuple[int, ...]) -> float:
    """Largest distance in mm between the corners of the grid placed by two index-to-mm matrices."""
    size = (*shape, 1, 1, 1)[:3]
    corners = np.array([[*np.multiply(bits, np.subtract(size, 1)), 1] for bits in np.ndindex(2, 2, 2)])
    return float(np.linalg.norm((corners @ (a - b).T)[:, :3], axis=1).max())
