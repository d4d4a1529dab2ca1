"""Find the DICOM series that a folder or one of its files stands for, and check that it is one regular volume.

Messages name series by their number, never by anything that identifies the patient.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .errors import InputError

_UNEVEN = 0.25
_TILT_MM = 0.5
_SERIES_UID = "0020|000e"
_SERIES_NUMBER = "0020|0011"


def is_dicom(path: Path) -> bool:
    """Whether `path` is a file with the suffix .dcm or with DICOM's preamble."""
    if path.suffix.lower() == ".dcm":
        return True
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def series_of_folder(folder: Path) -> list[str]:
    """Files of the folder's series in slice order.

    With several series the largest is taken when no other has more than half as many slices (scouts, for instance).
    Raises `InputError` when there is none or the choice is ambiguous.
    """
    found = [_files(folder, uid) for uid in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))]
    found = sorted((files for files in found if files), key=len, reverse=True)
    if not found:
        raise InputError(f'The folder "{folder.resolve().name}" holds no DICOM series.')
    if len(found) > 1 and 2 * len(found[1]) > len(found[0]):
        listing = ", ".join(f"series {_number(files[0])} ({len(files)} slices)" for files in found[:8])
        raise InputError(
            f'The folder "{folder.resolve().name}" holds several DICOM series: {listing}. '
            "Choose one by giving one of its files."
        )
    return found[0]


def series_of_file(path: Path) -> list[str]:
    """Files of the series that `path` belongs to, in slice order; the file alone when it holds the whole volume."""
    information = _information(str(path))
    if information.GetDimension() > 2 and information.GetSize()[2] > 1:
        return [str(path)]
    uid = information.GetMetaData(_SERIES_UID) if information.HasMetaDataKey(_SERIES_UID) else ""
    return _files(path.parent, uid) or [str(path)]


def check_regular(files: list[str], name: str) -> None:
    """Raises `InputError` unless the slices form one right-angled grid, evenly spaced to a quarter of a slice."""
    if len(files) < 2:
        return
    slices = [_information(file) for file in files]
    first = slices[0]
    axes = np.reshape(first.GetDirection(), (first.GetDimension(), -1))[:3, :3]
    for other in slices:
        direction = np.reshape(other.GetDirection(), axes.shape)
        if other.GetSize() != first.GetSize() or not np.allclose(direction, axes, atol=1e-3):
            raise InputError(f'The DICOM series in "{name}" mixes slices of different size or direction.')
    steps = (np.array([s.GetOrigin()[:3] for s in slices]) - first.GetOrigin()[:3]) @ axes
    along = steps[:, 2]
    gaps = np.diff(np.sort(along))
    if gaps.min() < 1e-3:
        raise InputError(
            f'The DICOM series in "{name}" has several images at the same place, such as time points or echoes.'
        )
    if np.abs(along - np.linspace(along[0], along[-1], len(along))).max() > _UNEVEN * gaps.mean():
        raise InputError(
            f'The DICOM series in "{name}" has missing or unevenly spaced slices: '
            f"they lie {gaps.min():.2f} to {gaps.max():.2f} mm apart."
        )
    if np.abs(steps[:, :2]).max() > _TILT_MM:
        raise InputError(
            f'The DICOM series in "{name}" is sheared (tilted gantry): resample it to a right-angled grid first.'
        )


def _files(folder: Path, uid: str) -> list[str]:
    return list(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid)) if uid else []


def _information(file: str) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(file)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(f'"{Path(file).name}" is not a DICOM image, or is damaged.') from error
    return reader


def _number(file: str) -> str:
    information = _information(file)
    return (
        information.GetMetaData(_SERIES_NUMBER).strip() if information.HasMetaDataKey(_SERIES_NUMBER) else "?"
    )
