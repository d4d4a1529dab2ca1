"""Landmark files: frames, headers, pairing, spreadsheets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from masr_registration.errors import InputError, ResourceError
from masr_registration.evaluation.landmarks import pair_landmarks, read_landmarks, write_landmarks_csv

POINTS = np.array([[1.5, -2.0, 30.25], [4.0, 5.0, -6.0]])
TO_RAS = np.array([-1.0, -1.0, 1.0])


def markups(path: Path, **changes: Any) -> Path:
    """A file as Slicer writes it; `None` removes an entry."""
    markup: dict[str, Any] = {
        "type": "Fiducial",
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "controlPoints": [
            {"id": str(i + 1), "label": f"F-{i + 1}", "position": list(point), "positionStatus": "defined"}
            for i, point in enumerate(POINTS)
        ],
    }
    markup.update(changes)
    markup = {key: value for key, value in markup.items() if value is not None}
    path.write_text(json.dumps({"@schema": "markups-schema-v1.0.3.json#", "markups": [markup]}))
    return path


def csv_file(folder: Path, text: str) -> Path:
    (folder / "points.csv").write_text(text, encoding="utf-8")
    return folder / "points.csv"


class TestSlicerFiles:
    @pytest.mark.parametrize(
        ("system", "signs"),
        [("LPS", 1), ("lps", 1), (1, 1), ("1", 1), (None, 1), ("RAS", TO_RAS), (0, TO_RAS), ("0", TO_RAS)],
    )
    def test_coordinate_system(self, tmp_path: Path, system: str | int | None, signs: Any) -> None:
        labels, points = read_landmarks(markups(tmp_path / "a.mrk.json", coordinateSystem=system))
        assert labels == ["F-1", "F-2"]
        assert points.dtype == np.float64
        np.testing.assert_array_equal(points, POINTS * signs)

    @pytest.mark.parametrize("system", ["IJK", 2, "", "world", ["LPS"]])
    def test_unknown_coordinate_system(self, tmp_path: Path, system: Any) -> None:
        with pytest.raises(InputError, match="coordinate system"):
            read_landmarks(markups(tmp_path / "a.mrk.json", coordinateSystem=system))

    def test_points_that_were_never_placed_are_left_out(self, tmp_path: Path) -> None:
        controls = [
            {"label": "a", "position": [1, 2, 3], "positionStatus": "defined"},
            {"label": "b", "position": [0, 0, 0], "positionStatus": "undefined"},
            {"label": "c", "position": [4, 5, 6]},
        ]
        labels, points = read_landmarks(markups(tmp_path / "a.mrk.json", controlPoints=controls))
        assert labels == ["a", "c"]
        np.testing.assert_array_equal(points, [[1, 2, 3], [4, 5, 6]])

    def test_units(self, tmp_path: Path) -> None:
        coded = ["mm", "UCUM", "millimeter"]
        np.testing.assert_array_equal(
            read_landmarks(markups(tmp_path / "a.json", coordinateUnits=coded))[1], POINTS
        )
        with pytest.raises(InputError, match="millimetres"):
            read_landmarks(markups(tmp_path / "a.json", coordinateUnits="cm"))

    @pytest.mark.parametrize(
        ("controls", "pattern"),
        [
            ([], "no landmarks"),
            ([{"label": "a", "position": [1, 2]}], "three coordinates"),
            ([{"label": "a", "position": [1, 2, "x"]}], "not a landmark file"),
            ([{"label": "a", "position": [1, 2, float("nan")]}], "no number of millimetres"),
            ([{"label": "a"}], "not a landmark file"),
            (["a"], "not a landmark file"),
        ],
    )
    def test_bad_points(self, tmp_path: Path, controls: list[Any], pattern: str) -> None:
        with pytest.raises(InputError, match=pattern):
            read_landmarks(markups(tmp_path / "a.mrk.json", controlPoints=controls))

    @pytest.mark.parametrize(
        "text",
        ["", "[]", "{}", '{"markups": 3}', '{"markups": [1]}', "x,y,z", '{"markups": null}', "[" * 100_000],
        ids=lambda text: text[:20],
    )
    def test_not_a_markups_file(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "a.mrk.json").write_text(text)
        with pytest.raises(InputError, match=r'"a.mrk.json" is not a landmark file'):
            read_landmarks(tmp_path / "a.mrk.json")

    def test_several_lists(self, tmp_path: Path) -> None:
        path = markups(tmp_path / "a.mrk.json")
        content = json.loads(path.read_text())
        content["markups"] *= 2
        path.write_text(json.dumps(content))
        with pytest.raises(InputError, match="2 landmark lists"):
            read_landmarks(path)


class TestCsv:
    @pytest.mark.parametrize(
        "text",
        [
            "label,x_lps,y_lps,z_lps\na,1.5,-2,30.25\nb,4,5,-6\n",
            "label,x_ras,y_ras,z_ras\na,-1.5,2,30.25\nb,-4,-5,-6\n",
            "Label, X_LPS, Y_LPS, Z_LPS\r\na, 1.5, -2, 30.25\r\n\r\nb, 4, 5, -6\r\n",
            "\ufeffz_lps,label,y_lps,x_lps,note\n30.25,a,-2,1.5,hm\n-6,b,5,4,\n",
            "# LPS\na,1.5,-2,30.25\nb,4,5,-6",
            "#ras,,,\nlabel,x,y,z\na,-1.5,2,30.25\nb,-4,-5,-6\n",
            "# LPS\nlabel,x_lps,y_lps,z_lps\na,1.5,-2,30.25\nb,4,5,-6\n",
        ],
    )
    def test_accepted_headers(self, tmp_path: Path, text: str) -> None:
        labels, points = read_landmarks(csv_file(tmp_path, text))
        assert labels == ["a", "b"]
        np.testing.assert_array_equal(points, POINTS)

    @pytest.mark.parametrize(
        "text", ["x_lps,y_lps,z_lps\n1.5,-2,30.25\n4,5,-6\n", "# LPS\n1.5,-2,30.25\n4,5,-6\n"]
    )
    def test_without_labels_rows_are_numbered(self, tmp_path: Path, text: str) -> None:
        labels, points = read_landmarks(csv_file(tmp_path, text))
        assert labels == ["1", "2"]
        np.testing.assert_array_equal(points, POINTS)

    @pytest.mark.parametrize(
        ("text", "pattern"),
        [
            ("", "LPS or RAS"),
            ("label,x,y,z\na,1,2,3\n", "LPS or RAS"),
            ("a,1,2,3\n", "LPS or RAS"),
            ("# my points\na,1,2,3\n", "LPS or RAS"),
            ("label,x_lps,y_lps,z_ras\na,1,2,3\n", "LPS or RAS"),
            ("# RAS\nlabel,x_lps,y_lps,z_lps\na,1,2,3\n", "both LPS and RAS"),
            ("# LPS\na,1,2,3\nb,4,five,6\n", "not a number in row 2"),
            ("# LPS\na,1,2,3\n# a remark\n", "row 2"),
            ("label,x_lps,y_lps,z_lps\na,1,,3\n", "not a number in row 1"),
            ("label,x_lps,y_lps,z_lps\na,1,2\n", "no three coordinates in row 1"),
            ("# LPS\n1,2\n", "no three coordinates in row 1"),
            ("label,x_lps,y_lps,z_lps\na,1,2,inf\n", "no number of millimetres"),
            ("label,x_lps,y_lps,z_lps\n", "no landmarks"),
            ("# LPS\n", "no landmarks"),
        ],
    )
    def test_refused(self, tmp_path: Path, text: str, pattern: str) -> None:
        with pytest.raises(InputError, match=pattern) as caught:
            read_landmarks(csv_file(tmp_path, text))
        assert str(tmp_path) not in str(caught.value)

    def test_not_a_text_file(self, tmp_path: Path) -> None:
        (tmp_path / "points.csv").write_bytes(bytes(range(256)))
        with pytest.raises(InputError, match="cannot be read as text"):
            read_landmarks(tmp_path / "points.csv")
        with pytest.raises(InputError, match=r'no file "nothing.csv"'):
            read_landmarks(tmp_path / "nothing.csv")


class TestPairing:
    def test_by_label(self) -> None:
        labels, fixed, moving = pair_landmarks((["a", "b"], POINTS), (["b", "a"], POINTS + 100))
        assert labels == ["a", "b"]
        np.testing.assert_array_equal(fixed, POINTS)
        np.testing.assert_array_equal(moving, POINTS[::-1] + 100)

    @pytest.mark.parametrize(
        ("fixed", "moving"),
        [
            (["F-1", "F-2"], ["M-1", "M-2"]),
            (["a", "a"], ["a", "a"]),
            (["a", "b"], ["b", "c"]),
            (["a", "a"], ["a", "b"]),
        ],
    )
    def test_in_order_when_labels_do_not_match(self, fixed: list[str], moving: list[str]) -> None:
        labels, first, second = pair_landmarks((fixed, POINTS), (moving, POINTS + 100))
        assert labels == fixed
        np.testing.assert_array_equal(second - first, 100)

    def test_unequal_counts(self) -> None:
        with pytest.raises(InputError, match="2 fixed and 1 moving"):
            pair_landmarks((["a", "b"], POINTS), (["a"], POINTS[:1]))


class TestWriting:
    def test_round_trip_is_exact_and_formulas_are_defused(self, tmp_path: Path) -> None:
        labels = ["=1+1", "+x", "-x", "@SUM(A1)", "plain, with comma", 'say "hi"', "'quoted", "#1", "日本"]
        points = np.random.default_rng(0).normal(size=(len(labels), 3)) * 100
        write_landmarks_csv(tmp_path / "a.csv", labels, points)
        for line in (tmp_path / "a.csv").read_text(encoding="utf-8").splitlines()[1:]:
            assert line.lstrip('"')[0] not in "=+-@"
        back_labels, back_points = read_landmarks(tmp_path / "a.csv")
        np.testing.assert_array_equal(back_points, points)
        assert back_labels == labels

    def test_label_over_several_lines(self, tmp_path: Path) -> None:
        write_landmarks_csv(tmp_path / "a.csv", ["one\ntwo\t", "\n=three"], POINTS)
        assert read_landmarks(tmp_path / "a.csv")[0] == ["one two", "=three"]

    def test_failure(self, tmp_path: Path) -> None:
        with pytest.raises(ResourceError, match=r'"a.csv" could not be written'):
            write_landmarks_csv(tmp_path / "missing" / "a.csv", ["a"], np.zeros((1, 3)))
        with pytest.raises(ValueError, match="argument"):
            write_landmarks_csv(tmp_path / "a.csv", ["a", "b"], np.zeros((1, 3)))
