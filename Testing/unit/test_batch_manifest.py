"""Manifests: what is understood, and that every fault of all cases is told at once."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from masr_registration import presets
from masr_registration.batch import discover, manifest
from masr_registration.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.nii", "b.nii", "mask.nii", "f.csv", "m.csv", "labels.nii"):
        (tmp_path / name).touch()
    return tmp_path


def read(folder: Path, text: str, name: str = "study.csv", **options: Any) -> manifest.Manifest:
    (folder / name).write_text(text, encoding="utf-8")
    return manifest.read(folder / name, **options)


def sentences(read_: manifest.Manifest) -> dict[str, str]:
    return {fault.case: fault.sentence for fault in read_.faults}


def test_a_csv_with_every_kind_of_column(folder: Path) -> None:
    text = (
        "\ufeffid,fixed,moving,fixed_mask,labels,fixed_landmarks,moving_landmarks,preset,seed,continuous.regularisation,"
        "linear.orientation_trusted,continuous.iterations,use_landmarks\n"
        'one,a.nii,b.nii,mask.nii,labels.nii,f.csv,m.csv,brain-mr,7,1.5,false,"[3, 4]",TRUE\n'
        "\n"
        "two,a.nii,b.nii,,,,,,,,,\n"
    )
    made = read(folder, text, preset="abdomen-mr-ct", seed=3)
    assert made.faults == []
    one, two = made.cases
    assert one.files == {
        name: str(folder / file)
        for name, file in {
            "fixed": "a.nii",
            "moving": "b.nii",
            "fixed_mask": "mask.nii",
            "labels": "labels.nii",
            "fixed_landmarks": "f.csv",
            "moving_landmarks": "m.csv",
        }.items()
    }
    assert (one.preset.name, one.seed, one.preset.continuous.regularisation) == ("brain-mr", 7, 1.5)
    assert one.preset.continuous.iterations == (3, 4)
    assert (one.use_landmarks, two.use_landmarks) == (True, False)
    assert not one.preset.linear.orientation_trusted
    assert (two.preset, two.seed) == (presets.load("abdomen-mr-ct"), 3)


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_other_delimiters(folder: Path, delimiter: str) -> None:
    text = "id,fixed,moving\n1,a.nii,b.nii\n".replace(",", delimiter)
    assert [case.id for case in read(folder, text).cases] == ["1"]


def test_json_with_defaults(folder: Path) -> None:
    content = {
        "masr_manifest": 1,
        "defaults": {"preset": "brain-mr", "discrete.enabled": False},
        "cases": [{"id": "1", "fixed": "a.nii", "moving": "b.nii", "discrete.reach_mm": 12}],
    }
    (case,) = read(folder, json.dumps(content), "study.json").cases
    assert case.preset.name == "brain-mr"
    assert not case.preset.discrete.enabled
    assert case.preset.discrete.reach_mm == 12


def test_a_preset_file_beside_the_manifest(folder: Path) -> None:
    (folder / "own.json").write_text(presets.load("general").to_json().replace("general", "mine"))
    (case,) = read(folder, "id,fixed,moving,preset\n1,a.nii,b.nii,own.json\n").cases
    assert case.preset.name == "mine"


def test_all_faults_are_told_at_once(folder: Path) -> None:
    text = (
        "id,fixed,moving,preset,seed,fixed_landmarks,fixed_labels,nonsense,use_landmarks\n"
        "../up,a.nii,b.nii,,,,,\n"
        "gone,missing.nii,b.nii,,,,,\n"
        "preset,a.nii,b.nii,no-such,,,,\n"
        "seed,a.nii,b.nii,,-1,,,\n"
        "landmarks,a.nii,b.nii,,,f.csv,,\n"
        "labels,a.nii,b.nii,,,,labels.nii,\n"
        "column,a.nii,b.nii,,,,,1\n"
        "empty,a.nii,,,,,,\n"
        "pull,a.nii,b.nii,,,,,,true\n"
        "good,a.nii,b.nii,,,,,\n"
        "GOOD,a.nii,b.nii,,,,,\n"
    )
    made = read(folder, text)
    assert [case.id for case in made.cases] == ["good"]
    told = sentences(made)
    assert "1 to 64 letters" in told["line 2"]
    assert told["gone"] == 'The fixed image "missing.nii" does not exist.'
    assert "no-such" in told["preset"]
    assert "seed" in told["seed"]
    assert "both images" in told["landmarks"]
    assert "labels of the moving image" in told["labels"]
    assert told["column"] == 'There is no column "nonsense".'
    assert told["empty"] == "The moving image is missing."
    assert "true needs landmarks" in told["pull"]
    assert "is also that of line 11" in told["line 12"]
    message = str(manifest.FaultsError(made.faults))
    assert message.startswith("The manifest has 10 faults:")
    assert all(fault.sentence in message for fault in made.faults)


@pytest.mark.parametrize(
    "identity",
    [
        ".",
        "..",
        "a/b",
        "a\\b",
        "ä",
        "x" * 65,
        "",
        "a b",
        "-\n",
        "con",
        "NUL",
        "Aux.1",
        "com1",
        "lpt9.x",
        "a.",
    ],
)
def test_ids_that_are_no_folder_names(folder: Path, identity: str) -> None:
    rows = [{"id": identity, "fixed": "a.nii", "moving": "b.nii"}]
    made = read(folder, json.dumps(rows), "study.json")
    assert made.cases == []
    assert len(made.faults) == 1


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("a.csv", "id,fixed\n1,2\n", "moving is missing"),
        ("a.csv", "id,fixed,moving,moving\n1,2,3,4\n", "two of one name"),
        ("a.csv", "id,fixed,moving\n", "no cases"),
        ("a.csv", "", "no cases"),
        ("a.csv", 'id,fixed,moving\n"1,2,3\n', "no valid CSV"),
        ("a.json", "{", "no valid JSON"),
        ("a.json", '{"cases": []}', "masr_manifest"),
        ("a.json", "[1]", "no object"),
        ("a.json", "[]", "no cases"),
    ],
)
def test_manifests_that_cannot_be_read(folder: Path, name: str, text: str, part: str) -> None:
    with pytest.raises(InputError, match=part):
        read(folder, text, name)


def test_bytes_that_are_no_text_and_a_missing_file(folder: Path) -> None:
    (folder / "x.csv").write_bytes(b"id,\xff\xfe")
    with pytest.raises(InputError, match="UTF-8"):
        manifest.read(folder / "x.csv")
    with pytest.raises(InputError, match="cannot be read"):
        manifest.read(folder / "none.csv")


def test_more_cells_than_columns(folder: Path) -> None:
    assert "cells beyond" in sentences(read(folder, "id,fixed,moving\n1,a.nii,b.nii,c\n"))["1"]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t"])
def test_formulas_are_escaped_and_come_back(folder: Path, start: str) -> None:
    name = f"{start}1+1.nii"
    (folder / name).touch()
    manifest.write(
        [{"id": "1", "fixed": name, "moving": "b.nii"}], folder / "m.csv", ("id", "fixed", "moving")
    )
    (row,) = list(csv.DictReader((folder / "m.csv").open(newline="")))
    assert row["fixed"] == f"'{name}"
    (case,) = manifest.read(folder / "m.csv").cases
    assert case.files["fixed"] == str(folder / name)


@given(st.text())
def test_no_cell_of_a_table_is_a_formula(text: str) -> None:
    (row,) = list(csv.DictReader(manifest.csv_text([{"a": text}], ["a"]).splitlines(keepends=True)))[:1] or [
        {}
    ]
    assert not (row.get("a") or "").startswith(("=", "+", "-", "@"))


# Manifests from folders


def tree(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def test_patterns_tie_columns_together(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        "p1/s1/T1.nii",
        "p1/s1/T2_a.nii",
        "p1/s1/seg.nii",
        "p2/s1/T1.nii",
        "p2/s1/T2_b.nii",
        "p3/s1/T1.nii",
    )
    found = discover.by_patterns(
        root, {"fixed": "{p}/{s}/T1.nii", "moving": "{p}/{s}/T2_*.nii", "labels": "{p}/{s}/seg.nii"}
    )
    assert found.rows == [
        {"id": "p1_s1", "fixed": "p1/s1/T1.nii", "moving": "p1/s1/T2_a.nii", "labels": "p1/s1/seg.nii"},
        {"id": "p2_s1", "fixed": "p2/s1/T1.nii", "moving": "p2/s1/T2_b.nii"},
    ]
    assert found.remarks == [
        "p2_s1 has no labels of the moving image.",
        "p3_s1 was left out: it has no moving image.",
    ]


def test_a_pattern_may_name_a_dicom_folder_at_any_depth(tmp_path: Path) -> None:
    root = tree(tmp_path, "x/y/p1/CT/1.dcm", "p1/MR/1.dcm")
    found = discover.by_patterns(root, {"fixed": "**/{p}/CT", "moving": "**/{p}/MR"})
    assert found.rows == [{"id": "p1", "fixed": "x/y/p1/CT", "moving": "p1/MR"}]


def test_ids_of_found_cases_are_different_and_valid(tmp_path: Path) -> None:
    long = "x" * 70
    names = ["a b", "a-b", "A-B", "nul", "end.", f"{long}1", f"{long}2", f"con.{long}"]
    root = tree(tmp_path, *[f"{name}/{image}.nii" for name in names for image in ("T1", "T2")])
    patterns = {"fixed": "{p}/T1.nii", "moving": "{p}/T2.nii"}
    found = discover.by_patterns(root, patterns)
    by_folder = {row["fixed"].partition("/")[0]: row["id"] for row in found.rows}
    assert by_folder == {
        "A-B": "A-B",
        "a b": "a-b-2",
        "a-b": "a-b-3",
        "end.": "end",
        "nul": "case-nul",
        f"{long}1": "x" * 64,
        f"{long}2": "x" * 62 + "-2",
        f"con.{long}": "case-con." + "x" * 55,
    }
    assert 'a b has the id "a-b-2".' in found.remarks
    assert not any(remark.startswith("A-B") for remark in found.remarks)
    manifest.write(found.rows, root / "made.csv", ("id", "fixed", "moving"))
    assert manifest.read(root / "made.csv").faults == []


def test_places_that_only_look_alike_are_different_cases(tmp_path: Path) -> None:
    root = tree(tmp_path, *[f"{p}/{image}.nii" for p in ("a_b/c", "a/b_c") for image in ("T1", "T2")])
    found = discover.by_patterns(root, {"fixed": "{p}/{s}/T1.nii", "moving": "{p}/{s}/T2.nii"})
    assert [(row["id"], row["fixed"]) for row in found.rows] == [
        ("a_b_c", "a/b_c/T1.nii"),
        ("a_b_c-2", "a_b/c/T1.nii"),
    ]


@pytest.mark.parametrize(
    ("patterns", "part"),
    [
        ({"fixed": "T1.nii", "moving": "T2.nii"}, "same {names}"),
        ({"fixed": "{a}/T1.nii", "moving": "{b}/T2.nii"}, "same {names}"),
        ({"fixed": "{a}/T*.nii", "moving": "{a}/T2.nii"}, "both match"),
        ({"fixed": "{a}/no", "moving": "{a}/never"}, "No case"),
        ({"fixed": "{a}/T1.nii", "moving": "{a}/T2.nii", "oops": "{a}"}, "no column"),
        ({"fixed": "{a}/T1.nii"}, "Both"),
        ({"fixed": "{1}/T1.nii", "moving": "{1}/T2.nii"}, "no name"),
    ],
)
def test_patterns_that_make_no_manifest(tmp_path: Path, patterns: dict[str, str], part: str) -> None:
    with pytest.raises(InputError, match=part):
        discover.by_patterns(tree(tmp_path, "p/T1.nii", "p/T2.nii"), patterns)


def test_bids_by_subject_and_session(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz",
        "sub-01/ses-a/anat/sub-01_ses-a_acq-high_T2w.nii.gz",
        "sub-01/ses-a/anat/sub-01_ses-a_acq-high_T2w.json",
        "sub-01/ses-b/anat/sub-01_ses-b_T1w.nii",
        "sub-02/anat/sub-02_T1w.nii.gz",
        "sub-02/anat/sub-02_T2w.nii.gz",
    )
    found = discover.by_bids(root, {"fixed": "T1w", "moving": "T2w"})
    assert [row["id"] for row in found.rows] == ["sub-01_ses-a", "sub-02"]
    assert found.rows[0]["moving"] == "sub-01/ses-a/anat/sub-01_ses-a_acq-high_T2w.nii.gz"
    assert found.remarks == ["sub-01_ses-b was left out: it has no moving image."]
    sessions = discover.by_bids(root, {"fixed": "ses-a_T1w", "moving": "ses-b_T1w"})
    assert sessions.rows == [
        {
            "id": "sub-01",
            "fixed": "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz",
            "moving": "sub-01/ses-b/anat/sub-01_ses-b_T1w.nii",
        }
    ]


def test_bids_that_is_ambiguous_or_none(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        "sub-1/anat/sub-1_run-1_T1w.nii",
        "sub-1/anat/sub-1_run-2_T1w.nii",
        "sub-1/anat/sub-1_T2w.nii",
    )
    with pytest.raises(InputError, match=r"several images for fixed.*run-2_T1w"):
        discover.by_bids(root, {"fixed": "T1w", "moving": "T2w"})
    assert discover.by_bids(root, {"fixed": "run-2_T1w", "moving": "T2w"}).rows[0]["id"] == "sub-1"
    with pytest.raises(InputError, match="no BIDS selector"):
        discover.by_bids(root, {"fixed": "run_T1w", "moving": "T2w"})
    with pytest.raises(InputError, match="no BIDS tree"):
        discover.by_bids(tree(tmp_path / "other", "x.nii"), {"fixed": "T1w", "moving": "T2w"})
