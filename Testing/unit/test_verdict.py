"""The verdict: worst finding first, thresholds that bite, and never a promise."""

from __future__ import annotations

from typing import Any

import pytest
from masr_registration.evaluation.verdict import verdict

GOOD: dict[str, Any] = {
    "similarity_before": 0.4,
    "similarity_after": 0.26,
    "overlap": 0.88,
    "folds": 0,
    "folds_dense": 0,
    "displacement_max_mm": 12.3,
    "jacobian_min": 0.4,
    "jacobian_max": 2.5,
    "inverse_consistency_max_mm": 0.1,
    "linear_rotation_deg": 5.0,
    "linear_scale_min": 0.95,
    "linear_scale_max": 1.05,
}


def error(mean: float) -> dict[str, float]:
    return {"mean": mean, "max": 2 * mean}


def test_a_good_result_is_plausible_and_says_what_nobody_knows() -> None:
    found = verdict(GOOD)
    assert found.level == "plausible"
    assert found.reasons == [
        "No landmarks were given, so the error in millimetres is not known: check the images by eye.",
        "The similarity improved by 35 %.",
        "12 % of the fixed image's body lies outside the moving image: nothing is known there.",
        "No folding: every point maps to exactly one point.",
        "The largest deformation is 12.3 mm.",
    ]
    assert found.to_json() == {"level": "plausible", "reasons": found.reasons}


@pytest.mark.parametrize(
    ("change", "level", "words"),
    [
        ({"similarity_after": 0.5}, "failed", "match worse after the registration, by 25 %"),
        ({"similarity_after": 0.398}, "doubtful", "hardly changed"),
        ({"similarity_after": None}, "failed", "could not be measured"),
        ({"similarity_after": float("nan")}, "failed", "could not be measured"),
        ({"similarity_before": None}, "plausible", "did not meet before"),
        ({"similarity_before": 0.0, "similarity_after": 0.0}, "plausible", "matched before"),
        ({"overlap": 0.2}, "failed", "80 % of the fixed image's body lies outside"),
        ({"overlap": 0.7}, "doubtful", "30 % of the fixed image's body lies outside"),
        ({"overlap": 0.9951}, "plausible", "covers all of the fixed image's body"),
        ({"overlap": 0.994}, "plausible", "1 % of the fixed image's body"),
        ({"folds": 1}, "failed", "folds in one place"),
        ({"folds_dense": 17}, "failed", "folds in 17 places"),
        ({"displacement_max_mm": 41.2}, "doubtful", "The largest deformation is 41 mm: check there."),
        ({"jacobian_min": 0.05}, "doubtful", "squeezed to 5 % of its volume"),
        ({"jacobian_min": -0.1}, "doubtful", "squeezed to 0 % of its volume"),
        ({"jacobian_max": 12.0}, "doubtful", "stretched to 12 times its volume"),
        ({"inverse_consistency_max_mm": 0.9}, "doubtful", "There and back again differs by up to 0.9 mm"),
        ({"linear_rotation_deg": 178.0}, "doubtful", "turned by 178 degrees: check left and right"),
        ({"linear_scale_min": 0.7}, "doubtful", "scaled by a factor of 0.70"),
        ({"linear_scale_max": 1.4}, "doubtful", "scaled by a factor of 1.40"),
        (
            {"tre_before_mm": error(9.0), "tre_after_mm": error(2.0)},
            "plausible",
            "The landmarks lie 2.0 mm apart on average, 4.0 mm at most (before: 9.0 mm and 18.0 mm).",
        ),
        ({"tre_before_mm": error(9.0), "tre_after_mm": error(6.0)}, "doubtful", "The landmarks lie 6.0 mm"),
        ({"tre_before_mm": error(2.0), "tre_after_mm": error(2.5)}, "failed", "The landmarks lie 2.5 mm"),
        (
            {"true_error_before_mm": error(9.0), "true_error_after_mm": error(1.0)},
            "plausible",
            "Compared with the true transform, points lie 1.0 mm apart on average",
        ),
    ],
)
def test_every_finding_has_its_level_and_leads(change: dict[str, Any], level: str, words: str) -> None:
    found = verdict({**GOOD, **change})
    assert found.level == level
    assert any(words in reason for reason in found.reasons)
    if level != "plausible":
        assert words in found.reasons[0]


def test_a_warning_makes_doubtful() -> None:
    found = verdict(GOOD, ["Look at the orientation."])
    assert (found.level, found.reasons[0]) == ("doubtful", "Look at the orientation.")


def test_the_worst_finding_decides() -> None:
    found = verdict({**GOOD, "folds": 3, "displacement_max_mm": 60.0}, ["A warning."])
    assert found.level == "failed"
    assert "folds in 3 places" in found.reasons[0]


def test_measured_errors_replace_the_sentence_that_nothing_is_known() -> None:
    known = {"tre_before_mm": error(9.0), "tre_after_mm": error(2.0)}
    assert not any("No landmarks" in reason for reason in verdict({**GOOD, **known}).reasons)


def test_missing_metrics_are_passed_over() -> None:
    found = verdict({"similarity_before": 1.0, "similarity_after": 0.5})
    assert found.level == "plausible"
    assert len(found.reasons) == 2
