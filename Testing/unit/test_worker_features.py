"""Features and landmarks through the background process."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from masr_registration import presets
from masr_registration.errors import InputError
from masr_registration.evaluation.landmarks import write_landmarks_csv
from masr_registration.matching.features import FeaturePair
from masr_registration.matching.suggest import suggest
from masr_registration.volume import write_volume
from masr_registration.worker import client
from masr_registration.worker.messages import Request, request_from
from phantoms import Head, geometry

HEAD = Head(radii=(24.0, 27.0, 25.0), wavelengths=(16.0, 50.0))
GRID = geometry((24, 26, 24), (3.0, 3.0, 3.0))
SHIFT = np.array([6.0, -4.0, 3.0])
BASE = presets.load("general")
QUICK = replace(
    BASE,
    working_spacing_mm=3.0,
    linear=replace(BASE.linear, model="none"),
    discrete=replace(BASE.discrete, enabled=False),
    continuous=replace(BASE.continuous, iterations=(6, 2)),
)


@pytest.fixture
def request_fields(tmp_path: Path) -> dict[str, object]:
    """A request for a pair whose moving image shows everything `SHIFT` further."""
    write_volume(HEAD.volume(GRID, "t1"), tmp_path / "fixed.nrrd")
    write_volume(HEAD.volume(GRID, "t2", lambda p: p - SHIFT), tmp_path / "moving.nrrd")
    return {
        "fixed": str(tmp_path / "fixed.nrrd"),
        "moving": str(tmp_path / "moving.nrrd"),
        "output": str(tmp_path / "output"),
        "preset": json.loads(QUICK.to_json()),
        "device": "cpu",
        "report": False,
    }


def test_features_alone(request_fields: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "result.json").write_text("of an earlier run")
    outcome = client.run(request_from({**request_fields, "features_only": True}))
    assert outcome.files == {"features": tmp_path / "output" / "features.npz"}
    assert (tmp_path / "output" / "result.json").read_text() == "of an earlier run"
    assert outcome.verdict["level"] == "not run"
    pair = FeaturePair.read(outcome.files["features"])
    np.testing.assert_array_equal(pair.linear, np.eye(4))
    found = suggest(pair, np.array([3.0, 5.0, -4.0]), np.array([3.0, 5.0, -4.0]))
    assert np.linalg.norm(found.point - [3.0, 5.0, -4.0] - SHIFT) < 3.0


def test_a_registration_writes_its_features_and_uses_landmarks(
    request_fields: dict[str, object], tmp_path: Path
) -> None:
    points = np.array([[5.0, 0.0, 0.0], [-8.0, 6.0, 3.0], [0.0, -9.0, 6.0]])
    for name, where in (("f", points), ("m", points + SHIFT + [0, 0, 5])):
        write_landmarks_csv(tmp_path / f"{name}.csv", ["a", "b", "c"], where)
    files = (str(tmp_path / "f.csv"), str(tmp_path / "m.csv"))
    measured, used = (
        client.run(request_from({**request_fields, "landmarks": files, "features": True, **extra}))
        for extra in ({}, {"use_landmarks": True})
    )
    assert FeaturePair.read(used.files["features"]).fixed.values.dtype == np.int8
    assert used.metrics["tre_after_mm"]["mean"] < 0.75 * measured.metrics["tre_after_mm"]["mean"]
    assert used.metrics["folds_dense"] == 0
    assert any("proves nothing elsewhere" in reason for reason in used.verdict["reasons"])
    assert not any("proves nothing" in reason for reason in measured.verdict["reasons"])


def test_landmarks_to_use_have_to_be_given(request_fields: dict[str, object]) -> None:
    with pytest.raises(InputError, match="no landmarks to use"):
        client.run(request_from({**request_fields, "use_landmarks": True}))
    assert not Request("/f", "/m", "/o", {}).features
