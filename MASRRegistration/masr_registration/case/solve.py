"""Inputs and settings -> `Result`: the one place where a registration is run, whoever asks for it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from ..evaluation.verdict import verdict
from ..matching.features import FeaturePair
from ..solver import pipeline
from ..solver.pipeline import RegistrationResult
from ..solver.plan import Plan
from ..transforms.chain import TransformChain
from . import provenance
from .accuracy import TrueError, landmark_error
from .inputs import READ_UNTIL, Given, Inputs, read_inputs
from .monitor import Monitor
from .result import IDENTITY, STAGES, Result
from .settings import Settings

SOLVE_UNTIL = 0.90


def read(given: Given, monitor: Monitor) -> tuple[Inputs, float]:
    """The inputs and the seconds that reading took."""
    start = time.perf_counter()
    return read_inputs(given, monitor), time.perf_counter() - start


def solve(
    inputs: Inputs, settings: Settings, monitor: Monitor, read_s: float = 0.0, *, keep_features: bool = False
) -> Result:
    """Register, measure and judge, with progress from `READ_UNTIL` to `SOLVE_UNTIL`.

    Raises `InputError`, `ResourceError`, `CancelledError`.
    """

    def progress(stage: str, fraction: float, metrics: Mapping[str, float]) -> None:
        monitor.progress(stage, READ_UNTIL + fraction * (SOLVE_UNTIL - READ_UNTIL), metrics)

    start = time.perf_counter()
    landmarks = inputs.landmarks if inputs.use_landmarks else None
    found = pipeline.register(
        inputs.fixed,
        inputs.moving,
        settings.preset,
        fixed_mask=inputs.fixed_mask,
        moving_mask=inputs.moving_mask,
        initial_transform=inputs.initial,
        landmarks=None if landmarks is None else (landmarks.fixed, landmarks.moving),
        keep_features=keep_features,
        device=str(settings.device),
        seed=settings.seed,
        replayed=settings.plan,
        progress=progress,
    )
    for warning in found.warnings:
        monitor.warn(warning)
    metrics = {**found.metrics, **_errors(inputs, found, settings.seed)}
    timings = {**dict.fromkeys(STAGES, 0.0), "read": read_s, **found.timings}
    timings["total"] = read_s + time.perf_counter() - start
    monitor.check()
    return Result(
        transform=found.transform,
        inverse=found.inverse,
        metrics=metrics,
        verdict=verdict(metrics, found.warnings),
        warnings=[*inputs.warnings, *found.warnings],
        plan=found.plan,
        provenance={
            **repeatable(settings, found.plan),
            "representation": found.representation,
            "weights_sha256": found.weights_sha256,
            "method": found.method,
            "network_sha256": found.network_sha256,
            **inputs.described,
            "date": provenance.now(),
        },
        timings=timings,
        foreground=found.foreground,
        inputs=inputs,
        device=settings.device,
        features=found.features,
    )


def make_plan(inputs: Inputs, settings: Settings, monitor: Monitor) -> Plan:
    """The plan that `solve` would follow now; warnings go to the monitor. Raises as `solve` does."""
    plan, warnings = pipeline.make_plan(
        inputs.fixed,
        inputs.moving,
        settings.preset,
        fixed_mask=inputs.fixed_mask,
        device=str(settings.device),
    )
    for warning in warnings:
        monitor.warn(warning)
    return plan


def describe(inputs: Inputs, settings: Settings, monitor: Monitor) -> FeaturePair:
    """The features of both images after the linear stage alone; warnings go to the monitor. Raises as `solve` does."""
    features, warnings = pipeline.encode_pair(
        inputs.fixed,
        inputs.moving,
        settings.preset,
        fixed_mask=inputs.fixed_mask,
        moving_mask=inputs.moving_mask,
        initial_transform=inputs.initial,
        device=str(settings.device),
        progress=monitor.progress,
    )
    for warning in warnings:
        monitor.warn(warning)
    return features


def repeatable(settings: Settings, plan: Plan) -> dict[str, Any]:
    """What `--replay` reads, and what has to be the same for the same bits."""
    return {
        **provenance.versions(),
        "device": provenance.describe_device(settings.device),
        "threads": torch.get_num_threads(),
        "seed": settings.seed,
        "preset": asdict(settings.preset),
        "plan": plan.to_json(),
    }


def _errors(inputs: Inputs, found: RegistrationResult, seed: int) -> dict[str, Any]:
    """What landmarks and a true transform tell, before (initial transform or identity) and after."""
    chains: dict[str, TransformChain] = {"before": inputs.initial or IDENTITY, "after": found.transform}
    errors: dict[str, Any] = {}
    if inputs.landmarks is not None:
        errors["landmark_labels"] = inputs.landmarks.labels
        errors["landmarks_used"] = inputs.use_landmarks
        for when, chain in chains.items():
            errors[f"tre_{when}_mm"] = landmark_error(chain, inputs.landmarks)
    if inputs.truth is not None:
        error = TrueError(inputs.truth, inputs.fixed.geometry, found.foreground, seed)
        for when, chain in chains.items():
            errors[f"true_error_{when}_mm"] = error.of(chain)
    return errors
