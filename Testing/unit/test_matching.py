"""Counterparts of points from saved features: found, honest about doubt, and without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from masr_registration.errors import InputError, ResourceError
from masr_registration.matching.features import FeatureImage, FeaturePair, quantise, unit_for
from masr_registration.matching.suggest import CLEAR, suggest
from numpy.lib.stride_tricks import sliding_window_view

SHAPE = (26, 28, 30)
CELL_MM = 2.0
SHIFT_CELLS = np.array([2.0, -3.0, 1.0])
TURN = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


def smooth_noise(seed: int) -> np.ndarray:
    """Features ``(6, d, h, w)`` with structure of a few cells."""
    wide = np.random.default_rng(seed).normal(size=(6, *(n + 8 for n in SHAPE)))
    return sliding_window_view(wide, (3, 3, 3), axis=(1, 2, 3)).mean(axis=(-3, -2, -1))


def place(origin: tuple[float, float, float], rotation: np.ndarray | None = None) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = (np.eye(3) if rotation is None else rotation) * CELL_MM
    matrix[:3, 3] = origin
    return matrix


def a_pair(noise: float = 0.0, known: np.ndarray | None = None) -> FeaturePair:
    """The moving features stand `SHIFT_CELLS` further, in a frame that is turned and shifted."""
    source = smooth_noise(0)
    unit = unit_for(float(np.abs(source).max()))
    i, j, k = SHIFT_CELLS.astype(int)
    depth, height, width = SHAPE
    fixed = source[:, 3 : 3 + depth, 3 : 3 + height, 3 : 3 + width]
    moving = source[:, 3 - k : 3 - k + depth, 3 - j : 3 - j + height, 3 - i : 3 - i + width]
    moving = moving + np.random.default_rng(1).normal(scale=noise, size=moving.shape)
    everything = np.ones(SHAPE, dtype=bool)
    matrix = place((5.0, -8.0, 3.0), TURN)
    return FeaturePair(
        FeatureImage(quantise(fixed, unit), everything, place((-10.0, 20.0, 0.0))),
        FeatureImage(quantise(moving, unit), everything if known is None else known, matrix),
        unit,
        matrix @ np.linalg.inv(place((-10.0, 20.0, 0.0))),
    )


CELLS = np.array([[12.0, 13.0, 11.0], [16.0, 15.0, 14.0], [13.3, 14.6, 12.5]])


@pytest.mark.parametrize("cell", CELLS)
def test_the_counterpart_is_found_in_either_direction(cell: np.ndarray) -> None:
    pair = a_pair(noise=0.02)
    point, true = pair.fixed.point_of(cell), pair.moving.point_of(cell + SHIFT_CELLS)
    expected = pair.linear[:3, :3] @ point + pair.linear[:3, 3]
    assert np.linalg.norm(expected - true) > 7
    found = suggest(pair, point, expected)
    assert np.linalg.norm(found.point - true) < 0.5 * CELL_MM
    assert found.level == "clear"
    assert found.ratio > CLEAR
    back = suggest(pair, found.point, point, from_fixed=False)
    assert np.linalg.norm(back.point - point) < 0.5 * CELL_MM


def test_the_heat_map_shows_the_best_match_where_it_is() -> None:
    pair = a_pair()
    cell = CELLS[0]
    found = suggest(pair, pair.fixed.point_of(cell), pair.moving.point_of(cell))
    assert found.heat.dtype == np.float32
    assert (found.heat.min(), found.heat.max()) == (0.0, 1.0)
    k, j, i = np.unravel_index(found.heat.argmax(), found.heat.shape)
    hottest = (found.heat_to_lps @ [i, j, k, 1.0])[:3]
    np.testing.assert_allclose(hottest, pair.moving.point_of(cell + SHIFT_CELLS), atol=1e-9)


def test_where_nothing_is_alike_no_confidence_is_claimed() -> None:
    pair = a_pair()
    strange = smooth_noise(7)[:, : SHAPE[0], : SHAPE[1], : SHAPE[2]]
    stranger = FeatureImage(quantise(strange, pair.unit), pair.moving.known, pair.moving.index_to_lps)
    wrong = FeaturePair(pair.fixed, stranger, pair.unit, pair.linear)
    levels = []
    for cell in np.random.default_rng(0).uniform(9, 17, (40, 3)):
        levels.append(suggest(wrong, pair.fixed.point_of(cell), pair.moving.point_of(cell)).level)
    assert levels.count("clear") <= 2
    assert levels.count("none") >= 20


def test_a_match_at_the_border_of_the_window_is_not_trusted() -> None:
    pair = a_pair()
    cell = CELLS[0]
    far = pair.moving.point_of(cell + SHIFT_CELLS - [4, 0, 0])
    assert suggest(pair, pair.fixed.point_of(cell), far, reach_mm=8.0).level == "none"


def test_hidden_cells_are_no_candidates() -> None:
    known = np.ones(SHAPE, dtype=bool)
    i, j, k = (CELLS[0] + SHIFT_CELLS).astype(int)
    known[k - 1 : k + 2, j - 1 : j + 2, i - 1 : i + 2] = False
    pair = a_pair(known=known)
    found = suggest(pair, pair.fixed.point_of(CELLS[0]), pair.moving.point_of(CELLS[0]))
    assert np.linalg.norm(found.point - pair.moving.point_of(CELLS[0] + SHIFT_CELLS)) > CELL_MM
    with pytest.raises(InputError, match="shows nothing at this point"):
        suggest(pair, pair.fixed.point_of([-5, 3, 3]), pair.moving.point_of(CELLS[0]))
    with pytest.raises(InputError, match="nothing where"):
        suggest(pair, pair.fixed.point_of(CELLS[0]), pair.moving.point_of([90, 3, 3]))


def test_features_come_back_from_their_file(tmp_path: Path) -> None:
    pair = a_pair()
    pair.write(tmp_path / "features.npz")
    back = FeaturePair.read(tmp_path / "features.npz")
    assert back.unit == pair.unit
    np.testing.assert_array_equal(back.linear, pair.linear)
    for one, two in ((back.fixed, pair.fixed), (back.moving, pair.moving)):
        assert one.values.dtype == np.int8
        np.testing.assert_array_equal(one.values, two.values)
        np.testing.assert_array_equal(one.known, two.known)
        np.testing.assert_array_equal(one.index_to_lps, two.index_to_lps)


@pytest.mark.parametrize("content", [b"", b"not a file of features", b"PK\x03\x04 torn"])
def test_a_file_without_features_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "features.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match="holds no features"):
        FeaturePair.read(path)
    np.savez(path, format=99)
    with pytest.raises(InputError, match="another version"):
        FeaturePair.read(path)
    with pytest.raises(ResourceError, match="could not be written"):
        a_pair().write(tmp_path / "missing" / "features.npz")
