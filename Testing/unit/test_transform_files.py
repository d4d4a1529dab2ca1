"""Initial transforms from every kind of file, and one sentence for each that cannot be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from masr_registration.case.writing import write_displacement
from masr_registration.errors import InputError
from masr_registration.transforms.chain import TransformChain
from masr_registration.transforms.files import read_transform
from phantoms import LEFT_HANDED, geometry, points_in, smooth_field

GRID = geometry((24, 20, 16), (2.0, 2.5, 4.0), LEFT_HANDED, (12.0, -30.0, 55.0))
EULER = sitk.Euler3DTransform((1.0, 2.0, 3.0), 0.1, 0.2, 0.3, (4.0, -5.0, 6.0))
SHIFT = sitk.TranslationTransform(3, (5.0, 0.0, -7.0))


def where(transform: sitk.Transform, points: np.ndarray) -> np.ndarray:
    return np.array([transform.TransformPoint(p) for p in points.tolist()])


@pytest.mark.parametrize("suffix", [".h5", ".tfm", ".txt"])
@pytest.mark.parametrize("composite", [False, True])
def test_itk_files(tmp_path: Path, suffix: str, composite: bool) -> None:
    field = smooth_field(GRID, 3.0).to_sitk()
    transform = sitk.CompositeTransform([EULER, field]) if composite else EULER
    sitk.WriteTransform(transform, tmp_path / f"a{suffix}")
    points = points_in(GRID, 50, margin_mm=5.0)
    found = read_transform(tmp_path / f"a{suffix}", "initial transform")
    np.testing.assert_allclose(where(found, points), where(transform, points), atol=1e-4)


@pytest.mark.parametrize("suffix", [".nrrd", ".nii.gz", ".mha", ".nhdr"])
def test_images_of_displacements(tmp_path: Path, suffix: str) -> None:
    field = smooth_field(GRID, 3.0)
    path = tmp_path / f"field{suffix}"
    if suffix == ".nrrd":
        write_displacement(field.displacement.numpy(), GRID, path)
    else:
        sitk.WriteImage(field.to_sitk().GetDisplacementField(), path)
    points = points_in(GRID, 50, margin_mm=-1.0)
    chain = TransformChain.from_sitk(read_transform(path, "initial transform"))
    expected = where(field.to_sitk(), points)
    found = where(chain.to_sitk(), points)
    assert np.linalg.norm(expected - points, axis=1).max() > 1
    np.testing.assert_allclose(found, expected, atol=1e-3)


def write(folder: Path, name: str) -> Path:
    """A file that cannot be used."""
    path = folder / name
    if name == "several.tfm":
        sitk.WriteTransform(EULER, path)
        first = path.read_text()
        sitk.WriteTransform(SHIFT, path)
        path.write_text(first + path.read_text().split("\n", 1)[1].replace("#Transform 0", "#Transform 1"))
    elif name == "plane.tfm":
        sitk.WriteTransform(sitk.TranslationTransform(2, (1.0, 2.0)), path)
    elif name == "image.nii.gz":
        sitk.WriteImage(sitk.Image(5, 5, 5, sitk.sitkFloat32), path)
    elif name == "plane.nrrd":
        sitk.WriteImage(sitk.Image([5, 5], sitk.sitkVectorFloat32, 2), path)
    else:
        path.write_bytes(b"" if name.startswith("empty") else b"no transform")
    return path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("several.tfm", "holds several transforms"),
        ("plane.tfm", "is not a 3-D transform"),
        ("image.nii.gz", "is no displacement field"),
        ("plane.nrrd", "is no displacement field"),
        ("missing.h5", '"missing.h5" does not exist'),
        ("missing.nrrd", '"missing.nrrd" does not exist'),
        ("text.h5", "not a transform file"),
        ("text.tfm", "not a transform file"),
        ("empty.h5", "not a transform file"),
        ("text.nrrd", '"text.nrrd"'),
        ("empty.nii.gz", '"empty.nii.gz"'),
        ("unknown.xyz", "not a transform file"),
    ],
)
def test_what_cannot_be_used_gets_one_sentence(
    tmp_path: Path, name: str, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name if name.startswith("missing") else write(tmp_path, name)
    with pytest.raises(InputError, match=words) as caught:
        read_transform(path, "initial transform")
    assert str(caught.value).count("\n") == 0
    assert str(tmp_path) not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_the_logger_that_was_there_is_put_back(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "several.tfm")
    with pytest.raises(InputError):
        read_transform(path, "initial transform")
    sitk.ReadTransform(path)
    assert "more than one transform" in capfd.readouterr().err
