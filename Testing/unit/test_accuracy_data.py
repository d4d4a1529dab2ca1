"""Accuracy on real images that nobody aligned for us; skipped, and counted, without the development images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from masr_registration import presets
from masr_registration.evaluation.metrics import dice
from masr_registration.solver.pipeline import RegistrationResult, register
from masr_registration.transforms.chain import TransformChain
from masr_registration.transforms.resample import resample
from masr_registration.volume import read_labels, read_volume

pytestmark = [pytest.mark.data, pytest.mark.slow]

NEONATES = (("01", "02"), ("03", "05"), ("06", "07"), ("08", "04"))


def _sound(result: RegistrationResult) -> None:
    metrics = result.metrics
    assert metrics["folds"] == 0
    assert metrics["folds_dense"] == 0
    assert metrics["inverse_consistency_mean_mm"] <= 0.05
    assert metrics["inverse_consistency_max_mm"] <= 0.5
    assert metrics["similarity_after"] < metrics["similarity_before"]


def test_neonates_t1_to_t2(data_folder: Path) -> None:
    preset = presets.load("brain-mr")
    means = []
    for fixed, moving in NEONATES:
        folder = data_folder / "brain_t1t2_neonate"
        result = register(
            read_volume(folder / fixed / "T1w.nii.gz"), read_volume(folder / moving / "T2w.nii.gz"), preset
        )
        _sound(result)
        labels = read_labels(folder / fixed / "labels.nii.gz")
        warped = resample(
            read_labels(folder / moving / "labels.nii.gz"),
            result.transform,
            labels.geometry,
            order="nearest",
            default=0,
        )
        scores = [score for score in dice(labels.array, warped.array).values() if score is not None]
        means.append(float(np.mean(scores)))
        print(f"neonate {fixed} <- {moving}: mean Dice {means[-1]:.4f} over {len(scores)} labels")
    print(f"mean over the pairs: {np.mean(means):.4f}")
    assert np.mean(means) >= 0.78


def _mutual_information(first: np.ndarray, second: np.ndarray) -> float:
    joint = np.histogram2d(first, second, bins=48)[0] / first.size
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / independent[seen])).sum())


@pytest.mark.parametrize(("subject", "shift_mm"), [("1", 0.0), ("2", 0.0), ("3", 12.0)])
def test_elderly_t1_to_flair(data_folder: Path, subject: str, shift_mm: float) -> None:
    """One head in two scans of 2 mm; the FLAIR of the third lies 12 mm away."""
    folder = data_folder / "brain_t1flair_elderly" / subject
    fixed, moving = read_volume(folder / "FLAIR.nii.gz"), read_volume(folder / "T1.nii.gz")
    result = register(fixed, moving, presets.load("brain-mr"))
    _sound(result)
    assert result.warnings == []
    assert result.metrics["linear_translation_mm"] == pytest.approx(shift_mm, abs=2.0)
    assert result.metrics["displacement_mean_mm"] < 3
    information = [
        _mutual_information(
            fixed.array[result.foreground],
            resample(moving, chain, fixed.geometry).array[result.foreground],
        )
        for chain in (TransformChain(()), result.transform)
    ]
    print(f"elderly {subject}: mutual information {information[0]:.3f} before, {information[1]:.3f} after")
    assert information[1] > 1.03 * information[0]


@pytest.mark.parametrize("subject", ["1", "8"])
def test_chaos_ct_to_mr(data_folder: Path, subject: str) -> None:
    """Another patient, another modality, another world origin, at the sizes of the scanner."""
    mr, ct = data_folder / "abdomen_mr_chaos", data_folder / "abdomen_ct_chaos"
    fixed, moving = read_volume(mr / f"{subject}_image.nii.gz"), read_volume(ct / "image.nii.gz")
    result = register(fixed, moving, presets.load("abdomen-mr-ct"))
    assert result.metrics["folds"] == result.metrics["folds_dense"] == 0
    liver = read_labels(mr / f"{subject}_labels.nii.gz").array == 1
    warped = resample(
        read_labels(ct / "liver.nii.gz"), result.transform, fixed.geometry, order="nearest", default=0
    )
    score = dice(liver.astype(np.int32), (warped.array > 0).astype(np.int32))[1]
    print(f"CHAOS CT to MR {subject}: liver Dice {score:.3f}")
    assert score is not None
    assert score > 0.7
