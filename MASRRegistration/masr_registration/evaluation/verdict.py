"""What the measurements of one registration mean, in words for a clinician. No torch.

A verdict never says "correct": without landmarks nobody can know. The thresholds are conventions, chosen so that
usual inter-patient registrations of brain and abdomen pass and the failures that go unnoticed do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Level = Literal["plausible", "doubtful", "failed"]
_ORDER: tuple[Level, ...] = ("plausible", "doubtful", "failed")

OVERLAP_FAILED, OVERLAP_DOUBTFUL = 0.3, 0.8
WORSE_FAILED = 0.02
SMALLEST_IMPROVEMENT = 0.02
LARGEST_DEFORMATION_MM = 40.0
VOLUME_RATIO = (0.1, 10.0)
ROTATION_DEG = 45.0
SCALES = (0.75, 1.33)
INVERSE_CONSISTENCY_MAX_MM = 0.5
ERROR_MEAN_MM = 5.0
NO_FOLDING = "No folding: every point maps to exactly one point."


@dataclass
class Verdict:
    """`level` is the worst of what was found; `reasons` are sentences, the worst first."""

    level: Level = "plausible"
    _found: list[tuple[Level, str]] = field(default_factory=list)

    @property
    def reasons(self) -> list[str]:
        return [text for _, text in sorted(self._found, key=lambda found: -_ORDER.index(found[0]))]

    def add(self, level: Level, reason: str) -> None:
        self.level = max(self.level, level, key=_ORDER.index)
        self._found.append((level, reason))

    def to_json(self) -> dict[str, Any]:
        return {"level": self.level, "reasons": self.reasons}


def verdict(metrics: Mapping[str, Any], warnings: Sequence[str] = ()) -> Verdict:
    """Judge the metrics of a result (see `RegistrationResult.metrics`; missing or null ones are passed over).

    `warnings` are those of the registration itself: with any of them the result is doubtful at best.
    """
    result = Verdict()
    _error(result, metrics)
    _similarity(result, metrics)
    _overlap(result, metrics)
    _folding(result, metrics)
    _deformation(result, metrics)
    _linear(result, metrics)
    for warning in warnings:
        result.add("doubtful", warning)
    return result


def _number(metrics: Mapping[str, Any], name: str) -> float | None:
    value = metrics.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        return None
    return float(value)


def _error(result: Verdict, metrics: Mapping[str, Any]) -> None:
    """Landmarks or, in a demonstration, the true transform."""
    known = False
    for name, subject in (
        ("tre", "The landmarks lie"),
        ("true_error", "Compared with the true transform, points lie"),
    ):
        before, after = metrics.get(f"{name}_before_mm"), metrics.get(f"{name}_after_mm")
        if not before or not after:
            continue
        known = True
        sentence = (
            f"{subject} {after['mean']:.1f} mm apart on average, {after['max']:.1f} mm at most "
            f"(before: {before['mean']:.1f} mm and {before['max']:.1f} mm)."
        )
        if name == "tre" and metrics.get("landmarks_used"):
            sentence += " They were used to find it, so this proves nothing elsewhere."
        if after["mean"] > before["mean"]:
            result.add("failed", sentence)
        else:
            result.add("doubtful" if after["mean"] > ERROR_MEAN_MM else "plausible", sentence)
    if not known:
        result.add(
            "plausible",
            "No landmarks were given, so the error in millimetres is not known: check the images by eye.",
        )


def _similarity(result: Verdict, metrics: Mapping[str, Any]) -> None:
    before, after = _number(metrics, "similarity_before"), _number(metrics, "similarity_after")
    if after is None:
        result.add("failed", "How similar the images are could not be measured.")
        return
    if before is None:
        result.add("plausible", "The images did not meet before the registration: nothing to compare with.")
        return
    if before <= 1e-6:
        result.add("plausible", "The images matched before the registration already.")
        return
    gain = 1 - after / before
    if gain < -WORSE_FAILED:
        result.add("failed", f"The images match worse after the registration, by {-100 * gain:.0f} %.")
    elif gain < SMALLEST_IMPROVEMENT:
        result.add(
            "doubtful",
            "The similarity hardly changed: either the images were aligned before, or no match was found.",
        )
    else:
        result.add("plausible", f"The similarity improved by {100 * gain:.0f} %.")


def _overlap(result: Verdict, metrics: Mapping[str, Any]) -> None:
    overlap = _number(metrics, "overlap")
    if overlap is None:
        return
    if overlap > 0.995:
        result.add("plausible", "The moving image covers all of the fixed image's body.")
        return
    level: Level = (
        "failed" if overlap < OVERLAP_FAILED else "doubtful" if overlap < OVERLAP_DOUBTFUL else "plausible"
    )
    share = max(1, round(100 * (1 - overlap)))
    result.add(
        level, f"{share} % of the fixed image's body lies outside the moving image: nothing is known there."
    )


def _folding(result: Verdict, metrics: Mapping[str, Any]) -> None:
    folds, folds_dense = _number(metrics, "folds"), _number(metrics, "folds_dense")
    if folds is None and folds_dense is None:
        return
    count = max(folds or 0, folds_dense or 0)
    if count == 0:
        result.add("plausible", NO_FOLDING)
        return
    places = "one place" if count == 1 else f"{count:.0f} places"
    result.add("failed", f"The transform folds in {places}: tissue is mapped onto itself there.")


def _deformation(result: Verdict, metrics: Mapping[str, Any]) -> None:
    largest = _number(metrics, "displacement_max_mm")
    if largest is not None and largest > LARGEST_DEFORMATION_MM:
        result.add("doubtful", f"The largest deformation is {largest:.0f} mm: check there.")
    elif largest is not None:
        result.add("plausible", f"The largest deformation is {largest:.1f} mm.")
    low, high = _number(metrics, "jacobian_min"), _number(metrics, "jacobian_max")
    if low is not None and low < VOLUME_RATIO[0]:
        result.add(
            "doubtful",
            f"Somewhere tissue is squeezed to {100 * max(low, 0):.0f} % of its volume: check there.",
        )
    if high is not None and high > VOLUME_RATIO[1]:
        result.add("doubtful", f"Somewhere tissue is stretched to {high:.0f} times its volume: check there.")
    inconsistency = _number(metrics, "inverse_consistency_max_mm")
    if inconsistency is not None and inconsistency > INVERSE_CONSISTENCY_MAX_MM:
        result.add("doubtful", f"There and back again differs by up to {inconsistency:.1f} mm.")


def _linear(result: Verdict, metrics: Mapping[str, Any]) -> None:
    rotation = _number(metrics, "linear_rotation_deg")
    if rotation is not None and rotation > ROTATION_DEG:
        result.add("doubtful", f"The patient was turned by {rotation:.0f} degrees: check left and right.")
    low, high = _number(metrics, "linear_scale_min"), _number(metrics, "linear_scale_max")
    for scale in (low, high):
        if scale is not None and not SCALES[0] <= scale <= SCALES[1]:
            result.add(
                "doubtful", f"The whole image was scaled by a factor of {scale:.2f} along one direction."
            )
