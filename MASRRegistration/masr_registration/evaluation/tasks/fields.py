"""Displacement fields of cases: in voxels for the measures, and from and to files.

In memory a field is ``(3, I, J, K)``, voxels along (i, j, k): the voxel p of the fixed image is found at p + u(p) in
the moving one. Files, as the evaluators of Learn2Reg and LUMIR read them:

- ``nii``: ``.nii.gz``, ``(I, J, K, 3)`` float32;
- ``npz``: one array ``(I, J, K, 3)`` float32;
- ``npz-half``: one array ``(3, I/2, J/2, K/2)`` float16, still in voxels of the full grid: the form of 2020 and 2021,
  which the evaluation brings to the full grid by quadratic splines.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import SimpleITK as sitk
import torch

from ...errors import InputError
from ...transforms.chain import TransformChain
from ...transforms.files import read_transform
from ...volume import Geometry, read_displacements
from ...worker.staging import writing
from . import learn2reg
from .cases import TaskCase

FORMS = ("nii", "npz", "npz-half")
_ENDINGS = {"nii": ".nii.gz", "npz": ".npz", "npz-half": ".npz"}
_TRANSFORMS = (".h5", ".tfm", ".txt", ".mat")


def from_mm(displacement: np.ndarray, fixed: Geometry, moving: Geometry) -> np.ndarray:
    """A field from displacements ``(3, K, J, I)`` in LPS mm on the fixed grid."""
    own = _indices(fixed)
    between = moving.physical_to_index @ fixed.index_to_physical
    places = between[:3, :3] @ own + between[:3, 3:]
    places += moving.physical_to_index[:3, :3] @ displacement.reshape(3, -1).astype(np.float64)
    return np.ascontiguousarray((places - own).reshape(3, *fixed.shape).transpose(0, 3, 2, 1), np.float32)


def to_mm(field: np.ndarray, fixed: Geometry, moving: Geometry) -> np.ndarray:
    """The inverse of `from_mm`, float32."""
    own = _indices(fixed)
    places = field.transpose(0, 3, 2, 1).reshape(3, -1) + own
    there, here = moving.index_to_physical, fixed.index_to_physical
    vectors = there[:3, :3] @ places + there[:3, 3:] - here[:3, :3] @ own - here[:3, 3:]
    return vectors.reshape(3, *fixed.shape).astype(np.float32)


def _indices(grid: Geometry) -> np.ndarray:
    """(i, j, k) of all voxels ``(3, K * J * I)``, i fastest."""
    return np.indices(grid.shape, dtype=np.float64)[::-1].reshape(3, -1)


def of_image(path: Path, fixed: Geometry, moving: Geometry) -> np.ndarray:
    """A field from an image of displacements in LPS mm on the fixed grid. Raises `InputError` for another grid."""
    image = read_displacements(path)
    if image.GetSize() != fixed.size:
        raise InputError(f'"{path.name}" does not lie on the grid of the fixed image.')
    return from_mm(np.moveaxis(sitk.GetArrayFromImage(image), -1, 0), fixed, moving)


def write(field: np.ndarray, folder: Path, case: TaskCase, form: str) -> Path:
    """One file of a submission, under the first of the case's names.

    Raises `InputError` for half of a grid with odd sides, `ResourceError` where it cannot be written.
    """
    path = folder / f"{case.field_names[0]}{_ENDINGS[form]}"
    temporary = path.with_name(f".{secrets.token_hex(4)}{_ENDINGS[form]}")
    if form == "npz-half":
        halved = _halved(field)
    with writing(f'"{path.name}"'):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            if form == "nii":
                image = sitk.GetImageFromArray(
                    np.ascontiguousarray(field.transpose(0, 3, 2, 1), np.float32), isVector=False
                )
                sitk.WriteImage(image, str(temporary))
            elif form == "npz":
                np.savez_compressed(temporary, np.moveaxis(field, 0, -1).astype(np.float32))
            else:
                np.savez_compressed(temporary, halved)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return path


def find(folder: Path, case: TaskCase) -> Path | None:
    """The file of a case in another method's folder: a submission's field, or a transform fixed -> moving in LPS mm.

    Looked for under the evaluator's names, then as ID/displacement.nrrd, ID/transform.h5 and ID with the ending of a
    transform.
    """
    names = [f"{name}{ending}" for name in case.field_names for ending in (".npz", ".nii.gz")]
    names += [f"{case.id}/displacement.nrrd", f"{case.id}/transform.h5"]
    names += [f"{case.id}{ending}" for ending in (*_TRANSFORMS, ".nrrd")]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def read(path: Path, fixed: Geometry, moving: Geometry) -> np.ndarray:
    """The field of a file of any of these kinds. Raises `InputError`."""
    name = path.name.lower()
    if name.endswith(_TRANSFORMS):
        chain = TransformChain.from_sitk(read_transform(path, "transform"))
        return from_mm(chain.dense(fixed).cpu().numpy(), fixed, moving)
    if name.endswith(".nrrd"):
        return of_image(path, fixed, moving)
    array = _from_npz(path) if name.endswith(".npz") else _from_nifti(path)
    return _full(array, fixed.size, path.name)


def _full(array: np.ndarray, size: Sequence[int], name: str) -> np.ndarray:
    """Any of the forms as ``(3, I, J, K)`` float32. Raises `InputError`."""
    whole = tuple(size)
    if array.shape == (*whole, 3):
        field = np.moveaxis(array, -1, 0)
    elif array.shape == (3, *whole):
        field = array
    elif array.shape == (3, *(n // 2 for n in whole)) and not any(n % 2 for n in whole):
        zoom = learn2reg.ndimage().zoom
        field = np.stack([zoom(component.astype(np.float32), 2, order=2) for component in array])
    else:
        shape = " x ".join(str(n) for n in array.shape)
        raise InputError(f'The field "{name}" has the shape {shape}, which does not fit the fixed image.')
    if not np.all(np.isfinite(field)):
        raise InputError(f'The field "{name}" holds values that are not finite numbers.')
    return np.ascontiguousarray(field, np.float32)


def _halved(field: np.ndarray) -> np.ndarray:
    """``(3, I/2, J/2, K/2)`` float16 at places that take the first voxel to the first and the last to the last."""
    size = field.shape[1:]
    if any(n % 2 for n in size):
        voxels = " x ".join(str(n) for n in size)
        raise InputError(f"A field of {voxels} voxels has no half resolution: every side must be even.")
    axes = [np.linspace(0, n - 1, n // 2) for n in size]
    places = torch.from_numpy(np.stack(np.meshgrid(*axes[::-1], indexing="ij")[::-1])).float()
    from ...transforms.grid import sample

    whole = torch.from_numpy(np.ascontiguousarray(field.transpose(0, 3, 2, 1)))
    half = sample(whole, places).numpy().transpose(0, 3, 2, 1)
    return np.ascontiguousarray(half, np.float16)


def _from_npz(path: Path) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as content:
            if len(content.files) != 1:
                raise InputError(f'"{path.name}" must hold one array; it holds {len(content.files)}.')
            array: np.ndarray = content[content.files[0]]
    except (OSError, ValueError, BadZipFile, EOFError) as error:
        raise InputError(f'"{path.name}" cannot be read as an array of numbers.') from error
    if array.dtype.kind != "f":
        raise InputError(f'"{path.name}" must hold real numbers.')
    return array


def _from_nifti(path: Path) -> np.ndarray:
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(f'"{path.name}" cannot be read.') from error
    array = sitk.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() == 3 and array.ndim == 4:
        raise InputError(
            f'"{path.name}" is an image of vectors, not the four-dimensional image that Learn2Reg reads; save vectors '
            "in mm as .nrrd."
        )
    return array.astype(np.float32).transpose(*range(array.ndim)[::-1])
