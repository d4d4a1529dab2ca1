"""Slices hang as a radiologist expects, for every order and direction of the grid's axes."""

import itertools

import numpy as np
import pytest
from masr_registration.evaluation.slices import (
    AXIAL,
    CORONAL,
    PLANES,
    SAGITTAL,
    Hanging,
    Window,
    fullest,
    middle,
    otsu,
)
from masr_registration.volume import Geometry

DIRECTIONS = [
    np.eye(3)[list(order)] * signs
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
TILT = 0.2


def _geometry(direction: np.ndarray) -> Geometry:
    return Geometry((4, 5, 6), (2.0, 3.0, 5.0), (7.0, -11.0, 13.0), tuple(direction.ravel().tolist()))


def _tilted(direction: np.ndarray) -> np.ndarray:
    cos, sin = np.cos(TILT), np.sin(TILT)
    about_x = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    about_z = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    return about_x @ about_z @ direction


def _positions(geometry: Geometry) -> np.ndarray:
    """LPS mm of every voxel: ``(3, D, H, W)``."""
    k, j, i = np.indices(geometry.shape)
    return np.einsum("ab,bkji->akji", geometry.index_to_physical, np.stack([i, j, k, np.ones_like(i)]))[:3]


@pytest.mark.parametrize("tilt", [False, True], ids=["aligned", "oblique"])
@pytest.mark.parametrize("direction", DIRECTIONS, ids=lambda d: "".join(f"{v:+.0f}" for v in d.ravel() if v))
def test_right_is_left_anterior_and_superior_are_up(direction: np.ndarray, tilt: bool) -> None:
    geometry = _geometry(_tilted(direction) if tilt else direction)
    hanging = Hanging.of(geometry)
    positions = _positions(geometry)
    for plane, down in ((AXIAL, 1), (CORONAL, -1), (SAGITTAL, -1)):
        part = hanging.slice(positions, plane, (1, 2, 3))
        assert (np.diff(part[plane.column], axis=1) > 0).all()
        assert (np.sign(np.diff(part[plane.row], axis=0)) == down).all()
        width, height = hanging.size_mm(plane)
        spacing = np.linalg.norm(part[:, 0, 1] - part[:, 0, 0]), np.linalg.norm(part[:, 1, 0] - part[:, 0, 0])
        assert (width, height) == pytest.approx((part.shape[2] * spacing[0], part.shape[1] * spacing[1]))


@pytest.mark.parametrize("direction", DIRECTIONS[::7])
def test_slices_go_through_the_voxel(direction: np.ndarray) -> None:
    geometry = _geometry(direction)
    marked = np.zeros(geometry.shape)
    marked[3, 2, 1] = 1
    for plane in PLANES:
        assert Hanging.of(geometry).slice(marked, plane, (1, 2, 3)).sum() == 1


def test_letters_are_those_of_radiology() -> None:
    hanging = Hanging.of(_geometry(np.eye(3)))
    assert hanging.letters(AXIAL) == ("R", "L", "A", "P")
    assert hanging.letters(CORONAL) == ("R", "L", "S", "I")
    assert hanging.letters(SAGITTAL) == ("A", "P", "S", "I")


@pytest.mark.parametrize("direction", DIRECTIONS[::5])
def test_vectors_point_along_the_picture(direction: np.ndarray) -> None:
    hanging = Hanging.of(_geometry(_tilted(direction)))
    positions = _positions(hanging.geometry)
    for plane in PLANES:
        part = hanging.slice(positions, plane, (1, 2, 3))
        right, down = part[:, 0, 1] - part[:, 0, 0], part[:, 1, 0] - part[:, 0, 0]
        np.testing.assert_allclose(hanging.along(right, plane), (np.linalg.norm(right), 0), atol=1e-9)
        np.testing.assert_allclose(hanging.along(down, plane), (0, np.linalg.norm(down)), atol=1e-9)


def test_positions_are_told_as_slicer_tells_them() -> None:
    hanging = Hanging.of(_geometry(np.eye(3)))
    assert hanging.position(AXIAL, (0, 0, 0)) == "S 13 mm"
    assert hanging.position(CORONAL, (0, 0, 0)) == "A 11 mm"
    assert hanging.position(SAGITTAL, (0, 0, 0)) == "L 7 mm"


def test_obliquity() -> None:
    assert Hanging.of(_geometry(np.eye(3))).obliquity_deg == pytest.approx(0, abs=1e-6)
    about_x = np.array([[1, 0, 0], [0, np.cos(TILT), -np.sin(TILT)], [0, np.sin(TILT), np.cos(TILT)]])
    assert Hanging.of(_geometry(about_x)).obliquity_deg == pytest.approx(np.rad2deg(TILT))


def test_middle_and_fullest() -> None:
    mask = np.zeros((6, 5, 4), bool)
    assert middle(mask) == (2, 2, 2)
    mask[1, 2, 3] = True
    assert middle(mask) == fullest(mask) == (3, 2, 1)
    mask[4, 0:2, 0] = True
    assert fullest(mask) == (0, 0, 4)


def test_windows_are_robust_and_finite() -> None:
    values = np.linspace(0, 100, 1001)
    values[-1] = 1e9
    window = Window.of(values)
    assert window.high < 101
    np.testing.assert_allclose(window(np.array([np.nan, -1.0, window.high, 1e9])), [0, 0, 1, 1])
    assert np.isfinite(Window.of(np.full(10, 5.0))(np.array([5.0, 6.0]))).all()
    assert Window.of(np.array([np.nan])) == Window(0.0, 1.0)


def test_otsu_parts_dark_from_bright() -> None:
    values = np.r_[np.zeros(1000), np.full(500, 0.3), np.full(200, 0.8)]
    assert 0.3 <= otsu(values) < 0.8
    assert np.isfinite(otsu(np.zeros(10)))
