"""What Slicer's Python console and scripts call: registrations that block or call back, and what to do with results."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import slicer
from masr_registration.errors import CancelledError, InputError, ResourceError
from masr_registration.presets import Preset
from slicer.i18n import tr as _

from .gui import preset_library
from .gui.job import RegistrationJob, RunOptions
from .mrml import changes, inverse, motion, spatial_registration
from .mrml.applying import Application
from .mrml.results import RegistrationResult, storedResult
from .mrml.sequences import SequenceResult, SequenceSetup
from .mrml.setup import RegistrationSetup
from .sequence_job import SequenceJob

SECONDS_BETWEEN_EVENTS = 0.01


class ConsoleLogic:
    """The logic of the module, without what the application itself asks of it.

    One registration runs at a time, in a process of its own. Errors are `MasrError`, one sentence for a person.

    Attributes:
        job: what runs; None otherwise.
        onRunning: called when a registration has begun or ended.
    """

    job: RegistrationJob | None = None
    onRunning: Callable[[], None] = staticmethod(lambda: None)

    @property
    def running(self) -> bool:
        return self.job is not None and self.job.running

    def register(
        self,
        fixedNode: Any,
        movingNode: Any,
        presetName: str | Preset = "general",
        outputTransformNode: Any = None,
        outputVolumeNode: Any = None,
        waitForCompletion: bool = True,
        onProgress: Any = None,
        onFinished: Any = None,
        onLog: Any = None,
        *,
        device: str = "auto",
        threads: int | None = None,
        seed: int = 0,
        **others: Any,
    ) -> RegistrationResult | RegistrationJob:
        """Register two volume nodes.

        Returns the `RegistrationResult` (`transformNode`, `volumeNode`, `verdict`, `metrics`, `warnings`), or without
        `waitForCompletion` at once the `RegistrationJob` (`cancel()`, `running`, `result`, `error`). `presetName` is
        the name of a preset, the path of a preset file (.json) or a `Preset`; outputs that are None are made.
        `onProgress(stage, fraction, secondsLeft)`, `onFinished(result, error)`, `onLog(line)`. `others` are fields of
        `RegistrationSetup` (fixedMask, fixedSegment, movingMask, movingSegment, initialTransform).

        Waiting keeps the application alive, also in a script that runs before its event loop does.
        """
        setup = RegistrationSetup(fixedNode, movingNode, outputTransformNode, outputVolumeNode, **others)
        options = RunOptions(device, threads, seed)
        job = self.start(setup, _preset(presetName), options, onProgress, onFinished, onLog)
        return self.wait(job) if waitForCompletion else job

    def registerSequence(
        self,
        sequenceNode: Any,
        presetName: str | Preset = "general",
        reference: int = 0,
        target: str = "reference",
        waitForCompletion: bool = True,
        onProgress: Any = None,
        onFinished: Any = None,
        onLog: Any = None,
        *,
        device: str = "auto",
        threads: int | None = None,
        seed: int = 0,
    ) -> SequenceResult | RegistrationJob:
        """Register all items of a sequence of volumes in one process.

        `reference` is the number of the item that stays, counted from 0; `target` "reference" registers every item to
        it, "neighbour" each to the item beside it. Returns a `SequenceResult` (`transformSequence`, `volumeSequence`,
        `browserNode`, `verdict`, `metrics`, `warnings`) or the job, as `register` does.
        """
        setup = SequenceSetup(sequenceNode, reference, target)
        options = RunOptions(device, threads, seed)
        job = self._run(SequenceJob, setup, _preset(presetName), options, onProgress, onFinished, onLog)
        return self.wait(job) if waitForCompletion else job

    def start(
        self,
        setup: RegistrationSetup,
        preset: Preset,
        options: RunOptions,
        onProgress: Any = None,
        onFinished: Any = None,
        onLog: Any = None,
    ) -> RegistrationJob:
        """The running job of a setup."""
        return self._run(RegistrationJob, setup, preset, options, onProgress, onFinished, onLog)

    def wait(self, job: RegistrationJob) -> Any:
        """The result of a job, once it is there. Ctrl-C ends the job."""
        try:
            while job.running:
                slicer.app.processEvents()
                time.sleep(SECONDS_BETWEEN_EVENTS)
        finally:
            job.abandon()  # does nothing unless interrupted
        if job.error is not None:
            raise job.error
        if job.result is None:
            raise CancelledError
        return job.result

    def cancel(self) -> bool:
        """Ask what runs to stop, within about two seconds; whether anything ran."""
        if not self.running:
            return False
        assert self.job is not None
        self.job.cancel()
        return True

    def apply(self, result: Any, node: Any, harden: bool = False) -> None:
        """Move a node that belongs to the moving volume along with it: put it under the result, or make a hardened copy
        on the fixed volume's grid. `result` is a result or its transform node."""
        for _fraction in Application(_transformNode(result)).steps(node, harden):
            slicer.app.processEvents()

    def createInverse(self, result: Any) -> Any:
        """A new transform node that brings the fixed volume to the moving one."""
        return inverse.createInverse(_transformNode(result))

    def revert(self, result: Any) -> None:
        """Put the scene back to what it was before this result."""
        changes.revert(_transformNode(result))

    def provenance(self, result: Any) -> dict[str, Any] | None:
        """How a result was made and judged (as result.json, and `scene`); None for a transform of another origin."""
        node = getattr(result, "transformNode", getattr(result, "transformSequence", result))
        return storedResult(node)

    def motion(self, result: Any, landmarksNode: Any) -> np.ndarray:
        """Displacement in mm of landmarks on the reference in every item of a registered sequence: ``(T, N)``."""
        return motion.motion(getattr(result, "transformSequence", result), landmarksNode)

    def plotMotion(self, result: Any, landmarksNode: Any) -> Any:
        """The same as a new plot chart node with its table."""
        return motion.plotMotion(getattr(result, "transformSequence", result), landmarksNode)

    def missingForDicom(self, result: Any) -> list[str]:
        """Sentences on what keeps a result from being exported as a DICOM spatial registration object."""
        return spatial_registration.missingForExport(_transformNode(result))

    def exportDicom(self, result: Any, folder: str | Path) -> Path:
        """Write a result as a DICOM spatial registration object into a folder; returns its file.

        The object names the patient.
        """
        return spatial_registration.exportSpatialRegistration(_transformNode(result), folder)

    def _run(self, kind: type[RegistrationJob], *arguments: Any) -> RegistrationJob:
        *what, onProgress, onFinished, onLog = arguments

        def finish(result: Any, error: Any) -> None:
            self.job = None
            if onFinished is not None:
                onFinished(result, error)
            self.onRunning()

        if self.running:
            raise ResourceError(_("A registration is running already; wait for it or cancel it."))
        job = kind(*what, onProgress, finish, onLog)
        job.start()
        self.job = job
        self.onRunning()
        return job


def _preset(preset: str | Preset) -> Preset:
    return preset if isinstance(preset, Preset) else preset_library.load(str(preset))


def _transformNode(result: Any) -> Any:
    """Of a result; a transform node is itself. Raises `InputError` for anything else, sequences among it."""
    node = getattr(result, "transformNode", result)
    if not isinstance(node, slicer.vtkMRMLTransformNode):
        raise InputError(
            _("This is neither the result of a registration of two volumes nor its transform node.")
        )
    return node
