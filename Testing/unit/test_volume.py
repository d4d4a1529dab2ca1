"""Reading and writing volumes: formats, geometry, DICOM series, and one sentence for every bad input."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from masr_registration.errors import InputError, ResourceError
from masr_registration.volume import (
    Geometry,
    Volume,
    check_registrable,
    check_same_grid,
    header_warnings,
    read_labels,
    read_mask,
    read_volume,
    write_volume,
)

DATA = Path(os.environ.get("MASR_DATA", Path(__file__).parents[3] / "shared" / "data"))

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
PLAIN = Geometry((7, 6, 5), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), IDENTITY)


def rotation(seed: int, left_handed: bool) -> tuple[float, ...]:
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    if (np.linalg.det(q) < 0) != left_handed:
        q[:, 2] *= -1
    return tuple(float(v) for v in q.ravel())


def noise(geometry: Geometry = PLAIN, seed: int = 0) -> Volume:
    array = np.random.default_rng(seed).normal(size=geometry.shape).astype(np.float32)
    return Volume(array, geometry, "noise")


OBLIQUE = Geometry((7, 6, 5), (0.8, 1.3, 4.5), (-101.5, 33.25, 712.0), rotation(1, left_handed=False))  # type: ignore[arg-type]
MIRRORED = Geometry((7, 6, 5), (0.8, 1.3, 4.5), (-101.5, 33.25, 712.0), rotation(2, left_handed=True))  # type: ignore[arg-type]


def write_nifti(
    path: Path,
    array: np.ndarray,
    *,
    sform: np.ndarray | None = None,
    codes: tuple[int, int] = (0, 1),
    pixdim: tuple[float, ...] = (1.5, 2.0, 2.5),
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0),
    scale: tuple[float, float] = (1.0, 0.0),
    dim: tuple[int, ...] | None = None,
) -> Path:
    """A NIfTI-1 file with any header, as no library would write it. `codes` = (qform_code, sform_code)."""
    types = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "c8": 32, "f8": 64, "i1": 256, "u2": 512, "V3": 128}
    header = bytearray(352)
    dim = dim or tuple(array.shape[::-1])
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, len(dim), *dim, *[1] * (7 - len(dim)))
    struct.pack_into("<2h", header, 70, types[array.dtype.str[1:]], array.dtype.itemsize * 8)
    struct.pack_into("<8f", header, 76, 1.0, *pixdim, 1, 0, 0, 0)
    struct.pack_into("<3f", header, 108, 352, *scale)
    header[123] = 2
    struct.pack_into("<2h", header, 252, *codes)
    struct.pack_into("<3f", header, 268, *offset)
    struct.pack_into("<12f", header, 280, *(np.eye(4)[:3] if sform is None else sform)[:3].ravel())
    header[344:348] = b"n+1\0"
    data = bytes(header) + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def placed(linear: np.ndarray, origin: tuple[float, float, float] = (1.0, 2.0, 3.0)) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = linear @ np.diag([1.5, 2.0, 2.5])
    matrix[:3, 3] = origin
    return matrix


TURN = np.array([[np.cos(0.3), -np.sin(0.3), 0], [np.sin(0.3), np.cos(0.3), 0], [0, 0, 1]])
RAMP = np.arange(5 * 6 * 7, dtype="f4").reshape(5, 6, 7)
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


class TestRoundTrip:
    @pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
    @pytest.mark.parametrize("geometry", [PLAIN, OBLIQUE, MIRRORED], ids=["plain", "oblique", "mirrored"])
    def test_geometry_and_values_survive(self, tmp_path: Path, suffix: str, geometry: Geometry) -> None:
        volume = noise(geometry)
        write_volume(volume, tmp_path / f"image{suffix}")
        back = read_volume(tmp_path / f"image{suffix}")
        assert back.name == f"image{suffix}"
        assert back.array.dtype == np.float32
        assert back.geometry.size == geometry.size
        np.testing.assert_allclose(back.geometry.spacing, geometry.spacing, rtol=1e-6)
        np.testing.assert_allclose(back.geometry.origin, geometry.origin, rtol=0, atol=1e-4)
        np.testing.assert_allclose(back.geometry.direction, geometry.direction, atol=1e-5)
        np.testing.assert_array_equal(back.array, volume.array)
        assert check_same_grid(back.geometry, geometry)

    @pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
    def test_formats_with_a_separate_data_file(self, tmp_path: Path, suffix: str) -> None:
        volume = noise(OBLIQUE)
        sitk.WriteImage(volume.to_sitk(), str(tmp_path / f"image{suffix}"))
        back = read_volume(tmp_path / f"image{suffix}")
        np.testing.assert_array_equal(back.array, volume.array)
        np.testing.assert_allclose(back.geometry.index_to_physical, OBLIQUE.index_to_physical, atol=1e-5)

    @pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "f8"])
    @pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
    def test_every_number_type_becomes_float32(self, tmp_path: Path, kind: str, suffix: str) -> None:
        array = np.arange(5 * 6 * 7).reshape(5, 6, 7) % 120
        if kind[0] in "if":
            array = array - 60
        write_volume(Volume(array.astype(kind), PLAIN), tmp_path / f"image{suffix}")
        back = read_volume(tmp_path / f"image{suffix}").array
        assert back.dtype == np.float32
        np.testing.assert_array_equal(back, array)

    def test_bool_and_half_are_written_as_uint8_and_float32(self, tmp_path: Path) -> None:
        for kind, stored in ((bool, "8-bit unsigned integer"), (np.float16, "32-bit float")):
            array = (np.arange(5 * 6 * 7).reshape(5, 6, 7) % 2).astype(kind)
            write_volume(Volume(array, PLAIN), tmp_path / "image.nii.gz")
            assert sitk.ReadImage(str(tmp_path / "image.nii.gz")).GetPixelIDTypeAsString() == stored
            np.testing.assert_array_equal(read_volume(tmp_path / "image.nii.gz").array, array)

    def test_very_large_values(self, tmp_path: Path) -> None:
        array = np.linspace(-3e38, 3e38, 5 * 6 * 7).reshape(5, 6, 7)
        write_volume(Volume(array, PLAIN), tmp_path / "image.nrrd")
        volume = read_volume(tmp_path / "image.nrrd")
        np.testing.assert_array_equal(volume.array, array.astype(np.float32))
        check_registrable(volume, "fixed image")

    def test_nifti_is_compressed_and_nrrd_is_not(self, tmp_path: Path) -> None:
        volume = Volume(np.zeros(PLAIN.shape, np.float32), PLAIN)
        write_volume(volume, tmp_path / "a.nii.gz")
        write_volume(volume, tmp_path / "a.nrrd")
        assert (tmp_path / "a.nii.gz").read_bytes()[:2] == b"\x1f\x8b"
        assert b"encoding: raw" in (tmp_path / "a.nrrd").read_bytes()

    def test_non_ascii_name(self, tmp_path: Path) -> None:
        write_volume(noise(), tmp_path / "Köpf 頭.nii.gz")
        assert read_volume(tmp_path / "Köpf 頭.nii.gz").name == "Köpf 頭.nii.gz"


class TestNifti:
    def test_slope_and_intercept(self, tmp_path: Path) -> None:
        path = write_nifti(tmp_path / "a.nii", RAMP.astype("i2"), scale=(2.5, -10.0))
        np.testing.assert_allclose(read_volume(path).array, RAMP * 2.5 - 10)

    @pytest.mark.parametrize(
        ("shape", "dim"), [((1, 5, 6, 7), (7, 6, 5, 1)), ((1, 1, 5, 6, 7), (7, 6, 5, 1, 1))]
    )
    def test_trailing_axes_of_one_are_dropped(
        self, tmp_path: Path, shape: tuple[int, ...], dim: tuple[int, ...]
    ) -> None:
        path = write_nifti(tmp_path / "a.nii", RAMP.reshape(shape), dim=dim)
        np.testing.assert_array_equal(read_volume(path).array, RAMP)

    @pytest.mark.parametrize(
        ("codes", "winner"),
        [
            ((1, 1), "sform"),
            ((0, 4), "sform"),
            ((2, 1), "sform"),
            ((1, 2), "qform"),
            ((1, 4), "qform"),
            ((1, 0), "qform"),
        ],
    )
    def test_two_positions_the_one_of_simpleitk_and_a_warning(
        self, tmp_path: Path, codes: tuple[int, int], winner: str
    ) -> None:
        sform, qform = placed(TURN), placed(np.eye(3), (10.0, 20.0, 30.0))
        path = write_nifti(tmp_path / "a.nii.gz", RAMP, sform=sform, offset=(10, 20, 30), codes=codes)
        geometry = read_volume(path).geometry
        expected = RAS_TO_LPS @ {"sform": sform, "qform": qform}[winner]
        np.testing.assert_allclose(geometry.index_to_physical, expected, atol=1e-5)
        warnings = header_warnings(path, geometry)
        corner = np.array([6, 5, 4, 1.0])
        distance = max(
            np.linalg.norm((sform - qform) @ c) for c in (corner, [0, 0, 0, 1], [0, 5, 4, 1], [6, 0, 0, 1])
        )
        if min(codes) == 0:
            assert warnings == []
        else:
            other = "qform" if winner == "sform" else "sform"
            assert len(warnings) == 1
            assert f"its {other} places it up to {distance:.1f} mm" in warnings[0]

    def test_equal_positions_give_no_warning(self, tmp_path: Path) -> None:
        write_volume(noise(OBLIQUE), tmp_path / "a.nii.gz")
        assert header_warnings(tmp_path / "a.nii.gz", read_volume(tmp_path / "a.nii.gz").geometry) == []
        write_volume(noise(OBLIQUE), tmp_path / "a.nrrd")
        assert header_warnings(tmp_path / "a.nrrd", OBLIQUE) == []

    def test_no_position_at_all_gives_a_warning(self, tmp_path: Path) -> None:
        path = write_nifti(tmp_path / "a.nii", RAMP, codes=(0, 0))
        geometry = read_volume(path).geometry
        assert geometry.origin == (0, 0, 0)
        assert geometry.direction == IDENTITY
        assert "does not state where it lies" in header_warnings(path, geometry)[0]

    def test_sform_with_other_voxel_sizes_gives_a_warning(self, tmp_path: Path) -> None:
        path = write_nifti(tmp_path / "a.nii", RAMP, sform=placed(TURN), pixdim=(1.0, 1.0, 1.0))
        geometry = read_volume(path).geometry
        assert geometry.spacing == (1, 1, 1)
        assert "sform" in header_warnings(path, geometry)[0]

    @pytest.mark.parametrize(("shear", "accepted"), [(1e-5, True), (9e-5, True), (1e-3, False), (0.2, False)])
    def test_sheared_sform_alone(self, tmp_path: Path, shear: float, accepted: bool) -> None:
        sheared = placed(TURN @ np.array([[1, shear, 0], [0, 1, 0], [0, 0, 1]]))
        path = write_nifti(tmp_path / "a.nii", RAMP, sform=sheared)
        if accepted:
            moved = read_volume(path).geometry.index_to_physical - RAS_TO_LPS @ sheared
            assert np.abs(moved @ [6, 5, 4, 1]).max() < 2 * shear * 10
        else:
            with pytest.raises(InputError, match="right angles"):
                read_volume(path)

    def test_sheared_sform_falls_back_to_the_qform_with_a_warning(self, tmp_path: Path) -> None:
        sheared = placed(TURN @ np.array([[1, 0.1, 0], [0, 1, 0], [0, 0, 1]]))
        path = write_nifti(tmp_path / "a.nii", RAMP, sform=sheared, codes=(1, 1))
        geometry = read_volume(path).geometry
        assert geometry.direction == (-1, 0, 0, 0, -1, 0, 0, 0, 1)
        assert "sform" in header_warnings(path, geometry)[0]

    def test_big_endian(self, tmp_path: Path) -> None:
        little = write_nifti(tmp_path / "a.nii", RAMP.astype("i2"), sform=placed(TURN)).read_bytes()
        swapped = bytearray(little)
        fields = [
            (0, 1, 4),
            (40, 8, 2),
            (70, 2, 2),
            (76, 8, 4),
            (108, 3, 4),
            (252, 2, 2),
            (256, 6, 4),
            (280, 12, 4),
        ]
        for start, count, width in [*fields, (352, RAMP.size, 2)]:
            for i in range(start, start + count * width, width):
                swapped[i : i + width] = little[i : i + width][::-1]
        path = tmp_path / "big.nii"
        path.write_bytes(swapped)
        volume = read_volume(path)
        np.testing.assert_array_equal(volume.array, RAMP)
        assert header_warnings(path, volume.geometry) == []
        path.write_bytes(swapped[:-2])
        refused(path, "incomplete")

    def test_nifti_2(self, tmp_path: Path) -> None:
        path = tmp_path / "two.nii"
        path.write_bytes(struct.pack("<i8s", 540, b"n+2\0\r\n\x1a\n") + bytes(2000))
        refused(path, "NIfTI-2")

    def test_old_analyze_pair(self, tmp_path: Path) -> None:
        sitk.WriteImage(noise(OBLIQUE).to_sitk(), str(tmp_path / "a.hdr"))
        np.testing.assert_array_equal(read_volume(tmp_path / "a.hdr").array, noise(OBLIQUE).array)


def refused(path: Path, pattern: str, kind: type[Exception] = InputError) -> None:
    """Reading ends in one sentence that matches and holds no absolute path."""
    with pytest.raises(kind, match=pattern) as caught:
        read_volume(path)
    text = str(caught.value)
    assert str(path.parent) not in text
    assert "\n" not in text
    assert text.endswith(".")


class TestRefused:
    def test_missing(self, tmp_path: Path) -> None:
        refused(tmp_path / "nothing.nii.gz", 'no file "nothing.nii.gz"')

    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha", "a.dcm", "a"])
    def test_empty_file(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).touch()
        refused(tmp_path / name, "empty file")

    @pytest.mark.parametrize(
        "name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha", "a.dcm", "a.txt", "a", "a.h5", "a.png"]
    )
    def test_not_an_image(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_text("patient,age\n" * 100)
        refused(tmp_path / name, "not")

    def test_unreadable_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "a.nii").write_text("x")

        def deny(*args: object, **kwargs: object) -> None:
            raise PermissionError(13, "Permission denied", str(tmp_path / "a.nii"))

        monkeypatch.setattr(Path, "open", deny)
        refused(tmp_path / "a.nii", "permission denied|damaged")

    def test_two_dimensions(self, tmp_path: Path) -> None:
        sitk.WriteImage(sitk.Image(8, 8, sitk.sitkUInt8), str(tmp_path / "a.png"))
        refused(tmp_path / "a.png", "2-D")
        refused(write_nifti(tmp_path / "a.nii", RAMP[0]), "2-D")

    @pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
    def test_four_dimensions(self, tmp_path: Path, suffix: str) -> None:
        image = noise(OBLIQUE).to_sitk()
        path = tmp_path / f"a{suffix}"
        sitk.WriteImage(sitk.JoinSeries([image, image]), str(path))
        refused(path, "4-D image with 7 x 6 x 5 x 2 voxels")
        sitk.WriteImage(sitk.JoinSeries([image]), str(path))
        one = read_volume(path)
        np.testing.assert_allclose(one.geometry.index_to_physical, OBLIQUE.index_to_physical, atol=1e-4)
        np.testing.assert_array_equal(one.array, noise(OBLIQUE).array)

    @pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
    def test_several_components(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"a{suffix}"
        sitk.WriteImage(sitk.Image([7, 6, 5], sitk.sitkVectorFloat32, 3), str(path))
        refused(path, "3 values in every voxel")

    def test_colour_and_complex_nifti(self, tmp_path: Path) -> None:
        refused(write_nifti(tmp_path / "a.nii", np.zeros((5, 6, 7), "V3")), "3 values in every voxel")
        refused(write_nifti(tmp_path / "a.nii", RAMP.astype("c8")), "complex")

    @pytest.mark.parametrize("size", [0.0, float("nan")])
    def test_voxel_size_of_zero(self, tmp_path: Path, size: float) -> None:
        refused(write_nifti(tmp_path / "a.nii", RAMP, pixdim=(1, size, 1)), "voxel size")
        write_volume(noise(), tmp_path / "a.mha")
        data = (tmp_path / "a.mha").read_bytes()
        assert b"ElementSpacing = 1 1 1" in data
        (tmp_path / "a.mha").write_bytes(
            data.replace(b"ElementSpacing = 1 1 1", f"ElementSpacing = 1 {size} 1".encode())
        )
        refused(tmp_path / "a.mha", "voxel size")

    @pytest.mark.parametrize(
        "matrix", ["1 0 0 1 0 0 0 0 1", "0 0 0 0 0 0 0 0 0", "1 0 0 0.3 1 0 0 0 1", "2 0 0 0 2 0 0 0 2"]
    )
    def test_degenerate_or_sheared_direction(self, tmp_path: Path, matrix: str) -> None:
        write_volume(noise(), tmp_path / "a.mha")
        data = (tmp_path / "a.mha").read_bytes()
        assert b"TransformMatrix = 1 0 0 0 1 0 0 0 1" in data
        (tmp_path / "a.mha").write_bytes(
            data.replace(b"Matrix = 1 0 0 0 1 0 0 0 1", f"Matrix = {matrix}".encode())
        )
        refused(tmp_path / "a.mha", "axes")
        refused(write_nifti(tmp_path / "zero.nii", RAMP, sform=np.zeros((4, 4))), "axes")

    @pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
    def test_truncated(self, tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / f"a{suffix}"
        write_volume(noise(), path)
        path.write_bytes(path.read_bytes()[:-100])
        refused(path, "incomplete")
        assert capfd.readouterr().err == ""

    @pytest.mark.parametrize("start", [float("nan"), float("inf")])
    def test_data_that_begin_nowhere(self, tmp_path: Path, start: float) -> None:
        path = write_nifti(tmp_path / "a.nii", RAMP)
        data = bytearray(path.read_bytes())
        struct.pack_into("<f", data, 108, start)
        path.write_bytes(data)
        refused(path, "damaged")

    def test_flipped_bit_in_compressed_nifti(self, tmp_path: Path) -> None:
        path = tmp_path / "a.nii.gz"
        write_volume(noise(), path)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0x10
        path.write_bytes(data)
        refused(path, "damaged")

    def test_data_file_missing(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        for suffix, data in ((".mhd", "a.raw"), (".nhdr", "b.raw")):
            path = tmp_path / f"{data[0]}{suffix}"
            sitk.WriteImage(noise().to_sitk(), str(path))
            (tmp_path / data).unlink()
            refused(path, "cannot be read")
        assert capfd.readouterr().err == ""

    def test_larger_than_memory(self, tmp_path: Path) -> None:
        write_volume(noise(), tmp_path / "a.nrrd")
        data = (tmp_path / "a.nrrd").read_bytes()
        (tmp_path / "a.nrrd").write_bytes(data.replace(b"sizes: 7 6 5", b"sizes: 30000 30000 30000"))
        refused(tmp_path / "a.nrrd", "memory", ResourceError)

    def test_folder_without_dicom(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        refused(tmp_path, "holds no DICOM series")
        monkeypatch.chdir(tmp_path)
        with pytest.raises(InputError, match=f'"{tmp_path.name}" holds no'):
            read_volume(".")

    def test_warnings_stay_off_only_while_reading(self, tmp_path: Path) -> None:
        sitk.ProcessObject_SetGlobalWarningDisplay(True)
        refused(tmp_path / "nothing.nii.gz", "no file")
        assert sitk.ProcessObject_GetGlobalWarningDisplay()


class TestLabelsAndMasks:
    def test_labels_stored_as_float_are_integers(self, tmp_path: Path) -> None:
        array = (np.arange(5 * 6 * 7).reshape(5, 6, 7) % 4).astype(np.float64) * 2000
        write_volume(Volume(array, OBLIQUE), tmp_path / "a.nii.gz")
        labels = read_labels(tmp_path / "a.nii.gz")
        assert labels.array.dtype == np.int32
        np.testing.assert_array_equal(labels.array, array)

    @pytest.mark.parametrize("value", [0.5, np.nan, np.inf, 3e9])
    def test_values_that_are_not_labels(self, tmp_path: Path, value: float) -> None:
        array = np.zeros(PLAIN.shape)
        array[2, 2, 2] = value
        write_volume(Volume(array, PLAIN), tmp_path / "a.nrrd")
        with pytest.raises(InputError, match=r'"a.nrrd" is not a label map'):
            read_labels(tmp_path / "a.nrrd")

    def test_mask(self, tmp_path: Path) -> None:
        array = np.zeros(OBLIQUE.shape, np.int16)
        array[1:3] = 7
        write_volume(Volume(array, OBLIQUE), tmp_path / "m.nii.gz")
        mask = read_mask(tmp_path / "m.nii.gz", OBLIQUE, "fixed mask")
        assert mask.array.dtype == np.float32
        np.testing.assert_array_equal(mask.array, array > 0)
        assert mask.geometry == OBLIQUE

    @pytest.mark.parametrize(
        ("values", "weights"),
        [
            ([0, 0.25, 1], [0, 0.25, 1]),
            ([0, 1e-3, 0.5], [0, 1e-3, 0.5]),
            ([0, 1, 0], [0, 1, 0]),
            ([0, 3, -2], [0, 1, 1]),
            ([0, 255, 1], [0, 1, 1]),
        ],
    )
    def test_probabilities_are_weights_and_labels_are_not(
        self, tmp_path: Path, values: list[float], weights: list[float]
    ) -> None:
        array = np.resize(np.array(values, np.float64), PLAIN.shape)
        write_volume(Volume(array, PLAIN), tmp_path / "m.nrrd")
        np.testing.assert_allclose(
            read_mask(tmp_path / "m.nrrd", PLAIN, "fixed mask").array,
            np.resize(weights, PLAIN.shape),
            atol=1e-7,
        )

    @pytest.mark.parametrize("values", [[0, 1.5], [-0.25, 1], [0, np.nan], [1, np.inf]])
    def test_neither_labels_nor_probabilities(self, tmp_path: Path, values: list[float]) -> None:
        write_volume(Volume(np.resize(values, PLAIN.shape), PLAIN), tmp_path / "m.nrrd")
        with pytest.raises(InputError, match="neither labels"):
            read_mask(tmp_path / "m.nrrd", PLAIN, "fixed mask")

    def test_mask_on_another_grid_or_empty(self, tmp_path: Path) -> None:
        write_volume(Volume(np.ones(PLAIN.shape, np.uint8), PLAIN), tmp_path / "m.nrrd")
        with pytest.raises(
            InputError, match=r'The moving mask "m.nrrd" does not lie on the grid of its image\.'
        ):
            read_mask(tmp_path / "m.nrrd", OBLIQUE, "moving mask")
        write_volume(Volume(np.zeros(PLAIN.shape, np.uint8), PLAIN), tmp_path / "m.nrrd")
        with pytest.raises(InputError, match=r'The moving mask "m.nrrd" is empty\.'):
            read_mask(tmp_path / "m.nrrd", PLAIN, "moving mask")


class TestSameGrid:
    def test_tolerance_is_in_voxels_over_the_whole_grid(self) -> None:
        def shifted(mm: float) -> Geometry:
            return Geometry(
                OBLIQUE.size,
                OBLIQUE.spacing,
                (OBLIQUE.origin[0] + mm, *OBLIQUE.origin[1:]),
                OBLIQUE.direction,
            )

        assert check_same_grid(OBLIQUE, OBLIQUE)
        assert check_same_grid(OBLIQUE, shifted(5e-4))
        assert not check_same_grid(OBLIQUE, shifted(5e-3))
        stretched = Geometry((7, 6, 1000), (1.0, 1.0, 1.00001), PLAIN.origin, IDENTITY)
        assert not check_same_grid(Geometry((7, 6, 1000), (1.0, 1.0, 1.0), PLAIN.origin, IDENTITY), stretched)
        assert not check_same_grid(PLAIN, Geometry((7, 5, 6), *((PLAIN.spacing, PLAIN.origin, IDENTITY))))


class TestRegistrable:
    def test_good_volume(self) -> None:
        check_registrable(noise(OBLIQUE), "fixed image")

    def test_content(self) -> None:
        array = noise().array.copy()
        array[0, 0, :3] = [np.nan, np.inf, -np.inf]
        with pytest.raises(InputError, match=r'The fixed image "x.nii" is not finite .* in 3 of its voxels'):
            check_registrable(Volume(array, PLAIN, "x.nii"), "fixed image")
        with pytest.raises(InputError, match="no voxel with a finite value"):
            check_registrable(Volume(np.full(PLAIN.shape, np.nan), PLAIN), "fixed image")
        with pytest.raises(InputError, match="is empty: every voxel is 7"):
            check_registrable(Volume(np.full(PLAIN.shape, 7.0), PLAIN), "fixed image")

    @pytest.mark.parametrize("size", [(7, 6, 1), (3, 6, 5), (7, 2, 5)])
    def test_too_thin(self, size: tuple[int, int, int]) -> None:
        geometry = Geometry(size, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), IDENTITY)
        with pytest.raises(InputError, match="at least 4"):
            check_registrable(noise(geometry), "moving image")

    @pytest.mark.parametrize("change", [{"spacing": (1.0, 0.0, 1.0)}, {"spacing": (1.0, float("nan"), 1.0)},
                                        {"origin": (0.0, float("inf"), 0.0)}, {"direction": (1.0,) * 9}])  # fmt: skip
    def test_grid(self, change: dict[str, tuple[float, ...]]) -> None:
        values = {
            "size": PLAIN.size,
            "spacing": PLAIN.spacing,
            "origin": PLAIN.origin,
            "direction": IDENTITY,
            **change,
        }
        with pytest.raises(InputError, match=r"voxel size|axes"):
            check_registrable(Volume(noise().array, Geometry(**values)), "fixed image")  # type: ignore[arg-type]


class TestWriteFailures:
    @pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
    def test_disk_full(self, tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / f"a{suffix}"
        path.symlink_to("/dev/full")
        with pytest.raises(ResourceError, match=f'"a{suffix}" could not be written') as caught:
            write_volume(noise(), path)
        assert str(tmp_path) not in str(caught.value)
        assert capfd.readouterr().err == ""

    @pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
    def test_no_such_folder(self, tmp_path: Path, suffix: str) -> None:
        with pytest.raises(ResourceError, match="could not be written"):
            write_volume(noise(), tmp_path / "missing" / f"a{suffix}")

    @pytest.mark.parametrize("name", ["a.xyz", "a", "a.mhd"])
    def test_unknown_suffix(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(InputError, match="must end in one of"):
            write_volume(noise(), tmp_path / name)


def write_dicom(
    folder: Path,
    positions: list[np.ndarray],
    *,
    uid: str = "1.2.3.4",
    number: int = 1,
    prefix: str = "s",
    slope: float = 1.0,
) -> list[np.ndarray]:
    """A CT series of 6 x 7 slices at LPS `positions`, files in another order; returns the slices' values in HU."""
    folder.mkdir(exist_ok=True)
    row, column = np.reshape(OBLIQUE.direction, (3, 3))[:, :2].T
    written = []
    for i, position in enumerate(positions):
        stored = (np.random.default_rng(100 * number + i).integers(0, 2000, (6, 7))).astype(np.int16)
        real = stored[None] * slope - 1024
        image = sitk.GetImageFromArray(real.astype(np.int16 if slope == 1 else np.float32))
        image.SetSpacing((0.8, 1.3, 1.0))
        tags = {
            "0008|0060": "CT", "0008|0016": "1.2.840.10008.5.1.4.1.1.2", "0020|000d": "1.2.3", "0020|000e": uid,
            "0008|0018": f"{uid}.{i + 1}", "0020|0011": str(number), "0020|0013": str(i + 1), "0020|0052": "1.2.3.9",
            "0010|0010": "SECRET^NAME", "0020|0032": "\\".join(f"{v:.8f}" for v in position),
            "0020|0037": "\\".join(f"{v:.8f}" for v in (*row, *column)), "0018|0050": "4.5",
            "0028|1052": "-1024", "0028|1053": str(slope), "0028|0100": "16", "0028|0101": "16", "0028|0102": "15",
            "0028|0103": "1",
        }  # fmt: skip
        for key, value in tags.items():
            image.SetMetaData(key, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(folder / f"{prefix}{(i * 7) % 101:03d}.dcm"))
        writer.Execute(image)
        written.append(real)
    return written


def stack(count: int, gap: float = 4.5) -> list[np.ndarray]:
    normal = np.reshape(OBLIQUE.direction, (3, 3))[:, 2]
    return [np.asarray(OBLIQUE.origin) + i * gap * normal for i in range(count)]


class TestDicom:
    def test_oblique_series(self, tmp_path: Path) -> None:
        values = write_dicom(tmp_path / "exam", stack(9))
        volume = read_volume(tmp_path / "exam")
        assert volume.name == "exam"
        geometry = Geometry((7, 6, 9), OBLIQUE.spacing, OBLIQUE.origin, OBLIQUE.direction)
        assert check_same_grid(volume.geometry, geometry)
        np.testing.assert_array_equal(volume.array, np.concatenate(values))

    def test_one_file_stands_for_its_series(self, tmp_path: Path) -> None:
        write_dicom(tmp_path / "exam", stack(9))
        small = write_dicom(tmp_path / "exam", stack(6), uid="1.2.3.5", number=2, prefix="t")
        volume = read_volume(tmp_path / "exam" / "t007.dcm")
        assert volume.name == "t007.dcm"
        np.testing.assert_array_equal(volume.array, np.concatenate(small))
        (tmp_path / "exam" / "t007.dcm").rename(tmp_path / "exam" / "IM0007")
        np.testing.assert_array_equal(read_volume(tmp_path / "exam" / "IM0007").array, np.concatenate(small))

    def test_a_scout_beside_the_series_is_ignored(self, tmp_path: Path) -> None:
        values = write_dicom(tmp_path / "exam", stack(9))
        write_dicom(tmp_path / "exam", stack(3), uid="1.2.3.5", number=2, prefix="t")
        (tmp_path / "exam" / "notes.txt").write_text("not DICOM")
        np.testing.assert_array_equal(read_volume(tmp_path / "exam").array, np.concatenate(values))

    def test_two_series_of_like_size_are_ambiguous(self, tmp_path: Path) -> None:
        write_dicom(tmp_path / "exam", stack(9), number=3)
        write_dicom(tmp_path / "exam", stack(8), uid="1.2.3.5", number=7, prefix="t")
        with pytest.raises(InputError, match=r"series 3 \(9 slices\), series 7 \(8 slices\)") as caught:
            read_volume(tmp_path / "exam")
        assert "SECRET" not in str(caught.value)
        assert "1.2.3" not in str(caught.value)

    def test_missing_slice(self, tmp_path: Path) -> None:
        for missing in (1, 4, 7):
            folder = tmp_path / f"exam{missing}"
            write_dicom(folder, [p for i, p in enumerate(stack(9)) if i != missing])
            refused(folder, r"4\.50 to 9\.00 mm apart")

    def test_small_jitter_is_accepted(self, tmp_path: Path) -> None:
        positions = stack(9)
        positions[4] = positions[4] + 0.05 * (positions[1] - positions[0])
        write_dicom(tmp_path / "exam", positions)
        assert read_volume(tmp_path / "exam").geometry.spacing[2] == pytest.approx(4.5, abs=1e-4)

    def test_time_points_at_one_place(self, tmp_path: Path) -> None:
        write_dicom(tmp_path / "exam", [*stack(5), *stack(5)])
        refused(tmp_path / "exam", "same place")

    def test_tilted_gantry(self, tmp_path: Path) -> None:
        column = np.reshape(OBLIQUE.direction, (3, 3))[:, 1]
        write_dicom(tmp_path / "exam", [p + 0.8 * i * column for i, p in enumerate(stack(9))])
        refused(tmp_path / "exam", "tilted gantry")

    def test_slope_that_is_not_whole(self, tmp_path: Path) -> None:
        values = write_dicom(tmp_path / "exam", stack(5), slope=0.25)
        np.testing.assert_allclose(read_volume(tmp_path / "exam").array, np.concatenate(values))

    def test_lone_slice_is_read_and_then_refused(self, tmp_path: Path) -> None:
        write_dicom(tmp_path / "exam", stack(1))
        for path in (tmp_path / "exam", tmp_path / "exam" / "s000.dcm"):
            with pytest.raises(InputError, match="at least 4"):
                check_registrable(read_volume(path), "fixed image")

    def test_colour_series(self, tmp_path: Path) -> None:
        folder = tmp_path / "exam"
        folder.mkdir()
        image = sitk.Image([7, 6, 1], sitk.sitkVectorUInt8, 3)
        sitk.WriteImage(image, str(folder / "a.dcm"))
        refused(folder, "3 values in every voxel")


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="no development images")
class TestRealImages:
    def test_haste_dicom(self) -> None:
        folder = DATA / "abdomen_mr_haste_dicom"
        volume = read_volume(folder)
        check_registrable(volume, "fixed image")
        assert volume.geometry.size == (256, 256, 30)
        np.testing.assert_allclose(volume.geometry.spacing, (1.5625, 1.5625, 8.75), rtol=1e-6)
        np.testing.assert_array_equal(read_volume(folder / "1-11.dcm").array, volume.array)

    def test_every_image_reads_as_simpleitk_reads_it(self) -> None:
        files = [p for p in sorted(DATA.rglob("*.nii.gz")) if p.parent.name != "brain_label_maps"]
        assert files
        for path in files[::7]:
            volume, image = read_volume(path), sitk.ReadImage(str(path))
            check_registrable(volume, "image")
            assert volume.geometry == Geometry.of(image)
            np.testing.assert_array_equal(volume.array, sitk.GetArrayFromImage(image).astype(np.float32))
