"""Registrations as DICOM objects: Spatial Registration and Deformable Spatial Registration (PS3.3, C.20.2 and C.20.3).

The Registered RCS is the fixed image's frame of reference, the source that of the moving image. Everything is in the
patient coordinates of DICOM, LPS mm. Needs pydicom, which 3D Slicer brings along.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import __version__
from .errors import InputError, ResourceError

if TYPE_CHECKING:
    from pydicom import Dataset

RIGID_TOLERANCE = 1e-5
_SAME_EXAMINATION = (
    "SpecificCharacterSet", "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID",
    "StudyDate", "StudyTime", "StudyID", "StudyDescription", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip


@dataclass(frozen=True)
class ImageSeries:
    """The images a registration refers to.

    Attributes:
        first, last: headers of the first and of the last file; one and the same for a multi-frame image.
        instances: SOP instance UIDs of all files.
    """

    first: Dataset
    last: Dataset
    instances: tuple[str, ...]

    @classmethod
    def read(cls, first: Path, last: Path, instances: Sequence[str]) -> ImageSeries:
        """Raises `InputError` for what is no DICOM file."""
        return cls(_header(first), _header(last), tuple(instances))

    def ends(self) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Where the first and the last slice begin, (2, 3) LPS mm, and the directions along a row and down a column,
        each (3,); None where the files do not say it."""
        planes = [_plane(self.first, 0), _plane(self.last, -1)]
        if any(position is None or axes is None for position, axes in planes):
            return None
        positions = np.array([position for position, _axes in planes], float)
        row, column = np.reshape(np.array(planes[0][1], float), (2, 3))
        return positions, row, column


@dataclass(frozen=True)
class DisplacementGrid:
    """Where points of the fixed image lie in the moving one, on a grid along the axes of the patient.

    Attributes:
        origin, spacing: (x, y, z) in LPS mm.
        vectors: displacements from fixed to moving, (D, H, W, 3) float32, LPS mm.
    """

    origin: tuple[float, float, float]
    spacing: tuple[float, float, float]
    vectors: np.ndarray


def faults(fixed: ImageSeries, moving: ImageSeries) -> list[str]:
    """Sentences on what keeps the two series from being referred to by one object."""
    found = []
    for role, series in (("fixed", fixed), ("moving", moving)):
        absent = [
            name
            for name in ("FrameOfReferenceUID", "SOPClassUID", "SeriesInstanceUID", "StudyInstanceUID")
            if not series.first.get(name)
        ]
        if absent:
            found.append(f"The DICOM files of the {role} volume have no {', '.join(absent)}.")
    if (fixed.first.get("PatientID") or "") != (moving.first.get("PatientID") or ""):
        found.append("The volumes belong to different patients; a DICOM object belongs to one.")
    return found


def write(
    folder: Path,
    fixed: ImageSeries,
    moving: ImageSeries,
    mapping: np.ndarray | DisplacementGrid,
    description: str = "",
) -> Path:
    """Write the object as a new file into `folder`, in the study of the fixed image; returns its path.

    `mapping` takes points of the fixed image to the moving one: a 4x4 matrix or a grid, LPS mm. Raises `InputError`
    with the `faults`, and `ResourceError` when the file cannot be written.
    """
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian

    problems = faults(fixed, moving)
    if problems:
        raise InputError(" ".join(problems))
    linear = isinstance(mapping, np.ndarray)
    dataset = _frame(fixed, description)
    dataset.SOPClassUID = (
        pydicom.uid.SpatialRegistrationStorage if linear else pydicom.uid.DeformableSpatialRegistrationStorage
    )
    if isinstance(mapping, np.ndarray):
        dataset.RegistrationSequence = [
            _rigid_item(fixed, np.eye(4)),
            _rigid_item(moving, np.linalg.inv(mapping)),
        ]
    else:
        dataset.DeformableRegistrationSequence = [_deformable_item(moving, mapping)]
    _refer(dataset, fixed, moving)
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path = folder / f"registration-{dataset.SOPInstanceUID}.dcm"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        dataset.save_as(path, enforce_file_format=True)
    except OSError as error:
        with suppress(OSError):
            path.unlink()
        raise ResourceError(f'The DICOM object cannot be written into "{folder.resolve().name}".') from error
    return path


@lru_cache(maxsize=8)
def _header(path: Path) -> Dataset:
    import pydicom

    try:
        return pydicom.dcmread(path, stop_before_pixels=True)
    except (OSError, pydicom.errors.InvalidDicomError) as error:
        raise InputError("One of the DICOM files is gone or damaged.") from error


def _frame(fixed: ImageSeries, description: str) -> Dataset:
    """Everything but the registration itself: patient and study of the fixed image, a series of its own."""
    from pydicom import Dataset
    from pydicom.uid import generate_uid

    now = datetime.datetime.now()
    dataset = Dataset()
    for name in _SAME_EXAMINATION:
        value = fixed.first.get(name)
        if name != "SpecificCharacterSet" or value:
            setattr(dataset, name, value)
    dataset.SOPInstanceUID, dataset.SeriesInstanceUID = generate_uid(None), generate_uid(None)
    dataset.FrameOfReferenceUID = fixed.first.FrameOfReferenceUID
    dataset.PositionReferenceIndicator = fixed.first.get("PositionReferenceIndicator", "")
    dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = "REG", 1, 1
    dataset.Laterality = fixed.first.get("Laterality", "")
    dataset.SeriesDescription = description[:64]
    for part in ("InstanceCreation", "Content", "Series"):
        setattr(dataset, f"{part}Date", now.strftime("%Y%m%d"))
        setattr(dataset, f"{part}Time", now.strftime("%H%M%S"))
    dataset.ContentLabel, dataset.ContentDescription = "REGISTRATION", "Research software, not for treatment"
    dataset.ContentCreatorName = None
    dataset.Manufacturer = dataset.ManufacturerModelName = "MASR Registration"
    dataset.SoftwareVersions, dataset.DeviceSerialNumber = __version__, "none"
    return dataset


def _rigid_item(series: ImageSeries, matrix: np.ndarray) -> Dataset:
    """The images of one series, and the 4x4 matrix from their coordinates to the registered ones."""
    from pydicom import Dataset
    from pydicom.valuerep import DSfloat

    linear = matrix[:3, :3]
    rigid = np.allclose(linear @ linear.T, np.eye(3), atol=RIGID_TOLERANCE) and np.linalg.det(linear) > 0
    element, registration, item = Dataset(), Dataset(), Dataset()
    element.FrameOfReferenceTransformationMatrixType = "RIGID" if rigid else "AFFINE"
    element.FrameOfReferenceTransformationMatrix = [DSfloat(v, auto_format=True) for v in matrix.ravel()]
    registration.MatrixSequence = [element]
    registration.RegistrationTypeCodeSequence = [_by_content()]
    item.FrameOfReferenceUID = series.first.FrameOfReferenceUID
    item.ReferencedImageSequence = _instances(series)
    item.MatrixRegistrationSequence = [registration]
    return item


def _deformable_item(moving: ImageSeries, grid: DisplacementGrid) -> Dataset:
    from pydicom import Dataset
    from pydicom.valuerep import DSfloat

    deformation, item = Dataset(), Dataset()
    deformation.ImagePositionPatient = [DSfloat(v, auto_format=True) for v in grid.origin]
    deformation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    deformation.GridDimensions = list(grid.vectors.shape[2::-1])
    deformation.GridResolution = list(grid.spacing)
    deformation.VectorGridData = np.ascontiguousarray(grid.vectors, "<f4").tobytes()
    item.SourceFrameOfReferenceUID = moving.first.FrameOfReferenceUID
    item.ReferencedImageSequence = _instances(moving)
    item.RegistrationTypeCodeSequence = [_by_content()]
    item.DeformableRegistrationGridSequence = [deformation]
    return item


def _refer(dataset: Dataset, *both: ImageSeries) -> None:
    """The Common Instance Reference module: fixed and moving series, where they are of the dataset's study or not."""
    from pydicom import Dataset

    series = {one.first.SeriesInstanceUID: one for one in both}
    items: dict[bool, list[Dataset]] = {True: [], False: []}
    for uid, one in series.items():
        item = Dataset()
        item.SeriesInstanceUID, item.ReferencedInstanceSequence = uid, _instances(one)
        items[one.first.StudyInstanceUID == dataset.StudyInstanceUID].append(item)
    dataset.ReferencedSeriesSequence = items[True]
    if items[False]:
        study = Dataset()
        study.StudyInstanceUID = both[-1].first.StudyInstanceUID
        study.ReferencedSeriesSequence = items[False]
        dataset.StudiesContainingOtherReferencedInstancesSequence = [study]


def _instances(series: ImageSeries) -> list[Dataset]:
    from pydicom import Dataset

    found = []
    for uid in series.instances:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = series.first.SOPClassUID, uid
        found.append(item)
    return found


def _by_content() -> Dataset:
    """How the registration was found (context group 7100)."""
    from pydicom import Dataset

    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator = "125024", "DCM"
    code.CodeMeaning = "Image Content-based Alignment"
    return code


def _plane(header: Dataset, frame: int) -> tuple[Sequence[float] | None, Sequence[float] | None]:
    """Position and orientation of a slice, or of a frame of a multi-frame image."""
    frames, shared = (
        header.get(f"{kind}FunctionalGroupsSequence") or [header] for kind in ("PerFrame", "Shared")
    )
    found = []
    for macro, name in (
        ("PlanePositionSequence", "ImagePositionPatient"),
        ("PlaneOrientationSequence", "ImageOrientationPatient"),
    ):
        groups = [group for group in (frames[frame], shared[0]) if group.get(macro)]
        found.append((groups[0].get(macro)[0] if groups else header).get(name))
    return found[0], found[1]
