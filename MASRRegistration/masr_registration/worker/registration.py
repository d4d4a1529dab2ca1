"""The half of a job that needs torch: read, register, measure, write."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from ..device import resolve_device
from ..evaluation.verdict import verdict
from ..presets import Preset
from ..solver.pipeline import RegistrationResult, make_plan, register
from ..solver.plan import Plan
from ..transforms.chain import Affine, TransformChain
from ..transforms.jacobian import folded_cells, jacobian_determinant
from ..transforms.resample import resample
from ..volume import write_volume
from . import outputs, provenance
from .accuracy import TrueError, landmark_error
from .context import Context
from .inputs import Inputs, read_inputs, stored_integer_type
from .job import PLAN_FILE, RESULT_FILES
from .messages import Request, jsonable
from .staging import Staging

FORMAT_VERSION = 1
IDENTITY = TransformChain(())
READ_UNTIL, REGISTER_UNTIL, WRITE_UNTIL = 0.03, 0.90, 0.96
_STAGES = ("import", "read", "encode", "linear", "discrete", "continuous", "check", "write", "report")


class Registration:
    """One job.

    Attributes:
        timings: seconds by stage.
        written: names (keys of `RESULT_FILES`) of the files that lie in the staging folder.
        summary: the content of result.json, after `run`.
    """

    def __init__(self, request: Request, preset: Preset, context: Context, place: Staging) -> None:
        self.request = request
        self.preset = preset
        self.context = context
        self.place = place
        self.timings = dict.fromkeys(_STAGES, 0.0)
        self.written: list[str] = []
        self.summary: dict[str, Any] = {}

    def run(self) -> None:
        """Leaves all files in the staging folder. Raises `InputError`, `ResourceError`, `CancelledError`."""
        if self.request.threads is not None:
            torch.set_num_threads(self.request.threads)
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(self.request.threads)
        self.device = resolve_device(self.request.device)
        self.context.check()
        self.context.hello(provenance.describe_device(self.device))
        with self._timed("read"):
            self.inputs = read_inputs(self.request, self.context, READ_UNTIL)
            self._require_space()
        if self.request.plan_only:
            self._write_plan()
            return
        self.start = IDENTITY if self.inputs.initial is None else self.inputs.initial
        self.result = self._register(self.inputs)
        with self._timed("write"):
            self._write_images()
        with self._timed("report"):
            self._summarise()
            if self.request.report:
                self._report()
        self.context.check()
        self._summarise()
        self._write_summary()

    def _register(self, inputs: Inputs) -> RegistrationResult:
        def progress(stage: str, fraction: float, metrics: dict[str, float]) -> None:
            self.context.progress(stage, READ_UNTIL + fraction * (REGISTER_UNTIL - READ_UNTIL), metrics)

        result = register(
            inputs.fixed,
            inputs.moving,
            self.preset,
            fixed_mask=inputs.fixed_mask,
            moving_mask=inputs.moving_mask,
            initial_transform=inputs.initial,
            device=str(self.device),
            seed=self.request.seed,
            replayed=None if self.request.plan is None else Plan.from_json(self.request.plan),
            progress=progress,
        )
        self.timings.update(result.timings)
        for warning in result.warnings:
            self.context.warn(warning)
        return result

    def _write_images(self) -> None:
        chain, geometry = self.result.transform, self.inputs.fixed.geometry
        self._step(0.0)
        self.dense = chain.dense(geometry).cpu().numpy()
        self._measure()
        self._step(0.2)
        outputs.write_transform(chain, self._path("transform"))
        self._step(0.3)
        outputs.write_transform(self.result.inverse, self._path("inverse"))
        self._step(0.4)
        outputs.write_displacement(self.dense, geometry, self._path("displacement"))
        self._step(0.5)
        self.warped = resample(self.inputs.moving, chain, geometry, order="linear")
        self._step(0.7)
        kind = stored_integer_type(self.request.moving)
        write_volume(outputs.as_type(self.warped, kind), self._path("warped"))
        if self.inputs.labels is not None and self.request.labels is not None:
            self._step(0.9)
            warped = resample(self.inputs.labels, chain, geometry, order="nearest", default=0)
            kind = stored_integer_type(self.request.labels) or np.dtype(np.int32)
            write_volume(outputs.as_type(warped, kind), self._path("warped_labels"))
        self._step(1.0)

    def _measure(self) -> None:
        """The errors that landmarks and a true transform tell, before (initial transform or identity) and after."""
        inputs, metrics = self.inputs, self.result.metrics
        self.metrics: dict[str, Any] = dict(metrics)
        if inputs.landmarks is not None:
            self.metrics["landmark_labels"] = inputs.landmarks.labels
            self.metrics["tre_before_mm"] = landmark_error(self.start, inputs.landmarks)
            self.metrics["tre_after_mm"] = landmark_error(self.result.transform, inputs.landmarks)
        if inputs.truth is not None:
            geometry = inputs.fixed.geometry
            error = TrueError(inputs.truth, geometry, self.result.foreground, self.request.seed)
            self.metrics["true_error_before_mm"] = error.of(self.start.dense(geometry).cpu().numpy())
            self.metrics["true_error_after_mm"] = error.of(self.dense)

    def _summarise(self) -> None:
        self.timings["total"] = self.context.elapsed_s
        summary = {
            "format": FORMAT_VERSION,
            "verdict": verdict(self.metrics, self.result.warnings).to_json(),
            "metrics": self.metrics,
            "warnings": list(self.context.warnings),
            "timings": {name: round(seconds, 4) for name, seconds in self.timings.items()},
            "peak_memory_mb": provenance.peak_memory_mb(),
            "peak_device_memory_mb": provenance.peak_device_memory_mb(self.device),
            "provenance": {
                **self._repeatable(self.result.plan),
                "representation": self.result.representation,
                "weights_sha256": self.result.weights_sha256,
                **self.inputs.described,
                "date": provenance.now(),
            },
        }
        self.summary = jsonable(summary)

    def _repeatable(self, plan: Plan) -> dict[str, Any]:
        """What `--replay` reads, and what has to be the same for the same bits."""
        return {
            **provenance.versions(),
            "device": provenance.describe_device(self.device),
            "threads": torch.get_num_threads(),
            "seed": self.request.seed,
            "preset": asdict(self.preset),
            "plan": plan.to_json(),
        }

    def _write_plan(self) -> None:
        """The plan alone, with what the user would be warned of."""
        inputs = self.inputs
        plan, warnings = make_plan(
            inputs.fixed,
            inputs.moving,
            self.preset,
            fixed_mask=inputs.fixed_mask,
            device=str(self.device),
        )
        for warning in warnings:
            self.context.warn(warning)
        self.summary = jsonable(
            {
                "format": FORMAT_VERSION,
                "metrics": {},
                "warnings": list(self.context.warnings),
                "verdict": {"level": "not run", "reasons": []},
                "timings": {},
                "provenance": {**self._repeatable(plan), **inputs.described},
            }
        )
        self.written.append("plan")
        outputs.write_json(self.summary, self.place.new / PLAN_FILE)

    def _report(self) -> None:
        self.context.progress("report", WRITE_UNTIL)
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            self.context.warn("There is no report: matplotlib is not installed.")
            return
        from ..evaluation.report import write_report

        inputs, geometry = self.inputs, self.inputs.fixed.geometry
        jacobian = jacobian_determinant(torch.as_tensor(self.dense), geometry).cpu().numpy()
        folded = folded_cells(torch.as_tensor(self.dense), geometry).cpu().numpy()
        linear = TransformChain((Affine(self.result.transform.matrix),))
        deformation = self.dense  # changed in place, to save memory: it is on disk already
        deformation -= linear.dense(geometry).cpu().numpy()
        unturned = np.linalg.inv(linear.matrix[:3, :3]).astype(np.float32)
        deformation = np.einsum("ab,bdhw->adhw", unturned, deformation)
        write_report(
            self._path("report"),
            result=self.summary,
            fixed=inputs.fixed,
            moving=inputs.moving,
            before=resample(inputs.moving, self.start, geometry, order="linear"),
            after=self.warped,
            displacement=deformation,
            jacobian=jacobian,
            folded=np.pad(folded, (0, 1)),
            foreground=self.result.foreground,
        )

    def _write_summary(self) -> None:
        outputs.write_json(self.summary, self._path("result"))

    def _require_space(self) -> None:
        voxels = int(np.prod(self.inputs.fixed.geometry.size))
        self.place.require_space(voxels * (3 * 4 + 2))

    def _step(self, done: float) -> None:
        self.context.progress("write", REGISTER_UNTIL + done * (WRITE_UNTIL - REGISTER_UNTIL))

    def _path(self, name: str) -> Path:
        self.written.append(name)
        return self.place.new / RESULT_FILES[name]

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.timings[stage] = time.perf_counter() - start
