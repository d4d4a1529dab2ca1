"""Suggested counterparts on the sample pair that ships, held against the transform that is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from masr_registration import demo, presets
from masr_registration.matching.suggest import suggest
from masr_registration.solver.pipeline import encode_pair
from masr_registration.volume import read_volume

POINTS = 80
TISSUE = 0.15


@pytest.mark.slow
def test_suggestions_on_the_sample_pair_lie_where_the_truth_is(tmp_path: Path) -> None:
    files = demo.prepare(tmp_path)
    truth = sitk.ReadTransform(files["truth"])
    fixed, moving = (read_volume(files[name]) for name in ("fixed", "moving"))
    preset = replace(presets.load(demo.PRESET), working_spacing_mm=1.5)
    pair, warnings = encode_pair(fixed, moving, preset, device="cpu")
    assert warnings == []
    voxels = np.argwhere(fixed.array > TISSUE * np.percentile(fixed.array, 99.5))[:, ::-1]
    chosen = voxels[np.random.default_rng(1).choice(len(voxels), POINTS, replace=False)]
    matrix = fixed.geometry.index_to_physical
    errors: dict[str, list[float]] = {"clear": [], "unsure": [], "none": []}
    expected_errors, back = [], []
    for point in chosen @ matrix[:3, :3].T + matrix[:3, 3]:
        true = np.array(truth.TransformPoint(point.tolist()))
        expected = pair.linear[:3, :3] @ point + pair.linear[:3, 3]
        if np.abs(expected - true).max() > 12:
            continue
        found = suggest(pair, point, expected)
        errors[found.level].append(float(np.linalg.norm(found.point - true)))
        expected_errors.append(float(np.linalg.norm(expected - true)))
        if found.level == "clear":
            inverse = np.linalg.inv(pair.linear)
            start = inverse[:3, :3] @ true + inverse[:3, 3]
            again = suggest(pair, true, start, from_fixed=False)
            back.append(float(np.linalg.norm(again.point - point)))
    clear, unsure = np.array(errors["clear"]), np.array(errors["unsure"])
    print(
        f"expected {np.median(expected_errors):.1f} mm off, clear {np.median(clear):.1f}, back {np.median(back):.1f}"
    )
    assert len(clear) >= 15
    assert np.mean(clear <= 3) >= 0.9
    assert np.mean(unsure <= 4) >= 0.8
    assert np.median(clear) < 0.6 * np.median(expected_errors)
    assert np.median(back) < 2.0
