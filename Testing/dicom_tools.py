"""Small DICOM series, and as much of the application's DICOM database as the module asks."""

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage


def write_series(
    folder: Path,
    ijk_to_lps: np.ndarray,
    size: tuple[int, int, int],
    *,
    uid: str = "1.2.3.1",
    study: str = "1.2.3",
    frame: str = "1.2.3.9",
    patient: str = "17",
    description: str = "T1 axial",
) -> list[Path]:
    """An MR series of (D, H, W) voxels, all of them zero, a file for every slice, named against their order."""
    folder.mkdir(parents=True, exist_ok=True)
    spacing = np.linalg.norm(ijk_to_lps[:3, :3], axis=0)
    row, column = (ijk_to_lps[:3, :2] / spacing[:2]).T
    files = []
    for k in range(size[0]):
        header = pydicom.Dataset()
        header.PatientName, header.PatientID, header.PatientBirthDate, header.PatientSex = (
            "Doe^Jane",
            patient,
            "",
            "F",
        )
        header.StudyInstanceUID, header.SeriesInstanceUID, header.SOPInstanceUID = (
            study,
            uid,
            f"{uid}.{k + 1}",
        )
        header.SOPClassUID, header.Modality, header.FrameOfReferenceUID = MRImageStorage, "MR", frame
        header.StudyDate, header.StudyTime, header.StudyID, header.AccessionNumber = (
            "20260102",
            "0304",
            "5",
            "",
        )
        header.SeriesDescription, header.SeriesNumber, header.InstanceNumber = description, 1, k + 1
        header.ImagePositionPatient = [f"{v:.6f}" for v in (ijk_to_lps @ (0, 0, k, 1))[:3]]
        header.ImageOrientationPatient = [f"{v:.8f}" for v in (*row, *column)]
        header.PixelSpacing, header.SliceThickness = [spacing[1], spacing[0]], spacing[2]
        header.Rows, header.Columns, header.SamplesPerPixel = size[1], size[2], 1
        header.BitsAllocated = header.BitsStored = 16
        header.HighBit, header.PixelRepresentation, header.PhotometricInterpretation = 15, 1, "MONOCHROME2"
        header.PixelData = bytes(2 * size[1] * size[2])
        header.file_meta = FileMetaDataset()
        header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        files.append(folder / f"{size[0] - k:03}")  # the database names its copies without a suffix
        header.save_as(files[-1], enforce_file_format=True)
    return files


class DicomDatabase:
    """Answers of a ctkDICOMDatabase, as PythonQt gives them: tuples and strings, in the order of insertion.

    Patients are numbers as text; what is unknown is an empty tuple or string; a file may be gone from the disk.
    """

    isOpen = True  # noqa: N815

    def __init__(self, *folders: Path):
        self.files: dict[str, tuple[str, str, str, str, str]] = {}
        for file in (path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()):
            header = pydicom.dcmread(file, stop_before_pixels=True)
            levels = (
                header.PatientID,
                header.StudyInstanceUID,
                header.SeriesInstanceUID,
                header.SOPInstanceUID,
            )
            self.files[str(file)] = (*map(str, levels), str(header.get("SeriesDescription", "")))

    def patients(self):
        count = len({patient for patient, *_others in self.files.values()})
        return tuple(str(number) for number in range(1, count + 1))

    def studiesForPatient(self, patient):  # noqa: N802
        name = list(dict.fromkeys(patient for patient, *_others in self.files.values()))[int(patient) - 1]
        return tuple(dict.fromkeys(row[1] for row in self.files.values() if row[0] == name))

    def seriesForStudy(self, study):  # noqa: N802
        return tuple(dict.fromkeys(row[2] for row in self.files.values() if row[1] == study))

    def filesForSeries(self, series, hits=-1):  # noqa: N802
        found = tuple(file for file, row in self.files.items() if row[2] == series)
        return found[:hits] if hits > 0 else found

    def descriptionForSeries(self, series):  # noqa: N802
        return next((row[4] for row in self.files.values() if row[2] == series), "")

    def fileForInstance(self, instance):  # noqa: N802
        return next((file for file, row in self.files.items() if row[3] == instance), "")
