"""The measures of Learn2Reg and LUMIR against the numbers that their own public code gives on a made-up pair.

The expected numbers were written down from runs of MDL-UzL/L2R (evaluation/utils.py, surface_distance) and
JHU-MedImage-Reg/LUMIR_L2R (digital_diffeomorphism.py, utils.py) on the arrays that `made_up` gives.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from masr_registration.errors import InputError
from masr_registration.evaluation.metrics import hd95, hd95_voxels_learn2reg
from masr_registration.evaluation.surfels import AREAS, surface
from masr_registration.evaluation.tasks import fields, learn2reg, scoring
from masr_registration.evaluation.tasks.cases import Side, Task, TaskCase
from masr_registration.volume import Geometry

SHAPE = (24, 30, 26)
DICE, DICE_EACH = 0.3335221719291958, [0.22598711845421451, 0.39388379204892965, 0.38069560528444324]
HD95, HD95_EACH = 3.8650805268724135, [3.0, 4.47213595499958, 4.123105625617661]
SDLOGJ, SDLOGJ_MASKED = 1.3250545532421036, 1.2309110428079806
NONPOSITIVE = 39.79895104895105
TRE = [1.9004922436662535, 6.984115105319826, 10.620543385718634]
NDV = 21.836850910964525
TRE_BALLS = 0.5508614606732253


def made_up() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A field that folds, a fixed and a moving label map, and an image."""
    i, j, k = np.indices(SHAPE, dtype=np.float64)
    field = np.stack(
        [
            4.0 * np.sin(0.5 * i) * np.cos(0.3 * j),
            3.0 * np.cos(0.4 * j + 0.2 * k) - 1.0,
            2.5 * np.sin(0.6 * k + 0.1 * i) + 0.5,
        ]
    )
    waves = np.sin(0.35 * i + 0.2 * j) + np.cos(0.25 * j - 0.3 * k)
    fixed = (waves > 0.3) * 1 + (waves > 1.2) * 1 + (waves < -1.4) * 3
    moving = np.roll(fixed, (2, -1, 1), (0, 1, 2))
    return field, fixed, moving, waves


def test_dice_and_hd95_are_those_of_learn2reg() -> None:
    field, fixed, moving, _ = made_up()
    found = learn2reg.overlap(fixed, moving, learn2reg.warp(moving, field), [1, 2, 3, 4])
    assert found["dice"] == pytest.approx(DICE, abs=1e-9)
    assert [found["dice_each"][n] for n in (1, 2, 3)] == pytest.approx(DICE_EACH, abs=1e-9)
    assert found["hd95"] == pytest.approx(HD95, abs=1e-6)
    assert [found["hd95_each"][n] for n in (1, 2, 3)] == pytest.approx(HD95_EACH, abs=1e-6)
    assert (found["dice_each"][4], found["hd95_each"][4]) == (None, None)


def test_a_lost_label_counts_and_a_missing_one_does_not() -> None:
    _, fixed, moving, _ = made_up()
    away = np.full((3, *SHAPE), 100.0)
    moving[moving == 2] = 0
    found = learn2reg.overlap(fixed, moving, learn2reg.warp(moving, away), [1, 2])
    assert found["dice_each"] == {1: 0.0, 2: None}
    assert found["hd95_each"] == {1: np.inf, 2: None}
    assert (found["dice"], found["hd95"]) == (0.0, np.inf)


def test_half_a_voxel_outside_is_outside() -> None:
    ones = np.ones(SHAPE, np.uint8)
    field = np.zeros((3, *SHAPE))
    field[0] = -0.2
    assert learn2reg.warp(ones, field)[0].max() == 0
    assert learn2reg.warp(ones, field)[1:].min() == 1


def test_regularity_is_that_of_learn2reg() -> None:
    field, fixed, _, _ = made_up()
    mask = (fixed > 0).astype(np.uint8)
    assert learn2reg.sdlogj(field) == pytest.approx(SDLOGJ, abs=1e-9)
    assert learn2reg.sdlogj(field, mask) == pytest.approx(SDLOGJ_MASKED, abs=1e-9)
    assert 100 * learn2reg.nonpositive_share(field) == pytest.approx(NONPOSITIVE, abs=1e-9)


def test_tre_is_that_of_learn2reg() -> None:
    field = made_up()[0]
    points = np.array([[3.0, 4.0, 5.0], [11.5, 20.25, 7.0], [22.0, 1.0, 24.5]])
    errors = learn2reg.tre(field, points, points + np.array([1.0, -2.0, 0.5]), (2.0, 1.0, 1.5))
    assert errors == pytest.approx(TRE, abs=1e-9)


def test_volumes_and_landmarks_are_those_of_lumir() -> None:
    field, _, _, image = made_up()
    assert learn2reg.nondiffeomorphic_percent(field, image) == pytest.approx(NDV, abs=1e-4)
    assert learn2reg.nondiffeomorphic_percent(0 * field, image) == 0
    fixed, moving = np.zeros(SHAPE), np.zeros(SHAPE)
    for n in (1, 2, 3):
        fixed[5 * n : 5 * n + 3, 6 * n : 6 * n + 3, 5 * n : 5 * n + 3] = n
        moving[5 * n : 5 * n + 4, 6 * n : 6 * n + 3, 5 * n : 5 * n + 3] = n
    assert learn2reg.tre_of_balls(fixed, moving, field / 5) == pytest.approx(TRE_BALLS, abs=1e-9)
    assert learn2reg.tre_of_balls(fixed, moving, field + 100) is None


def test_numbers_over_the_cases() -> None:
    values = [0.9, 0.5, 0.7, 0.8]
    assert learn2reg.over_cases("dice", values)["30"] == pytest.approx(0.68)
    assert learn2reg.over_cases("hd95", values)["30"] == pytest.approx(0.68)
    assert learn2reg.over_cases("tre", values)["30"] == pytest.approx(0.81)
    assert learn2reg.over_cases("sdlogj", values)["std"] == pytest.approx(np.std(values))


class TestSurface:
    def test_area_of_a_box_and_of_its_complement(self) -> None:
        box = np.zeros((9, 9, 9), bool)
        box[2:7, 3:6, 1:8] = True
        flat = 2 * (4 * 2 + 4 * 6 + 2 * 6)
        edges = 4 * (4 + 2 + 6) * 2**0.5 / 2
        corners = 8 * 3**0.5 / 8
        assert surface(box)[1].sum() == pytest.approx(flat + edges + corners)
        assert np.array_equal(AREAS, AREAS[::-1])

    def test_weights_matter(self) -> None:
        a = np.zeros((12, 12, 12), bool)
        a[2:10, 2:10, 2:10] = True
        b = a.copy()
        b[9, 2:10, 2:10] = False
        b[2:4, 2:4, 2:4] = False
        assert hd95_voxels_learn2reg(a, b) != hd95(a, b, (1, 1, 1)) or hd95(a, b, (1, 1, 1)) == 1.0


OBLIQUE = (0.96, -0.28, 0.0, 0.28, 0.96, 0.0, 0.0, 0.0, 1.0)
FIXED = Geometry((8, 10, 6), (1.0, 1.5, 2.0), (-3.0, 5.0, 7.0), OBLIQUE)
MOVING = Geometry((9, 7, 8), (2.0, 1.0, 1.0), (1.0, 2.0, 3.0), (1.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 1.0, 0.0))


BROAD = Geometry((24, 30, 26), FIXED.spacing, FIXED.origin, OBLIQUE)


def smooth(size: tuple[int, int, int]) -> np.ndarray:
    i, j, k = np.indices(size, dtype=np.float64)
    return np.stack([np.sin(0.3 * i) + 0.1 * j, np.cos(0.2 * j + 0.1 * k), 0.2 * k - 0.1 * i]).astype(
        np.float32
    )


class TestFields:
    case = TaskCase("a--b", Side(Path("f.nii.gz")), Side(Path("m.nii.gz")), ("disp_0001_0002", "disp_long"))

    def test_voxels_and_millimetres(self) -> None:
        """A point of the fixed grid, its displacement in mm, and the voxel of the moving grid where it lands."""
        shift = np.zeros((3, *FIXED.shape), np.float32)
        shift[:] = np.array([1.0, -2.0, 3.0])[:, None, None, None]
        field = fields.from_mm(shift, FIXED, MOVING)
        voxel = np.array([4, 7, 2])
        landed = MOVING.index_to_physical @ [*(voxel + field[:, 4, 7, 2]), 1]
        start = FIXED.index_to_physical @ [*voxel, 1]
        np.testing.assert_allclose((landed - start)[:3], [1.0, -2.0, 3.0], atol=1e-5)
        np.testing.assert_allclose(fields.to_mm(field, FIXED, MOVING), shift, atol=1e-5)

    @pytest.mark.parametrize("form", fields.FORMS)
    def test_each_form_is_read_back(self, form: str, tmp_path: Path) -> None:
        field = smooth(BROAD.size)
        path = fields.write(field, tmp_path / "s", self.case, form)
        assert path.name == "disp_0001_0002" + (".nii.gz" if form == "nii" else ".npz")
        assert fields.find(tmp_path / "s", self.case) == path
        found = fields.read(path, BROAD, BROAD)
        error = np.abs(found - field)
        if form == "npz-half":  # quadratic splines miss a slope at the border
            assert error[:, 2:-2, 2:-2, 2:-2].max() < 0.05
            assert error.max() < 0.2
        else:
            assert error.max() == 0
        assert found.shape == field.shape

    def test_the_forms_are_what_the_evaluators_open(self, tmp_path: Path) -> None:
        field = smooth(FIXED.size)
        image = sitk.ReadImage(str(fields.write(field, tmp_path, self.case, "nii")))
        assert (image.GetSize(), image.GetNumberOfComponentsPerPixel()) == ((8, 10, 6, 3), 1)
        assert image.GetPixel(4, 7, 2, 1) == field[1, 4, 7, 2]
        with np.load(fields.write(field, tmp_path, self.case, "npz")) as content:
            assert content["arr_0"].shape == (8, 10, 6, 3)
            assert content["arr_0"].dtype == np.float32
        with np.load(fields.write(field, tmp_path, self.case, "npz-half")) as content:
            half = content["arr_0"]
        assert (half.shape, half.dtype) == ((3, 4, 5, 3), np.float16)
        np.testing.assert_allclose(half[:, -1, -1, -1], field[:, -1, -1, -1], atol=2e-3)

    def test_odd_sides_have_no_half(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="every side must be even"):
            fields.write(smooth((7, 10, 6)), tmp_path, self.case, "npz-half")

    def test_what_does_not_fit_is_refused(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "disp_long.npz", np.zeros((3, 5, 5, 5), np.float32))
        path = fields.find(tmp_path, self.case)
        assert path is not None
        with pytest.raises(InputError, match="shape 3 x 5 x 5 x 5"):
            fields.read(path, FIXED, FIXED)
        np.savez(path, np.zeros(2), np.zeros(2))
        with pytest.raises(InputError, match="one array"):
            fields.read(path, FIXED, FIXED)
        np.savez(path, np.full((8, 10, 6, 3), np.nan))
        with pytest.raises(InputError, match="not finite"):
            fields.read(path, FIXED, FIXED)
        np.savez(path, np.array([{}], dtype=object))
        with pytest.raises(InputError, match="cannot be read"):
            fields.read(path, FIXED, FIXED)

    def test_a_transform_is_a_field(self, tmp_path: Path) -> None:
        sitk.WriteTransform(sitk.TranslationTransform(3, (1.0, -2.0, 3.0)), str(tmp_path / "a--b.h5"))
        path = fields.find(tmp_path, self.case)
        assert path is not None
        found = fields.to_mm(fields.read(path, FIXED, MOVING), FIXED, MOVING)
        np.testing.assert_allclose(
            found, np.broadcast_to([[[[1.0]]], [[[-2.0]]], [[[3.0]]]], found.shape), atol=1e-4
        )


class TestScore:
    task = Task("t", "T", (), "", "", "general")

    def truth(self, **more: object) -> scoring.Truth:
        nothing = dict.fromkeys(("labels", "mask", "landmarks", "balls", "moving_image"))
        return scoring.Truth(FIXED, FIXED, **{**nothing, **more})  # type: ignore[arg-type]

    def test_strict_numbers_see_what_learn2reg_hides(self) -> None:
        """One voxel jumps over its neighbour; a label is lost."""
        field = np.zeros((3, *FIXED.size), np.float32)
        field[0, 4, 5, 3], field[0, 7, 9, 5] = 1.5, 50.0
        labels = np.zeros(FIXED.size, np.int32)
        labels[2:6, 2:8, 1:5] = 1
        gone = labels.copy()
        labels[0, 0, 0], gone[7, 9, 5] = 2, 2
        found = scoring.score(self.task, self.truth(labels=(labels, gone)), field)
        assert found["strict"]["folds"] > 0
        assert found["learn2reg"]["nonpositive_percent"] == 0
        assert found["strict"]["labels_lost"] == 1
        assert found["strict"]["dice_each"][2] == 0
        assert found["learn2reg"]["dice_each"][2] == 0

    def test_landmarks_in_millimetres(self) -> None:
        field = np.zeros((3, *FIXED.size), np.float32)
        field[1] = 2.0
        points = np.array([[3.0, 4.0, 2.0], [5.0, 2.5, 3.0]])
        found = scoring.score(self.task, self.truth(landmarks=(points, points)), field)
        assert found["strict"]["tre_mm"] == pytest.approx(3.0, abs=1e-5)
        assert found["learn2reg"]["tre"] == pytest.approx(3.0, abs=1e-5)

    def test_hd95_follows_the_axes_of_the_grid(self) -> None:
        a, b = np.zeros(FIXED.size, np.int32), np.zeros(FIXED.size, np.int32)
        a[2:6, 2:8, 1:3], b[2:6, 2:8, 3:5] = 1, 1
        found = scoring.score(self.task, self.truth(labels=(a, b)), np.zeros((3, *FIXED.size), np.float32))
        assert found["strict"]["hd95_mm"] == pytest.approx(4.0)
        assert found["learn2reg"]["hd95"] == pytest.approx(2.0)
