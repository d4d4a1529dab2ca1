"""Figures that others have published, told only beside their source and protocol.

Taken from public READMEs, abstracts and result pages. Their protocols differ from each other and from a run here, so
they give an order of magnitude, no ranking.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """What somebody reports for a method."""

    method: str
    reported: str
    protocol: str
    source: str


_MISTER = "benchmark in the repository Mister-Ryder/registration, August 2026"
_EIGHT = "8 public pairs, CT to MR, 4 organs, left kidneys missing in 2 pairs left out"
_ANATOMIX = "README of neel-dey/anatomix"
_LUMIR = "result page of LUMIR in the repository JHU-MedImage-Reg/LUMIR_L2R"
_LUMIR_TEST = "LUMIR 2024 test, 590 persons, T1w to T1w, hidden labels"

FIGURES: dict[str, tuple[Figure, ...]] = {
    "abdomen-mr-ct": (
        Figure("before", "Dice 0.371", _EIGHT, _MISTER),
        Figure("ANTs SyN with mutual information", "Dice 0.574", _EIGHT, _MISTER),
        Figure("ConvexAdam with MIND-SSC", "Dice 0.735, SDlogJ 0.45 to 0.88, 1.6 % folds", _EIGHT, _MISTER),
        Figure("DINO-Reg", "Dice 0.782, 4.1 % folds", _EIGHT, _MISTER),
        Figure(
            "anatomix and MIND with ConvexAdam",
            "Dice 0.756 mean, 0.854 median",
            "8 public pairs, MR to CT, regions of interest used",
            _ANATOMIX,
        ),
        Figure(
            "anatomix-dev-vit and MIND with FireANTs",
            "Dice 0.879 mean, 0.892 median, no folds",
            "8 public pairs, MR to CT, regions of interest used; one GPU of 24 GB",
            _ANATOMIX,
        ),
    ),
    "lumir": (
        Figure("before", "Dice 0.555", _LUMIR_TEST, _LUMIR),
        Figure("SITReg", "Dice 0.785, TRE 3.09, HD95 3.04, NDV 0.0025 %", _LUMIR_TEST, _LUMIR),
        Figure("VFA", "Dice 0.777", _LUMIR_TEST, _LUMIR),
        Figure("uniGradICON with instance optimisation", "Dice 0.760, NDV 0.0002 %", _LUMIR_TEST, _LUMIR),
        Figure("SynthMorph", "Dice 0.722, NDV 0.0000 %", _LUMIR_TEST, _LUMIR),
        Figure("ANTs SyN", "Dice 0.703", _LUMIR_TEST, _LUMIR),
    ),
}
"""By task; where there is none, nothing comparable is known."""
